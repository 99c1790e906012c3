"""The models of everything that leaves over HTTP; the same ones fill the pages. Times are UTC, durations seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    AliasPath,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    computed_field,
)

from service.domain.checks import check_id
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Outcome, Run
from service.domain.samples import Evidence
from service.web.formats import RUNNING

API = "/api/v1"

Instant = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]
Counts = Mapping[DeliveryStatus, int]
Errors = tuple[Annotated[str, BeforeValidator(str)], ...]


def run_address(run_id: str) -> str:
    return f"{API}/runs/{quote(run_id, safe='')}"


class View(BaseModel):
    """Also made of a value of the domain, by its attributes (``model_validate``)."""

    model_config = ConfigDict(frozen=True, from_attributes=True, validate_by_name=True)


class Reason(BaseModel):
    """What the body of a write call may say."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str | None, Field(max_length=500, description="kept with the act")] = None


class ProblemView(BaseModel):
    """RFC 9457. Some kinds say more: ``errors`` (invalid), ``known`` (unknown-collector), ``run`` (already-running)."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class Info(View):
    """What runs here. ``started``: since when."""

    name: str
    version: str
    commit: str
    started: Instant
    env: str
    service: str


class RunView(View):
    """One run. ``scheduled_at``: None when nobody scheduled it; ``ended``: None while it is active; ``replica``: that
    carries it out, empty where there is only one.

    ``delivery``: how many of its points are where on their way.
    """

    id: str
    collector: str
    cause: str
    source: str = ""
    scheduled_at: Instant | None = Field(None, validation_alias="slot")
    started: Instant
    ended: Instant | None = None
    replica: str = Field("", validation_alias="owner")
    attempts: int = 0
    outcome: Annotated[str, BeforeValidator(lambda outcome: outcome or RUNNING)] = RUNNING
    errors: Errors = ()
    samples: int = 0
    delivery: Counts = {}

    @classmethod
    def of(cls, run: Run, delivery: Mapping[DeliveryStatus, int]) -> Self:
        # What its end will be is known before it is stored, but only then has it ended.
        view = cls.model_validate(run if run.ended else replace(run, outcome=None))
        return view.model_copy(update={"delivery": {status: delivery.get(status, 0) for status in DeliveryStatus}})

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property; pydantic documents this form
    @property
    def duration(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended else None

    @computed_field  # type: ignore[prop-decorator]  # see RunView.duration
    @property
    def links(self) -> dict[str, str]:
        address, collector = run_address(self.id), f"{API}/collectors/{quote(self.collector, safe='')}"
        parts = {part: f"{address}/{part}" for part in ("samples", "log")}
        return {"self": address, **parts, "collector": collector, "page": address.removeprefix(API)}


class LastError(View):
    """What went wrong last, with the run that says more."""

    run: str = Field(validation_alias="id")
    at: Instant = Field(validation_alias="ended")
    outcome: Outcome
    errors: Errors


class PauseView(View):
    """Since when a schedule is suspended, ``by`` whom (the name they gave, else their address) and why."""

    at: Instant
    by: Annotated[str, BeforeValidator(lambda actor: actor.name or actor.source)] = Field(validation_alias="actor")
    reason: str = Field(validation_alias=AliasPath("actor", "reason"))


class CollectorView(View):
    """One configured collector. ``running``: the active run's id; ``samples``: of the last ended run.

    ``max_attempts``: of a run, before it fails. A run under way that has errors is being retried.

    ``note``: what its operator should know, though nothing failed. ``last_slot``: the last slot that was run in live
    mode, which a CronJob that takes over again need not run (docs/cutover.md).
    """

    name: str
    type: str = Field(validation_alias=AliasPath("job", "settings", "type"))
    schedule: str = Field(validation_alias=AliasPath("job", "schedule", "expression"))
    schedule_in_words: str
    time_zone: Annotated[str, BeforeValidator(str)] = Field(validation_alias=AliasPath("job", "settings", "time_zone"))
    service: str = Field(validation_alias=AliasPath("job", "settings", "service"))
    enabled: bool = Field(validation_alias=AliasPath("job", "settings", "enabled"))
    paused: bool
    pause: PauseView | None = None
    max_attempts: int = 1
    running: str | None = None
    next_run: Instant | None = None
    last_slot: Instant | None = None
    last_run: RunView | None = None
    last_success: Instant | None = None
    last_error: LastError | None = Field(None, validation_alias="last_failure")
    samples: int = 0
    note: str | None = None

    @computed_field  # type: ignore[prop-decorator]  # see RunView.duration
    @property
    def links(self) -> dict[str, str]:
        name = quote(self.name, safe="")
        address = f"{API}/collectors/{name}"
        acts = {act: f"{address}/{act}" for act in ("pause", "resume")}
        return {"self": address, "run": f"{address}/runs", "history": f"{API}/runs?collector={name}", **acts}


class Triggered(View):
    """The run that a trigger started, or (``started`` false) the one that was active already."""

    id: str = Field(validation_alias="run_id")
    collector: str
    started: bool = Field(True, validation_alias="is_new")

    @computed_field  # type: ignore[prop-decorator]  # see RunView.duration
    @property
    def links(self) -> dict[str, str]:
        return {"self": run_address(self.id), "collector": f"{API}/collectors/{quote(self.collector, safe='')}"}


class CheckView(View):
    """One check as it is now. ``metric`` is empty and ``value`` null where nothing was ever measured.

    ``tags``: those that name the check; ``why``: the verdict in words; ``summary``: a sentence on what is behind it, by
    the collector where it has one; ``limit``: the condition in numbers (``>= 17`` of ``>= 0.85x``), empty where its
    baseline is unknown; ``since``: when the status became this one.
    """

    collector: str
    metric: str = Field(validation_alias=AliasPath("check", "metric"))
    help: str = Field("", validation_alias=AliasPath("catalogued", "help"))
    unit: str = Field("", validation_alias=AliasPath("catalogued", "unit"))
    tags: Mapping[str, str] = Field(validation_alias=AliasPath("check", "tags"))
    status: Literal["pass", "fail", "unknown"]
    value: float | None = Field(None, validation_alias=AliasPath("check", "value"))
    condition: str = Field(validation_alias=AliasPath("check", "condition"))
    limit: str = Field("", validation_alias=AliasPath("check", "limit"))
    why: str
    summary: str = ""
    since: Instant
    measured_at: Instant | None = Field(None, validation_alias=AliasPath("check", "measured_at"))
    evidence: tuple[Evidence, ...] = Field((), validation_alias=AliasPath("check", "evidence"))

    @property
    def id(self) -> int:
        """See domain.checks.check_id; in addresses it is hexadecimal."""
        return check_id(self.collector, tuple(self.tags.items()))

    @property
    def href(self) -> str:
        return f"/checks/{quote(self.collector, safe='')}/{self.id:x}"

    @computed_field  # type: ignore[prop-decorator]  # see RunView.duration
    @property
    def links(self) -> dict[str, str]:
        history = f"{API}/collectors/{quote(self.collector, safe='')}/history/{self.id:x}"
        return {"history": history, "page": self.href}

    def detail(self, *names: str) -> str:
        """What tells the check from its neighbours, by these tags."""
        return " · ".join(dict.fromkeys(text for name in names if (text := self.tags.get(name, ""))))


class CycleView(View):
    """A check at the end of one run. ``carried``: the value is the one of the cycle before, not measured anew."""

    run: str
    at: Instant
    status: Literal["pass", "fail", "unknown"]
    carried: bool
    value: float | None


class HourView(View):
    """A check's values within one hour. ``failed``: at least one; ``threshold``, ``threshold_low``: what its condition
    compared the last one with, null where it has none."""

    at: Instant
    low: float
    high: float
    last: float
    failed: bool
    threshold: float | None
    threshold_low: float | None


class CheckHistoryView(View):
    """Seven days of a check by the hour, and its last cycles one by one, both oldest first."""

    hours: Sequence[HourView]
    cycles: Sequence[CycleView]


class WorkflowView(View):
    """A workflow's week: its runs on the branch or before a merge whose last attempt began in it and was conclusive.

    ``failures``: of these the failed ones; ``p90_minutes``: of their last attempts, null while the end of one is not
    known; ``reruns``: how many of them were run again; ``url``: GitHub's list of the failed ones.
    """

    repo: str
    workflow: str
    runs: int
    failures: int
    failure_share: float
    p90_minutes: float | None
    reruns: int
    url: str


class WeekView(View):
    """Of which time a repository's runs are known. ``until``: as of the last poll. Both are null while older runs are
    still to be read, and no workflow is told."""

    repo: str
    since: Instant | None
    until: Instant | None


class LogLine(View):
    """One log record. ``level``: debug, info, warning, error or critical; ``fields``: what it says beside the text."""

    time: Instant = Field(validation_alias="at")
    level: str
    message: str
    fields: Mapping[str, Any] = {}


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


class Checks(View):
    """One page of a collector's checks. ``next``: the address of the page after, None at the end."""

    checks: Sequence[CheckView]
    total: int
    next: str | None = None


class Workflows(View):
    """One page of the week's workflows, the worst first. ``total``: of all; ``next``: the address of the page after,
    None at the end. ``repositories``: those that were read."""

    repositories: Sequence[WeekView]
    workflows: Sequence[WorkflowView]
    total: int
    next: str | None = None
