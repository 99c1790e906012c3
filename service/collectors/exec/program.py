"""One run of a program: without a shell, bounded, and ended together with everything that it has started."""

import os
import resource
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import Process

from service.domain.errors import ConfigError, TooLarge, Unavailable

log = structlog.get_logger(__name__)

MAX_OUTPUT = 16 * 1024 * 1024  # bytes of stdout
MAX_LINES = 1_000  # of stderr
_MAX_LINE = 8_000  # bytes
_LAST_LINES = 5
_TERMINATE_SECONDS = 5.0  # between SIGTERM and SIGKILL
_PIPE_SECONDS = 1.0  # for whoever holds the pipes open after the program has ended


async def run_program(
    command: Sequence[str], environ: Mapping[str, str], memory: int | None, on_line: Callable[[str], None]
) -> tuple[bytes, str]:
    """Runs ``command`` to its end: what it printed on stdout, and for messages what it said last on stderr.

    ``memory``: bytes of address space. ``on_line`` gets the first lines of stderr. Nothing of its process group is left
    afterwards. When it is cancelled, the program is told to end first.
    Raises ConfigError when it can't be started, Unavailable when it fails, TooLarge beyond MAX_OUTPUT.
    """
    try:
        process = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, env=environ, start_new_session=True
        )  # a session is a process group, too
    except OSError as error:
        raise ConfigError(f"{command[0]} can't be started: {error.strerror or error}") from error
    run = _Run(process, on_line)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.read)
        try:
            if memory:
                _limit_memory(process.pid, memory)
            await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await run.end()
    if len(run.output) > MAX_OUTPUT:
        raise TooLarge(f"{command[0]} was ended: it printed more than {MAX_OUTPUT // 2**20} MiB")
    last_lines = " | ".join(line.decode(errors="replace")[:500] for line in run.last_lines)
    last_lines = f": {last_lines}" if last_lines else ""
    if code := process.returncode:
        signals = {each.value: each.name for each in signal.Signals}  # those of real time have no names
        how = f"signal {signals.get(-code, -code)}" if code < 0 else f"exit code {code}"
        raise Unavailable(f"{command[0]} ended with {how}{last_lines}")
    return bytes(run.output), last_lines


def _limit_memory(pid: int, size: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
    except ProcessLookupError:
        pass  # it has ended already
    except OSError as error:  # it runs as somebody else
        log.warning("the program's memory can't be bounded", reason=error.strerror)


class _Run:
    """A program that runs, and the readers of its pipes, which outlive a cancellation until the program has ended."""

    def __init__(self, process: Process, on_line: Callable[[str], None]) -> None:
        self.output = bytearray()
        self.last_lines: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._process = process
        self._on_line = on_line
        self._lines = 0
        self._reading = anyio.CancelScope(shield=True)
        self._closed = anyio.Event()

    async def read(self) -> None:
        """Both pipes, until they are closed or ``end`` has no more patience."""
        with self._reading:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_output)
                tasks.start_soon(self._read_lines)
        self._closed.set()
        if self._lines > MAX_LINES:
            log.warning("lines of stderr are left out", count=self._lines - MAX_LINES)

    async def _read_output(self) -> None:
        assert self._process.stdout  # noqa: S101 - a pipe by default
        async for chunk in self._process.stdout:
            if len(self.output) <= MAX_OUTPUT:
                self.output += chunk
            else:
                self._signal(signal.SIGKILL)

    async def _read_lines(self) -> None:
        assert self._process.stderr  # noqa: S101 - a pipe by default
        rest = b""
        async for chunk in self._process.stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, rest], b""
            await self._take(lines)
        await self._take([rest])

    async def _take(self, lines: Sequence[bytes]) -> None:
        lines = [line for line in lines if line.strip()]
        for line in lines[: max(0, MAX_LINES - self._lines)]:
            self._on_line(line[:_MAX_LINE].decode(errors="replace").rstrip())
            await anyio.lowlevel.checkpoint()  # to log a line takes its time, and a pipe holds thousands
        self._lines += len(lines)
        self.last_lines.extend(line[:_MAX_LINE].strip() for line in lines[-_LAST_LINES:])

    async def end(self) -> None:
        """What still runs of the process group is told to end, and then made to."""
        seconds = _PIPE_SECONDS
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            seconds = _TERMINATE_SECONDS
        with anyio.move_on_after(seconds):
            await self._process.wait()
            await self._closed.wait()
        self._signal(signal.SIGKILL)
        self._reading.cancel()
        await self._process.aclose()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left; or it runs as somebody else
            os.killpg(self._process.pid, number)
