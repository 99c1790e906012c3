"""Snapshots: 100,000 records from the file to the outbox, beside ``json.load`` and the loop of a naive reader.

Each is measured in a process of its own, so that neither pays for the other's memory. The naive reader is the replaced
system's: it checks the required fields, makes the tags and the point that Datadog's client takes, and keeps them all.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

import anyio

from bench import Measured, note_stalls, read_memory

_RECORDS = 100_000
_CHECKS = 200  # so many different checks; the tags tell their records apart
_TIMES = 3
_REQUIRED = ("metric", "workflow_name", "task", "check", "condition", "value")


def run() -> Iterable[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.json"
        write(path, datetime.now(UTC))
        naive, ours = ([_apart(what, path) for _ in range(_TIMES)] for what in ("naive", "ours"))
    naive_seconds, naive_memory = min(each["seconds"] for each in naive), min(each["memory"] for each in naive)
    best = {name: min(each[name] for each in ours) for name in ours[0]}
    return [
        Measured(f"{_RECORDS:,} records from file to outbox", best["seconds"], "s", naive_seconds),
        Measured("of which reading and checking", best["read"], "s", naive_seconds),
        Measured("memory that this takes at its peak", best["memory"], "MiB", naive_memory),
        Measured("until the three stable series of each check are there, too", best["all"], "s", naive_seconds),
        Measured("stalls of the event loop meanwhile, 99th percentile", median(each["p99"] for each in ours), "ms"),
        Measured("longest stall", median(each["longest"] for each in ours), "ms"),
    ]


def write(path: Path, now: datetime) -> None:
    """A snapshot of records such as the pipelines write, of so many different checks."""
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


def _apart(what: str, path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.snapshots", what, str(path)], check=True, capture_output=True, text=True
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _naive(path: Path) -> dict[str, float]:
    """What a reader does that is no daemon: all in one go, no bounds, one bad record costs the file."""
    before, begun = read_memory("VmHWM"), time.perf_counter()
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
    seconds = time.perf_counter() - begun
    assert len(points) == _RECORDS
    return {"seconds": seconds, "memory": read_memory("VmHWM") - before}


async def _ours(path: Path) -> dict[str, float]:
    from service.collectors.snapshot import SnapshotSettings
    from service.config.settings import Settings
    from service.daemon.wiring import open_wiring
    from service.domain.runs import Actor, Cause, Outcome
    from service.pipeline.runner import Runner
    from service.pipeline.scheduler import Scheduler

    given = {"type": "snapshot", "schedule": "0 * * * *", "category": "training", "source": str(path)}
    collectors = {"training": SnapshotSettings.model_validate(given)}
    settings = Settings(collectors=collectors, state_dir=path.with_name(f"state-{time.monotonic_ns()}"))
    stalls: list[float] = []
    async with open_wiring(settings, {}) as wiring, anyio.create_task_group() as tasks:
        store, clock, jobs = wiring.store, wiring.clock, wiring.build_jobs(settings)
        stored: list[float] = []  # at the first the records are in the outbox
        runner = Runner(store, clock, tasks, on_stored=lambda: stored.append(time.perf_counter()), retry=False)
        scheduler = Scheduler(runner, store, clock, tasks)
        await scheduler.set_jobs(jobs)
        before, begun = read_memory("VmHWM"), time.perf_counter()
        await jobs[0].collector.collect(clock.now())
        read = time.perf_counter() - begun
        tasks.start_soon(note_stalls, stalls)
        begun = time.perf_counter()
        run = await scheduler.active.wait((await scheduler.trigger("training", Cause.ONCE, Actor("bench"))).id, 600)
        seconds, whole = stored[0] - begun, time.perf_counter() - begun
        tasks.cancel_scope.cancel()
        assert run
        assert (run.outcome, (await store.outbox.pending()).samples > _RECORDS) == (Outcome.COMPLETE, True), run
    ms = [stall * 1e3 for stall in stalls]
    return {
        "seconds": seconds,
        "all": whole,
        "read": read,
        "memory": read_memory("VmHWM") - before,
        "p99": quantiles(ms, n=100)[98],
        "longest": max(ms),
    }


if __name__ == "__main__":
    file = Path(sys.argv[2])
    print(json.dumps(_naive(file) if sys.argv[1] == "naive" else anyio.run(_ours, file)))
