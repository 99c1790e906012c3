"""Which state of each check was notified last, which changes wait to be sent as events, and what was sent lately."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.domain.alerts import NotifiedState, StateChange
from service.domain.checks import CheckKey

MAX_PENDING = 1_000  # changes; one more pushes out the oldest


@dataclass(frozen=True, slots=True)
class PendingChange:
    """``at``: when the change was noticed. ``held``: it goes with others, in one event."""

    id: int
    at: datetime
    held: bool
    change: StateChange


class Notifications:
    """A part of the Store."""

    async def notified(self, collector: str) -> dict[CheckKey, NotifiedState]:
        raise NotImplementedError

    async def record(
        self, collector: str, changes: Iterable[StateChange], states: Mapping[CheckKey, NotifiedState], now: datetime
    ) -> int:
        """Keeps in one transaction what is notified from now on (all of the collector's) and the changes to send.

        How many changes fell out, oldest first, because too many wait.
        """
        raise NotImplementedError

    async def pending(self) -> list[PendingChange]:
        """Oldest first."""
        raise NotImplementedError

    async def hold(self, ids: Iterable[int]) -> None:
        raise NotImplementedError

    async def settle(self, ids: Iterable[int], sent_at: datetime | None, *, is_summary: bool = False) -> None:
        """Forgets changes; ``sent_at`` counts as one event of that instant, None as none (they were dropped)."""
        raise NotImplementedError

    async def sent_since(self, at: datetime) -> tuple[int, bool]:
        """How many events were sent since then for one change each, and whether one summed up several."""
        raise NotImplementedError
