"""Logs: one stream for our records and the libraries', JSON with Datadog's names or readable on a terminal.

structlog renders, the standard library carries; so uvicorn, httpx and APScheduler go the same way and secrets are
masked in one place. A thread writes: a stream that nobody reads holds up nothing but that thread.
Names: https://docs.datadoghq.com/logs/log_configuration/attributes_naming_convention/
"""

import json
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

from service.config.masking import escape_control_characters, mask, redact
from service.domain.runs import LogLine

if TYPE_CHECKING:
    from service.config.settings import Settings

__all__ = ["LogBuffer", "buffer", "configure", "escape_control_characters", "flush", "mask", "redact"]

_OURS = "service"
_QUEUE_LINES = 10_000
_FLUSH_SECONDS = 2.0
_MAX_DEPTH = 8
_RECENT_LINES = 1000
_RUN_LINES = 1_200  # a program may say a thousand
_MAX_TEXT = 8_000  # characters

Event = MutableMapping[str, Any]


class LogBuffer:
    """The last log records, and those of each open run: bounded, and masked already. Threads may log at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[LogLine] = deque(maxlen=_RECENT_LINES)
        self._runs: dict[str, deque[LogLine]] = {}

    def add(self, line: LogLine) -> None:
        """Keeps a record; where its field ``run`` names an open run, for that run too."""
        fields = {name: _shorten(value) for name, value in line.fields.items()}
        line = replace(line, message=_shorten(line.message), fields=fields)
        own = {name: value for name, value in fields.items() if name not in ("run", "collector")}
        with self._lock:
            self._recent.append(line)
            if (lines := self._runs.get(str(fields.get("run")))) is not None:
                lines.append(replace(line, fields=own))

    def recent(self, limit: int = _RECENT_LINES) -> list[LogLine]:
        """The last records, oldest first."""
        with self._lock:
            return list(self._recent)[-limit:]

    def open_run(self, run_id: str) -> None:
        """From now on the lines of this run are kept for themselves, the last 1,200 of them."""
        with self._lock:
            self._runs[run_id] = deque(maxlen=_RUN_LINES)

    def run_lines(self, run_id: str) -> list[LogLine]:
        """The lines so far of an open run, empty for any other."""
        with self._lock:
            return list(self._runs.get(run_id, ()))

    def close_run(self, run_id: str) -> None:
        """Forgets the run's lines: they are stored, or nobody will ask."""
        with self._lock:
            self._runs.pop(run_id, None)


buffer: Final = LogBuffer()


def configure(
    settings: "Settings | None", environ: Mapping[str, str], *, level: str | None = None, stream: TextIO | None = None
) -> None:
    """Sends all logs to ``stream`` (stderr), from ``level`` on (default: ``log.level``); libraries from WARNING on,
    with debug from INFO on. Call it again to change anything.

    ``buffer`` keeps our own records from DEBUG on, whatever the stream is shown: for a run's page and ``flare``.
    The format ``auto`` is console on a terminal and JSON elsewhere.
    """
    stream = stream or sys.stderr
    form = settings.log.format if settings else "auto"
    shown = logging.getLevelNamesMapping()[(level or (settings.log.level if settings else "info")).upper()]
    is_console = form == "console" or (form == "auto" and stream.isatty())
    about = settings and settings.datadog
    names = {"service": about.service, "dd.env": about.env, "dd.version": about.version} if about else {}
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _QueueHandler(stream, shown)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.stdlib.PositionalArgumentsFormatter(),
                _add_error,
                _redact_all,
                _remember,
                *(_console(stream, environ) if is_console else [_json(names)]),
            ],
        )
    )
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each, _QueueHandler)]:
        root.removeHandler(before)
        before.close()
    root.addHandler(handler)
    logging.getLogger(_OURS).setLevel(logging.DEBUG)
    root.setLevel(logging.INFO if shown <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)


def flush() -> None:
    """Waits until all lines are written, at most 2 s; ``logging.shutdown`` does the same when the process exits."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class _QueueHandler(logging.Handler):
    """Renders each record from ``shown`` on where it is logged; a thread writes the lines.

    While the stream takes nothing (a pipe that is full) lines queue up, then they are dropped and counted; the count is
    logged as soon as the stream takes lines again.
    """

    def __init__(self, stream: TextIO, shown: int) -> None:
        super().__init__()
        self._shown = shown
        self._write = _writer(stream)
        self._lines: Queue[str | None] = Queue(_QUEUE_LINES)
        self._dropped = 0
        threading.Thread(target=self._write_lines, name="log writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)  # which remembers it, too
        except Exception as error:  # noqa: BLE001 - what is logged may not print; logging it must not end what logs it
            # The library's own way would print the arguments unmasked.
            message = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
            text = message if isinstance(message, str) else type(message).__name__
            line = self._format_text(record.name, f"a log record can't be formatted ({type(error).__name__}): {text}")
        if record.levelno < self._shown:
            return
        try:
            self._lines.put_nowait(line)
        except Full:
            self._dropped += 1

    def flush(self) -> None:
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _FLUSH_SECONDS)

    def close(self) -> None:
        with suppress(Full):  # then the thread hangs in a stream that nobody reads, and ends with the process
            self._lines.put_nowait(None)
        super().close()

    def _write_lines(self) -> None:
        told = 0
        while (line := self._lines.get()) is not None:
            self._write(line)
            if dropped := self._dropped - told:
                told += dropped
                self._write(self._format_text(__name__, f"{dropped} log lines were dropped: nobody read them in time"))
            self._lines.task_done()
        self._lines.task_done()

    def _format_text(self, name: str, text: str) -> str:
        return self.format(logging.LogRecord(name, logging.WARNING, "", 0, text, (), None))


def _writer(stream: TextIO) -> Callable[[str], None]:
    """What writes one line. A stream that is gone takes nothing, and nothing comes of it."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):
        number = -1

    def write(line: str) -> None:
        with suppress(OSError, ValueError):
            if number < 0:
                stream.write(f"{line}\n")
                return
            # Past the stream's own lock: a thread that holds it for ever would abort the interpreter at its end.
            data = memoryview(f"{line}\n".encode(errors="replace"))
            while data:
                try:
                    data = data[os.write(number, data) :]
                except BlockingIOError:  # another process with the same terminal or pipe made it so
                    time.sleep(0.05)

    return write


def _add_error(_: Any, __: str, event: Event) -> Event:
    """The exception as text: in place of ``exc_info`` its kind, message and stack."""
    error = event.pop("exc_info", None)
    error = error[1] if isinstance(error, tuple) else sys.exception() if error is True else error
    if isinstance(error, BaseException):
        stack = "".join(traceback.format_exception(error)).rstrip()
        event.update({"error.kind": type(error).__name__, "error.message": str(error), "error.stack": stack})
    if stack_info := event.pop("stack_info", None):
        event["stack"] = stack_info
    return event


def _redact_all(_: Any, __: str, event: Event) -> Event:
    return {redact(str(name)): _redacted(value) for name, value in event.items()}


def _redacted(value: Any, depth: int = 1) -> Any:
    """``value`` as JSON can hold it, at most ``_MAX_DEPTH`` levels of it, with the secrets masked."""
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case dict() if depth < _MAX_DEPTH:
            return {redact(str(key)): _redacted(part, depth + 1) for key, part in list(value.items())}
        case list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return [_redacted(part, depth + 1) for part in list(value)]
        case _:
            return redact(str(value))


def _remember(_: Any, __: str, event: Event) -> Event:
    fields = {name: value for name, value in event.items() if name not in ("event", "level")}
    buffer.add(LogLine(datetime.now(UTC), str(event.get("level", "info")), str(event.get("event", "")), fields))
    return event


def _console(stream: TextIO, environ: Mapping[str, str]) -> list[structlog.typing.Processor]:
    has_colours = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def escape(_: Any, __: str, event: Event) -> Event:
        stack = event.pop("error.stack", None)
        shown = {
            name: escape_control_characters(value) if isinstance(value, str) else value
            for name, value in event.items()
            if not name.startswith("error.")  # the stack has both
        }
        now = f"{datetime.now():%H:%M:%S}"  # noqa: DTZ005 - the reader's own clock
        return {"timestamp": now, **shown} | ({"exception": escape_control_characters(stack)} if stack else {})

    renderer = structlog.dev.ConsoleRenderer(
        colors=has_colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return [escape, renderer]


def _json(names: Mapping[str, str | None]) -> structlog.typing.Processor:
    known = {name: value for name, value in names.items() if value}

    def render(_: Any, __: str, event: Event) -> str:
        record: dict[str, Any] = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "status": event.pop("level", "info"),
            "message": event.pop("event", ""),
            **known,
            "logger.name": event.pop("logger", ""),
        }
        # `status` is a severity here and `service` the daemon's: what else has such a name gets a longer one.
        return json.dumps(
            record | {f"event.{name}" if name in record else name: value for name, value in event.items()}
        )

    return render


def _shorten(value: Any) -> Any:
    """A long text without its middle: the end of a stack says where it broke."""
    is_long = isinstance(value, str) and len(value) > _MAX_TEXT
    return f"{value[: _MAX_TEXT // 4]} ... {value[-_MAX_TEXT * 3 // 4 :]}" if is_long else value
