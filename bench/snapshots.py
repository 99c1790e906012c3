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
from typing import Any

import anyio

from bench import Measured

_RECORDS = 100_000
_CHECKS = 200  # so many different checks; the tags tell their records apart
_TIMES = 3
_REQUIRED = ("metric", "workflow_name", "task", "check", "condition", "value")


def run() -> Iterable[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.json"
        write(path, datetime.now(UTC))
        naive = [_apart("naive", path) for _ in range(_TIMES)]
        ours = [_apart("ours", path) for _ in range(_TIMES)]
        write(path, datetime.now(UTC), checks=_RECORDS)
        naive_apart, apart = (
            _best(_apart("naive", path) for _ in range(2)),
            _best(_apart("ours", path) for _ in range(2)),
        )
    best = _best(ours)
    naive_seconds, naive_memory = min(each["seconds"] for each in naive), min(each["memory"] for each in naive)
    return [
        Measured(f"{_RECORDS:,} records from file to outbox", best["seconds"], "s", naive_seconds),
        Measured("of which reading and checking", best["read"], "s", naive_seconds),
        Measured("memory that this takes at its peak", best["memory"], "MiB", naive_memory),
        Measured("stalls of the event loop meanwhile, 99th percentile", median(each["p99"] for each in ours), "ms"),
        Measured("longest stall", median(each["longest"] for each in ours), "ms"),
        Measured("the same where each record is a check of its own", apart["seconds"], "s", naive_apart["seconds"]),
        Measured("memory that this takes at its peak", apart["memory"], "MiB", naive_apart["memory"]),
        Measured("until the three stable series of each are there, too", apart["all"], "s", naive_apart["seconds"]),
    ]


def write(path: Path, now: datetime, checks: int = _CHECKS) -> None:
    """A snapshot of records such as the pipelines write, of so many different checks."""
    chance = random.Random(1)
    values = [round(chance.random(), 6) for _ in range(_RECORDS)]
    records = [
        {
            "metric": f"suite.metric_{index % checks}",
            "workflow_name": f"multigpu_arena_basic_{index % checks}",
            "task": "runs_successfully",
            "check": "reward_threshold",
            "condition": "> 0.5",
            "value": value,
            "status": "pass" if value > 0.5 else "fail",
            "timestamp": (now - timedelta(seconds=index % 1800)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tags": {"commit": f"{index:07x}", "workflow": "training", "seed": str(index // checks)},
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


def _best(measured: Iterable[dict[str, float]]) -> dict[str, float]:
    each = list(measured)
    return {name: min(one[name] for one in each) for name in each[0]}


def _peak() -> float:
    """MiB; not getrusage's, which begins with what the parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def naive(path: Path) -> list[dict[str, Any]]:
    """What a reader does that is no daemon: all in one go, no bounds, one bad record costs the file."""
    with path.open() as file:
        data = json.load(file)
    points = []
    for record in data["records"] if isinstance(data, dict) else data:
        if any(field not in record for field in _REQUIRED):
            raise ValueError(f"a field is missing: {record}")
        tags = {
            "source": "stable_suite",
            "workflow_category": "training",
            "workflow_name": record["workflow_name"],
            "task": record["task"],
            "check": record["check"],
            "condition": record["condition"],
            "status": record.get("status", "unknown"),
            "env": "production",
            "service": "infra-health-dashboard",
            **record.get("tags", {}),
        }
        time_text = record.get("timestamp")
        at = datetime.fromisoformat(time_text) if time_text else datetime.now(UTC)
        points.append(
            {
                "metric": f"metta.infra.stablesuite.{record['metric']}",
                "type": 3,
                "points": [{"timestamp": int(at.timestamp()), "value": float(record["value"])}],
                "tags": [f"{name}:{value}" for name, value in tags.items()],
            }
        )
    return points


def _naive(path: Path) -> dict[str, float]:
    before, begun = _peak(), time.perf_counter()
    points = naive(path)
    seconds = time.perf_counter() - begun
    assert len(points) == _RECORDS
    return {"seconds": seconds, "memory": _peak() - before}


async def _ours(path: Path) -> dict[str, float]:
    from service.collectors.registry import settings_of
    from service.config.loader import load
    from service.daemon.wiring import open_wiring
    from service.domain.runs import Actor, Cause, Outcome
    from service.pipeline.runner import Runner
    from service.pipeline.scheduler import Scheduler

    collector = {"type": "snapshot", "schedule": "0 * * * *", "category": "training", "source": str(path)}
    state = path.parent / f"state-{time.monotonic_ns()}"
    given = {"collectors": {"training": collector}, "state_dir": str(state), "aws": {"secrets": "off"}}
    config = state.with_suffix(".yaml")
    config.write_text(json.dumps(given))
    settings = load(config, {}, settings_of).settings
    stalls: list[float] = []

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.001)
            stalls.append(time.perf_counter() - before - 0.001)

    async with open_wiring(settings, {}) as wiring, anyio.create_task_group() as tasks:
        store, clock, jobs = wiring.store, wiring.clock, wiring.build_jobs(settings)
        stored: list[float] = []  # at the first the records are in the outbox
        runner = Runner(store, clock, tasks, on_stored=lambda: stored.append(time.perf_counter()), retry=False)
        scheduler = Scheduler(runner, store, clock, tasks)
        await scheduler.set_jobs(jobs)
        before, begun = _peak(), time.perf_counter()
        await jobs[0].collector.collect(clock.now())
        read = time.perf_counter() - begun
        tasks.start_soon(beat)
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
        "memory": _peak() - before,
        "p99": quantiles(ms, n=100)[98],
        "longest": max(ms),
    }


if __name__ == "__main__":
    file = Path(sys.argv[2])
    print(json.dumps(_naive(file) if sys.argv[1] == "naive" else anyio.run(_ours, file)))
