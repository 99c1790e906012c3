"""GitHub's API: the client, its limits, its credentials."""
