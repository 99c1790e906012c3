"""Settings, secrets, logs and clients: how the process meets its operator and its environment."""
