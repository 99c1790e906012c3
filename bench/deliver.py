"""10,000 series from samples to the 202: outbox, batch and intake against the official client and a bare request.

``python -m bench.deliver WAY URL`` sends once and prints the seconds of its imports and its peak of memory.
"""

import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from subprocess import run as run_process
from typing import Any

import anyio
import httpx
import orjson
import zstandard

from bench import Measured
from bench.sink import sink
from service.domain.points import Point
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Kind, Metric, Sample

SERIES = 10_000
ROUNDS = 7  # the quickest counts: what else the machine does only adds
_KEY = "0123456789abcdef0123456789abcdef"

Send = Callable[[Sequence[Sample]], Awaitable[None]]


def run() -> Iterable[Measured]:
    with sink() as url:
        samples = _samples(datetime.now(UTC))
        seconds = {way: anyio.run(_timed, way, samples, url) for way in WAYS}
        ours, stalls = anyio.run(_outbox, samples, url)
        usage = {way: _usage(way, url) for way in WAYS}
    title = f"{SERIES:,} series from samples to the 202"
    for way, baseline in seconds.items():
        yield Measured(f"{title}, against {way}", ours, "s", baseline)
    yield _encoding()
    yield Measured("stall of the loop meanwhile, 99th percentile", quantiles(stalls, n=100)[98] * 1000, "ms", 50)
    yield Measured("stall of the loop meanwhile, longest", max(stalls) * 1000, "ms", 50)
    for way, (imported, memory) in usage.items():
        if way != BARE:
            yield Measured(f"first small send in a new process, bare, against {way}", usage[BARE][0], "s", imported)
            yield Measured(f"peak memory of that process, bare, against {way}", usage[BARE][1], "MiB", memory)


def _samples(at: datetime) -> list[Sample]:
    metric = Metric("metta.infra.cron.bench.value")
    fixed = {
        "source": "cron",
        "workflow_category": "ci",
        "task": "tests_blocking_merge",
        "check": "workflow_passing",
        "condition": "> 0",
        "status": "pass",
        "env": "production",
        "service": "infra-health-dashboard",
    }
    return [
        Sample(metric, number / 7, at, {**fixed, "workflow_name": f"workflow_{number:05}"}) for number in range(SERIES)
    ]


def _tags(sample: Sample) -> list[str]:
    return [f"{name}:{value}" for name, value in sample.tags.items()]


def _dicts(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "series": [
            {
                "metric": sample.metric.name,
                "type": 3,
                "points": [{"timestamp": int(sample.at.timestamp()), "value": sample.value}],
                "tags": _tags(sample),
            }
            for sample in samples
        ]
    }


def _models(samples: Sequence[Sample]) -> Any:
    from datadog_api_client.v2.model.metric_intake_type import MetricIntakeType
    from datadog_api_client.v2.model.metric_payload import MetricPayload
    from datadog_api_client.v2.model.metric_point import MetricPoint
    from datadog_api_client.v2.model.metric_series import MetricSeries

    return MetricPayload(
        series=[
            MetricSeries(
                metric=sample.metric.name,
                type=MetricIntakeType.GAUGE,
                points=[MetricPoint(timestamp=int(sample.at.timestamp()), value=sample.value)],
                tags=_tags(sample),
            )
            for sample in samples
        ]
    )


@asynccontextmanager
async def _client(url: str, body: Callable[[Sequence[Sample]], Any], check: bool = True) -> AsyncIterator[Send]:
    from datadog_api_client import ApiClient, Configuration
    from datadog_api_client.v2.api.metrics_api import MetricsApi
    from datadog_api_client.v2.model.metric_content_encoding import MetricContentEncoding

    # The client is typed in parts only.
    configured: Any = Configuration
    metrics: Any = MetricsApi
    configuration = configured(host=url, check_input_type=check, check_return_type=check)
    configuration.api_key["apiKeyAuth"] = _KEY
    with ApiClient(configuration) as client:
        api = metrics(client)

        def submit(samples: Sequence[Sample]) -> None:
            api.submit_metrics(body=body(samples), content_encoding=MetricContentEncoding.ZSTD1)

        async def send(samples: Sequence[Sample]) -> None:
            await anyio.to_thread.run_sync(submit, samples)

        yield send


@asynccontextmanager
async def _request(url: str) -> AsyncIterator[Send]:
    headers = {"DD-API-KEY": _KEY, "Content-Type": "application/json", "Content-Encoding": "zstd1"}
    async with httpx.AsyncClient() as http:

        async def send(samples: Sequence[Sample]) -> None:
            body = zstandard.compress(orjson.dumps(_dicts(samples)))
            (await http.post(f"{url}/api/v2/series", content=body, headers=headers)).raise_for_status()

        yield send


BARE = "dict + orjson + zstd + one POST"
WAYS: dict[str, Callable[[str], AbstractAsyncContextManager[Send]]] = {
    "the official client's models": lambda url: _client(url, _models),
    "the official client with dicts": lambda url: _client(url, _dicts),
    "the official client with unchecked dicts": lambda url: _client(url, _dicts, check=False),
    BARE: _request,
}


async def _timed(way: str, samples: Sequence[Sample], url: str) -> float:
    taken = []
    async with WAYS[way](url) as send:
        await send(samples[:10])  # opens the connection
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await send(samples)
            taken.append(time.perf_counter() - began)
    return min(taken)


async def _outbox(samples: Sequence[Sample], url: str) -> tuple[float, list[float]]:
    """Seconds by the whole path, and by how much each tick of the loop came late meanwhile."""
    from service.adapters.datadog import DatadogIntake
    from service.adapters.secrets import Secret
    from service.adapters.store import SqliteStore
    from service.pipeline.clock import SystemClock
    from service.pipeline.deliver import Delivery

    clock = SystemClock()
    taken: list[float] = []
    stalls: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = await SqliteStore.open(Path(folder), now=clock.now())
        intake = DatadogIntake(url, Secret("Datadog API key", "", _KEY))
        delivery = Delivery(store, intake, clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tick, stalls)
            for number in range(-1, ROUNDS):
                active = Run(f"bench-{number}", Slot("bench", None, Cause.ONCE), clock.now())
                await store.begin(active)
                chosen = samples if number >= 0 else samples[:10]
                ended = replace(active, ended=clock.now(), outcome=Outcome.COMPLETE, samples=len(chosen))
                began = time.perf_counter()
                await store.end(ended, chosen, [], {})
                if not await delivery.flush(clock.monotonic() + 60):
                    raise RuntimeError(f"not delivered: {delivery.state}")
                taken.append(time.perf_counter() - began)
            tasks.cancel_scope.cancel()
        await intake.aclose()
        await store.close()
    return min(taken[1:]), stalls


async def _tick(stalls: list[float]) -> None:
    pause = 0.002
    before = time.perf_counter()
    while True:
        await anyio.sleep(pause)
        now = time.perf_counter()
        stalls.append(max(0.0, now - before - pause))
        before = now


def _encoding() -> Measured:
    """A body from stored points, without outbox and request."""
    from service.adapters.datadog_payload import encode
    from service.domain.naming import encode_tags

    samples = _samples(datetime.now(UTC))
    points = [
        Point(number, each.metric.name, Kind.GAUGE, 0, encode_tags(each.tags), int(each.at.timestamp()), each.value)
        for number, each in enumerate(samples)
    ]
    marks = [time.perf_counter()]
    for _ in range(ROUNDS):
        encode(points)
        marks.append(time.perf_counter())
    ours = min(after - before for before, after in pairwise(marks))
    marks = [time.perf_counter()]
    for _ in range(ROUNDS):
        zstandard.compress(orjson.dumps(_dicts(samples)))
        marks.append(time.perf_counter())
    baseline = min(after - before for before, after in pairwise(marks))
    return Measured("body joined from stored points, against dict + orjson + zstd", ours, "s", baseline)


def _usage(way: str, url: str) -> tuple[float, float]:
    """Seconds of the first, small send (imports, first connection) and MiB at the peak of a large one, in a process."""
    command = [sys.executable, "-m", "bench.deliver", way, url]
    imported, memory = run_process(command, check=True, capture_output=True, text=True).stdout.split()
    return float(imported), float(memory)


async def _once(way: str, url: str) -> float:
    """Seconds of the first small send; a large one follows."""
    samples = _samples(datetime.now(UTC))
    began = time.perf_counter()
    async with WAYS[way](url) as send:
        await send(samples[:1])
        taken = time.perf_counter() - began
        await send(samples)
    return taken


def _peak() -> float:
    """MiB that this process held at most. The resource module would count what the parent held before the exec."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    print(anyio.run(_once, sys.argv[1], sys.argv[2]), _peak())
