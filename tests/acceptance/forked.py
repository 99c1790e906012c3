"""The program as a fork of one process that has imported it: to import it is most of what a short program does.

It is a process all the same: its own directory, environment, streams, packages, signals and exit code.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Seconds that the program waits between two tries, in place of ten times as many: a test would only wait as well.
_PAUSES = {
    "collectors.github_ci.deliveries": {"FIRST_DELAY": 0.2, "INTERVAL": 1.0},
    "daemon.daemon": {"_PUSHES_PAUSE": 0.5},
    "daemon.maintenance": {"_PING_PAUSE": 0.2, "_RECOVER_INTERVAL": 0.5},
    "daemon.wiring": {"_STOP_TIMEOUT": 0.2},
    "pipeline.forwarder": {"_MIN_BACKOFF": 0.2},
    "pipeline.runner": {"_GRACE": 0.6},
}
_COMMANDS = (
    f"cli.{name}" for name in ("main", "run", "operate", "explore", "configure", "schedule", "cutover", "boards")
)
_MODULES = (*_PAUSES, *_COMMANDS, "daemon.once", "collectors.snapshot", "collectors.exec")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, *(f"service.{name}" for name in _MODULES)])


class Forked:
    """As much of subprocess.Popen as the tests need."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str], stdout: int, stderr: int
    ) -> None:
        streams = [Connection(os.dup(each), readable=False) for each in (stdout, stderr)]
        self._process = _CONTEXT.Process(target=_become, args=(arguments, folder, environ, *streams), daemon=True)
        self._process.start()
        for stream in streams:
            stream.close()
        assert self._process.pid
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("infra-health", timeout or 0)
        return code

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The program to its end."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = Forked(arguments, folder, environ, stdout.fileno(), stderr.fileno())
        try:
            code = process.wait(110)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def _become(arguments: Sequence[str], folder: Path, environ: Mapping[str, str], *streams: Connection) -> None:
    """Becomes the program."""
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.closerange(3, 256)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    random.seed()
    sys.path[:0] = [str(folder), *environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = ["infra-health", *arguments]
    for name, pauses in _PAUSES.items():
        module = vars(import_module(f"service.{name}"))
        assert pauses.keys() <= module.keys()
        module.update(pauses)
    from service.cli.main import main

    main(prog_name="infra-health")
