"""What boards and monitors show: from the configuration where a type knows its checks, else from the store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from service.boards.widgets import HOLD
from service.collectors.registry import CollectorType, expected_checks, load_type
from service.config.settings import CollectorSettings, Settings
from service.domain import conditions, cron
from service.domain.checks import CHECK_METRICS, Check
from service.domain.runs import Mode
from service.domain.samples import CHECK_TAGS, Kind, Metric
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
    store = await Store.open_reading(settings.state_dir)
    try:
        known = await store.runs.checks_of(list(enabled))
        seen = await store.outbox.series(now - _SEEN_WITHIN, list(enabled))
    finally:
        await store.close()
    notes, collectors, checks = _notes(settings), [], list[CheckPanel]()
    distributions: dict[str, DistributionPanel] = {}
    metrics: dict[str, Metric] = {}
    for name, each in enabled.items():
        kind, every = load_type(each.type), longest_interval(each, now)
        series = [one for one in seen if one.collector == name]
        own = {metric.name.rpartition(".")[2]: metric for metric in getattr(kind, "own_metrics", ())}
        known_metrics = {one.metric: Metric(one.metric, one.kind) for one in series}
        # An outside type may name its metrics only once it is built.
        known_metrics |= {each.name: each for each in (kind.metrics if isinstance(kind.metrics, tuple) else ())}
        quota = (own["quota_remaining"], own["quota_limit"]) if "quota_remaining" in own else None
        collectors.append(CollectorPanel(name, every, quota))
        found = _expected(kind, each, every, known.get(name, ()), known_metrics)
        found = found or _measured(each, every, known.get(name, ()), known_metrics)
        if not found:
            notes.append(
                f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and no"
                " monitor of its checks; push where the daemon keeps its state"
            )
        checks += found
        distributions |= {one.metric.name: one for one in _distributions(kind, each, series, known_metrics)}
        sent = {one.metric for one in series} | {check.metric.name for check in found}
        metrics |= {metric: known_metrics.get(metric, Metric(metric)) for metric in sorted(sent)}
        metrics |= {metric.name: metric for metric in own.values()}
    metrics |= {panel.metric.name: panel.metric for panel in distributions.values()}
    metrics |= {metric.name: metric for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    catalogue = Catalogue(
        settings.datadog.env,
        tuple(collectors),
        tuple(_merge(checks)),
        tuple(distributions.values()),
        tuple(metrics.values()),
        settings.datadog.heartbeat,
        settings.http.public_url,
        settings.datadog.runbook_url,
        settings.datadog.notify,
    )
    return catalogue, notes


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


def _expected(
    kind: CollectorType,
    settings: CollectorSettings,
    every: timedelta,
    known: Iterable[Check],
    metrics: Mapping[str, Metric],
) -> list[CheckPanel]:
    """The checks that the settings ask for, by repository. Which tags split them, settings and stored checks tell."""
    places: Mapping[str, Mapping[str, str]] = getattr(kind, "check_tags", {})
    repositories: Iterable[str] = getattr(settings, "repositories", ())
    own = {tag: settings.tags[tag] for tag in _SPLITTING_TAGS if tag in settings.tags}
    everywhere = set(own) | ({"repo"} if repositories else set())
    stored = [check.tags for check in known]
    found = []
    for metric, condition in dict.fromkeys(expected_checks(kind, settings)):
        tags = places.get(metric)
        if tags is None:
            continue
        splitting = {tag for each in stored if tags.items() <= each.items() for tag in _SPLITTING_TAGS if tag in each}
        for only in [{**own, "repo": repository} for repository in repositories] or [own]:
            groups = tuple(sorted(everywhere | splitting))
            found.append(
                _panel(metrics.get(metric, Metric(metric)), tags, condition, every, settings.max_age, only, groups)
            )
    return found


def _measured(
    settings: CollectorSettings, every: timedelta, known: Iterable[Check], metrics: Mapping[str, Metric]
) -> list[CheckPanel]:
    """The checks that the store has, as each was measured last."""
    found = []
    for check in sorted(known, key=lambda each: (each.metric, each.key)):
        if check.metric:  # else it was never measured
            metric, tags = metrics.get(check.metric, Metric(check.metric)), check.tags
            only = {tag: tags[tag] for tag in _SPLITTING_TAGS if tag in tags}
            panel = _panel(metric, tags, check.condition, every, settings.max_age, only, tuple(only))
            found.append(replace(panel, is_expected=False))
    return found


def _panel(
    metric: Metric,
    tags: Mapping[str, str],
    condition: str,
    every: timedelta,
    max_age: timedelta,
    only: Mapping[str, str],
    groups: tuple[str, ...],
) -> CheckPanel:
    category, workflow_name, task, check = (tags[name] for name in CHECK_TAGS)
    return CheckPanel(metric, category, workflow_name, task, check, condition, every, max_age, only, groups)


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
    kind: CollectorType, settings: CollectorSettings, seen: Iterable[SeenSeries], metrics: Mapping[str, Metric]
) -> Iterator[DistributionPanel]:
    """Those that were seen, with the tags that they had; and those that the type declares, with all that they may."""
    places = [*getattr(kind, "check_tags", {}).values()]
    tags: dict[str, dict[str, str]] = {}
    for each in seen:
        if each.kind is Kind.DISTRIBUTION:
            tags.setdefault(each.metric, {}).update(tag.partition(":")[::2] for tag in each.tags)
    has_repo = "repo" in settings.tags or bool(getattr(settings, "repositories", ()))
    for name, metric in metrics.items():
        if metric.kind is not Kind.DISTRIBUTION or not (places or name in tags):
            continue
        default = {tag: "" for tag in _DISTRIBUTION_TAGS if tag != "repo" or has_repo}
        found = tags.get(name) or {**default, **places[0]}
        queryable = tuple(tag for tag in _DISTRIBUTION_TAGS if tag in found)
        yield DistributionPanel(metric, found.get("workflow_category", ""), queryable)
