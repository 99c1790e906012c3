"""What boards and monitors show: from the configuration where a type knows its checks, else from the store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.boards.widgets import HOLD
from service.collectors.registry import CollectorType, expected_checks, load_type
from service.config.settings import CollectorSettings, Settings
from service.domain import conditions, cron
from service.domain.checks import CHECK_METRICS, Check
from service.domain.runs import Mode
from service.domain.samples import CHECK_TAGS, Kind, Metric
from service.pipeline.job import COLLECTOR_METRICS
from service.store import SeenSeries, Store

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

    ``tags``: CHECK_TAGS. ``condition``: empty where collectors judge it by different ones. ``every``: the longest time
    between two of its runs. ``groups``: tags that split it into several series. ``is_expected``: its type says
    beforehand what it measures; otherwise the store has it.
    """

    metric: Metric
    tags: Mapping[str, str]
    condition: str
    every: timedelta
    max_age: timedelta
    groups: tuple[str, ...] = ()
    is_expected: bool = True

    @property
    def category(self) -> str:
        return self.tags["workflow_category"]

    @property
    def workflow_name(self) -> str:
        return self.tags["workflow_name"]

    @property
    def title(self) -> str:
        if self.is_expected:
            return f"{self.tags['task']} / {self.tags['check']}"
        return f"{self.metric.name.rpartition('.')[2]} ({self.workflow_name})"

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
    def groups(self) -> list[str]:
        """By which tags a query tells the checks apart."""
        return [*CHECK_TAGS[1:], *sorted({name for each in self.checks for name in each.groups})]


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

    def intervals(self, category: str) -> list[Interval]:
        """The interval of most checks, which holds for those that are still to come, too; then each workflow with
        another: an hourly check must not wait for a weekly one's second measurement before somebody hears of it."""
        workflows: dict[str, list[CheckPanel]] = {}
        for each in self.checks_of(category):
            workflows.setdefault(each.workflow_name, []).append(each)
        longest = {name: max(each.every for each in found) for name, found in workflows.items()}
        sizes: dict[timedelta, int] = {}
        for name, found in workflows.items():
            sizes[longest[name]] = sizes.get(longest[name], 0) + len(found)
        usual = min(sizes, key=lambda every: (-sizes[every], every), default=timedelta(0))
        odd = tuple(name for name in workflows if longest[name] != usual)
        most = tuple(each for name, found in workflows.items() if name not in odd for each in found)
        return [
            *([Interval(usual, most, without=odd)] if most else []),
            *(Interval(longest[name], tuple(workflows[name]), name) for name in odd),
        ]

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
    notes, collectors, checks = [], [], list[CheckPanel]()
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
        stored = known.get(name, ())
        found = list(_expected(kind, each, every, stored, known_metrics))
        found = found or list(_measured(each, every, stored, known_metrics))
        if not found:
            notes.append(
                f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and no"
                " monitor of its checks; push where the daemon keeps its state"
            )
        checks += found
        distributions |= {one.metric.name: one for one in _distributions(kind, series, known_metrics)}
        sent = {one.metric for one in series} | {check.metric.name for check in found}
        metrics |= {metric: known_metrics.get(metric, Metric(metric)) for metric in sorted(sent)}
        metrics |= {metric.name: metric for metric in own.values()}
    metrics |= {panel.metric.name: panel.metric for panel in distributions.values()}
    metrics |= {metric.name: metric for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    if settings.mode is Mode.SHADOW:
        notes.append("mode is shadow: boards and monitors look at the live names, under which nothing arrives so far")
    if settings.datadog.heartbeat > HOLD:
        notes.append(f"datadog.heartbeat is above {HOLD}, the longest that boards hold a value: states will have holes")
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


def _expected(
    kind: CollectorType,
    settings: CollectorSettings,
    every: timedelta,
    known: Iterable[Check],
    metrics: Mapping[str, Metric],
) -> Iterator[CheckPanel]:
    """The checks that the settings ask for. Which tags split them, settings and stored checks tell."""
    places: Mapping[str, Mapping[str, str]] = getattr(kind, "check_tags", {})
    has_repo = "repo" in settings.tags or bool(getattr(settings, "repositories", ()))
    always = {"repo"} if has_repo else set[str]()
    stored = [check.tags for check in known]
    for name, condition in dict.fromkeys(expected_checks(kind, settings)):
        if name in places:
            tags, metric = places[name], metrics.get(name, Metric(name))
            groups = {tag for each in stored if tags.items() <= each.items() for tag in _SPLITTING_TAGS if tag in each}
            yield CheckPanel(metric, tags, condition, every, settings.max_age, tuple(sorted(groups | always)))


def _measured(
    settings: CollectorSettings, every: timedelta, known: Iterable[Check], metrics: Mapping[str, Metric]
) -> Iterator[CheckPanel]:
    """The checks that the store has, as each was measured last."""
    for check in sorted(known, key=lambda each: (each.metric, each.key)):
        if check.metric:  # else it was never measured
            metric = metrics.get(check.metric, Metric(check.metric))
            tags = {name: check.tags[name] for name in CHECK_TAGS}
            groups = tuple(tag for tag in _SPLITTING_TAGS if tag in check.tags)
            yield CheckPanel(metric, tags, check.condition, every, settings.max_age, groups, is_expected=False)


def _merge(checks: Iterable[CheckPanel]) -> Iterator[CheckPanel]:
    """One panel for a check that several collectors measure, or one in several series."""
    namesakes: dict[tuple[str, ...], list[CheckPanel]] = {}
    for each in checks:
        namesakes.setdefault((each.metric.name, *each.tags.values()), []).append(each)
    for same in namesakes.values():
        yield replace(
            same[-1],
            condition=same[-1].condition if len({each.condition for each in same}) == 1 else "",
            every=max(each.every for each in same),
            max_age=max(each.max_age for each in same),
            groups=tuple(sorted({tag for each in same for tag in each.groups})),
        )


def _distributions(
    kind: CollectorType, seen: Iterable[SeenSeries], metrics: Mapping[str, Metric]
) -> Iterator[DistributionPanel]:
    """Those that were seen, with the tags that they had; and those that the type declares, with all that they may."""
    category = next((tags["workflow_category"] for tags in getattr(kind, "check_tags", {}).values()), "")
    found: dict[str, dict[str, str]] = {}
    for each in seen:
        if each.kind is Kind.DISTRIBUTION:
            found.setdefault(each.metric, {}).update(tag.partition(":")[::2] for tag in each.tags)
    for name, metric in metrics.items():
        if metric.kind is Kind.DISTRIBUTION:
            tags = found.get(name) or {**dict.fromkeys(_DISTRIBUTION_TAGS, ""), "workflow_category": category}
            queryable = tuple(tag for tag in _DISTRIBUTION_TAGS if tag in tags)
            yield DistributionPanel(metric, tags.get("workflow_category", ""), queryable)
