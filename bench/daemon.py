"""The daemon as a process on the demo's data: start, memory, idle cost, end; beside one start of a pod's Python."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from bench import Measured, read_memory
from service.demo.stage import Stage, stage

CYCLES = 100
IDLE_SECONDS = 20
_POLL = 0.005
# What a pod of the replaced system does before its first request: nothing of its own, only these imports.
_POD = "import requests, datadog_api_client.v2.model.metric_payload, datadog_api_client.v2.api.metrics_api"


def run() -> Iterable[Measured]:
    with idle_stage() as it, running(it.config, it.environ) as daemon, daemon.connect() as http:
        pid = daemon.process.pid
        while http.get("/api/v1/state").json()["active"]:
            time.sleep(_POLL)  # the first runs, which are due at once
        for _ in range(CYCLES):
            for name in ("ci", "ci-phishbench", "training", "eval"):
                http.post(f"/api/v1/collectors/{name}/runs?wait=30").raise_for_status()
        resident = read_memory("VmRSS", pid)
        # Idle: nothing is due for hours, only the beats of the timer and the heartbeat are left.
        before = _cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        idle = (_cpu_seconds(pid) - before) / IDLE_SECONDS
        asked = time.monotonic()
        daemon.process.terminate()
        assert daemon.process.wait(timeout=60) == 0
        ended = time.monotonic() - asked
    pod_seconds, pod_resident = _start_pod()
    yield Measured("start of the process to ready", daemon.started_in, "s", pod_seconds)
    yield Measured(f"resident after {CYCLES} cycles of four collectors", resident, "MiB", pod_resident)
    yield Measured("share of a core when idle", 100 * idle, "%")
    yield Measured("SIGTERM to the exit when idle", ended, "s")


class Running(NamedTuple):
    """A daemon that is ready. ``started_in``: seconds."""

    process: "subprocess.Popen[bytes]"
    base: str
    started_in: float

    def connect(self) -> httpx.Client:
        return httpx.Client(base_url=self.base, timeout=60, trust_env=False)


@contextmanager
def running(config: Path, environ: Mapping[str, str]) -> Iterator[Running]:
    """Killed at the end where it did not end by itself."""
    log, began = config.with_name("log"), time.monotonic()
    own = {"INFRA_HEALTH_HTTP__PORT": "0", "INFRA_HEALTH_HTTP__HOST": "127.0.0.1", "INFRA_HEALTH_LOG__FORMAT": "json"}
    command = [sys.executable, "-m", "service", "--config", str(config)]
    with log.open("w") as sink:
        daemon = subprocess.Popen(command, env=os.environ | environ | own, stderr=sink)
    try:
        ready: list[str] = []
        while not ready:
            if daemon.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(_POLL)
            ready = [line for line in log.read_text().splitlines() if '"ready"' in line and line.endswith("}")]
        base = f"http://127.0.0.1:{json.loads(ready[0])['port']}"
        yield Running(daemon, base, time.monotonic() - began)
    finally:
        daemon.kill()
        daemon.wait()


@contextmanager
def idle_stage() -> Iterator[Stage]:
    """The demo's data, with nothing due once the first runs are over."""
    with stage() as it:
        it.config.write_text(it.config.read_text().replace("@every 10s", "0 0 1 1 *"))
        yield it


def _start_pod() -> tuple[float, float]:
    """Seconds and resident MiB of a process that only imports the replaced system's clients."""
    began = time.monotonic()
    command = [sys.executable, "-c", f"{_POD}; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pod:
        assert pod.stdout
        pod.stdout.readline()
        taken, resident = time.monotonic() - began, read_memory("VmRSS", pod.pid)
        pod.kill()
    return taken, resident


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
