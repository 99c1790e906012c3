"""The path in order: schedule, run, batch, deliver."""
