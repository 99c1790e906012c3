"""The daemon as a process on the demo's data: start, memory, idle cost, end; beside one start of a pod's Python."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from bench import Measured, read_memory
from service.demo.stage import Stage, stage

CYCLES = 100
IDLE_SECONDS = 20
_POLL = 0.005
# What a pod of the replaced system does before its first request: nothing of its own, only these imports.
_POD = "import requests, datadog_api_client.v2.model.metric_payload, datadog_api_client.v2.api.metrics_api"


def run() -> Iterable[Measured]:
    with stage() as it:
        began = time.monotonic()
        daemon = start(it)
        try:
            http = ready(daemon, it)
            is_ready = time.monotonic() - began
            while http.get("/api/v1/state").json()["active"]:
                time.sleep(_POLL)  # the first runs, which are due at once
            for _ in range(CYCLES):
                for name in ("ci", "ci-phishbench", "training", "eval"):
                    http.post(f"/api/v1/collectors/{name}/runs?wait=30").raise_for_status()
            resident = read_memory("VmRSS", daemon.pid)
            # Idle: nothing is due for hours, only the beats of the timer and the heartbeat are left.
            before = _cpu_seconds(daemon.pid)
            time.sleep(IDLE_SECONDS)
            idle = (_cpu_seconds(daemon.pid) - before) / IDLE_SECONDS
            asked = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(timeout=60)
            ended = time.monotonic() - asked
        finally:
            if daemon.poll() is None:
                daemon.kill()
    pod_seconds, pod_resident = _pod()
    yield Measured("start of the process to ready", is_ready, "s", pod_seconds)
    yield Measured(f"resident after {CYCLES} cycles of four collectors", resident, "MiB", pod_resident)
    yield Measured("share of a core when idle", 100 * idle, "%")
    yield Measured("SIGTERM to the exit when idle", ended, "s")
    yield Measured("exit code", code, "", counted=True)


def start(it: Stage) -> subprocess.Popen[bytes]:
    config = it.config.read_text().replace("'@every 10s'", "'0 0 1 1 *'").replace("@every 10s", "0 0 1 1 *")
    it.config.write_text(config)
    environ = os.environ | it.environ | {"INFRA_HEALTH_HTTP__PORT": "0", "INFRA_HEALTH_LOG__FORMAT": "json"}
    command = [sys.executable, "-m", "service", "--config", str(it.config)]
    with (it.config.parent / "log").open("w") as log:
        return subprocess.Popen(command, env=environ, stderr=log, cwd=it.config.parent)


def ready(daemon: subprocess.Popen[bytes], it: Stage) -> httpx.Client:
    """A client of the daemon once /readyz answers 200."""
    return client(daemon, it.config.parent / "log")


def client(daemon: subprocess.Popen[bytes], log: Path) -> httpx.Client:
    """The same for a daemon that logs JSON to the file ``log``."""
    while daemon.poll() is None:
        records: list[dict[str, Any]] = [
            json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")
        ]
        if port := next((each["port"] for each in records if each["message"] == "ready"), None):
            http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
            http.get("/readyz").raise_for_status()
            return http
        time.sleep(_POLL)
    raise RuntimeError(log.read_text())


def _pod() -> tuple[float, float]:
    """Seconds and peak MiB of a process that only imports the replaced system's clients."""
    code = f"{_POD}; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.monotonic() - began, int(done.stdout) / 1024


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
