"""What the logs must keep: Datadog's names, every record, and no secret."""

import base64
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import quote

import pytest
import structlog

from service.config import logging as logs
from service.config import masking
from service.config.settings import Settings

SECRET = "ghp_s3cr3t/token+value"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("service")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def configured(stream: TextIO, format: Any = "json", level: str = "info", **environ: str) -> Any:
    datadog, log = {"env": "production", "version": "1.2"}, {"format": format, "level": level}
    settings = Settings.model_validate({"collectors": {}, "log": log, "datadog": datadog})
    logs.configure(settings, environ, stream=stream)
    # pytest's own handlers would raise on what ours must bear.
    logging.getLogger().handlers = logging.getLogger().handlers[-1:]
    return stream


def written(stream: Any) -> str:
    logs.flush()
    return str(stream.getvalue())


def records(stream: Any) -> list[dict[str, Any]]:
    """Those of a stream of JSON, which has no NaN."""
    return [json.loads(line, parse_constant=pytest.fail) for line in written(stream).splitlines()]


def test_a_record_and_an_error_have_the_names_that_datadog_knows() -> None:
    """Our own fields of such a name do not overwrite them."""
    stream = configured(io.StringIO())
    structlog.get_logger("service.app").warning("disk is %s", "full", path="/x", status=503, service="x", timestamp=1)
    try:
        raise LookupError("no such run")
    except LookupError as error:
        structlog.get_logger("service.x").error("given", exc_info=error)
        logging.getLogger("lib").exception("theirs")
    record, *failed = records(stream)
    for each in failed:
        assert (each["error.kind"], each["error.message"]) == ("LookupError", "no such run")
        assert 'raise LookupError("no such run")' in each["error.stack"]
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "status": "warning",
        "message": "disk is full",
        "service": "infra-health",
        "dd.env": "production",
        "dd.version": "1.2",
        "logger.name": "service.app",
        "path": "/x",
        "event.status": 503,
        "event.service": "x",
        "event.timestamp": 1,
    }


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", {"service.x debug", "service.x info", "httpx info", "apscheduler.scheduler warning"}),
        ("info", {"service.x info", "apscheduler.scheduler warning"}),
        ("error", set()),
    ],
)
def test_the_level_is_ours_and_libraries_go_the_same_way_from_warning_on(level: str, seen: set[str]) -> None:
    """With debug from info on; and our debug lines are remembered even where the stream is not shown them."""
    stream = configured(io.StringIO(), level=level)
    structlog.get_logger("service.x").debug("tried", run="ci-1")
    structlog.get_logger("service.x").info("tried")
    logging.getLogger("httpx").info("GET /")
    logging.getLogger("httpx").debug("flood")
    logging.getLogger("apscheduler.scheduler").warning("slow %s", "job")
    assert {f"{record['logger.name']} {record['status']}" for record in records(stream)} == seen
    remembered = [line for line in logs.buffer.recent(10) if line.level == "debug"]
    assert (remembered[-1].message, remembered[-1].fields["run"]) == ("tried", "ci-1")


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_secret_appears_in_no_form(format: str) -> None:
    """Messages, fields, keys, nested values, tracebacks, libraries' records; plain, URL-encoded, HTTP Basic."""
    stream = configured(io.StringIO(), format=format)
    masking.mask([SECRET, "", "ab"])
    log = structlog.get_logger("service.x")
    basic = [base64.b64encode(f"{user}:{SECRET}".encode()).decode() for user in ("", "x", "me", "you")]
    log.info(f"token {SECRET}", nested={"a": [SECRET]}, url=f"https://h/?t={quote(SECRET, safe='')}", basic=basic)
    log.info("in a %s", SECRET, **{f"key {SECRET}": ValueError(SECRET)}, raw=SECRET.encode(), abacus="ab")
    logging.getLogger("httpx").warning("header %r", {"Authorization": f"Bearer {SECRET}"})
    try:
        raise RuntimeError(SECRET)
    except RuntimeError:
        log.exception("ours")
        logging.getLogger("lib").exception("theirs")
    text = written(stream) + str(logs.buffer.recent(5))
    stable = base64.b64encode(SECRET.encode()).decode()[4:-6]
    assert not [form for form in ("s3cr3t", quote(SECRET, safe=""), stable, *basic) if form in text]
    assert text.count("********") >= 8
    assert "abacus" in text


@pytest.mark.parametrize("format", ["json", "console"])
def test_nothing_that_a_record_holds_makes_logging_fail(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments, values that can't be printed, cycles, NaN, lone surrogates: each record is written."""

    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("no")

        __repr__ = __str__

    stream = configured(io.StringIO(), format=format)
    log, library = structlog.get_logger("service.x"), logging.getLogger("lib")
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    log.info("one %d", "x")
    library.warning("two %d", "x")
    library.warning("three %s", Unprintable())
    library.warning(Unprintable())
    log.info("four", value=Unprintable())
    log.info("five", cycle=cycle, nan=float("nan"), lone="\ud800", big=10**400, keys={1: {2, 3}})
    assert len(written(stream).splitlines()) == 6
    assert all(word in written(stream) for word in ("one", "two", "three", "four", "five"))
    if format == "json":
        assert records(stream)[-1]["nan"] == "nan"
    assert capsys.readouterr().err == ""


def test_auto_is_readable_on_a_terminal_which_no_foreign_text_steers_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NO_COLOR is honoured."""
    shown = []
    for is_terminal, environ in ((True, {}), (True, {"NO_COLOR": "1"}), (False, {})):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
        configured(stream, "auto", **environ)
        structlog.get_logger("service.x").info("hello \x1b]0;owned\x07", field="\x1b[2J")
        shown.append(written(stream))
    terminal, plain, pipe = shown
    assert terminal.startswith("\x1b[")
    assert not [each for each in ("\x1b]", "\x1b[2J", "\x07") if each in terminal]
    assert "\x1b" not in plain
    assert json.loads(pipe)["message"].startswith("hello")


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_what_was_dropped_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_QUEUE_LINES", 500)
    reading, writing = os.pipe()
    configured(os.fdopen(writing, "w"))
    log = structlog.get_logger("service.x")
    for number in range(3_000):  # more than the pipe and the queue hold
        log.info("tick", number=number)
    ticks: list[int] = []
    dropped = 0
    with os.fdopen(reading, "rb") as pipe:
        while len(ticks) + dropped < 3_000:  # the writer may tell of drops more than once
            line = json.loads(pipe.readline())
            if line["message"] == "tick":
                ticks.append(line["number"])
            else:
                dropped += int(re.match(r"(\d+) log lines were dropped", line["message"])[1])  # type: ignore[index]
        log.info("flows again")
        assert json.loads(pipe.readline())["message"] == "flows again"
    assert ticks == sorted(ticks)
    assert dropped > 0
    assert len(ticks) + dropped == 3_000
