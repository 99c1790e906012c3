"""Stand-ins for GitHub and Datadog on loopback: for the demo, the tests and the bench."""
