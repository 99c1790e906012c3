"""Slots and runs: why a collector is asked, and what came of it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from service.domain.samples import Sample


class Cause(StrEnum):
    """Why a run starts."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch-up"  # the slot passed while the daemon was down, paused or busy
    HTTP = "http"
    SIGNAL = "signal"
    ONCE = "once"


class Outcome(StrEnum):
    """How a run ended; failures by the reasons that Kubernetes gives a Job."""

    COMPLETE = "Complete"
    PARTIAL = "Partial"  # some parts or records were left out, the rest was stored
    FAILED = "Failed"  # a fault that time can't mend
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    REPLACED = "Replaced"
    INTERRUPTED = "Interrupted"  # the daemon ended before the run did

    @property
    def succeeded(self) -> bool:
        return self in (Outcome.COMPLETE, Outcome.PARTIAL)


@dataclass(frozen=True, slots=True)
class Fault:
    """One part or record that was left out, or why the whole run failed.

    ``part``: what is missing ("pull requests", "record 3"), empty for the run as a whole.
    """

    reason: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}" if self.part else self.reason


@dataclass(frozen=True, slots=True)
class Collected:
    """What one attempt brought: samples, plus the parts that failed.

    ``unmeasured``: tags of the checks that were asked for but had nothing to measure (their state is unknown).
    ``remember``: what the collector wants to know next time, by key; None forgets. Stored in the transaction
    that stores the samples, so a crash can't part them.
    ``left_out``: how many parts or records were left out, where ``faults`` shows only the first of them.
    """

    samples: tuple[Sample, ...] = ()
    faults: tuple[Fault, ...] = ()
    unmeasured: tuple[Mapping[str, str], ...] = ()
    remember: Mapping[str, bytes | None] = field(default_factory=dict)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """Why a run starts: the job's name, the instant it was due (None: nobody scheduled it), and who asked."""

    job: str
    scheduled_at: datetime | None
    cause: Cause
    source: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one collector; ``ended`` and ``outcome`` are None while it is active."""

    id: str
    slot: Slot
    started: datetime
    ended: datetime | None = None
    attempts: int = 0
    outcome: Outcome | None = None
    faults: tuple[Fault, ...] = ()
    samples: int = 0

    @property
    def job(self) -> str:
        return self.slot.job

    @property
    def error(self) -> str | None:
        """What to tell the operator, None when all is well."""
        return "; ".join(str(fault) for fault in self.faults) or None

    @property
    def seconds(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended else None


def new_run_id(job: str, now: datetime) -> str:
    """A name that sorts by time, says whose run it is, and is safe in an address: ``ci-20250114T150000-3f9a2c``."""
    return f"{job}-{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
