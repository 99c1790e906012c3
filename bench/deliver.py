"""10,000 series from samples to the 202: outbox, chunks and intake against the official client and a bare request."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import msgspec
import zstandard
from datadog_api_client import ApiClient, Configuration
from datadog_api_client.v2.api.metrics_api import MetricsApi
from datadog_api_client.v2.model.metric_content_encoding import MetricContentEncoding
from datadog_api_client.v2.model.metric_intake_type import MetricIntakeType
from datadog_api_client.v2.model.metric_payload import MetricPayload
from datadog_api_client.v2.model.metric_point import MetricPoint
from datadog_api_client.v2.model.metric_series import MetricSeries

from bench import Measured, delays, note_stalls
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
_HEADERS = {"DD-API-KEY": _KEY, "Content-Type": "application/json", "Content-Encoding": "zstd1"}


def run() -> Iterable[Measured]:
    names = ("source", "workflow_category", "task", "check", "condition", "status", "env", "service")
    values = ("cron", "ci", "blocking", "passing", "> 0", "pass", "production", "dashboard")
    metric, tags, now = Metric("metta.infra.cron.bench.value"), dict(zip(names, values, strict=True)), datetime.now(UTC)
    samples = [
        Sample(metric, number / 7, now, {**tags, "workflow_name": f"workflow_{number:05}"}) for number in range(SERIES)
    ]
    with sink() as url:
        # The client is typed in parts only.
        configuration = cast("Any", Configuration)(host=url, api_key={"apiKeyAuth": _KEY})
        client = _time(partial(_submit, cast("Any", MetricsApi)(ApiClient(configuration))), samples)
        request = _time(partial(_post, httpx.Client(base_url=url, headers=_HEADERS)), samples)
        whole, stalls = anyio.run(_forward, samples, url)
    for way, seconds in (("the official client", client), ("dict + msgspec + zstd + one POST", request)):
        yield Measured(f"{SERIES:,} series from samples to the 202, against {way}", whole, "s", seconds)
    yield from delays("stalls of the loop meanwhile", stalls)


def _submit(metrics: Any, samples: Sequence[Sample]) -> None:
    """With the official client."""
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


def _post(http: httpx.Client, samples: Sequence[Sample]) -> None:
    """With nothing that is not needed."""
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


def _time(send: Callable[[Sequence[Sample]], None], samples: Sequence[Sample]) -> float:
    send(samples[:10])  # opens the connection
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        send(samples)
        taken.append(time.perf_counter() - began)
    return min(taken)


async def _forward(samples: Sequence[Sample], url: str) -> tuple[float, list[float]]:
    """Seconds by the whole path, and by how much each tick of the loop came late meanwhile."""
    clock, taken, stalls = SystemClock(), list[float](), list[float]()
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
