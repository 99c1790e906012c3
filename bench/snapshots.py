"""Snapshots: 100,000 records from the file to the outbox, beside ``json.load`` and the loop of a naive reader.

Each is measured in a process of its own, so that neither pays for the other's memory. The naive reader is the replaced
system's: it checks the required fields, makes the tags and the point that Datadog's client takes, and keeps them all.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import anyio

from bench import Measured, delays, note_stalls, processes, read_memory
from service.collectors.snapshot import SnapshotSettings
from service.config.settings import Settings
from service.daemon.wiring import open_wiring
from service.domain.runs import Actor, Cause, Outcome
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler

_RECORDS = 100_000
_CHECKS = 200  # so many different checks; the tags tell their records apart
_TIMES = 3  # the quickest counts
_REQUIRED = ("metric", "workflow_name", "task", "check", "condition", "value")


class Reading(NamedTuple):
    """Seconds until all records are points, and the MiB that this takes; of the daemon's until they are stored."""

    seconds: float
    memory: float
    collected: float = 0.0  # seconds of the collector alone
    ended: float = 0.0  # seconds until the three stable series of each check are there, too
    stalls: tuple[float, ...] = ()


def run() -> Iterable[Measured]:
    with tempfile.TemporaryDirectory() as folder, processes(1) as pool:
        path = Path(folder) / "snapshot.json"
        _write(path, datetime.now(UTC))
        naive, *_ = sorted(pool.submit(_read_naively, path).result() for _ in range(_TIMES))
        whole, *_ = sorted(pool.submit(anyio.run, _collect, path).result() for _ in range(_TIMES))
    yield Measured(f"{_RECORDS:,} records from file to outbox", whole.seconds, "s", naive.seconds)
    yield Measured("of which reading and checking", whole.collected, "s", naive.seconds)
    yield Measured("until the three stable series of each check are there, too", whole.ended, "s", naive.seconds)
    yield Measured("memory that this takes at its peak", whole.memory, "MiB", naive.memory)
    yield from delays("stalls of the loop meanwhile", whole.stalls)


def _write(path: Path, now: datetime) -> None:
    """A snapshot of records such as the pipelines write."""
    chance = random.Random(1)
    values = [round(chance.random(), 6) for _ in range(_RECORDS)]
    records = [
        {
            "metric": f"suite.metric_{index % _CHECKS}",
            "workflow_name": f"multigpu_arena_basic_{index % _CHECKS}",
            "task": "runs_successfully",
            "check": "reward_threshold",
            "condition": "> 0.5",
            "value": value,
            "status": "pass" if value > 0.5 else "fail",
            "timestamp": (now - timedelta(seconds=index % 1800)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tags": {"commit": f"{index:07x}", "workflow": "training", "seed": str(index // _CHECKS)},
        }
        for index, value in enumerate(values)
    ]
    path.write_text(json.dumps(records))


def _read_naively(path: Path) -> Reading:
    """What a reader does that is no daemon: all in one go, no bounds, one bad record costs the file."""
    before, began = read_memory("VmHWM"), time.perf_counter()
    points = []
    for record in json.loads(path.read_text()):
        if any(field not in record for field in _REQUIRED):
            raise ValueError(f"a field is missing: {record}")
        own = {name: record[name] for name in ("workflow_name", "task", "check", "condition", "status")}
        tags = {"source": "stable_suite", "workflow_category": "training", **own, "env": "production", **record["tags"]}
        at = datetime.fromisoformat(record["timestamp"])
        points.append(
            {
                "metric": f"metta.infra.stablesuite.{record['metric']}",
                "type": 3,
                "points": [{"timestamp": int(at.timestamp()), "value": float(record["value"])}],
                "tags": [f"{name}:{value}" for name, value in tags.items()],
            }
        )
    return Reading(time.perf_counter() - began, read_memory("VmHWM") - before)


async def _collect(path: Path) -> Reading:
    given = {"type": "snapshot", "schedule": "0 * * * *", "category": "training", "source": str(path)}
    collectors = {"training": SnapshotSettings.model_validate(given)}
    settings = Settings(collectors=collectors, state_dir=path.with_name(f"state-{time.monotonic_ns()}"))
    stored, stalls = list[float](), list[float]()
    async with open_wiring(settings, {}) as wiring, anyio.create_task_group() as tasks:
        store, clock, jobs = wiring.store, wiring.clock, wiring.build_jobs(settings)
        runner = Runner(store, clock, tasks, on_stored=lambda: stored.append(time.perf_counter()), retry=False)
        scheduler = Scheduler(runner, store, clock, tasks)
        await scheduler.set_jobs(jobs)
        before, began = read_memory("VmHWM"), time.perf_counter()
        await jobs[0].collector.collect(clock.now())
        collected = time.perf_counter() - began
        tasks.start_soon(note_stalls, stalls)
        began = time.perf_counter()
        run = await scheduler.active.wait((await scheduler.trigger("training", Cause.ONCE, Actor("bench"))).id, 600)
        ended = time.perf_counter() - began
        tasks.cancel_scope.cancel()
        assert run
        assert (run.outcome, (await store.outbox.pending()).samples > _RECORDS) == (Outcome.COMPLETE, True), run
    return Reading(stored[0] - began, read_memory("VmHWM") - before, collected, ended, tuple(stalls))
