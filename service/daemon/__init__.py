"""The process: how the parts are put together, how they start, change and end."""

from pathlib import Path


def has_state(directory: Path) -> bool:
    """Whether anything was ever run there. Where nothing was, `check` and `schedule` need no store nor its library."""
    return (directory / "state.db").exists()
