"""The whole program as a subprocess, before stand-ins for GitHub and Datadog on loopback."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from starlette.types import ASGIApp

from service.demo.recording import create_app
from service.demo.stage import serve
from tests.acceptance.forked import Forked, run
from tests.datadog import ScriptedDatadog

KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "token-for-the-stand-in"
SNAPSHOT = {
    "metric": "hearts",
    "workflow_name": "arena",
    "task": "runs_successfully",
    "check": "reward_threshold",
    "condition": "> 0.5",
    "value": 0.92,
    "status": "pass",
}
CI = {
    "type": "github_ci",
    "schedule": "*/10 * * * *",
    "service": "dashboard-collector",
    "repo": "ionic-team/ionic-framework",
    "tests_blocking_merge": ["Stencil Nightly Build"],
}
# What belongs to whoever runs the tests must not reach the program.
_FOREIGN = ("DD_", "DATADOG_", "GITHUB_", "METTA_", "CI_", "INFRA_HEALTH_", "AWS_", "TRAINING_", "EVAL_", "KUBERNETES_")
Environ = Mapping[str, str | None]  # None takes a variable away


@dataclass
class Place:
    """A working directory with a configuration, and the environment that points the program at the stand-ins."""

    folder: Path
    intake: ScriptedDatadog
    environ: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def write_config(self) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def write_snapshot(self, records: Any, name: str = "training.json") -> Path:
        path = self.folder / name
        path.write_text(records if isinstance(records, str) else json.dumps(records))
        return path

    def whole_environ(self, changes: Environ | None = None) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {name: value for name, value in {**own, **self.environ, **(changes or {})}.items() if value is not None}

    def run(self, *arguments: str, environ: Environ | None = None) -> subprocess.CompletedProcess[str]:
        """The program to its end."""
        return run(arguments, self.folder, self.whole_environ(environ))

    def json(self, *arguments: str, environ: Environ | None = None, code: int = 0) -> Any:
        """What a command prints with --json."""
        done = self.run(*arguments, "--json", environ=environ)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *arguments: str, environ: Environ | None = None) -> Iterator[tuple[Forked, Path]]:
        """The program while it goes on, and all that it writes; killed at the end where the test did not end it."""
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            process = Forked(arguments, self.folder, self.whole_environ(environ), file.fileno(), file.fileno())
        try:
            yield process, Path(file.name)
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def daemon(self, *arguments: str, environ: Environ | None = None) -> Iterator["Daemon"]:
        """A running daemon, ready."""
        with (
            self.started(*arguments, environ=environ) as (process, log),
            httpx.Client(timeout=10, verify=False, trust_env=False) as http,
        ):
            daemon = Daemon(process, log, http)
            ready = wait_for(lambda: [each for each in daemon.records if each["message"] == "ready"], daemon)
            http.base_url = httpx.URL(f"http://127.0.0.1:{ready[0]['port']}")
            yield daemon


@dataclass
class Daemon:
    """A daemon under test."""

    process: Forked
    log: Path
    http: httpx.Client

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def quiet_runs(self) -> list[dict[str, Any]]:
        """The runs, newest first; none while one is active or one of their points is on its way."""
        runs: list[dict[str, Any]] = self.get("/api/v1/runs")["runs"]
        for each in runs:
            delivery = each["delivery"]
            due = delivery["pending"] + delivery["sending"]
            if each["ended"] is None or due or sum(delivery.values()) != each["samples"]:
                return []
        return runs

    def wait_until_quiet(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = wait_for(self.quiet_runs, self)
        return runs

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.process.wait(timeout=90)


def wait_for(condition: Any, daemon: Daemon | None = None, seconds: float = 100) -> Any:
    """What ``condition`` gives once it is true. Fails with the daemon's log when it never is."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        told = daemon.text[-4000:] if daemon else ""
        assert daemon is None or daemon.process.poll() is None, f"the daemon ended: {told}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {told}"
        time.sleep(0.05)
    return value


@contextmanager
def place(folder: Path, github: ASGIApp | None = None, intake: ScriptedDatadog | None = None) -> Iterator[Place]:
    """Recorded GitHub and a strict intake; a ci and a training collector."""
    intake = intake or ScriptedDatadog(api_keys={KEY})
    with serve(github or create_app(), intake) as (github_url, intake_url):
        environ = {"DD_URL": intake_url, "DD_API_KEY": KEY, "GITHUB_API_URL": github_url, "GITHUB_TOKEN": TOKEN}
        here = Place(folder, intake, environ)
        source = here.write_snapshot([SNAPSHOT])
        training = {"type": "snapshot", "schedule": "0 * * * *", "category": "training", "source": str(source)}
        here.config = {
            "collectors": {"ci": dict(CI), "training": training},
            "http": {"host": "127.0.0.1", "port": 0},
            "log": {"format": "json"},
            "state_dir": str(here.state_dir),
        }
        here.write_config()
        yield here
