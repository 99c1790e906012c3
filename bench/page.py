"""The pages of a daemon with a full store: a thousand collectors, and a hundred checks over seven days.

The real daemon, asked over loopback. "First" is the first reading of all, when nothing is read from the store or drawn
yet; its baseline is /version, which costs a request and nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import yaml

from bench import Measured
from bench.daemon import client
from service.adapters import store_file, store_schema, store_writes
from service.adapters.store_series import RecentSeries
from service.domain import checks
from service.domain.points import Fate
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Metric, Sample, Status

_COLLECTORS = 1000
_RUNS = 60
_CHECKS = 100
_CYCLES = 7 * 24 * 6
_READINGS = 10
_METRIC = Metric("metta.infra.bench.value")


def run() -> Iterable[Measured]:
    names = [f"c{number:04}" for number in range(_COLLECTORS)]
    yield from _measured(f"{_COLLECTORS} collectors", names, cycles=_RUNS, count=1)
    yield from _measured(f"{_CHECKS} checks, 7 days", ["ci"], cycles=_CYCLES, count=_CHECKS)


def _measured(what: str, names: list[str], *, cycles: int, count: int) -> Iterator[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        config = _configure(Path(folder), names)
        _fill(Path(folder) / "state", names, cycles, count)
        with _daemon(config) as http:
            bare = statistics.median(_time(http, "/version")[0] for _ in range(_READINGS))
            first, size = _time(http, "/")
            yield Measured(f"{what}: first page (baseline: /version)", first, "ms", bare)
            yield Measured(f"{what}: its size", size / 1024, "KiB", counted=True)
            again = [_time(http, "/")[0] for _ in range(_READINGS)]
            yield Measured(f"{what}: page, median", statistics.median(again), "ms", bare)
            yield Measured(f"{what}: page, longest of {_READINGS}", max(again), "ms", bare)
            http.post(f"/api/v1/collectors/{names[0]}/runs?wait=30")
            yield Measured(f"{what}: page after a run", _time(http, "/")[0], "ms", bare)
            for path in ("/tv", "/api/v1/state"):
                times = [_time(http, path)[0] for _ in range(_READINGS)]
                yield Measured(f"{what}: {path}, median", statistics.median(times), "ms", bare)


def _time(http: httpx.Client, path: str) -> tuple[float, int]:
    """Milliseconds to the last byte, and how many there were."""
    before = time.perf_counter()
    answer = http.get(path)
    spent = 1000 * (time.perf_counter() - before)
    assert answer.status_code == 200, answer.text
    return spent, len(answer.content)


def _configure(folder: Path, names: list[str]) -> Path:
    """Collectors that are due once a year, so that nothing but the readers keeps the daemon busy."""
    source = folder / "snapshot.json"
    record = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 0", "value": 1, "status": "pass"}
    source.write_text(json.dumps([{"metric": "x", **record}]))
    one = {
        "type": "snapshot",
        "schedule": "0 0 1 1 *",
        "service": "bench",
        "category": "training",
        "source": str(source),
    }
    config = folder / "config.yaml"
    settings = {
        "collectors": {name: dict(one) for name in names},
        "datadog": {"url": "http://127.0.0.1:9", "env": "bench"},
        "http": {"host": "127.0.0.1", "port": 0},
        "state_dir": str(folder / "state"),
        "log": {"format": "json"},
    }
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


def _fill(state_dir: Path, names: list[str], cycles: int, count: int) -> None:
    """The store as it is after ``cycles`` runs of each collector, ten minutes apart; all of it is delivered."""
    state_dir.mkdir()
    path = state_dir / store_file.DATABASE
    store_file.create(path)
    now = datetime.now(UTC)
    with closing(store_file.connect(path)) as connection:
        store_schema.migrate(connection, path)
        store_writes.prepare(connection)
        recent = RecentSeries()
        known: dict[str, list[checks.Check]] = {name: [] for name in names}
        for number in range(cycles):
            at = now - timedelta(minutes=10 * (cycles - number))
            with store_file.transaction(connection, "IMMEDIATE"):
                for name in names:
                    slot = Slot(name, at, Cause.SCHEDULE)
                    begun = Run(f"{name}-{number:05}", slot, at)
                    samples = [_sample(at, number, index) for index in range(count)]
                    known[name] = checks.updated(known[name], samples, [], at)
                    told = [*samples, *checks.to_samples(known[name], at, timedelta(hours=24))]
                    took = timedelta(seconds=1 + number % 7)
                    ended = replace(begun, ended=at + took, outcome=Outcome.COMPLETE, samples=len(told), attempts=1)
                    store_writes.end(connection, ended, told, known[name], {}, at, {}, recent)
                waiting = [row[0] for row in connection.execute("SELECT id FROM points WHERE fate = 0")]
                store_writes.settle(connection, waiting, Fate.DELIVERED, "", at)


def _sample(at: datetime, number: int, index: int) -> Sample:
    value = float((number * (index + 3)) % 17)
    status = Status.PASS if value < 15 else Status.FAIL
    tags = {"source": "bench", "workflow_category": "training", "workflow_name": f"w{index // 10}", "task": f"t{index}"}
    return Sample(_METRIC, value, at, {**tags, "check": "c", "condition": "< 15", "status": status})


@contextmanager
def _daemon(config: Path) -> Iterator[httpx.Client]:
    log = config.with_name("daemon.log")
    environ = {**os.environ, "DD_API_KEY": "0" * 32}
    with log.open("w") as sink:
        command = [sys.executable, "-m", "service", "--config", str(config)]
        process = subprocess.Popen(command, env=environ, stderr=sink, stdout=subprocess.DEVNULL)
    try:
        with closing(client(process, log)) as http:
            yield http
    finally:
        process.kill()
        process.wait()
