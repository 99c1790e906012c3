"""The models of everything that leaves over HTTP; the same ones fill the page. Times are UTC, durations seconds."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, computed_field

from service.domain.logged import Logged
from service.domain.points import LOST, Fate
from service.domain.runs import Run
from service.domain.samples import Evidence

API = "/api/v1"
RUNNING = "Running"

Instant = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]
CheckStatus = Literal["ok", "warn", "fail"]


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Info(View):
    """What runs here. ``started``: since when."""

    name: str
    version: str
    commit: str
    started: Instant
    env: str
    service: str


class Check(View):
    name: str
    status: CheckStatus
    detail: str = ""


class Health(View):
    """``ok`` decides the probe's answer; a check may warn or fail beside it without turning the probe."""

    ok: bool
    checks: tuple[Check, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property; pydantic documents this form
    @property
    def status(self) -> CheckStatus:
        if not self.ok:
            return "fail"
        return "ok" if all(check.status == "ok" for check in self.checks) else "warn"


class Deliveries(View):
    """How many points of a run are where on their way."""

    waiting: int = 0
    sending: int = 0
    delivered: int = 0
    rejected: int = 0
    expired: int = 0
    uncertain: int = 0
    discarded: int = 0
    held_back: int = 0
    withheld: int = 0

    @classmethod
    def of(cls, counts: Mapping[Fate, int]) -> Self:
        return cls(**{fate.name.lower(): count for fate, count in counts.items()})


class RunView(View):
    """One run. ``scheduled_at``: None when nobody scheduled it; ``ended``: None while it is active."""

    id: str
    collector: str
    cause: str
    source: str = ""
    scheduled_at: Instant | None = None
    started: Instant
    ended: Instant | None = None
    attempts: int = 0
    outcome: str = RUNNING
    errors: tuple[str, ...] = ()
    samples: int = 0
    delivery: Deliveries = Deliveries()

    @classmethod
    def of(cls, run: Run, delivery: Mapping[Fate, int]) -> Self:
        return cls(
            id=run.id,
            collector=run.job,
            cause=run.slot.cause,
            source=run.slot.source,
            scheduled_at=run.slot.scheduled_at,
            started=run.started,
            ended=run.ended,
            attempts=run.attempts,
            # What its end will be is known before it is stored, but only then has it ended.
            outcome=run.outcome if run.outcome and run.ended else RUNNING,
            errors=tuple(str(fault) for fault in run.faults),
            samples=run.samples,
            delivery=Deliveries.of(delivery),
        )

    @computed_field  # type: ignore[prop-decorator]  # see Health.status
    @property
    def duration(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended else None

    @computed_field  # type: ignore[prop-decorator]  # see Health.status
    @property
    def links(self) -> dict[str, str]:
        address = run_address(self.id)
        return {
            "self": address,
            "samples": f"{address}/samples",
            "log": f"{address}/log",
            "collector": collector_address(self.collector),
            "page": f"/runs/{quote(self.id, safe='')}",
        }


class LastError(View):
    """What went wrong last, with the run that says more."""

    run: str
    at: Instant
    errors: tuple[str, ...]


class CollectorView(View):
    """One configured collector. ``running``: the active run's id; ``samples``: of the last ended run.

    ``note``: what its operator should know, though nothing failed. ``last_slot``: the last slot that was run in live
    mode, which a CronJob that takes over again need not run (docs/cutover.md).
    """

    name: str
    type: str
    schedule: str
    schedule_in_words: str
    time_zone: str
    service: str
    enabled: bool
    paused: bool
    running: str | None = None
    next_run: Instant | None = None
    last_slot: Instant | None = None
    last_run: RunView | None = None
    last_success: Instant | None = None
    last_error: LastError | None = None
    samples: int = 0
    note: str | None = None

    @computed_field  # type: ignore[prop-decorator]  # see Health.status
    @property
    def links(self) -> dict[str, str]:
        address = collector_address(self.name)
        return {
            "self": address,
            "run": f"{address}/runs",
            "history": f"{API}/runs?collector={quote(self.name, safe='')}",
            "pause": f"{address}/pause",
            "resume": f"{address}/resume",
        }


class Triggered(View):
    """The run that a trigger started, or (``started`` false) the one that was active already."""

    id: str
    collector: str
    started: bool = True

    @computed_field  # type: ignore[prop-decorator]  # see Health.status
    @property
    def links(self) -> dict[str, str]:
        return {"self": run_address(self.id), "collector": collector_address(self.collector)}


class EvidenceView(View):
    """One thing behind a value (a run, a job, a pull request). ``url`` is empty where there is no place to look."""

    title: str
    url: str = ""
    at: Instant | None = None
    conclusion: str = ""
    workflow: str = ""

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        return cls(
            title=evidence.title,
            url=evidence.url,
            at=evidence.at,
            conclusion=evidence.conclusion,
            workflow=evidence.workflow,
        )


class SampleView(View):
    """One sample as it was stored. ``delivery``: its fate in lower case, with the ``reason`` when it was lost.

    ``evidence``: what was behind the value, the newest first.
    """

    metric: str
    value: float
    tags: Mapping[str, str]
    kind: str
    timestamp: Instant
    delivery: str
    reason: str = ""
    evidence: tuple[EvidenceView, ...] = ()


class LogLine(View):
    """One log record. ``level``: debug, info, warning, error or critical; ``fields``: what it says beside the text."""

    time: Instant
    level: str
    message: str
    fields: Mapping[str, Any] = {}

    @classmethod
    def of(cls, line: Logged) -> Self:
        return cls(time=line.time, level=line.level, message=line.message, fields=line.fields)


class Lost(View):
    """Points that will not arrive, by reason."""

    rejected: int = 0
    expired: int = 0
    uncertain: int = 0
    discarded: int = 0
    held_back: int = 0

    @classmethod
    def of(cls, counts: Mapping[Fate, int]) -> Self:
        return cls(**{fate.name.lower(): counts.get(fate, 0) for fate in LOST})

    @property
    def total(self) -> int:
        return self.rejected + self.expired + self.uncertain + self.discarded + self.held_back


class DeliveryView(View):
    """The way to Datadog. ``last_accepted``: the last 202; ``trouble``: why points wait, None when all is well."""

    state: str
    last_accepted: Instant | None = None
    waiting: int = 0
    lost: Lost = Lost()
    trouble: str | None = None
    next_try: Instant | None = None


class Collectors(View):
    collectors: Sequence[CollectorView]


class Runs(View):
    """Newest first. ``next``: the address of the older ones, None at the end."""

    runs: Sequence[RunView]
    next: str | None = None


class TriggeredRuns(View):
    runs: Sequence[Triggered]


class Log(View):
    """Oldest first."""

    lines: Sequence[LogLine]


class Samples(View):
    """One page of a run's samples. ``total``: of the run; ``next``: the address of the page after, None at the end."""

    samples: Sequence[SampleView]
    total: int
    next: str | None = None


def collector_address(name: str) -> str:
    return f"{API}/collectors/{quote(name, safe='')}"


def run_address(run_id: str) -> str:
    return f"{API}/runs/{quote(run_id, safe='')}"
