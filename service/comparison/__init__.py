"""What the CronJobs sent beside what the daemon measured, and why they differ where they do."""
