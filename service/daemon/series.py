"""How many series a configuration makes in Datadog, where each one is paid for: by metric, by tag where it has many."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from service.collectors.registry import expected_checks, load_type
from service.config.settings import Settings, max_series_per_hour, shadow_prefix
from service.domain import conditions
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE
from service.domain.samples import Kind
from service.pipeline.job import COLLECTOR_METRICS
from service.store import Store

# Series that only the data know (a distribution's tags) are those of so long.
_LOOK_BACK = timedelta(hours=24)
# https://docs.datadoghq.com/metrics/distributions/: count, sum, min, max and average of each combination of tags.
_BILLED_PER_DISTRIBUTION = 5


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """``tags``: how many values each tag that tells series apart has, where that is known from stored runs.

    ``is_distribution``: each series is billed as five.
    """

    metric: str
    count: int
    tags: Mapping[str, int] = field(default_factory=dict)
    is_distribution: bool = False

    def __str__(self) -> str:
        notes = [f"{number} {tag}" for tag, number in self.tags.items()]
        if self.is_distribution:
            notes.append(f"a distribution, billed as {self.count * _BILLED_PER_DISTRIBUTION}")
        return f"{self.metric} {self.count}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True, slots=True)
class CollectorSeries:
    """``is_known``: whether settings or stored runs tell which checks it has."""

    name: str
    metrics: tuple[MetricSeries, ...]
    is_known: bool

    @property
    def total(self) -> int:
        return sum(each.count for each in self.metrics)


@dataclass(frozen=True, slots=True)
class SeriesForecast:
    """``max``: beyond it there is a warning. ``max_per_hour``: beyond it new ones are throttled; None: none are."""

    collectors: tuple[CollectorSeries, ...]
    max: int
    max_per_hour: int | None = None

    @property
    def total(self) -> int:
        return sum(each.total for each in self.collectors)

    @property
    def warning(self) -> str | None:
        if self.total <= self.max:
            return None
        worst = max((metric for each in self.collectors for metric in each.metrics), key=lambda metric: metric.count)
        text = f"{self.total} series are more than max_series ({self.max}), {worst.count} of them {worst.metric}"
        limit = f"; beyond {self.max_per_hour} an hour points of new ones are held back" if self.max_per_hour else ""
        return text + limit

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "max": self.max,
            "collectors": {each.name: each.total for each in self.collectors},
            "metrics": [
                {"collector": each.name, "metric": metric.metric, "series": metric.count, "tags": dict(metric.tags)}
                for each in self.collectors
                for metric in each.metrics
            ],
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{each.name} {each.total}" for each in self.collectors)
        unknown = [each.name for each in self.collectors if not each.is_known]
        rest = f"; not counted is what {', '.join(unknown)} will measure: no run of it is stored yet" if unknown else ""
        return f"{self.total} ({parts}){rest}"


async def forecast_series(settings: Settings, now: datetime) -> SeriesForecast:
    """The enabled collectors' series while no status flips; snapshots and distributions by what they brought so far."""
    store = await Store.open_reading(settings.state_dir)
    try:
        enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
        distributions: dict[str, list[tuple[str, Mapping[str, str]]]] = defaultdict(list)
        for series in await store.outbox.series(now - _LOOK_BACK):
            if series.kind is Kind.DISTRIBUTION:
                metric = series.metric.removeprefix(shadow_prefix(settings) or "")
                tags = {name: value for name, _, value in (tag.partition(":") for tag in series.tags)}
                distributions[series.collector].append((metric, tags))
        found = []
        for name, each in enabled.items():
            loaded = load_type(each.type)
            checks = list(expected_checks(loaded, each))
            checks = checks or [(check.metric, check.condition) for check in await store.runs.checks(name)]
            own = (*COLLECTOR_METRICS, *getattr(loaded, "own_metrics", ()))
            metrics = (
                *_count_check_series(checks),
                *_count_distributions(distributions[name]),
                *(MetricSeries(metric.name, 1) for metric in own),
            )
            found.append(CollectorSeries(name, metrics, bool(checks)))
        return SeriesForecast(tuple(found), settings.max_series, max_series_per_hour(settings))
    finally:
        await store.close()


def find_collisions(settings: Settings) -> list[str]:
    """Warnings of github_ci collectors whose samples would overwrite each other's in Datadog."""
    seen: dict[object, str] = {}
    found = []
    for name, each in settings.collectors.items():
        repositories: Iterable[str] | None = getattr(each, "repositories", None)
        if repositories is None or not each.enabled:
            continue
        keys = [frozenset({**each.tags, "repo": repo.lower()}.items()) for repo in repositories]
        others = {seen.setdefault(key, name) for key in keys or [frozenset(each.tags.items())]} - {name}
        found += [
            f"collectors {other} and {name} send the same series; tell them apart by `tags: {{repo: ...}}` in"
            f" collectors.{name}"
            for other in sorted(others)
        ]
    return found


def _count_check_series(checks: Iterable[tuple[str, str]]) -> list[MetricSeries]:
    """A series of the metric itself for each check, and the check's stable ones."""
    checks = list(checks)
    measured = Counter(metric for metric, _ in checks if metric)
    with_threshold = sum(conditions.parse(condition) is not None for _, condition in checks)
    stable = {metric: len(checks) for metric in (CHECK_STATE, CHECK_AGE, CHECK_VALUE)} | {
        CHECK_THRESHOLD: with_threshold
    }
    return [
        *(MetricSeries(metric, count) for metric, count in measured.items()),
        *(MetricSeries(metric.name, count) for metric, count in stable.items() if count),
    ]


def _count_distributions(seen: Iterable[tuple[str, Mapping[str, str]]]) -> list[MetricSeries]:
    """Their tags are the data's, so only what came tells how many there are."""
    by_metric: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for metric, tags in seen:
        by_metric[metric].append(tags)
    found = []
    for metric, each in by_metric.items():
        values: dict[str, set[str]] = defaultdict(set)
        for tags in each:
            for name, value in tags.items():
                values[name].add(value)
        many = {name: len(distinct) for name, distinct in values.items() if len(distinct) > 1}
        found.append(MetricSeries(metric, len(each), many, is_distribution=True))
    return found
