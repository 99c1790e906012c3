"""Collects CI, training and evaluation health and delivers it to Datadog."""

__version__ = "0.1.0"
