"""What a CronJob sent (the baseline: a file of ``collect -o``) beside what the daemon measured, and why they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.collectors.github_ci.actions import list_workflows
from service.collectors.github_ci.pull_requests import Group, count_groups
from service.collectors.github_ci.settings import GithubCiSettings
from service.collectors.github_ci.state import State, decode
from service.config.settings import Settings
from service.cutover.legacy_rules import METRICS, Cause, Facts, find_causes, is_alike
from service.domain.checks import name_of
from service.domain.errors import ConfigError, HealthError
from service.domain.runs import Run
from service.domain.samples import Kind, Status, format_number
from service.github.client import Github
from service.store import Store

_OWN = ("metta.infra.check.", "metta.infra.collector.")  # of the daemon alone: nobody else ever sent them
_MAX_RUNS = 200  # of a collector, searched for the one that is nearest
_MAX_SAMPLES = 100_000
COLUMNS = ("metric", "check", "CronJobs", "infra-health", "why")


class Value(msgspec.Struct, frozen=True):
    """One value as ``collect -o`` writes it. ``collector``: which of ours it is of, empty for the baseline."""

    metric: str
    value: float
    tags: dict[str, str] = {}
    timestamp: datetime | float | None = None
    collector: str = ""

    @property
    def check(self) -> str:
        return name_of(tuple(self.tags.items())).strip(" /")

    @property
    def key(self) -> tuple[str, str]:
        """Status and condition flip, env and service may differ by intent: the check says what is the same."""
        return self.metric, self.check

    @property
    def at(self) -> datetime | None:
        """A number is seconds since the epoch, a time without a zone UTC."""
        if isinstance(self.timestamp, float):
            return datetime.fromtimestamp(self.timestamp, UTC)
        return self.timestamp.replace(tzinfo=self.timestamp.tzinfo or UTC) if self.timestamp else None


@dataclass(frozen=True, slots=True)
class Difference:
    """The two values of one check; one of them is None where that side has none.

    ``causes``: what explains the difference. ``hint``: what else is known.
    """

    baseline: Value | None
    current: Value | None
    causes: Sequence[Cause] = ()
    hint: str = ""

    @property
    def value(self) -> Value:
        """Of one side, for what both have in common."""
        return self.baseline or self.current  # type: ignore[return-value]

    @property
    def verdict(self) -> str:
        if self.baseline and self.current and is_alike(self.baseline.value, self.current.value):
            return "same"
        return "explained" if self.causes else "unexplained"

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"metric": self.value.metric, "about": self.value.check, "verdict": self.verdict}
        for whose, value in (("their", self.baseline), ("our", self.current)):
            found[f"{whose}s"] = value.value if value else None
            found[f"{whose}_time"] = value.at.isoformat() if value and value.at else None
        return found | {"causes": list(self.causes), "hint": self.hint}

    def as_row(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``."""
        numbers = (format_number(value.value) if value else "–" for value in (self.baseline, self.current))
        why = "; ".join(self.causes) or ("same" if self.verdict == "same" else "UNEXPLAINED")
        return self.value.metric, self.value.check, *numbers, f"{why} ({self.hint})" if self.hint else why


def read_baseline(content: bytes, title: str) -> list[Value]:
    """The samples of a file of the replaced tool. Raises ConfigError."""
    try:
        return msgspec.json.decode(content, type=list[Value])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{title}: is no list of samples, as `collect NAME -o FILE` writes it: {error}") from error


async def compare(
    baseline: Sequence[Value], settings: Settings, store: Store, github: Github
) -> tuple[list[Difference], list[str]]:
    """Each value beside that of our run which is nearest in time; and notes: which runs, what could not be asked.

    ``github`` is asked again for what the store does not keep.
    """
    at = max((value.at for value in baseline if value.at), default=None)
    current: dict[tuple[str, str], Value] = {}
    missing: dict[str, tuple[Cause, str]] = {}  # why a metric has no value
    facts: dict[str, Facts] = {}
    notes = []
    for name, collector in settings.collectors.items():
        runs = [run for run in await store.runs.list(name, limit=_MAX_RUNS) if run.outcome and run.outcome.succeeded]
        if not runs:
            notes.append(f"{name}: no run that succeeded is stored")
            continue
        run = min(runs, key=lambda run: abs(run.started - at)) if at else runs[0]
        notes.append(f"{name}: run {run.id}" + (f", partial: {run.error}" if run.error else ""))
        samples, _ = await store.outbox.samples(run.id, 0, _MAX_SAMPLES)
        # Of one check the last value counts, of two collectors with the same checks (two repositories) the first one's.
        for sample in reversed(samples):
            value = Value(sample.point.metric, sample.point.value, sample.tags, sample.at, name)
            if sample.kind is not Kind.DISTRIBUTION and not value.metric.startswith(_OWN):
                current.setdefault(value.key, value)
        absent = {check.metric for check in await store.checks.read(name) if check.status is Status.UNKNOWN}
        if isinstance(collector, GithubCiSettings):
            absent |= METRICS  # a check that never had a value has no metric yet
            if known := await _find_facts(store, github, collector, run, notes):
                facts[name] = replace(known, baseline_at=at)
        reason = (Cause.LEFT_OUT, run.error) if run.error else (Cause.MADE_UP, "")
        missing |= dict.fromkeys(absent - {sample.point.metric for sample in samples}, reason)
    sent = {value.key: value for value in baseline}
    found = [_explain(value, current.get(key), missing, facts) for key, value in sent.items()]
    # Of a collector none of whose values the baseline has, ours are left out: the baseline is of another one.
    compared = {each.current.collector for each in found if each.current}
    for value in (value for key, value in current.items() if key not in sent and value.collector in compared):
        found.append(Difference(None, value, [Cause.NOT_SENT if value.metric in METRICS else Cause.NEW]))
    return found, notes


def _explain(
    baseline: Value, current: Value | None, missing: Mapping[str, tuple[Cause, str]], facts: Mapping[str, Facts]
) -> Difference:
    if current is None:
        cause, hint = missing.get(baseline.metric, (None, "no such value: is its collector configured, did it run?"))
        return Difference(baseline, None, [cause] if cause else [], hint)
    if is_alike(baseline.value, current.value):
        return Difference(baseline, current)
    known, hint = facts.get(current.collector), ""
    if known and (causes := find_causes(baseline.metric, baseline.value, known)):
        return Difference(baseline, current, causes)
    apart = abs(baseline.at - current.at).total_seconds() if baseline.at and current.at else 0
    if baseline.metric in METRICS and (known is None or known.workflows is None):
        hint = "GitHub can't be asked again, or our runs of that time are not kept any more"
    elif apart > 60:
        hint = f"measured {apart / 60:.0f} min apart: compare what is nearer in time"
    return Difference(baseline, current, hint=hint)


async def _find_facts(
    store: Store, github: Github, settings: GithubCiSettings, run: Run, notes: list[str]
) -> Facts | None:
    repo = settings.all_repositories[0]  # a CronJob had one
    state = decode((await store.states.read(run.collector, repo))[0], State)
    if state is None:
        notes.append(f"{run.collector}: of {repo} no runs are kept, so causes can't be looked for")
        return None
    facts = Facts(settings, run.started, run.ended or run.started, list(state.runs.values()))
    since = run.started - settings.weekly_window
    labels = {"hotfix": settings.hotfix_labels, "force_merge": settings.force_merge_labels}
    labels |= {"reverts": settings.revert_labels}
    # Each count of the window to the second, and of the one that begins with its day.
    groups = {name: Group(wanted, since) for name, wanted in labels.items() if wanted}
    day = since.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {f"{name}_days": replace(group, since=day) for name, group in groups.items()}
    try:
        facts = replace(facts, workflows=await list_workflows(github, repo))
        answer = await count_groups(github, state.repo, state.branch, groups | days, may_search=True)
        for error in answer.errors.values():
            raise error
    except HealthError as error:
        notes.append(f"{run.collector}: GitHub could not be asked again for {repo}: {error}")
        return facts
    counts = answer.counts
    pulls = {f"github.{name}.count": (counts[name].count, counts[f"{name}_days"].count) for name in groups}
    return replace(facts, pulls=pulls)
