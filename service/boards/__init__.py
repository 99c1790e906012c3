"""What Datadog shows of the daemon, as code: dashboards, monitors and metadata from one catalogue."""
