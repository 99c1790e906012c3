"""The process: how the parts are put together, how they start, change and end."""
