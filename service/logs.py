"""Logs: one stream for our records and the libraries', JSON with Datadog's names or readable on a terminal.

structlog renders, the standard library carries; so uvicorn, httpx and APScheduler go the same way, secrets are masked
in one place, and nothing that a record holds can make logging fail.
Names: https://docs.datadoghq.com/logs/log_configuration/attributes_naming_convention/
"""

import base64
import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote, quote_plus

import structlog

from service.config_values import MASK
from service.domain.logged import Logged, harmless
from service.log_memory import LogMemory

OURS: Final = "service"
_SHORTEST_SECRET = 4  # masking less would blank out words everywhere
_DEEPEST = 8

Event = MutableMapping[str, Any]


class _Secrets:
    """The texts that must not be written, as one pattern."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, values: Iterable[str]) -> None:
        with self._lock:
            for value in values:
                if len(value.strip()) >= _SHORTEST_SECRET:
                    self._texts.update(_forms(value.strip()))
            # The longest first: a secret may be a part of another.
            texts = sorted(self._texts, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def hide(self, text: str) -> str:
        pattern = self._pattern
        return pattern.sub(MASK, text) if pattern else text


_secrets = _Secrets()
memory: Final = LogMemory()


def mask(values: Iterable[str]) -> None:
    """From now on each of these values is written as ``********``, URL-encoded and in Base64 (HTTP Basic) too."""
    _secrets.add(values)


def hidden(text: str) -> str:
    """``text`` as it may be written and sent: no secret, nothing that is no text in UTF-8."""
    shown = _secrets.hide(text)
    # Halves of surrogate pairs, which foreign JSON may bring: pages, API and log files could not say them.
    return shown if shown.isascii() else shown.encode(errors="replace").decode()


def configure(
    *,
    format: Literal["auto", "json", "console"],
    level: str,
    service: str,
    env: str,
    version: str | None,
    stream: TextIO | None = None,
) -> None:
    """Sends all logs to ``stream`` (stderr), from ``level`` on; libraries from WARNING on, with debug from INFO on.

    ``memory`` keeps our own records from DEBUG on, whatever the stream is shown: for a run's page and ``flare``.
    ``auto`` is console on a terminal and JSON elsewhere. Call it again to change anything.
    """
    stream = stream or sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            _formatted,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    names = {"service": service, "dd.env": env, "dd.version": version}
    chosen = logging.getLevelNamesMapping()[level.upper()]
    handler = _Handler(stream, chosen)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _with_error,
                _masked,
                _remembered,
                *(_console(stream) if console else _json(names)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Handler)), handler]
    logging.getLogger(OURS).setLevel(logging.DEBUG)
    root.setLevel(logging.INFO if chosen <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes every record from ``shown`` on: one that can't be formatted is written without its arguments."""

    def __init__(self, stream: TextIO, shown: int) -> None:
        super().__init__(stream)
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= self._shown:
            super().emit(record)
            return
        try:
            self.format(record)  # which remembers it
        except Exception:  # noqa: BLE001 - as in logging's own handlers: a record must not end what logs it
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.msg, dict):  # a dict is an event of structlog's, the rest a library's record
            message = _message(record.msg, record.args)
            record = logging.makeLogRecord(record.__dict__)
            record.msg, record.args = message, ()
        return super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        # What the library would print shows the arguments unmasked. A stream that is gone or full takes nothing.
        with suppress(OSError, ValueError):
            print(f"a log record of {record.name} could not be written", file=self.stream)


def _message(text: Any, arguments: Any) -> str:
    if not arguments:
        return text_of(text)
    try:
        message: str = str(text) % arguments
        return message
    except Exception as error:  # noqa: BLE001 - a __str__ of anybody's may run here
        return f"{text_of(text)} (its arguments do not fit: {type(error).__name__})"


def text_of(value: Any) -> str:
    """``value`` in words, whatever its ``__str__`` does."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a __str__ of anybody's runs here
        return f"<{type(value).__name__} that can't be printed: {type(error).__name__}>"


def _formatted(_: Any, __: str, event: Event) -> Event:
    """Puts the positional arguments of our own records into the text, as the standard library does."""
    if arguments := event.pop("positional_args", None):
        event["event"] = _message(event["event"], arguments)
    return event


def _with_error(_: Any, __: str, event: Event) -> Event:
    """The exception as text: in place of ``exc_info`` its kind, message and stack. A library's stack gets our name."""
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error and not isinstance(error, BaseException):
        error = sys.exception()
    if isinstance(error, BaseException):
        stack = "".join(traceback.format_exception(error)).rstrip()
        event.update({"error.kind": type(error).__name__, "error.message": text_of(error), "error.stack": stack})
    if stack_info := event.pop("stack_info", None):
        event["stack"] = stack_info
    return event


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can say it, at most ``_DEEPEST`` levels of it, with the secrets masked."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return hidden(value)
        case dict() if depth < _DEEPEST:
            return {hidden(text_of(key)): _plain(part, depth + 1) for key, part in list(value.items())}
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            return [_plain(part, depth + 1) for part in list(value)]
        case _:
            return "..." if isinstance(value, dict | list | tuple) else hidden(text_of(value))


def _masked(_: Any, __: str, event: Event) -> Event:
    return {**_plain(event)}


def _remembered(_: Any, __: str, event: Event) -> Event:
    fields = {name: value for name, value in event.items() if name not in ("event", "level")}
    memory.keep(Logged(datetime.now(UTC), str(event.get("level", "info")), str(event.get("event", "")), fields))
    return event


def _console(stream: TextIO) -> list[structlog.typing.Processor]:
    colours = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def for_readers(_: Any, __: str, event: Event) -> Event:
        stack = event.pop("error.stack", None)
        shown = {
            key: harmless(value) if isinstance(value, str) else value
            for key, value in event.items()
            if not key.startswith("error.")  # the stack says both
        }
        time = f"{datetime.now():%H:%M:%S}"  # noqa: DTZ005 - the reader's own clock
        return {"timestamp": time, **shown} | ({"exception": harmless(stack)} if stack else {})

    return [
        for_readers,
        structlog.dev.ConsoleRenderer(
            colors=colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        ),
    ]


def _json(names: Mapping[str, str | None]) -> list[structlog.typing.Processor]:
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
        return json.dumps(record | {f"event.{key}" if key in record else key: value for key, value in event.items()})

    return [render]


def _forms(value: str) -> Iterator[str]:
    """How ``value`` may stand in a text: as it is, in an address, in JSON, in Base64 at any offset."""
    yield from (value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1])
    data = value.encode(errors="replace")
    for before, first in ((0, 0), (1, 2), (2, 3)):
        # Only the characters that no byte before or after the value has a part in.
        text = base64.b64encode(bytes(before) + data).decode()[first : (before + len(data)) * 8 // 6]
        if len(text) >= _SHORTEST_SECRET * 2:
            yield text
