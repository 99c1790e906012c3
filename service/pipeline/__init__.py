"""The way of a sample from the due slot to the intake: scheduler, runner, enrich, forwarder."""
