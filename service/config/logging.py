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
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any, Final, TextIO

import structlog

from service.config.masking import escape_control_characters, redact
from service.config.settings import DatadogSettings, Settings
from service.domain.runs import LogLine

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
    settings: Settings, environ: Mapping[str, str], *, level: str | None = None, stream: TextIO | None = None
) -> None:
    """Sends all logs to ``stream`` (stderr), from ``level`` on (default: ``log.level``); libraries from WARNING on,
    with debug from INFO on. Call it again to change anything.

    ``buffer`` keeps our own records from DEBUG on, whatever the stream is shown: for a run's page and ``flare``.
    The format ``auto`` is console on a terminal and JSON elsewhere.
    """
    stream = stream or sys.stderr
    shown = logging.getLevelNamesMapping()[(level or settings.log.level).upper()]
    is_console = settings.log.format == "console" or (settings.log.format == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _add_error,
            _remember,
            _console(stream, environ) if is_console else _json(settings.datadog),
        ],
    )
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each, _QueueHandler)]:
        root.removeHandler(before)
        before.close()
    root.addHandler(_QueueHandler(stream, shown, formatter))
    root.setLevel(logging.INFO if shown <= logging.DEBUG else logging.WARNING)
    logging.getLogger("service").setLevel(logging.DEBUG)
    logging.captureWarnings(True)


def flush() -> None:
    """Waits until all lines are written, at most 2 s; ``logging.shutdown`` does the same when the process exits."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class _QueueHandler(QueueHandler):
    """Renders each record where it is logged, which remembers it, too; a thread writes the lines.

    While the stream takes nothing (a pipe that is full) lines queue up, then they are dropped and counted.
    """

    def __init__(self, stream: TextIO, shown: int, formatter: logging.Formatter) -> None:
        self._lines: Queue[Any] = Queue(_QUEUE_LINES)
        super().__init__(self._lines)
        self.setFormatter(formatter)
        self._shown = shown
        self._writer = _Writer(self._lines, stream, formatter)
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        if record.levelno >= self._shown:
            super().enqueue(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """What is logged may not print: that must not end what logs it, nor show its arguments unmasked."""
        error = sys.exception()
        if isinstance(error, Full):
            self._writer.dropped += 1
            return
        message = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
        text = message if isinstance(message, str) else type(message).__name__
        self.emit(_warning(record.name, f"a log record can't be formatted ({type(error).__name__}): {text}"))

    def flush(self) -> None:
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _FLUSH_SECONDS)

    def close(self) -> None:
        with suppress(Full):  # then the thread hangs in a stream that nobody reads, and ends with the process
            self._writer.enqueue_sentinel()
        super().close()


class _Writer(QueueListener):
    """Writes lines, and how many were ``dropped`` as soon as the stream takes some again. A stream that is gone takes
    nothing, and nothing comes of it."""

    def __init__(self, lines: Queue[Any], stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__(lines)
        self.dropped = 0
        self._told = 0
        self._stream = stream
        self._formatter = formatter
        try:
            self._number: int | None = stream.fileno()
        except (OSError, ValueError):
            self._number = None

    def handle(self, record: logging.LogRecord) -> None:
        self._write(record.msg)
        if dropped := self.dropped - self._told:
            self._told += dropped
            text = f"{dropped} log lines were dropped: nobody read them in time"
            self._write(self._formatter.format(_warning(__name__, text)))

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            if self._number is None:
                self._stream.write(f"{line}\n")
                return
            # Past the stream's own lock: a thread that holds it for ever would abort the interpreter at its end.
            data = memoryview(f"{line}\n".encode(errors="replace"))
            while data:
                try:
                    data = data[os.write(self._number, data) :]
                except BlockingIOError:  # another process with the same terminal or pipe made it so
                    time.sleep(0.05)


def _warning(name: str, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, text, (), None)


def _add_error(_: Any, __: str, event: Event) -> Event:
    """The exception as text: in place of ``exc_info`` its kind, message and stack."""
    error = event.pop("exc_info", None)
    error = error[1] if isinstance(error, tuple) else sys.exception() if error is True else error
    if isinstance(error, BaseException):
        stack = "".join(traceback.format_exception(error)).rstrip()
        event.update({"error.kind": type(error).__name__, "error.message": str(error), "error.stack": stack})
    return event


def _clean(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can hold it, at most ``_MAX_DEPTH`` levels of it, its texts as they may be shown."""
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case dict() if depth < _MAX_DEPTH:
            return {_clean(str(key)): _clean(part, depth + 1) for key, part in list(value.items())}
        case list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return [_clean(part, depth + 1) for part in list(value)]
        case _:
            return escape_control_characters(redact(str(value)))


def _remember(_: Any, __: str, event: Event) -> Event:
    event = _clean(event)
    fields = {name: value for name, value in event.items() if name not in ("event", "level")}
    buffer.add(LogLine(datetime.now(UTC), str(event["level"]), str(event["event"]), fields))
    return event


def _console(stream: TextIO, environ: Mapping[str, str]) -> structlog.typing.Processor:
    render = structlog.dev.ConsoleRenderer(
        colors=stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb",
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )

    def render_line(logger: Any, method: str, event: Event) -> str:
        stack = event.get("error.stack")
        shown = {name: value for name, value in event.items() if not name.startswith("error.")}  # the stack has both
        now = f"{datetime.now():%H:%M:%S}"  # noqa: DTZ005 - the reader's own clock
        return str(render(logger, method, {"timestamp": now, **shown} | ({"exception": stack} if stack else {})))

    return render_line


def _json(settings: DatadogSettings) -> structlog.typing.Processor:
    names = {"service": settings.service, "dd.env": settings.env, "dd.version": settings.version}

    def render_line(_: Any, __: str, event: Event) -> str:
        record: dict[str, Any] = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "status": event.pop("level"),
            "message": event.pop("event"),
            **{name: value for name, value in names.items() if value},
            "logger.name": event.pop("logger"),
        }
        # `status` is a severity here and `service` the daemon's: what else has such a name gets a longer one.
        return json.dumps(
            record | {f"event.{name}" if name in record else name: value for name, value in event.items()}
        )

    return render_line


def _shorten(value: Any) -> Any:
    """A long text without its middle: the end of a stack says where it broke."""
    is_long = isinstance(value, str) and len(value) > _MAX_TEXT
    return f"{value[: _MAX_TEXT // 4]} ... {value[-_MAX_TEXT * 3 // 4 :]}" if is_long else value
