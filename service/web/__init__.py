"""What the daemon says over HTTP: the API, the pages, the probes, /metrics."""
