"""/metrics: what the daemon tells Prometheus of itself. Names and units by Prometheus's rules
(https://prometheus.io/docs/practices/naming/).

What there is of each collector and check is written as text by hand: of a thousand collectors it is 30,000 lines, for
which the client library takes a second, and few of them change from one scrape to the next.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import platform
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import anyio
import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest

from service.domain import conditions
from service.domain.delivery import LOST, DeliveryStatus
from service.domain.runs import Cause, Outcome, Run

if TYPE_CHECKING:
    from service.web.context import AppContext
    from service.web.overview import CurrentCheck, Overview

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_DURATIONS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LATENESSES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 600)
_LAG_EVERY = 0.5  # seconds between two looks at how late the loop is
_LAGS = round(60 / _LAG_EVERY)  # of the last minute
_CHECK_LABELS = ("workflow_name", "task", "check", "label", "repo")
_STATES = {"pass": 0.0, "fail": 1.0, "unknown": 2.0}
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class _Runs:
    """The ended runs of one collector: how many by outcome, and how long they took."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._outcomes = Counter(dict.fromkeys(map(str, Outcome), 0))
        self._buckets = [0] * (len(_DURATIONS) + 1)
        self._seconds = 0.0
        self.lines = self._write()

    def add(self, outcome: str, seconds: float) -> None:
        self._outcomes[outcome] += 1
        self._buckets[bisect_left(_DURATIONS, seconds)] += 1
        self._seconds += seconds
        self.lines = self._write()

    def _write(self) -> tuple[str, str]:
        """The lines of ``runs`` and of ``run_duration_seconds``."""
        name, own = "infra_health_run_duration_seconds", {"collector": self._collector}
        counts = self._outcomes.items()
        runs = [_line("infra_health_runs_total", own | {"outcome": outcome}, count) for outcome, count in counts]
        bounds = [*map(str, _DURATIONS), "+Inf"]
        durations = [
            _line(f"{name}_bucket", own | {"le": bound}, count)
            for bound, count in zip(bounds, accumulate(self._buckets), strict=True)
        ]
        durations.append(_line(f"{name}_count", own, sum(self._buckets)))
        durations.append(_line(f"{name}_sum", own, self._seconds))
        return "\n".join(runs), "\n".join(durations)


class Telemetry:
    """Counters and histograms that the daemon feeds as things happen; gauges are read at scrape time."""

    def __init__(self, version: str, commit: str) -> None:
        # Each counter would bring a second series with its birth time; nobody asks for it. The switch is global.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped
        self.registry = CollectorRegistry()
        self.lags: deque[float] = deque(maxlen=_LAGS)
        self.runs: dict[str, _Runs] = {}
        own: dict[str, Any] = {"namespace": "infra_health", "registry": self.registry}
        text = "Time from a slot to its run's start"
        self._lateness = Histogram("run_start_lateness_seconds", text, buckets=_LATENESSES, **own)
        text = "Points that left the outbox, by what became of them"
        self._points = prometheus_client.Counter("points", text, ["status"], **own)
        text, labels = "Always 1; the labels say what runs", ["version", "commit", "python"]
        build = Gauge("build_info", text, labels, **own)
        build.labels(version, commit, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        for status in (DeliveryStatus.DELIVERED, *LOST):
            self._points.labels(status.value)

    def expect(self, collectors: Iterable[str]) -> None:
        """Lets the counters of these collectors begin at 0, so that the first failure already shows as an increase."""
        for name in collectors:
            self.runs.setdefault(name, _Runs(name))

    def run_ended(self, run: Run) -> None:
        """Counts an ended run; one that was scheduled also by how late after its slot it started."""
        if run.outcome is None or run.seconds is None:
            raise ValueError(f"run {run.id} has not ended")
        self.expect([run.collector])
        self.runs[run.collector].add(run.outcome.value, run.seconds)
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


def write_metrics(context: "AppContext", overview: "Overview | None") -> bytes:
    """The answer; without an overview what would be read for it is left out. To be called in a thread."""
    parts: list[str] = []
    for name, kind, text, lines in [*_of_daemon(context), *(_of_overview(context, overview) if overview else ())]:
        named = f"infra_health_{name}" + ("_total" if kind == "counter" else "")
        parts += [f"# HELP {named} {text}", f"# TYPE {named} {kind}", *filter(None, lines)]
    return ("\n".join(parts) + "\n").encode(errors="replace") + generate_latest(context.telemetry.registry)


_Family = tuple[str, str, str, Iterable[str]]  # name, kind, what it is, lines


def _of_daemon(context: "AppContext") -> Iterator[_Family]:
    telemetry, webhooks, quota = context.telemetry, context.deliveries.summary(), dict(context.github.quota)
    requests = {"github": context.github.requests, "datadog": context.intake.requests}
    answers = {(target, status): count for target, all_ in requests.items() for status, count in all_.items()}
    lags = list(telemetry.lags)
    last, longest = ({(): lags[-1]}, {(): max(lags)}) if lags else ({}, {})
    gauge, counter = partial(_family, "gauge"), partial(_family, "counter")
    yield gauge("active_runs", "Runs under way", (), {(): len(context.scheduler.active.runs())})
    yield gauge("outbox_points", "Points that wait for delivery", (), {(): context.forwarder.state.pending})
    yield gauge("event_loop_lag_seconds", "How late the event loop was last", (), last)
    yield gauge("event_loop_lag_max_seconds", "How late the loop was at most within the last minute", (), longest)
    yield counter("requests", "Requests to other services, by answer", ("target", "status"), answers)
    yield counter("webhook_deliveries", "GitHub's deliveries", ("event", "result"), webhooks.by_result)
    yield counter("webhook_missed", "Ended runs that a poll found, not a delivery", (), {(): webhooks.missed})
    yield counter("webhook_dropped", "Runs that gave way to newer ones unused", (), {(): webhooks.dropped})
    for field, text in (
        ("remaining", "Requests that GitHub's limit leaves"),
        ("limit", "Requests an hour that GitHub grants"),
    ):
        values = {(resource,): getattr(each, field) for resource, each in quota.items()}
        yield gauge(f"github_quota_{field}", text, ("resource",), values)
    runs = list(telemetry.runs.values())
    yield "runs", "counter", "Runs that ended, by outcome", [each.lines[0] for each in runs]
    text = "Time from a run's start to its end"
    yield "run_duration_seconds", "histogram", text, [each.lines[1] for each in runs]


def _of_overview(context: "AppContext", overview: "Overview") -> Iterator[_Family]:
    views, jobs, now = overview.collectors, dict(context.scheduler.jobs), context.clock.now()
    gauge = partial(_family, "gauge", labels=("collector",))
    successes = {(name,): view.last_success.timestamp() for name, view in views.items() if view.last_success}
    starts = {(name,): view.next_run.timestamp() for name, view in views.items() if view.next_run}
    intervals = {(name,): job.schedule.interval(now, job.settings.time_zone) for name, job in jobs.items()}
    paused = {(name,): view.paused for name, view in views.items()}
    yield gauge("collector_paused", "1 while the schedule is paused", values=paused)
    success = "collector_last_success_timestamp_seconds"
    yield gauge(success, "When the last successful run ended", values=successes)
    yield gauge("collector_next_run_timestamp_seconds", "When the schedule fires next", values=starts)
    yield gauge("collector_interval_seconds", "Time between two slots", values=intervals)
    lines = [_write_checks(name, checks) for name, checks in overview.checks.items()]
    for at, (field, what) in enumerate(
        (
            ("state", "0 pass, 1 fail, 2 unknown"),
            ("value", "The value that the check judges"),
            ("threshold", "The number in the check's condition"),
        )
    ):
        yield f"check_{field}", "gauge", what, [text[at] for text in lines]


def _write_checks(collector: str, checks: "Sequence[CurrentCheck]") -> tuple[str, str, str]:
    """The lines of state, value and threshold."""
    states, values, thresholds = [], [], []
    for each in checks:
        check, tags = each.check, each.check.tags
        labels = {"collector": collector, **{label: tags.get(label, "") for label in _CHECK_LABELS}}
        states.append(_line("infra_health_check_state", labels, _STATES[each.status]))
        if check.value is not None:
            values.append(_line("infra_health_check_value", labels, check.value))
        if condition := conditions.parse(check.limit):
            thresholds.append(_line("infra_health_check_threshold", labels, condition.threshold))
    return "\n".join(states), "\n".join(values), "\n".join(thresholds)


def _family(kind: str, name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> _Family:
    full = f"infra_health_{name}" + ("_total" if kind == "counter" else "")
    return name, kind, text, [_line(full, dict(zip(labels, key, strict=True)), value) for key, value in values.items()]


def _line(name: str, labels: Mapping[str, Any], value: float) -> str:
    text = ",".join(f'{label}="{str(labels[label]).translate(_ESCAPES)}"' for label in sorted(labels))
    return f"{name}{{{text}}} {float(value)!r}" if text else f"{name} {float(value)!r}"
