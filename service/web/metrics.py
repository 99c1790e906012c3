"""/metrics: what the daemon tells Prometheus of itself. Names and units by Prometheus's rules
(https://prometheus.io/docs/practices/naming/)."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service.domain.points import LOST, Fate
from service.domain.runs import Outcome, Run

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_DURATIONS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LATENESSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 600)


@dataclass(frozen=True, slots=True)
class CollectorState:
    """``interval``: seconds between slots, None where the schedule is irregular."""

    paused: bool = False
    last_success: datetime | None = None
    next_run: datetime | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """GitHub's primary limit of one resource (core, search, graphql), in requests."""

    remaining: int
    limit: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is read at scrape time; None and missing keys are left out.

    ``lag``: seconds the event loop was late last; ``longest_lag``: the most of the last minute.
    ``requests``: to other services so far, by target and status (the code, or "error" where no answer came).
    """

    active_runs: int = 0
    waiting: int | None = None
    lag: float | None = None
    longest_lag: float | None = None
    requests: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    quota: Mapping[str, Quota] = field(default_factory=dict)
    collectors: Mapping[str, CollectorState] = field(default_factory=dict)


class Telemetry:
    """Counters and histograms that the daemon feeds as things happen; gauges come from a snapshot at scrape time."""

    def __init__(self, *, version: str, commit: str, collectors: Iterable[str] = ()) -> None:
        """``collectors``: as for ``expect``."""
        # Each counter would bring a second series with its birth time; nobody asks for it. The switch is global.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped
        self._registry = CollectorRegistry()
        counter = partial(Counter, namespace="infra_health", registry=self._registry)
        histogram = partial(Histogram, namespace="infra_health", registry=self._registry)
        self._runs = counter("runs", "Runs that ended, by outcome", ["collector", "outcome"])
        self._durations = histogram(
            "run_duration_seconds", "Time from a run's start to its end", ["collector"], buckets=_DURATIONS
        )
        self._lateness = histogram(
            "run_start_lateness_seconds", "Time from a slot to its run's start", buckets=_LATENESSES
        )
        self._points = counter("points", "Points that left the outbox, by fate", ["fate"])
        build = Gauge(
            "infra_health_build_info",
            "Always 1; the labels say what runs",
            ["version", "commit", "python"],
            registry=self._registry,
        )
        build.labels(version, commit, platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)
        for fate in (Fate.DELIVERED, *LOST):
            self._points.labels(fate.name.lower())
        self.expect(collectors)

    def expect(self, collectors: Iterable[str]) -> None:
        """Lets their counters begin at 0, so that the first failure already shows as an increase."""
        for name in collectors:
            for outcome in Outcome:
                self._runs.labels(name, outcome.value)

    def run_ended(self, run: Run, lateness: float | None) -> None:
        """``lateness``: seconds from the slot to the start, None where nobody scheduled the run."""
        if run.outcome is None or run.seconds is None:
            raise ValueError(f"run {run.id} has not ended")
        self._runs.labels(run.job, run.outcome.value).inc()
        self._durations.labels(run.job).observe(run.seconds)
        if lateness is not None:
            self._lateness.observe(max(0.0, lateness))

    def points(self, fate: Fate, count: int) -> None:
        self._points.labels(fate.name.lower()).inc(count)

    def exposition(self, snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type: OpenMetrics for who accepts it, else Prometheus's plain text. CPU work."""
        scrape = _Scrape(self._registry, snapshot)
        if any(part.split(";")[0].strip() == "application/openmetrics-text" for part in accept.split(",")):
            text: bytes = openmetrics.generate_latest(scrape)  # type: ignore[no-untyped-call]  # the library left it untyped
            return text, OPENMETRICS
        return prometheus_client.generate_latest(scrape), PLAIN


class _Scrape(Collector):
    """One answer: the registry plus the gauges of a snapshot. Holds nothing, so scrapes may overlap."""

    def __init__(self, registry: CollectorRegistry, snapshot: Snapshot) -> None:
        self._registry = registry
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        yield from _gauges(self._snapshot)


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("active_runs", "Runs under way", {"": snapshot.active_runs})
    if snapshot.waiting is not None:
        yield _gauge("outbox_points", "Points that wait for delivery", {"": snapshot.waiting})
    if snapshot.lag is not None:
        yield _gauge("event_loop_lag_seconds", "How late the event loop was last", {"": snapshot.lag})
    if snapshot.longest_lag is not None:
        text = "How late the event loop was at most within the last minute"
        yield _gauge("event_loop_lag_max_seconds", text, {"": snapshot.longest_lag})
    requests = CounterMetricFamily(
        "infra_health_requests", "Requests to other services, by answer", labels=["target", "status"]
    )
    for target, statuses in snapshot.requests.items():
        for status, count in statuses.items():
            requests.add_metric([target, status], count)
    yield requests
    quota = snapshot.quota.items()
    yield _gauge(
        "github_quota_remaining", "Requests that GitHub's limit leaves", {n: q.remaining for n, q in quota}, "resource"
    )
    yield _gauge(
        "github_quota_limit", "Requests an hour that GitHub grants", {n: q.limit for n, q in quota}, "resource"
    )
    states = snapshot.collectors.items()
    yield _gauge(
        "collector_paused", "1 while the schedule is paused", {n: int(s.paused) for n, s in states}, "collector"
    )
    yield _gauge(
        "collector_last_success_timestamp_seconds",
        "When the last successful run ended",
        {n: s.last_success.timestamp() for n, s in states if s.last_success},
        "collector",
    )
    yield _gauge(
        "collector_next_run_timestamp_seconds",
        "When the schedule fires next",
        {n: s.next_run.timestamp() for n, s in states if s.next_run},
        "collector",
    )
    yield _gauge(
        "collector_interval_seconds",
        "Time between two slots of the schedule",
        {n: s.interval for n, s in states if s.interval},
        "collector",
    )


def _gauge(name: str, text: str, values: Mapping[str, float], label: str = "") -> Metric:
    family = GaugeMetricFamily(f"infra_health_{name}", text, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family
