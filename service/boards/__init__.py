"""What Datadog shows of the daemon, as code: dashboards, monitors and metadata. Pure; docs/decisions/0005."""
