"""30,000 samples with long tags in one run of the daemon: how quickly its probe answers meanwhile, and its memory."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx

from bench import Measured, delays, read_memory
from bench.daemon import running
from bench.sink import sink

SAMPLES = 30_000


def run() -> Iterable[Measured]:
    with tempfile.TemporaryDirectory() as folder, sink() as intake:
        environ = {"DD_URL": intake, "DD_API_KEY": "0" * 32}
        with running(_configure(Path(folder)), environ) as daemon, daemon.connect() as http:
            _probe(http, lambda: _is_done(http))  # the first run, which is due at once
            began = time.monotonic()
            idle = _probe(http, lambda: time.monotonic() > began + 3)
            began = time.monotonic()
            http.post("/api/v1/collectors/burst/runs").raise_for_status()
            busy = _probe(http, lambda: _is_done(http))
            taken = time.monotonic() - began
            peak = read_memory("VmHWM", daemon.process.pid)
    yield from delays("/livez meanwhile, beside an idle daemon's", busy, idle)
    yield Measured(f"peak of memory with {SAMPLES:,} samples", peak, "MiB")
    yield Measured("from the trigger to the last 202", taken, "s")


def _configure(folder: Path) -> Path:
    tags = {f"text{number}": "x" * 190 for number in range(4)}
    samples = [{"metric": "metta.infra.bench.burst", "value": n, "tags": {"n": str(n), **tags}} for n in range(SAMPLES)]
    (source := folder / "burst.json").write_text(json.dumps(samples))
    collector = {"type": "snapshot", "category": "training", "schedule": "0 0 1 1 *"}
    config = {"collectors": {"burst": {**collector, "source": str(source)}}, "state_dir": str(folder / "state")}
    (file := folder / "config.yaml").write_text(json.dumps(config))
    return file


def _probe(http: httpx.Client, is_done: Callable[[], bool]) -> list[float]:
    """Seconds of each probe, one every few milliseconds."""
    found = list[float]()
    while len(found) % 20 or not is_done():
        began = time.perf_counter()
        http.get("/livez").raise_for_status()
        found.append(time.perf_counter() - began)
        time.sleep(0.005)
    return found


def _is_done(http: httpx.Client) -> bool:
    runs = http.get("/api/v1/runs").raise_for_status().json()["runs"]
    return bool(runs and runs[0]["ended"] and runs[0]["delivery"]["delivered"] == runs[0]["samples"])
