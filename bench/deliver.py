"""10,000 series from samples to the 202: outbox, chunks and intake against the official client and a bare request."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

import anyio
import httpx
import msgspec
import zstandard

from bench import Measured, note_stalls
from bench.sink import sink
from service.clock import SystemClock
from service.config.secrets import Secret
from service.config.settings import StoreSettings
from service.datadog.intake import Intake
from service.domain.runs import Cause, Outcome, Run
from service.domain.samples import Metric, Sample
from service.pipeline.forwarder import Forwarder
from service.store import Store

SERIES = 10_000
ROUNDS = 7  # the quickest counts: what else the machine does only adds
_KEY = "0123456789abcdef0123456789abcdef"

Send = Callable[[Sequence[Sample]], None]


def run() -> Iterable[Measured]:
    with sink() as url:
        samples = _samples(datetime.now(UTC))
        seconds = {way: _timed(connect(url), samples) for way, connect in WAYS.items()}
        ours, stalls = anyio.run(_outbox, samples, url)
    for way, baseline in seconds.items():
        yield Measured(f"{SERIES:,} series from samples to the 202, against {way}", ours, "s", baseline)
    yield Measured("stall of the loop meanwhile, 99th percentile", quantiles(stalls, n=100)[98] * 1000, "ms", 50)
    yield Measured("stall of the loop meanwhile, longest", max(stalls) * 1000, "ms", 50)


def _samples(at: datetime) -> list[Sample]:
    metric = Metric("metta.infra.cron.bench.value")
    names = ("source", "workflow_category", "task", "check", "condition", "status", "env", "service")
    fixed = dict(
        zip(names, ("cron", "ci", "blocking", "passing", "> 0", "pass", "production", "dashboard"), strict=True)
    )
    return [
        Sample(metric, number / 7, at, {**fixed, "workflow_name": f"workflow_{number:05}"}) for number in range(SERIES)
    ]


def _client(url: str) -> Send:
    from datadog_api_client import ApiClient, Configuration
    from datadog_api_client.v2.api.metrics_api import MetricsApi
    from datadog_api_client.v2.model.metric_content_encoding import MetricContentEncoding
    from datadog_api_client.v2.model.metric_intake_type import MetricIntakeType
    from datadog_api_client.v2.model.metric_payload import MetricPayload
    from datadog_api_client.v2.model.metric_point import MetricPoint
    from datadog_api_client.v2.model.metric_series import MetricSeries

    # The client is typed in parts only.
    configuration = cast("Any", Configuration)(host=url)
    configuration.api_key["apiKeyAuth"] = _KEY
    metrics = cast("Any", MetricsApi)(ApiClient(configuration))

    def send(samples: Sequence[Sample]) -> None:
        series = [
            MetricSeries(
                metric=sample.metric.name,
                type=MetricIntakeType.GAUGE,
                points=[MetricPoint(timestamp=int(sample.at.timestamp()), value=sample.value)],
                tags=[f"{name}:{value}" for name, value in sample.tags.items()],
            )
            for sample in samples
        ]
        metrics.submit_metrics(body=MetricPayload(series=series), content_encoding=MetricContentEncoding.ZSTD1)

    return send


def _request(url: str) -> Send:
    headers = {"DD-API-KEY": _KEY, "Content-Type": "application/json", "Content-Encoding": "zstd1"}
    http = httpx.Client(base_url=url, headers=headers)

    def send(samples: Sequence[Sample]) -> None:
        series = [
            {
                "metric": sample.metric.name,
                "type": 3,
                "points": [{"timestamp": int(sample.at.timestamp()), "value": sample.value}],
                "tags": [f"{name}:{value}" for name, value in sample.tags.items()],
            }
            for sample in samples
        ]
        body = zstandard.compress(msgspec.json.encode({"series": series}))
        http.post("/api/v2/series", content=body).raise_for_status()

    return send


WAYS = {"the official client": _client, "dict + msgspec + zstd + one POST": _request}


def _timed(send: Send, samples: Sequence[Sample]) -> float:
    send(samples[:10])  # opens the connection
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        send(samples)
        taken.append(time.perf_counter() - began)
    return min(taken)


async def _outbox(samples: Sequence[Sample], url: str) -> tuple[float, list[float]]:
    """Seconds by the whole path, and by how much each tick of the loop came late meanwhile."""
    clock = SystemClock()
    taken: list[float] = []
    stalls: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = await Store.open(Path(folder), StoreSettings(), clock.now)
        async with httpx.AsyncClient() as client, anyio.create_task_group() as tasks:
            forwarder = Forwarder(store.outbox, Intake(url, Secret("Datadog API key", "", _KEY), client), clock)
            gc.collect()
            gc.freeze()  # as the daemon does once it has started
            tasks.start_soon(note_stalls, stalls)
            for number in range(-1, ROUNDS):
                active = Run(f"bench-{number}", "bench", Cause.ONCE, clock.now())
                await store.runs.begin(active, forbids=True)
                chosen = samples if number >= 0 else samples[:10]
                ended = replace(active, ended=clock.now(), outcome=Outcome.COMPLETE, samples=len(chosen))
                began = time.perf_counter()
                await store.runs.end(ended, chosen, [], {}, {})
                if not await forwarder.flush(clock.monotonic() + 60):
                    raise RuntimeError(f"not delivered: {forwarder.state}")
                taken.append(time.perf_counter() - began)
            tasks.cancel_scope.cancel()
        await store.close()
    return min(taken[1:]), stalls
