"""The forecast of series: how many a configuration makes in Datadog, where each one is paid for."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from service.collectors.registry import expected_checks, expected_metrics, load_type
from service.config.settings import Settings
from service.domain import conditions
from service.domain.checks import CHECK_AGE, CHECK_METRICS, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE
from service.domain.samples import Kind
from service.pipeline.job import COLLECTOR_METRICS

if TYPE_CHECKING:
    from service.store import Store

# Series that only the data know (a distribution's tags) are those of so long.
_LOOK_BACK = timedelta(hours=24)
# https://docs.datadoghq.com/metrics/distributions/: count, sum, min, max and average of each combination of tags.
_BILLED_PER_DISTRIBUTION = 5
# Beyond this many times ``max_series`` delivery holds back what is new.
_HELD_BACK_FACTOR = 10


@dataclass(frozen=True, slots=True)
class MetricSeries:
    collector: str
    metric: str
    count: int
    is_distribution: bool = False

    def __str__(self) -> str:
        note = f" (a distribution, billed as {self.count * _BILLED_PER_DISTRIBUTION})" if self.is_distribution else ""
        return f"{self.collector}: {self.metric} {self.count}{note}"


@dataclass(frozen=True, slots=True)
class SeriesForecast:
    """``unknown``: collectors of which neither settings nor stored runs tell the checks.

    ``max``: beyond it there is a warning. ``max_per_hour``: beyond it new ones are throttled; None: none are.
    """

    metrics: tuple[MetricSeries, ...]
    unknown: tuple[str, ...]
    max: int
    max_per_hour: int | None

    @property
    def totals(self) -> Mapping[str, int]:
        """By collector."""
        totals: Counter[str] = Counter()
        for each in self.metrics:
            totals[each.collector] += each.count
        return totals

    @property
    def total(self) -> int:
        return sum(each.count for each in self.metrics)

    @property
    def warning(self) -> str | None:
        if self.total <= self.max:
            return None
        worst = max(self.metrics, key=lambda each: each.count)
        text = f"{self.total} series are more than max_series ({self.max}), {worst.count} of them {worst.metric}"
        limit = f"; beyond {self.max_per_hour} an hour points of new ones are held back" if self.max_per_hour else ""
        return text + limit

    def as_json(self) -> dict[str, Any]:
        metrics = [{"collector": each.collector, "metric": each.metric, "series": each.count} for each in self.metrics]
        return {"total": self.total, "max": self.max, "collectors": dict(self.totals), "metrics": metrics}

    def __str__(self) -> str:
        text = f"{self.total} ({', '.join(f'{name} {total}' for name, total in self.totals.items())})"
        if self.unknown:
            text += f"; not counted is what {', '.join(self.unknown)} will measure: no run of it is stored yet"
        return text


def max_series_per_hour(settings: Settings) -> int | None:
    """How many series an hour may leave; None where the operator has set no ``max_series``: then all may.

    A bound that nobody has set must not part a team from its points: without one there is the warning alone.
    """
    return settings.max_series * _HELD_BACK_FACTOR if "max_series" in settings.model_fields_set else None


async def forecast_series(settings: Settings, store: "Store | None", now: datetime) -> SeriesForecast:
    """The enabled collectors' series while no status flips; snapshots and distributions by what they brought so far.

    ``store``: None where nothing was ever run.
    """
    enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
    seen = await store.outbox.series(now - _LOOK_BACK, enabled) if store else []
    measured = await store.checks.read_all(list(enabled)) if store else {}
    metrics: list[MetricSeries] = []
    unknown = []
    for name, collector in enabled.items():
        loaded = load_type(collector.type)
        stored = [(check.metric, check.condition) for check in measured.get(name, ())]
        checks = list(expected_checks(loaded, collector)) or stored
        counts = Counter(metric for metric, _ in checks if metric)
        counts += Counter({metric.name: len(checks) for metric in (CHECK_STATE, CHECK_VALUE)})
        # What is compared with no number has no verdict either, and so no age, unless its source gives one.
        judged = sum(conditions.parse(conditions.resolve(condition, 1)) is not None for _, condition in checks)
        counts += Counter({metric.name: judged for metric in (CHECK_THRESHOLD, CHECK_AGE)})
        counts += Counter(metric.name for metric in (*COLLECTOR_METRICS, *getattr(loaded, "own_metrics", ())))
        counts += Counter(expected_metrics(loaded, collector))
        # Without a catalogue only what was sent tells which metrics there are beside the checks'.
        own = {*counts, *(metric.name for metric in CHECK_METRICS)}
        distributions: Counter[str] = Counter()
        for each in seen:
            if each.collector == name and each.kind is Kind.DISTRIBUTION:
                distributions[each.metric] += 1
            elif each.collector == name and not loaded.metrics and each.metric not in own:
                counts[each.metric] += 1
        if not checks and own >= counts.keys():
            unknown.append(name)
        metrics += [MetricSeries(name, metric, count) for metric, count in counts.items() if count]
        metrics += [MetricSeries(name, metric, count, True) for metric, count in distributions.items()]
    return SeriesForecast(tuple(metrics), tuple(unknown), settings.max_series, max_series_per_hour(settings))


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
