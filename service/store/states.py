"""What collectors want to know next time, and snapshots that were pushed until a run has read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

# A run that writes this key says with it which push it has read last (``str(push.id).encode()``): in the transaction
# of the run's end, older ones leave. The newest one stays, read or not.
READ_PUSH = "push"
MAX_PUSHES = 50  # unread ones, of a collector


@dataclass(frozen=True, slots=True)
class Push:
    """A pushed snapshot. ``key`` tells one publication from another; ``id`` rises."""

    id: int
    key: str
    at: datetime
    body: bytes
    is_read: bool


class States:
    """A part of the Store."""

    async def read(self, collector: str, key: str) -> tuple[bytes | None, int]:
        """The value and its revision, which the end of a run wants back; None and 0 where there is none."""
        raise NotImplementedError

    async def write(self, collector: str, values: Mapping[str, bytes | None]) -> None:
        """Writes state outside of a run, whatever its revision; None deletes."""
        raise NotImplementedError

    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> Push:
        """Keeps a pushed snapshot until a run has read it; it takes the place of an unread one with the same key.

        Raises Unavailable (with ``retry_after``) when too many, or more than ``max_bytes``, are unread.
        """
        raise NotImplementedError

    async def pushes(self, collector: str) -> list[Push]:
        """Those that no run has read and the newest one, oldest first."""
        raise NotImplementedError
