"""From the CronJobs that ran the collectors to stanzas of config.yaml and a patch of the Deployment."""
