"""What boards and monitors show: from the configuration where a type knows its checks, else from the store."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from service.collectors.registry import expected_checks, load_type
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
DISTRIBUTION_TAGS = ("env", "repo", "kind", "conclusion", "workflow_category", "workflow_name", "workflow")
_LOOK_AHEAD = timedelta(days=15)
_MAX_SLOTS = 400


@dataclass(frozen=True, slots=True)
class CheckPanel:
    """One check and the metric that decides it.

    ``tags``: CHECK_TAGS. ``condition``: empty where collectors judge it by different ones. ``every``: the longest time
    between two of its runs. ``groups``: tags that split it into several series. ``max_age``: of a value that comes at
    the source's own pace, zero where each run measures anew. ``notify_after``: as in the settings.
    """

    title: str
    metric: Metric
    tags: Mapping[str, str]
    condition: str
    every: timedelta
    groups: Set[str] = frozenset()
    max_age: timedelta = timedelta(0)
    notify_after: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        return self.metric.name, *self.tags.values()

    @property
    def category(self) -> str:
        return self.tags["workflow_category"]

    @property
    def worst(self) -> str:
        """How several series become one number: the one that is nearest to failing."""
        condition = conditions.parse(conditions.resolve(self.condition, 1))
        return "max" if condition is None or condition.operator.startswith("<") else "min"

    def merge(self, other: "CheckPanel") -> "CheckPanel":
        """One panel for a check that several collectors measure, or one in several series."""
        return replace(
            self,
            condition=self.condition if self.condition == other.condition else "",
            every=max(self.every, other.every),
            groups=self.groups | other.groups,
            max_age=max(self.max_age, other.max_age),
            notify_after=max(self.notify_after, other.notify_after),
        )


@dataclass(frozen=True, slots=True)
class CollectorPanel:
    """``every``: the longest time between two runs. ``quota``: what GitHub's quota leaves, and its limit."""

    name: str
    every: timedelta
    quota: tuple[Metric, Metric] | None = None


@dataclass(slots=True)
class Catalogue:
    """All that is shown. ``page``, ``runbook``: addresses. ``distributions``: their categories.

    ``metrics``: whatever is sent, by name, for the metadata.
    """

    env: str
    heartbeat: timedelta
    page: str | None = None
    runbook: str | None = None
    notify: Sequence[str] = ()
    collectors: list[CollectorPanel] = field(default_factory=list)
    checks: list[CheckPanel] = field(default_factory=list)
    distributions: dict[Metric, str] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def categories(self) -> list[str]:
        """Those that have something to show."""
        return list(dict.fromkeys([*(each.category for each in self.checks), *self.distributions.values()]))

    def checks_of(self, category: str) -> list[CheckPanel]:
        return [each for each in self.checks if each.category == category]

    @property
    def place(self) -> str:
        """ " (staging)" where it is not production, so that two installations' boards are told apart in a list."""
        return "" if self.env == "production" else f" ({self.env})"

    def runbook_link(self, anchor: str) -> str:
        """A link into the runbook; its path where no address of it is configured."""
        return f"[runbook: {anchor}]({self.runbook}#{anchor})" if self.runbook else f"runbook: docs/runbook.md#{anchor}"

    def page_link(self) -> str:
        if self.page:
            return f"[the daemon's page]({self.page.rstrip('/')}/)"
        return "the daemon's page (kubectl port-forward deployment/infra-health 8080, http://localhost:8080/)"


async def read_catalogue(settings: Settings, now: datetime) -> tuple[Catalogue, list[str]]:
    """The catalogue of the enabled collectors, and what to tell the operator about it. Reads the store, if any."""
    datadog, notes = settings.datadog, []
    found = Catalogue(datadog.env, datadog.heartbeat, settings.http.public_url, datadog.runbook_url, datadog.notify)
    found.metrics = {metric.name: metric for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
    store = await Store.open_reading(settings.state_dir, settings.store)
    try:
        known = await store.checks.read_all(list(enabled))
        seen = await store.outbox.series(now - _SEEN_WITHIN, list(enabled))
    finally:
        await store.close()
    for name, each in enabled.items():
        sent = {one.metric: Metric(one.metric, one.kind) for one in seen if one.collector == name}
        if not _add_collector(found, name, each, known.get(name, ()), sent, longest_interval(each, now)):
            notes.append(
                f"nothing of {name} has been stored in {settings.state_dir} within a week, so it has no tiles and no"
                " monitor of its checks; push where the daemon keeps its state"
            )
    if settings.mode is Mode.SHADOW:
        notes.append("mode is shadow: boards and monitors look at the live names, under which nothing arrives so far")
    return found, notes


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


def _add_collector(
    found: Catalogue,
    name: str,
    settings: CollectorSettings,
    known: Sequence[Check],
    sent: Mapping[str, Metric],
    every: timedelta,
) -> bool:
    """Adds a collector to what was ``found``; whether it has checks: those that the settings ask for; of a type that
    does not say which, and of what has no fixed place, those that the store has. ``sent``: its metrics in the store.
    """
    kind = load_type(settings.type)
    own: dict[str, Metric] = {each.name.rpartition(".")[2]: each for each in getattr(kind, "own_metrics", ())}
    quota = (own["quota_remaining"], own["quota_limit"]) if "quota_remaining" in own else None
    found.collectors.append(CollectorPanel(name, every, quota))
    # An outside type may name its metrics only once it is built.
    metrics = {**sent, **{each.name: each for each in (kind.metrics if isinstance(kind.metrics, tuple) else ())}}
    max_age = settings.max_age if getattr(kind, "carries_values", False) else timedelta(0)
    groups: dict[tuple[str, ...], set[str]] = {}
    for each in known:
        groups.setdefault(_place(each.tags), set()).update({"label", "repo"} & each.tags.keys())
    repo = {"repo"} if "repo" in settings.tags or getattr(settings, "repositories", None) else set()
    places: Mapping[str, dict[str, str]] = getattr(kind, "check_tags", {})
    panels: list[CheckPanel] = []

    def add(metric: str, title: str, place: tuple[str, ...], condition: str, split: Set[str]) -> None:
        measured, tags = metrics.get(metric, Metric(metric)), dict(zip(CHECK_TAGS, place, strict=True))
        panels.append(CheckPanel(title, measured, tags, condition, every, split, max_age, settings.notify_after))

    expected = [(metric, condition) for metric, condition in expected_checks(kind, settings) if metric in places]
    for metric, condition in expected:
        place = _place(places[metric])
        add(metric, f"{place[2]} / {place[3]}", place, condition, groups.get(place, set()) | repo)
    for each in sorted(known, key=lambda each: (each.metric, each.key)):
        # One without a metric was never measured; of those that the settings name one is drawn already.
        if each.metric and not (expected and each.metric in places):
            place = _place(each.tags)
            add(each.metric, f"{each.metric.rpartition('.')[2]} ({place[1]})", place, each.condition, groups[place])
    there = {each.key: each for each in found.checks}
    for panel in panels:
        there[panel.key] = panel.merge(there.get(panel.key, panel))
    found.checks = list(there.values())
    category = getattr(settings, "category", None) or next((panel.category for panel in panels), "")
    distributions = [each for each in metrics.values() if each.kind is Kind.DISTRIBUTION]
    found.distributions |= dict.fromkeys(distributions, category)
    shown = (*(metrics[each] for each in sent), *(panel.metric for panel in panels), *own.values(), *distributions)
    found.metrics |= {each.name: each for each in shown}
    return bool(panels)


def _place(tags: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(tags[name] for name in CHECK_TAGS)
