"""Datadog: bodies within its limits, the intake, and the API of dashboards, monitors and metadata."""
