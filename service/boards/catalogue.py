"""What boards and monitors show: from the configuration where a type knows its checks, else from the store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, pairwise

from service.collectors.registry import CollectorType, expected_checks, load_type
from service.config.settings import CollectorSettings, Settings
from service.domain import conditions, cron
from service.domain.checks import CHECK_METRICS, Check
from service.domain.runs import Mode
from service.domain.samples import CHECK_TAGS, Kind, Metric
from service.pipeline.job import COLLECTOR_METRICS
from service.store import Store

# A metric that nothing was measured of for so long leaves the boards with the next push.
_SEEN_WITHIN = timedelta(days=7)
# What a distribution can be told apart by; each more is billed by its combinations with the others.
DISTRIBUTION_TAGS = ("env", "repo", "kind", "workflow_category", "workflow_name", "workflow")
_LOOK_AHEAD = timedelta(days=15)
_MAX_SLOTS = 400


@dataclass(frozen=True, slots=True)
class CheckPanel:
    """One check and the metric that decides it.

    ``tags``: CHECK_TAGS. ``condition``: empty where collectors judge it by different ones. ``every``: the longest time
    between two of its runs. ``groups``: tags that split it into several series.
    """

    title: str
    metric: Metric
    tags: Mapping[str, str]
    condition: str
    every: timedelta
    groups: Set[str] = frozenset()

    @property
    def category(self) -> str:
        return self.tags["workflow_category"]

    @property
    def worst(self) -> str:
        """How several series become one number: the one that is nearest to failing."""
        condition = conditions.parse(self.condition)
        return "max" if condition is None or condition.operator.startswith("<") else "min"


@dataclass(frozen=True, slots=True)
class DistributionPanel:
    """A distribution, shown by its percentiles."""

    metric: Metric
    category: str


@dataclass(frozen=True, slots=True)
class CollectorPanel:
    """``every``: the longest time between two runs. ``quota``: what GitHub's quota leaves, and its limit."""

    name: str
    every: timedelta
    quota: tuple[Metric, Metric] | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Checks of a category that are measured equally often: those with ``tags`` that have none of ``without``."""

    every: timedelta
    checks: list[CheckPanel]
    tags: Mapping[str, str]
    without: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is shown. ``metrics``: whatever is sent, for the metadata. ``page``, ``runbook``: addresses."""

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
        """Those that have something to show."""
        found = [each.category for each in self.checks] + [each.category for each in self.distributions]
        return list(dict.fromkeys(found))

    def checks_of(self, category: str) -> list[CheckPanel]:
        return [each for each in self.checks if each.category == category]

    def intervals(self, category: str) -> list[Interval]:
        """The interval of most checks, which holds for those that are still to come, too; then each workflow with
        another: an hourly check must not wait for a weekly one's second measurement before somebody hears of it."""
        tags, workflows = {"workflow_category": category}, dict[str, list[CheckPanel]]()
        for each in self.checks_of(category):
            workflows.setdefault(each.tags["workflow_name"], []).append(each)
        longest = {name: max(each.every for each in checks) for name, checks in workflows.items()}
        checks_by_interval = Counter(longest[name] for name, checks in workflows.items() for _ in checks)
        found = []
        for usual, _ in checks_by_interval.most_common(1):
            odd = [name for name in workflows if longest[name] != usual]
            most = [each for name, checks in workflows.items() if name not in odd for each in checks]
            found.append(Interval(usual, most, tags, tuple(("workflow_name", name) for name in odd)))
            found += [Interval(longest[name], workflows[name], tags | {"workflow_name": name}) for name in odd]
        return found

    @property
    def place(self) -> str:
        """ " (staging)" where it is not production, so that two installations' boards are told apart in a list."""
        return "" if self.env == "production" else f" ({self.env})"

    def runbook_link(self, anchor: str) -> str:
        """A link into the runbook; its path where no address of it is configured."""
        if self.runbook:
            return f"[runbook: {anchor}]({self.runbook}#{anchor})"
        return f"runbook: docs/runbook.md#{anchor}"

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
    notes, collectors = [], []
    checks: dict[tuple[str, ...], CheckPanel] = {}
    distributions: list[DistributionPanel] = []
    metrics = {metric.name: metric for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    for name, each in enabled.items():
        kind, every = load_type(each.type), longest_interval(each, now)
        own = {metric.name.rpartition(".")[2]: metric for metric in getattr(kind, "own_metrics", ())}
        quota = (own["quota_remaining"], own["quota_limit"]) if "quota_remaining" in own else None
        collectors.append(CollectorPanel(name, every, quota))
        series = [one for one in seen if one.collector == name]
        declared = {one.metric: Metric(one.metric, one.kind) for one in series}
        # An outside type may name its metrics only once it is built.
        declared |= {each.name: each for each in (kind.metrics if isinstance(kind.metrics, tuple) else ())}
        found = list(_check_panels(kind, each, every, known.get(name, ()), declared))
        for panel in found:
            key = (panel.metric.name, *panel.tags.values())
            checks[key] = _merge(checks.get(key, panel), panel)
        if not found:
            notes.append(
                f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and no"
                " monitor of its checks; push where the daemon keeps its state"
            )
        places = getattr(kind, "check_tags", {}).values()
        category = getattr(each, "category", "") or next((tags["workflow_category"] for tags in places), "")
        new = [one for one in declared.values() if one.kind is Kind.DISTRIBUTION and one.name not in metrics]
        distributions += [DistributionPanel(one, category) for one in new]
        shown = (declared[one.metric] for one in series), (panel.metric for panel in found), own.values(), new
        metrics |= {metric.name: metric for metric in chain(*shown)}
    if settings.mode is Mode.SHADOW:
        notes.append("mode is shadow: boards and monitors look at the live names, under which nothing arrives so far")
    return Catalogue(
        settings.datadog.env,
        tuple(collectors),
        tuple(checks.values()),
        tuple(distributions),
        tuple(metrics.values()),
        settings.datadog.heartbeat,
        settings.http.public_url,
        settings.datadog.runbook_url,
        settings.datadog.notify,
    ), notes


def longest_interval(settings: CollectorSettings, now: datetime) -> timedelta:
    """The longest time between two slots of the next two weeks: the weekend's for a schedule of working days."""
    schedule, slots = cron.parse(settings.schedule), [now]
    while len(slots) < 3 or (len(slots) < _MAX_SLOTS and slots[-1] - now < _LOOK_AHEAD):
        if (following := schedule.next(slots[-1], settings.time_zone)) is None:
            break
        slots.append(following)
    return max((after - before for before, after in pairwise(slots[1:])), default=timedelta(seconds=1))


def group_tags(checks: Iterable[CheckPanel]) -> list[str]:
    """By which tags a query tells ``checks`` of one category apart."""
    return [*CHECK_TAGS[1:], *sorted({name for each in checks for name in each.groups})]


def _check_panels(
    kind: CollectorType,
    settings: CollectorSettings,
    every: timedelta,
    known: Sequence[Check],
    metrics: Mapping[str, Metric],
) -> Iterator[CheckPanel]:
    """The checks that the settings ask for; of a type that does not say which, those that the store has."""
    places: Mapping[str, Mapping[str, str]] = getattr(kind, "check_tags", {})
    has_repo = "repo" in settings.tags or bool(getattr(settings, "repositories", None))
    expected = {name: condition for name, condition in expected_checks(kind, settings) if name in places}
    for name, condition in expected.items():
        tags, metric = places[name], metrics.get(name, Metric(name))
        groups = {tag for each in known if tags.items() <= each.tags.items() for tag in _split_by(each)}
        title = f"{tags['task']} / {tags['check']}"
        yield CheckPanel(title, metric, tags, condition, every, groups | {"repo"} if has_repo else groups)
    for check in () if expected else sorted(known, key=lambda each: (each.metric, each.key)):
        if check.metric:  # else it was never measured
            metric, tags = (
                metrics.get(check.metric, Metric(check.metric)),
                {name: check.tags[name] for name in CHECK_TAGS},
            )
            title = f"{metric.name.rpartition('.')[2]} ({tags['workflow_name']})"
            yield CheckPanel(title, metric, tags, check.condition, every, _split_by(check))


def _split_by(check: Check) -> set[str]:
    return {"label", "repo"} & check.tags.keys()


def _merge(first: CheckPanel, second: CheckPanel) -> CheckPanel:
    """One panel for a check that several collectors measure, or one in several series."""
    return replace(
        second,
        condition=second.condition if first.condition == second.condition else "",
        every=max(first.every, second.every),
        groups=first.groups | second.groups,
    )
