"""Runs: why a collector is asked, and what came of it. The Collector protocol."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

from service.domain.samples import Metric, Sample


class Cause(StrEnum):
    """Why a run starts."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch-up"  # the slot passed while the daemon was down, paused or busy
    START = "start"  # the first run of a collector with an empty store
    HTTP = "http"
    SIGNAL = "signal"
    ONCE = "once"
    PUSH = "push"
    WEBHOOK = "webhook"  # the source told of a change; such a run says nothing of the scheduled ones' health
    RETRY = "retry"  # the repeat of a scheduled run whose replica died


class Outcome(StrEnum):
    """How a run ended; failures by the reasons that Kubernetes gives a Job."""

    COMPLETE = "Complete"
    PARTIAL = "Partial"  # some parts or records were left out, the rest was stored
    FAILED = "Failed"  # a fault that time can't mend
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    REPLACED = "Replaced"
    CANCELLED = "Cancelled"
    INTERRUPTED = "Interrupted"  # the daemon ended before the run did

    @property
    def succeeded(self) -> bool:
        return self in (Outcome.COMPLETE, Outcome.PARTIAL)


class Mode(StrEnum):
    """``shadow``: collects and stores as in production, but what is sent has names of its own, or is not sent."""

    LIVE = "live"
    SHADOW = "shadow"


class ConcurrencyPolicy(StrEnum):
    """What happens when a slot comes while a run of the same collector is active (as in a Kubernetes CronJob)."""

    FORBID = "Forbid"
    ALLOW = "Allow"
    REPLACE = "Replace"


@dataclass(frozen=True, slots=True)
class PartialFailure:
    """One part or record that was left out, or why the whole run failed.

    ``part``: what is missing ("pull requests", "record 3"), empty for the run as a whole.
    """

    reason: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}" if self.part else self.reason


@dataclass(frozen=True, slots=True)
class NoData:
    """A check that was asked for but had nothing to measure, by its tags. ``summary``: why, as a sentence."""

    tags: Mapping[str, str]
    summary: str = ""


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What one attempt brought: samples, plus the parts that failed.

    ``no_data``: the checks whose state is unknown, as there was nothing to measure.
    ``state``: what the collector wants to know next time, by key; None deletes. Stored in the transaction that
    stores the samples, so that a crash can't part them.
    ``skipped``: how many parts or records were left out, where ``failures`` shows only the first of them.
    """

    samples: tuple[Sample, ...] = ()
    failures: tuple[PartialFailure, ...] = ()
    no_data: tuple[NoData, ...] = ()
    state: Mapping[str, bytes | None] = field(default_factory=dict)
    skipped: int = 0


class Collector(Protocol):
    """Reads one source. ``metrics`` is the catalogue of what it may emit.

    What a collector may have beside these:

    - ``asks_for(check: Check) -> bool``: whether its settings still ask for a check that was measured before; else it
      is forgotten;
    - ``own_values(now) -> Mapping[Metric, float]``: its health beside ``up`` and ``duration``;
    - ``note: str | None``: one line for the operator;
    - ``waits_for: str | None``: why it can't run yet; slots pass until it can;
    - ``async accept(body: bytes, key: str, now)``: keeps a snapshot that is pushed; ``async load() -> bool``: whether
      one was pushed that no run has read.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    async def collect(self, now: datetime) -> CollectResult:
        """Samples as of ``now``. Raises a HealthError when there is nothing to send."""
        ...


@runtime_checkable
class ChangeCollector(Collector, Protocol):
    """A collector that is told of changes between its scheduled runs. ``repositories``: what it may be told of.

    Its runs of the cause webhook measure what changed. What they did not look at keeps its last value.
    ``watch``: how often it is to ``look`` for changes itself, None: never.
    """

    repositories: Sequence[str]
    watch: timedelta | None

    async def look(self) -> None:
        """Looks for changes, which a run may then measure. Raises a HealthError."""
        ...

    async def has_changes(self, now: datetime) -> bool:
        """Whether ``collect_changes`` would find something now. Raises Unavailable (the store)."""
        ...

    async def collect_changes(self, now: datetime) -> CollectResult:
        """Samples as of ``now`` of what changed, with next to no requests. Raises a HealthError."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one collector; ``ended`` and ``outcome`` are None while it is active.

    ``slot``: the instant at which it was due, None where nobody scheduled it.
    ``source``: who asked (an address, "signal"), empty for the schedule.
    ``owner``: the replica that carries it out, empty with a store of one's own.
    ``samples``: how many it stored.
    """

    id: str
    collector: str
    cause: Cause
    started: datetime
    slot: datetime | None = None
    source: str = ""
    mode: Mode = Mode.LIVE
    owner: str = ""
    attempts: int = 0
    outcome: Outcome | None = None
    errors: tuple[PartialFailure, ...] = ()
    ended: datetime | None = None
    samples: int = 0

    @property
    def error(self) -> str | None:
        """All errors as one line, None when all is well."""
        return "; ".join(str(error) for error in self.errors) or None

    @property
    def seconds(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended else None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked for something. ``source``: an address, "signal"; ``name`` and ``reason`` as the caller gave them."""

    source: str
    name: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return (self.name or self.source) + (f": {self.reason}" if self.reason else "")

    def log_fields(self) -> dict[str, str]:
        fields = {"source": self.source, "actor": self.name, "reason": self.reason}
        return {name: text for name, text in fields.items() if text}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One trigger, cancel, pause, resume, reload or push, kept for whoever asks later who it was.

    ``collector``: empty where the action means all of them. ``run``: that it is about, empty when there is none.
    """

    at: datetime
    action: str
    actor: Actor
    collector: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a collector's schedule is suspended."""

    collector: str
    at: datetime
    actor: Actor


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log record, its secrets masked already. ``level``: debug, info, warning, error or critical."""

    at: datetime
    level: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)


RUN_ID = re.compile(r".+-\d{8}T\d{6}-[0-9a-f]{6}")  # as ``new_run_id`` makes them


def new_run_id(collector: str, now: datetime) -> str:
    """A name that sorts by time, says whose run it is, and is safe in an address: ``ci-20250114T150000-3f9a2c``."""
    return f"{collector}-{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def first_slot_after(
    live: datetime | None, shadow: datetime | None, starts_after: datetime | None, mode: Mode
) -> datetime | None:
    """The slot after which a collector's next one is due, also at a take-over from CronJobs; None: none ever ran.

    In shadow mode the CronJobs run every slot as well, so a slot that was run in shadow counts as run. At the change to
    live mode that alone would lose a slot that came after the CronJobs were suspended but before the shadow ended.
    ``starts_after`` (the last slot that the CronJob ran) tells them apart; one from before the last live slot belongs
    to an earlier change and has no bearing on this one.
    """
    if starts_after and mode is Mode.LIVE and (live is None or live <= starts_after):
        return starts_after
    if live and shadow:
        return max(live, shadow)
    return live or shadow
