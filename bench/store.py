"""The outbox: what a point costs to keep and to settle, with few and with many points stored."""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from bench import Measured
from service.adapters.store import SqliteStore
from service.domain.points import Fate
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Metric, Sample

# One run of the shipped configuration brings some 100 samples; a burst brings many.
_SIZES = (1_000, 10_000, 100_000)
_RUNS = 50
_SAMPLES = 100
_BURST = 30_000
_NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
_METRIC = Metric("metta.infra.cron.ci.workflow.cancelled")


def run() -> Iterable[Measured]:
    """Per point, durable commits included; the baseline is the cost beside the fewest stored points."""
    return anyio.run(_measured)


async def _measured() -> list[Measured]:
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        store = await SqliteStore.open(Path(directory), now=_NOW)
        number = 0
        inserts: list[float] = []
        drains: list[float] = []
        for stored in _SIZES:
            number = await _fill(store, number, stored)
            insert = drain = 0.0
            for _ in range(_RUNS):
                number += 1
                insert += await _insert(store, number, _SAMPLES)
                drain += await _drain(store)
            inserts.append(insert / (_RUNS * _SAMPLES) * 1e6)
            drains.append(drain / (_RUNS * _SAMPLES) * 1e6)
        for what, costs in (("keep", inserts), ("read and settle", drains)):
            figures += [
                Measured(f"{what} a point beside {stored:,} (baseline: beside {_SIZES[0]:,})", cost, "µs", costs[0])
                for stored, cost in zip(_SIZES[1:], costs[1:], strict=True)
            ]
        figures += await _burst(store, number + 1)
        await store.close()
    return figures


async def _burst(store: SqliteStore, number: int) -> list[Measured]:
    """One run of 30,000 samples with 200 characters more of tags, and how long the event loop stood still meanwhile."""
    stalls: list[float] = []

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.001)
            stalls.append(time.perf_counter() - before - 0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        insert = await _insert(store, number, _BURST, "x" * 200)
        drain = 0.0
        while await store.count_waiting():
            drain += await _drain(store)
        tasks.cancel_scope.cancel()
    return [
        Measured(f"keep a run of {_BURST:,} samples", insert * 1e3, "ms"),
        Measured(f"read and settle {_BURST:,} points", drain * 1e3, "ms"),
        Measured("longest stall of the event loop meanwhile", max(stalls) * 1e3, "ms"),
    ]


async def _fill(store: SqliteStore, number: int, stored: int) -> int:
    """Delivered history up to ``stored`` points."""
    while number * _SAMPLES < stored:
        number += 1
        await _insert(store, number, _SAMPLES)
        await _drain(store)
    return number


async def _insert(store: SqliteStore, number: int, count: int, text: str = "") -> float:
    at = _NOW + timedelta(minutes=number)
    begun = Run(f"ci-{number:06}", Slot("ci", at, Cause.SCHEDULE), at)
    tags = {"source": "cron", "task": "tests_blocking_merge", "condition": "> 0", "env": "production"}
    if text:
        tags["text"] = text
    samples = [Sample(_METRIC, index, at, {**tags, "label": str(index)}) for index in range(count)]
    await store.begin(begun)
    before = time.perf_counter()
    await store.end(replace(begun, ended=at, outcome=Outcome.COMPLETE, samples=count), samples, [], {})
    return time.perf_counter() - before


async def _drain(store: SqliteStore) -> float:
    before = time.perf_counter()
    points = await store.waiting(10_000)
    await store.settle([point.id for point in points], Fate.DELIVERED)
    return time.perf_counter() - before
