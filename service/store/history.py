"""What the board draws: the last cycles of each collector, and each check's values by the hour."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

CYCLES = 100  # so many of a collector are kept one by one; before that, an hour of a check is one row


class Cycle(NamedTuple):
    """One ended run; it outlives the run's record.

    A board holds tens of thousands, so the fields are as the store has them: ``start`` is in seconds since the epoch,
    ``seconds`` what the run took, ``outcome`` an ``Outcome``'s text. ``number`` rises from cycle to cycle.
    """

    number: int
    run: str
    start: float
    seconds: float
    outcome: str

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.start, UTC)

    @property
    def ended(self) -> datetime:
        return datetime.fromtimestamp(self.start + self.seconds, UTC)


class Cell(NamedTuple):
    """A check at the end of one cycle.

    ``status``: a ``Status``'s text. ``carried``: the value is the one of the cycle before, not measured anew.
    """

    status: str
    carried: bool
    value: float | None


class Hour(NamedTuple):
    """A check's values within one hour of the clock. ``failed``: in at least one cycle of it."""

    at: datetime
    low: float
    high: float
    last: float
    failed: bool


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """``cells``: by the number of the cycle; ``hours``: oldest first, hours without a value left out."""

    cells: Mapping[int, Cell] = field(default_factory=dict)
    hours: tuple[Hour, ...] = ()


class History:
    """A part of the Store; written with each ended run, read for whole collectors at once."""

    async def last_cycles(self, collectors: Sequence[str]) -> dict[str, int]:
        """The number of each collector's last cycle: what was read since then is still all there is."""
        raise NotImplementedError

    async def cycles(self, after: Mapping[str, int], limit: int = CYCLES) -> dict[str, list[Cycle]]:
        """The last ``limit`` cycles of each collector that are newer than the number given for it, oldest first."""
        raise NotImplementedError

    async def cycle(self, run_id: str) -> tuple[str, Cycle] | None:
        """The collector and the cycle of a run, whether its record is kept or not."""
        raise NotImplementedError

    async def check_histories(
        self, ids: Collection[int], numbers: Sequence[int], since: datetime
    ) -> dict[int, CheckHistory]:
        """What is known of these checks (domain.checks.check_id) in the cycles of these numbers, and their hours from
        ``since`` on."""
        raise NotImplementedError
