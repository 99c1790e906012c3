"""What boards and monitors show: from the configuration where a type knows its checks, else from the store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from service.boards.widgets import HOLD
from service.collectors.registry import CollectorType, expected_checks, load_type
from service.config.settings import CollectorSettings, Settings
from service.domain import conditions, cron
from service.domain.checks import CHECK_METRICS, Check
from service.domain.runs import Mode
from service.domain.samples import Kind, Metric
from service.pipeline.job import COLLECTOR_METRICS
from service.store import Store
from service.store.outbox import SeenSeries

# A metric that nothing was measured of for so long leaves the boards with the next push.
_SEEN_WITHIN = timedelta(days=7)
_CATEGORIES = ("ci", "training", "evaluation")
# What a distribution can be told apart by; each more is billed by its combinations with the others.
_DISTRIBUTION_TAGS = ("env", "repo", "kind", "workflow_category", "workflow_name", "workflow")
_SPLITTING_TAGS = ("label", "repo")  # they split one check into several series
_LOOK_AHEAD = timedelta(days=15)
_MAX_FIRES = 400
_RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class CheckPanel:
    """One check and the metric that decides it.

    ``every``: the longest time between two of its runs. ``only``: tags that tell it from a namesake with another
    condition. ``groups``: tags that split it into several series. ``is_expected``: its type says beforehand what it
    measures; otherwise the store has it.
    """

    metric: Metric
    category: str
    workflow_name: str
    task: str
    check: str
    condition: str
    every: timedelta
    max_age: timedelta
    only: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    is_expected: bool = True

    @property
    def tags(self) -> dict[str, str]:
        """What a query for just this check filters by, its category aside."""
        return {"workflow_name": self.workflow_name, "task": self.task, "check": self.check, **self.only}

    @property
    def title(self) -> str:
        about = [f"{tag} {value}" for tag, value in self.only.items()]
        name = f"{self.task} / {self.check}"
        if not self.is_expected:
            # For most checks of a snapshot the metric says it all.
            about.insert(0, f"{self.workflow_name}, {name}")
            name = self.metric.name.rpartition(".")[2]
        return f"{name} ({', '.join(about)})" if about else name

    @property
    def worst(self) -> str:
        """How several series become one number: the one that is nearest to failing."""
        condition = conditions.parse(self.condition)
        return "max" if condition is None or condition.operator.startswith("<") else "min"


@dataclass(frozen=True, slots=True)
class DistributionPanel:
    """A distribution, shown by its percentiles. ``tags``: the few that shall be queryable."""

    metric: Metric
    category: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectorPanel:
    """``every``: the longest time between two runs. ``quota``: what GitHub's quota leaves, and its limit."""

    name: str
    every: timedelta
    quota: tuple[Metric, Metric] | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Checks that are measured equally often. ``workflow``: the only one; None: all of the category but ``without``."""

    every: timedelta
    checks: tuple[CheckPanel, ...]
    workflow: str | None = None
    without: tuple[str, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        return {} if self.workflow is None else {"workflow_name": self.workflow}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is shown. ``metrics``: whatever is sent, for the metadata."""

    env: str
    collectors: tuple[CollectorPanel, ...]
    checks: tuple[CheckPanel, ...]
    distributions: tuple[DistributionPanel, ...]
    metrics: tuple[Metric, ...]
    heartbeat: timedelta
    page: str | None = None
    runbook: str | None = None
    notify: tuple[str, ...] = ()

    @property
    def categories(self) -> list[str]:
        """Those that have something to show, the known ones first."""
        found = {each.category for each in self.checks} | {each.category for each in self.distributions}
        return [name for name in _CATEGORIES if name in found] + sorted(found - set(_CATEGORIES))

    def checks_of(self, category: str) -> list[CheckPanel]:
        return [each for each in self.checks if each.category == category]

    @property
    def place(self) -> str:
        """ " (staging)" where it is not production, so that two installations' boards are told apart in a list."""
        return "" if self.env == "production" else f" ({self.env})"

    def runbook_link(self, anchor: str) -> str:
        """A link into the runbook; its path where no address of it is configured."""
        address = f"{self.runbook or _RUNBOOK}#{anchor}"
        return f"[runbook: {anchor}]({address})" if self.runbook else f"runbook: {address}"

    def page_link(self) -> str:
        if self.page:
            return f"[the daemon's page]({self.page.rstrip('/')}/)"
        return "the daemon's page (kubectl port-forward deployment/infra-health 8080, http://localhost:8080/)"


async def read_catalogue(settings: Settings, now: datetime) -> tuple[Catalogue, list[str]]:
    """The catalogue of the enabled collectors, and what to tell the operator about it. Reads the store, if any."""
    enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
    types = {name: load_type(each.type) for name, each in enabled.items()}
    store = await Store.open_reading(settings.state_dir)
    try:
        known = await store.runs.checks_of(list(enabled))
        seen = await store.outbox.series(now - _SEEN_WITHIN, list(enabled))
    finally:
        await store.close()
    notes = _notes(settings)
    collectors: list[CollectorPanel] = []
    checks: list[CheckPanel] = []
    distributions: dict[str, DistributionPanel] = {}
    metrics: dict[str, Metric] = {}
    for name, each in enabled.items():
        every, kind = longest_interval(each, now), types[name]
        of_collector = [series for series in seen if series.collector == name]
        declared = _declared(kind)
        own = {metric.name.rpartition(".")[2]: metric for metric in getattr(kind, "own_metrics", ())}
        quota = (own["quota_remaining"], own["quota_limit"]) if "quota_remaining" in own else None
        collectors.append(CollectorPanel(name, every, quota))
        expected = list(_expected(kind, each, every, known.get(name, ())))
        if not expected:
            measured = {series.metric: Metric(series.metric, series.kind) for series in of_collector} | declared
            expected = list(_measured(each, every, known.get(name, ()), measured))
        if not expected:
            notes.append(
                f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and no"
                " monitor of its checks; push where the daemon keeps its state"
            )
        checks += expected
        distributions |= _distributions(each, of_collector, declared)
        metrics |= {check.metric.name: check.metric for check in expected}
        metrics |= {
            series.metric: declared.get(series.metric, Metric(series.metric, series.kind)) for series in of_collector
        }
        metrics |= {metric.name: metric for metric in own.values()}
    metrics |= {panel.metric.name: panel.metric for panel in distributions.values()}
    metrics |= {metric.name: metric for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    return (
        Catalogue(
            settings.datadog.env,
            tuple(collectors),
            tuple(_merge(checks)),
            tuple(distributions.values()),
            tuple(metrics.values()),
            settings.datadog.heartbeat,
            settings.http.public_url,
            settings.datadog.runbook_url,
            settings.datadog.notify,
        ),
        notes,
    )


def longest_interval(settings: CollectorSettings, now: datetime) -> timedelta:
    """The longest time between two slots of the next two weeks: the weekend's for a schedule of working days."""
    schedule, longest = cron.parse(settings.schedule), timedelta(seconds=1)
    last = schedule.next(now, settings.time_zone)
    for _ in range(_MAX_FIRES):
        fire = schedule.next(last, settings.time_zone) if last else None
        if last is None or fire is None:
            break
        longest = max(longest, fire - last)
        if fire - now > _LOOK_AHEAD:
            break
        last = fire
    return longest


def group_by_interval(checks: Iterable[CheckPanel]) -> list[Interval]:
    """The interval of most checks, which holds for those that are still to come, too; then each workflow with another.

    An hourly check must not wait for a weekly one's second measurement before somebody hears of it.
    """
    workflows: dict[str, list[CheckPanel]] = {}
    for each in checks:
        workflows.setdefault(each.workflow_name, []).append(each)
    longest = {name: max(each.every for each in found) for name, found in workflows.items()}
    if not longest:
        return []
    sizes = Counter[timedelta]()
    for name, found in workflows.items():
        sizes[longest[name]] += len(found)
    usual = min(sizes, key=lambda every: (-sizes[every], every))
    odd = [name for name, every in longest.items() if every != usual]
    most = tuple(each for name, found in workflows.items() if name not in odd for each in found)
    return [
        Interval(usual, most, without=tuple(odd)),
        *(Interval(longest[name], tuple(workflows[name]), workflow=name) for name in odd),
    ]


def _notes(settings: Settings) -> list[str]:
    notes = []
    if settings.mode is Mode.SHADOW:
        notes.append("mode is shadow: boards and monitors look at the live names, under which nothing arrives so far")
    if settings.datadog.heartbeat > HOLD:
        notes.append(
            f"datadog.heartbeat is {settings.datadog.heartbeat}: boards of Datadog hold a value for {HOLD} at most, so"
            " states will have holes"
        )
    return notes


def _declared(kind: CollectorType) -> dict[str, Metric]:
    """The metrics that a type names; an outside one may do so only once it is built."""
    found: Any = getattr(kind, "metrics", ())
    return {each.name: each for each in found if isinstance(each, Metric)} if isinstance(found, tuple) else {}


def _expected(
    kind: CollectorType, settings: CollectorSettings, every: timedelta, known: Iterable[Check]
) -> Iterator[CheckPanel]:
    """The checks that the settings ask for, by repository. Which tags split them, settings and stored checks tell."""
    declared, places = _declared(kind), getattr(kind, "check_tags", {})
    repositories: Iterable[str] = getattr(settings, "repositories", ())
    own = {tag: settings.tags[tag] for tag in _SPLITTING_TAGS if tag in settings.tags}
    everywhere = set(own) | ({"repo"} if repositories else set())
    stored = [check.tags for check in known]
    for metric, condition in dict(reversed(expected_checks(kind, settings))).items():
        tags = places.get(metric)
        if tags is None:
            continue
        splitting = {tag for each in stored if tags.items() <= each.items() for tag in each if tag in _SPLITTING_TAGS}
        for only in [{**own, "repo": repository} for repository in repositories] or [own]:
            yield CheckPanel(
                declared.get(metric, Metric(metric)),
                tags["workflow_category"],
                tags["workflow_name"],
                tags["task"],
                tags["check"],
                condition,
                every,
                settings.max_age,
                only,
                tuple(sorted(everywhere | splitting)),
            )


def _measured(
    settings: CollectorSettings, every: timedelta, known: Iterable[Check], metrics: Mapping[str, Metric]
) -> Iterator[CheckPanel]:
    """The checks that the store has, as each was measured last."""
    for check in sorted(known, key=lambda each: (each.metric, each.key)):
        if not check.metric:  # never measured
            continue
        tags = check.tags
        yield CheckPanel(
            metrics.get(check.metric, Metric(check.metric)),
            tags["workflow_category"],
            tags["workflow_name"],
            tags["task"],
            tags["check"],
            check.condition,
            every,
            settings.max_age,
            {tag: tags[tag] for tag in _SPLITTING_TAGS if tag in tags},
            tuple(tag for tag in _SPLITTING_TAGS if tag in tags),
            is_expected=False,
        )


def _merge(checks: Iterable[CheckPanel]) -> Iterator[CheckPanel]:
    """One panel for namesakes with one condition and interval; otherwise each stays by itself, by its ``only``."""
    namesakes: dict[tuple[str, ...], list[CheckPanel]] = {}
    for each in checks:
        name = each.metric.name, each.category, each.workflow_name, each.task, each.check
        namesakes.setdefault(name, []).append(each)
    for same in namesakes.values():
        differ = len({(each.condition, each.every) for each in same}) > 1
        groups: dict[tuple[tuple[str, str], ...], list[CheckPanel]] = {}
        for each in same:
            groups.setdefault(tuple(each.only.items()) if differ else (), []).append(each)
        for only, group in groups.items():
            yield replace(
                group[-1],
                only=dict(only),
                every=max(each.every for each in group),
                max_age=max(each.max_age for each in group),
                groups=tuple(sorted({tag for each in group for tag in each.groups} - set(dict(only)))),
            )


def _distributions(
    settings: CollectorSettings, seen: Iterable[SeenSeries], declared: Mapping[str, Metric]
) -> dict[str, DistributionPanel]:
    """Those that the type declares and those that it was seen to send, with the tags that they have."""
    tags: dict[str, dict[str, str]] = {name: {} for name, each in declared.items() if each.kind is Kind.DISTRIBUTION}
    for each in seen:
        if each.kind is Kind.DISTRIBUTION:
            tags.setdefault(each.metric, {}).update(tag.partition(":")[::2] for tag in each.tags)
    has_repo = "repo" in settings.tags or bool(getattr(settings, "repositories", ()))
    default = {tag: "ci" for tag in _DISTRIBUTION_TAGS if tag != "repo" or has_repo}
    return {
        name: DistributionPanel(
            declared.get(name, Metric(name, Kind.DISTRIBUTION)),
            (found or default).get("workflow_category", ""),
            tuple(tag for tag in _DISTRIBUTION_TAGS if tag in (found or default)),
        )
        for name, found in tags.items()
    }
