"""How results look: JSON where asked for, else tables, times and numbers as people read them."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from service.config.masking import escape_control_characters as escape
from service.domain.errors import Rejected
from service.domain.samples import format_number

COLOURS = {"pass": "green", "ok": "green", "fail": "red", "warn": "yellow", "unknown": "yellow"}
_GAP = "  "


def is_plain(stream: TextIO) -> bool:
    """Whether it gets text alone: a pipe does, and a terminal with NO_COLOR."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR"))


def _screen_width() -> int:
    from shutil import get_terminal_size  # brings compression along: 10 ms that most commands need not spend

    return get_terminal_size().columns


def to_json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    # Halves of surrogate pairs, which a foreign collector may bring, can be written as escapes alone.
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(to_json(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise Rejected(f"{path}: can't be written: {error.strerror}") from error


def print_table(
    rows: Sequence[Mapping[str, str]], *, title: str = "", optional: Sequence[str] = (), below: str = ""
) -> None:
    """Rows by column, nothing where there are none. What a cell holds steers no terminal.

    In a pipe each row is one line, however long. On a terminal that is too narrow the sentences of the column ``below``
    stand under their row; then the ``optional`` columns are left out, the first of them first.
    """
    if not rows:
        return
    cells = [{name: " ".join(escape(cell).split()) or "-" for name, cell in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in rows[0]}
    screen = sys.maxsize if is_plain(sys.stdout) else _screen_width()
    for name in (below, *optional):
        if sum(widths.values()) + len(_GAP) * (len(widths) - 1) > screen:
            widths.pop(name, None)
    if title:
        click.secho(title, bold=True)
    click.secho(_GAP.join(name.ljust(width) for name, width in widths.items()).rstrip(), bold=True)
    for row in cells:
        click.echo(_GAP.join(_paint(row[name].ljust(width)) for name, width in widths.items()).rstrip())
        if below and below not in widths and row[below] != "-":
            print_wrapped("    ", row[below])
    if title:
        click.echo()


def _paint(cell: str) -> str:
    colour = COLOURS.get(cell.strip())
    return click.style(cell, colour) if colour else cell


def print_wrapped(lead: str, text: str) -> None:
    """``text`` after ``lead``; on a terminal its lines break between words and stand under each other."""
    text = escape(text)
    if not is_plain(sys.stdout):
        from textwrap import TextWrapper

        indent = " " * len(click.unstyle(lead))
        wrapper = TextWrapper(max(_screen_width(), 2 * len(indent)), initial_indent=indent, subsequent_indent=indent)
        wrapper.break_long_words = wrapper.break_on_hyphens = False
        text = wrapper.fill(text)[len(indent) :]
    click.echo(lead + text)


def print_samples(samples: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Samples as the API and a dry run give them; with their delivery where that is told."""
    from service.domain.checks import find_condition

    rows = []
    for each in samples:
        row = {
            "metric": each["metric"],
            "value": format_number(each["value"]),
            "condition": find_condition(each["tags"]),
            "status": each["tags"].get("status", ""),
        }
        if "delivery" in each:
            row["delivery"] = f"{each['delivery']} {each.get('reason', '')}"
        rows.append(row | {"about": format_check(each["tags"])})
    print_table(rows, title=title, below="about", optional=("condition", "delivery"))


@contextmanager
def show_progress(*, quiet: bool = False, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Takes texts: on a terminal one line with the latest, in a pipe nothing, or with ``lines`` each on its line.

    The empty text clears the line, so that what is printed then stands by itself.
    """
    is_terminal = not is_plain(sys.stderr)

    def show(text: str) -> None:
        if is_terminal and not quiet:
            line = " ".join(escape(text).split())[: _screen_width() - 1]
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
        elif lines and text and not quiet:
            click.echo(escape(text), err=True)

    try:
        yield show
    finally:
        show("")


def format_time(instant: str | None, missing: str = "never") -> str:
    """``2026-03-04 05:10:00 (4 min ago)``, ``... (in 6 min)``; UTC. Without the date on a terminal when it is today."""
    if not instant:
        return missing
    at = datetime.fromisoformat(instant).astimezone(UTC)
    is_brief = not is_plain(sys.stdout) and at.date() == datetime.now(UTC).date()
    return f"{at:{'%H:%M:%S' if is_brief else '%Y-%m-%d %H:%M:%S'}} ({format_age(instant)})"


def format_age(instant: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()
    whole = round(abs(seconds))
    size, unit = next((pair for pair in ((86400, "d"), (3600, "h"), (60, "min")) if whole >= pair[0]), (1, "s"))
    return f"{whole // size} {unit} ago" if seconds >= 0 else f"in {whole // size} {unit}"


def format_duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def format_check(tags: Mapping[str, str]) -> str:
    """Which check it is: ``latest_state_of_main / tests_blocking_merge / flaky_tests``."""
    names = ("workflow_name", "task", "check", "label", "repo")
    return " / ".join(tags[name] for name in names if name in tags)


def format_log_line(line: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(line["time"]).astimezone(UTC)
    stack = line["fields"].get("error.stack")
    fields = [f"{name}={value}" for name, value in line["fields"].items() if name not in ("logger", "error.stack")]
    text = f"{at:%H:%M:%S} {line['level']:<8} {line['message']}  {' '.join(fields)}".rstrip()
    return escape(text) + (f"\n{escape(stack)}" if stack else "")
