"""How many series a configuration makes in Datadog, where each one is paid for: by metric, by tag where it has many."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.adapters.store import SqliteStore
from service.collectors import registry
from service.collectors.github_ci import GithubCi
from service.config import CollectorSettings, Settings, kept_prefix, most_series
from service.domain import conditions
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD
from service.domain.points import SeenSeries
from service.domain.samples import Kind
from service.pipeline.job import COLLECTOR_METRICS, QUOTA_METRICS

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
        by = ", ".join(f"{number} {tag}" for tag, number in self.tags.items())
        billed = f"; a distribution, billed as {self.count * _BILLED_PER_DISTRIBUTION}" if self.is_distribution else ""
        return f"{self.metric} {self.count}" + (f" ({by}{billed})" if by or billed else "")


@dataclass(frozen=True, slots=True)
class CollectorSeries:
    name: str
    metrics: tuple[MetricSeries, ...]
    is_known: bool

    @property
    def total(self) -> int:
        return sum(each.count for each in self.metrics)


@dataclass(frozen=True, slots=True)
class Series:
    """``most``: beyond it ``warning`` says something. ``held_beyond``: series an hour, None where none is held back."""

    collectors: tuple[CollectorSeries, ...]
    most: int
    held_beyond: int | None = None

    @property
    def total(self) -> int:
        return sum(each.total for each in self.collectors)

    @property
    def warning(self) -> str | None:
        if self.total <= self.most:
            return None
        worst = max((metric for each in self.collectors for metric in each.metrics), key=lambda metric: metric.count)
        told = f"{self.total} series are more than max_series ({self.most}), {worst.count} of them {worst.metric}"
        return (
            f"{told}; beyond {self.held_beyond} an hour points of new ones are held back" if self.held_beyond else told
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "max": self.most,
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


async def expected_series(settings: Settings, now: datetime | None = None) -> Series:
    """The enabled collectors' series while no status flips; snapshots and distributions by what they brought so far."""
    types = registry.installed()
    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
        seen = await store.seen(enabled, (now or datetime.now(UTC)) - _LOOK_BACK)
        found = []
        for name, each in enabled.items():
            expected = getattr(types[each.type], "expected_checks", None)
            checks = (
                list(expected(each))
                if expected
                else [(check.metric, check.condition) for check in await store.checks(name)]
            )
            own = [series for series in seen if series.job == name]
            lines = (
                *_of_checks(checks),
                *_of_distributions(own, kept_prefix(settings) or ""),
                *_of_itself(each, getattr(types[each.type], "own_metrics", ())),
            )
            found.append(CollectorSeries(name, lines, bool(expected or checks)))
        return Series(tuple(found), settings.max_series, most_series(settings))
    finally:
        await store.close()


def collisions(settings: Settings) -> list[str]:
    """What to tell the operator of github_ci collectors whose samples would overwrite each other's in Datadog."""
    seen: dict[object, str] = {}
    found = []
    for name, each in settings.collectors.items():
        if not isinstance(each, GithubCi.Settings) or not each.enabled:
            continue
        keys = [frozenset({**each.tags, "repo": repo.lower()}.items()) for repo in each.repositories]
        others = {seen.setdefault(key, name) for key in keys or [frozenset(each.tags.items())]} - {name}
        for other in sorted(others):
            found.append(
                f"collectors {other} and {name} send the same series; tell them apart by `tags: {{repo: ...}}` in"
                f" collectors.{name}"
            )
    return found


def _of_checks(checks: Iterable[tuple[str, str]]) -> list[MetricSeries]:
    """A series of the metric itself for each check, and the check's stable ones."""
    checks = list(checks)
    measured = Counter(metric for metric, _ in checks if metric)
    with_threshold = sum(conditions.parse(condition) is not None for _, condition in checks)
    stable = {CHECK_STATE: len(checks), CHECK_AGE: len(checks), CHECK_THRESHOLD: with_threshold}
    return [
        *(MetricSeries(metric, count) for metric, count in measured.items()),
        *(MetricSeries(metric.name, count) for metric, count in stable.items() if count),
    ]


def _of_distributions(seen: Iterable[SeenSeries], prefix: str) -> list[MetricSeries]:
    """Their tags are the data's, so only what came says how many there are."""
    by_metric: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for series in seen:
        if series.kind is Kind.DISTRIBUTION:
            by_metric[series.metric.removeprefix(prefix)].append(series.tags)
    found = []
    for metric, each in by_metric.items():
        values: dict[str, set[str]] = defaultdict(set)
        for tags in each:
            for name, value in tags.items():
                values[name].add(value)
        many = {name: len(said) for name, said in values.items() if len(said) > 1}
        found.append(MetricSeries(metric, len(each), many, is_distribution=True))
    return found


def _of_itself(settings: CollectorSettings, more: Iterable[Any]) -> list[MetricSeries]:
    """The daemon's health, a series a collector. The quota is GitHub's."""
    ours = [m for m in COLLECTOR_METRICS if m not in QUOTA_METRICS or isinstance(settings, GithubCi.Settings)]
    return [MetricSeries(metric.name, 1) for metric in (*ours, *more)]
