"""/metrics: what the daemon tells Prometheus of itself. Names and units by Prometheus's rules
(https://prometheus.io/docs/practices/naming/)."""

import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from service.domain import conditions
from service.domain.delivery import LOST, DeliveryStatus
from service.domain.runs import Cause, Outcome, Run

if TYPE_CHECKING:
    from service.web.context import AppContext
    from service.web.overview import Overview

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_DURATIONS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LATENESSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 600)
_LAG_EVERY = 0.5  # seconds between two looks at how late the loop is
_LAGS = round(60 / _LAG_EVERY)  # of the last minute
_CHECK_LABELS = ("collector", "workflow_name", "task", "check", "label", "repo")
_STATES = {"pass": 0, "fail": 1, "unknown": 2}


class Telemetry:
    """Counters and histograms that the daemon feeds as things happen; gauges are read at scrape time."""

    def __init__(self, version: str, commit: str) -> None:
        # Each counter would bring a second series with its birth time; nobody asks for it. The switch is global.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped
        self.registry = CollectorRegistry()
        self.lags: deque[float] = deque(maxlen=_LAGS)
        counter = partial(Counter, namespace="infra_health", registry=self.registry)
        histogram = partial(Histogram, namespace="infra_health", registry=self.registry)
        self._runs = counter("runs", "Runs that ended, by outcome", ["collector", "outcome"])
        self._durations = histogram(
            "run_duration_seconds", "Time from a run's start to its end", ["collector"], buckets=_DURATIONS
        )
        self._lateness = histogram(
            "run_start_lateness_seconds", "Time from a slot to its run's start", buckets=_LATENESSES
        )
        self._points = counter("points", "Points that left the outbox, by what became of them", ["status"])
        labels = ["version", "commit", "python"]
        build = Gauge("infra_health_build_info", "Always 1; the labels say what runs", labels, registry=self.registry)
        build.labels(version, commit, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        for status in (DeliveryStatus.DELIVERED, *LOST):
            self._points.labels(status.value)

    def expect(self, collectors: Iterable[str]) -> None:
        """Lets the counters of these collectors begin at 0, so that the first failure already shows as an increase."""
        for name in collectors:
            for outcome in Outcome:
                self._runs.labels(name, outcome.value)

    def run_ended(self, run: Run) -> None:
        """Counts an ended run; one that was scheduled also by how late after its slot it started."""
        if run.outcome is None or run.seconds is None:
            raise ValueError(f"run {run.id} has not ended")
        self._runs.labels(run.collector, run.outcome.value).inc()
        self._durations.labels(run.collector).observe(run.seconds)
        if run.slot and run.cause is Cause.SCHEDULE:
            self._lateness.observe(max(0.0, (run.started - run.slot).total_seconds()))

    def points(self, status: DeliveryStatus, count: int) -> None:
        """Counts points that were delivered or lost."""
        self._points.labels(status.value).inc(count)

    async def watch_loop(self) -> None:
        """Measures how late the event loop is, which a collector that blocks it would show; until cancelled."""
        while True:
            before = time.monotonic()
            await anyio.sleep(_LAG_EVERY)
            self.lags.append(max(0.0, time.monotonic() - before - _LAG_EVERY))


class Scrape(Collector):
    """One answer: what the daemon counted, and what is read for it. The rest of an overview is left out without one."""

    def __init__(self, context: "AppContext", overview: "Overview | None") -> None:
        self._registry = context.telemetry.registry
        self._overview = overview
        self._jobs = context.scheduler.jobs
        self._now = context.clock.now()
        lags, quota = context.telemetry.lags, context.github.quota
        requests = {"github": context.github.requests, "datadog": context.intake.requests}
        answers = {(target, status): count for target, all_ in requests.items() for status, count in all_.items()}
        last, longest = ({(): lags[-1]}, {(): max(lags)}) if lags else ({}, {})
        self._families = [
            _family("active_runs", "Runs under way", (), {(): len(context.scheduler.active())}),
            _family("outbox_points", "Points that wait for delivery", (), {(): context.forwarder.state.pending}),
            _family("event_loop_lag_seconds", "How late the event loop was last", (), last),
            _family("event_loop_lag_max_seconds", "How late the loop was at most within the last minute", (), longest),
            _family("requests", "Requests to other services, by answer", ("target", "status"), answers),
            _by_name("github_quota_remaining", "Requests that GitHub's limit leaves", quota, "remaining", "resource"),
            _by_name("github_quota_limit", "Requests an hour that GitHub grants", quota, "limit", "resource"),
        ]

    def encode(self, media_type: str) -> bytes:
        """The text; thousands of lines take longer than the loop may stand still: to be called in a thread."""
        # The library left its OpenMetrics text untyped.
        generate: Callable[[Collector], bytes] = (
            openmetrics.generate_latest if media_type == OPENMETRICS else generate_latest
        )
        return generate(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        yield from self._families
        if self._overview:
            yield from self._of_collectors(self._overview)
            yield from _of_checks(self._overview)

    def _of_collectors(self, overview: "Overview") -> Iterator[Metric]:
        views = overview.collectors
        intervals = {(name,): job.schedule.interval(self._now, job.time_zone) for name, job in self._jobs.items()}
        last_success = "collector_last_success_timestamp_seconds", "When the last successful run ended"
        next_run = "collector_next_run_timestamp_seconds", "When the schedule fires next"
        yield _by_name("collector_paused", "1 while the schedule is paused", views, "paused")
        yield _by_name(*last_success, views, "last_success")
        yield _by_name(*next_run, views, "next_run")
        yield _family("collector_interval_seconds", "Time between two slots", ("collector",), intervals)


def _of_checks(overview: "Overview") -> Iterator[Metric]:
    states, values, thresholds = {}, {}, {}
    for name, checks in overview.checks.items():
        for check in checks:
            key = (name, *(check.tags.get(label, "") for label in _CHECK_LABELS[1:]))
            states[key] = float(_STATES[check.status])
            if check.value is not None:
                values[key] = check.value
            if condition := conditions.parse(check.condition):
                thresholds[key] = condition.threshold
    yield _family("check_state", "0 pass, 1 fail, 2 unknown", _CHECK_LABELS, states)
    yield _family("check_value", "The value that the check judges", _CHECK_LABELS, values)
    yield _family("check_threshold", "The number in the check's condition", _CHECK_LABELS, thresholds)


def _by_name(name: str, text: str, items: Mapping[str, Any], field: str, label: str = "collector") -> Metric:
    """One field of each item; instants as seconds since the epoch."""
    found = {(key,): getattr(item, field) for key, item in items.items()}
    values = {
        key: value.timestamp() if isinstance(value, datetime) else float(value)
        for key, value in found.items()
        if value is not None
    }
    return _family(name, text, (label,), values)


def _family(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    kind = CounterMetricFamily if name == "requests" else GaugeMetricFamily
    family = kind(f"infra_health_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
