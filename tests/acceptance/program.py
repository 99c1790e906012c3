"""The whole program as a subprocess, before stand-ins for GitHub and Datadog on loopback."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from service.cli.main import main
from service.config import logging
from service.demo.recording import create_app
from service.demo.stage import serve
from tests.acceptance.forked import Forked
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
# What is told by the commands that need no process of their own, unless it is by a package of a collector.
_ASKED = (
    *("status", "trigger", "pause", "resume", "cancel", "explain", "runs", "logs", "check", "list-workflows"),
    *("datadog", "publish", "backup", "schedule", "diagnose", "flare", "compare", "preview"),
)
# What belongs to whoever runs the tests must not reach the program.
_FOREIGN = ("DD_", "DATADOG_", "GITHUB_", "METTA_", "CI_", "INFRA_HEALTH_", "AWS_", "TRAINING_", "EVAL_", "KUBERNETES_")


@dataclass
class Place:
    """A working directory with a configuration, and the environment that points the program at the stand-ins."""

    folder: Path
    intake: ScriptedDatadog
    environ: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Requests that the intake answered."""
        return sum(self.intake.requests.values())

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def write_config(self) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def write_snapshot(self, records: Any, name: str = "training.json") -> Path:
        path = self.folder / name
        path.write_text(records if isinstance(records, str) else json.dumps(records))
        return path

    def ask(self, *arguments: str, environ: Mapping[str, str | None] | None = None, **extra: Any) -> Result:
        """A command in this process, where a start of half a second would show nothing more."""
        with pytest.MonkeyPatch.context() as patch, chdir(self.folder), capture_logs():
            for name in list(os.environ):
                patch.delenv(name)
            patch.setitem(sys.modules, "rich", None)
            patch.setattr(logging, "configure", lambda *_, **__: None)  # those of this process stay
            result = CliRunner().invoke(main, arguments, env=self._environ(environ), **extra)
        gc.enable()
        gc.unfreeze()
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def run(
        self, *arguments: str, environ: Mapping[str, str | None] | None = None, program: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """The program to its end. ``program``: the console command of that name, always a process of its own."""
        if arguments[:1] and arguments[0] in _ASKED and not (program or "PYTHONPATH" in self.environ):
            done = self.ask(*arguments, environ=environ)
            return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
        own = self._environ(environ)
        if program:
            command = [str(Path(sys.executable).with_name(program)), *arguments]
            return subprocess.run(command, cwd=self.folder, env=own, capture_output=True, text=True, timeout=110)
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = Forked(arguments, self.folder, own, stdout.fileno(), stderr.fileno())
            try:
                code = process.wait(110)
            finally:
                process.kill()
            for stream in (stdout, stderr):
                stream.seek(0)
            return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())

    def json(self, *arguments: str, environ: Mapping[str, str | None] | None = None, code: int = 0) -> Any:
        """What a command prints with --json."""
        done = self.run(*arguments, "--json", environ=environ)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def start(self, *arguments: str) -> Iterator[tuple[Forked, IO[str], IO[str]]]:
        """The program while it goes on, with its streams; killed at the end where the test did not end it."""
        (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe()
        process = Forked(arguments, self.folder, self._environ(None), its_stdout, its_stderr)
        os.close(its_stdout)
        os.close(its_stderr)
        with os.fdopen(stdout) as out, os.fdopen(stderr) as err:
            try:
                yield process, out, err
            finally:
                process.kill()

    @contextmanager
    def daemon(self, *arguments: str, environ: Mapping[str, str | None] | None = None) -> Iterator["Daemon"]:
        """A running daemon, ready; killed at the end where the test did not end it."""
        log = self.folder / "daemon.log"
        with log.open("a") as sink:
            process = Forked(arguments, self.folder, self._environ(environ), 1, sink.fileno())
        daemon = Daemon(process, log)
        try:
            daemon.wait_until_ready()
            yield daemon
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            daemon.http.close()

    def _environ(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environ |= self.environ | {name: value for name, value in (changes or {}).items() if value is not None}
        for name, value in (changes or {}).items():
            if value is None:
                environ.pop(name, None)
        return environ


class Daemon:
    """A daemon under test. ``records``: its log lines as JSON."""

    def __init__(self, process: Forked, log: Path) -> None:
        self.process = process
        self._log = log
        self._skip = len(log.read_text())
        self.http = httpx.Client(timeout=10, verify=False, trust_env=False)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]

    @property
    def text(self) -> str:
        return self._log.read_text()[self._skip :]

    def wait_until_ready(self) -> None:
        ready = wait_for(lambda: [each for each in self.records if each["message"] == "ready"], self)
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{ready[0]['port']}")

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def wait_until_quiet(self) -> list[dict[str, Any]]:
        """The runs, newest first, once none is active and none of their points waits."""
        runs: list[dict[str, Any]] = wait_for(self.quiet_runs, self)
        return runs

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.process.wait(timeout=90)

    def quiet_runs(self) -> list[dict[str, Any]] | None:
        """The runs, None while one is active or one of their points is on its way."""
        runs: list[dict[str, Any]] = self.get("/api/v1/runs")["runs"]
        return runs if runs and all(_is_quiet(run) for run in runs) else None


def _is_quiet(run: dict[str, Any]) -> bool:
    due = run["delivery"]["pending"] + run["delivery"]["sending"]
    return run["ended"] is not None and due == 0 and sum(run["delivery"].values()) == run["samples"]


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
