"""What a board is drawn from: the last cycles of each collector, and each check's values by the hour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

from service.domain.checks import Check, CheckKey
from service.domain.runs import Outcome
from service.domain.samples import Status

# So many cycles of a collector are kept one by one; before that, an hour of a check is one row.
CYCLES = 100


class Cycle(NamedTuple):
    """One ended run. It outlives the run's record: ``kept`` says whether the run can still be looked up."""

    number: int
    run: str
    started: datetime
    ended: datetime
    outcome: Outcome
    kept: bool

    @property
    def seconds(self) -> float:
        return (self.ended - self.started).total_seconds()


class Cell(NamedTuple):
    """A check at the end of one cycle. ``carried``: its value was measured before the cycle before."""

    status: Status
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

    check: Check
    cells: Mapping[int, Cell] = field(default_factory=dict)
    hours: tuple[Hour, ...] = ()


@dataclass(frozen=True, slots=True)
class JobHistory:
    """``cycles``: oldest first."""

    cycles: tuple[Cycle, ...] = ()
    checks: tuple[CheckHistory, ...] = ()


def check_id(job: str, key: CheckKey) -> int:
    """A number for a job's check, the same in every process: 63 bits of a hash, so that it is safe in an address."""
    text = "\0".join((job, *(f"{name}\0{value}" for name, value in key)))
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") >> 1
