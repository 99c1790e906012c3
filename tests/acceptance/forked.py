"""The program as a fork of one process that has imported it: to import it is most of what a short program does.

It is a process all the same: its own directory, environment, streams, packages, signals and exit code.
"""

import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
_MODULES = ("daemon.daemon", "daemon.once", "collectors.github_ci", "collectors.snapshot", "collectors.exec")
# Seconds that the program waits between two tries, in place of ten times as many: a test would only wait as well.
_PAUSES = {
    "collectors.github_ci.deliveries": {"FIRST_DELAY": 0.2, "INTERVAL": 1.0},
    "daemon.daemon": {"_PUSHES_PAUSE": 0.5},
    "daemon.maintenance": {"_PING_PAUSE": 0.2, "_RECOVER_INTERVAL": 0.5},
    "daemon.wiring": {"_STOP_TIMEOUT": 0.2},
    "pipeline.forwarder": {"_MIN_BACKOFF": 0.2},
    "pipeline.runner": {"_GRACE": 0.6},
}


class Forked:
    """As much of subprocess.Popen as the tests need."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str], stdout: int, stderr: int
    ) -> None:
        request = json.dumps({"arguments": arguments, "folder": str(folder), "environ": environ})
        self.returncode: int | None = None
        self._keeper = socket.socket(socket.AF_UNIX)
        address, _ = _server()
        self._keeper.connect(address)
        socket.send_fds(self._keeper, [b"."], [stdout, stderr])
        self._keeper.sendall(request.encode())
        self._keeper.shutdown(socket.SHUT_WR)
        self.pid = self._receive()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._keeper], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("infra-health", timeout or 0)
            self.returncode = self._receive()
            self._keeper.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        return int.from_bytes(self._keeper.recv(8, socket.MSG_WAITALL), "big", signed=True)


@cache
def _server() -> tuple[str, subprocess.Popen[bytes]]:
    """The process that forks, with its address. It ends when its stdin does."""
    address = str(Path(tempfile.mkdtemp()) / "forks")
    command = [sys.executable, "-m", "tests.acceptance.forked", address]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout
    assert server.stdout.readline() == b"ready\n"
    return address, server


def serve(address: str) -> dict[str, Any]:
    """Returns in each fork, with what it is to do."""
    for name in _MODULES:
        import_module(f"service.{name}")
    for name, pauses in _PAUSES.items():
        module = vars(import_module(f"service.{name}"))
        assert pauses.keys() <= module.keys()
        module.update(pauses)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            caller, _ = listener.accept()
            with caller:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    listener.close()
                    return _keep(caller)
    sys.exit()


def _keep(caller: socket.socket) -> dict[str, Any]:
    """Returns in the program's process alone; that which waits for its end ends here."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 2)
    request: dict[str, Any] = json.loads(b"".join(iter(lambda: caller.recv(65536), b"")))
    if program := os.fork():
        caller.sendall(program.to_bytes(8, "big"))
        _end_with(caller, os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(stream, number)
    return request


def _end_with(caller: socket.socket, code: int) -> NoReturn:
    caller.sendall(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def run(arguments: Sequence[str], folder: str, environ: Mapping[str, str]) -> None:
    """Becomes the program."""
    from service.cli.main import main

    os.closerange(3, 256)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    random.seed()
    sys.path[:0] = [folder, *environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = ["infra-health", *arguments]
    main(prog_name="infra-health")


if __name__ == "__main__":
    run(**serve(sys.argv[1]))
