"""From the CronJobs to the daemon: their manifests as configuration, and their numbers beside ours."""
