"""/metrics: what the daemon tells Prometheus of itself. Names and units by Prometheus's rules
(https://prometheus.io/docs/practices/naming/)."""

import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Outcome, Run
from service.web.overview import Overview, in_slices

if TYPE_CHECKING:
    from service.web.context import AppContext

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_DURATIONS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LATENESSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 600)
_LAG_EVERY = 0.5  # seconds between two looks at how late the loop is
_LAGS = round(60 / _LAG_EVERY)  # of the last minute

_SHARE = 4  # after a text that took a second, the next one is made four seconds later
_CHECK_LABELS = ("collector", "workflow_name", "task", "check", "label", "repo")
_STATES = {"pass": 0, "fail": 1, "unknown": 2}


class Telemetry:
    """Counters and histograms that the daemon feeds as things happen; gauges are read at scrape time."""

    def __init__(self, version: str, commit: str) -> None:
        # Each counter would bring a second series with its birth time; nobody asks for it. The switch is global.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped
        self.registry = CollectorRegistry()
        self.lags: deque[float] = deque(maxlen=_LAGS)
        self.lock = anyio.Lock()
        self.texts: dict[str, tuple[bytes, float, float]] = {}  # by content type: text, when it was made, its cost
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


async def expose(context: "AppContext", accept: str = "") -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics for who accepts it, else Prometheus's plain text.

    Made no more often than costs a fifth of the time, whoever scrapes; in a thread, as thousands of lines take longer
    than the loop may stand still.
    """
    telemetry, clock = context.telemetry, context.clock
    wanted = OPENMETRICS if "application/openmetrics-text" in accept else PLAIN
    async with telemetry.lock:
        text, made_at, cost = telemetry.texts.get(wanted, (b"", -math.inf, 0.0))
        begun = clock.monotonic()
        if begun - made_at >= _SHARE * cost:
            scrape = _Scrape(telemetry.registry, await _read_families(context))
            # The library left its OpenMetrics text untyped.
            generate: Callable[[Collector], bytes] = (
                openmetrics.generate_latest if wanted is OPENMETRICS else generate_latest
            )
            text = await anyio.to_thread.run_sync(generate, scrape, limiter=context.threads)
            telemetry.texts[wanted] = text, clock.monotonic(), clock.monotonic() - begun
    return text, wanted


# Name, help, names of the labels, values by labels.
_Family = tuple[str, str, Sequence[str], Mapping[Any, float]]


async def _read_families(context: "AppContext") -> list[_Family]:
    """What is read at scrape time. What can't be known while the store is lost is left out."""
    lags, quota = context.telemetry.lags, context.github.quota
    requests = {"github": context.github.requests, "datadog": context.intake.requests}
    answers = {(target, status): count for target, all_ in requests.items() for status, count in all_.items()}
    last, longest = ({(): lags[-1]}, {(): max(lags)}) if lags else ({}, {})
    found: list[_Family] = [
        ("active_runs", "Runs under way", [], {(): len(context.scheduler.active())}),
        ("outbox_points", "Points that wait for delivery", [], {(): context.forwarder.state.pending}),
        ("event_loop_lag_seconds", "How late the event loop was last", [], last),
        ("event_loop_lag_max_seconds", "How late the event loop was at most within the last minute", [], longest),
        ("requests", "Requests to other services, by answer", ["target", "status"], answers),
        _by_name("github_quota_remaining", "Requests that GitHub's limit leaves", quota, "remaining", "resource"),
        _by_name("github_quota_limit", "Requests an hour that GitHub grants", quota, "limit", "resource"),
    ]
    with suppress(Unavailable):
        overview = await context.overview.read()
        found += [*await _read_collectors(context, overview), *_read_checks(overview)]
    return found


async def _read_collectors(context: "AppContext", overview: Overview) -> list[_Family]:
    views, now, jobs = overview.collectors, context.clock.now(), context.scheduler.jobs
    intervals = {(name,): job.schedule.interval(now, job.time_zone) async for name, job in in_slices(jobs.items())}
    last_success = "collector_last_success_timestamp_seconds", "When the last successful run ended"
    next_run = "collector_next_run_timestamp_seconds", "When the schedule fires next"
    return [
        _by_name("collector_paused", "1 while the schedule is paused", views, "paused"),
        _by_name(*last_success, views, "last_success"),
        _by_name(*next_run, views, "next_run"),
        ("collector_interval_seconds", "Time between two slots of the schedule", ["collector"], intervals),
    ]


def _read_checks(overview: Overview) -> list[_Family]:
    states, values, thresholds = {}, {}, {}
    for name, collector in overview.checks.items():
        for _, check in collector.checks:
            key = (name, *(check.tags.get(label, "") for label in _CHECK_LABELS[1:]))
            states[key] = _STATES[check.status]
            if check.value is not None:
                values[key] = check.value
            if condition := conditions.parse(check.condition):
                thresholds[key] = condition.threshold
    return [
        ("check_state", "0 pass, 1 fail, 2 unknown", _CHECK_LABELS, states),
        ("check_value", "The value that the check judges", _CHECK_LABELS, values),
        ("check_threshold", "The number in the check's condition", _CHECK_LABELS, thresholds),
    ]


def _by_name(name: str, text: str, items: Mapping[str, Any], field: str, label: str = "collector") -> _Family:
    """One field of each item; instants as seconds since the epoch."""
    values = {(key,): getattr(item, field) for key, item in items.items() if getattr(item, field) is not None}
    return (
        name,
        text,
        [label],
        {key: value.timestamp() if isinstance(value, datetime) else float(value) for key, value in values.items()},
    )


class _Scrape(Collector):
    """One answer: the registry plus what was read for it."""

    def __init__(self, registry: CollectorRegistry, families: Sequence[_Family]) -> None:
        self._registry = registry
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        for name, text, labels, values in self._families:
            kind = CounterMetricFamily if name == "requests" else GaugeMetricFamily
            family = kind(f"infra_health_{name}", text, labels=labels)
            for key, value in values.items():
                family.add_metric(key, value)
            yield family
