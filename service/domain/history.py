"""What a board is drawn from: the last cycles of each collector, and each check's values by the hour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

from service.domain.checks import CheckKey

# So many cycles of a collector are kept one by one; before that, an hour of a check is one row.
CYCLES = 100


class Cycle(NamedTuple):
    """One ended run; it outlives the run's record.

    A board holds tens of thousands, so the fields are as the store has them: ``start`` is in seconds since the epoch,
    ``seconds`` what the run took, ``outcome`` an ``Outcome``'s text. ``number`` rises from run to run.
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


def check_id(job: str, key: CheckKey) -> int:
    """A number for a job's check, the same in every process: 63 bits of a hash, so that it is safe in an address."""
    text = "\0".join((job, *chain.from_iterable(key)))
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") >> 1
