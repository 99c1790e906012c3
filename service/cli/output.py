"""How results look: tables on a terminal, plain text in a pipe, JSON where asked for; times and values for people."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TextIO

import click

_STYLE = {"pass": "green", "fail": "bold red", "unknown": "dim"}


def escape(text: str) -> str:
    """``text`` with its control characters spelt out: what a server sent must not steer the terminal."""
    from service.config.masking import escape_control_characters

    return escape_control_characters(text)


def is_plain(stream: TextIO) -> bool:
    """Whether it gets text alone. NO_COLOR promises that as much as a pipe does; rich leaves bold in."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR"))


def print_json(value: Any) -> None:
    click.echo(_to_json(value))


def write_json(path: Path, value: Any) -> None:
    from service.domain.errors import Rejected

    try:
        path.write_text(_to_json(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise Rejected(f"{path}: can't be written: {error.strerror}") from error


def _to_json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    # Halves of surrogate pairs, which a foreign collector may bring, can be written as escapes alone.
    return text.encode(errors="backslashreplace").decode()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, below: bool = False) -> None:
    """A table with a heading. Cells are text, never markup, and steer no terminal.

    On a terminal that is narrower nothing is cut off, least of all the first column, which is what other commands take;
    ``below``: the last column, sentences that would fill a screen word under word, stands under the table there.

    In a pipe and with NO_COLOR: no lines, no colours, each row one line however long, an empty cell a dash, two
    spaces between columns.
    """
    rows = [[escape(cell) for cell in row] for row in rows]
    cells = [[" ".join(cell.split()) or "-" for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    if is_plain(sys.stdout):
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        click.echo("\n".join([*filter(None, [title]), *lines]) + ("\n" if title else ""))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console(highlight=False)
    fitting = len(columns) - (1 if below and sum(widths) + 3 * len(widths) > terminal.width else 0)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(columns[:fitting]):
        table.add_column(name, no_wrap=at == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLE.get(cell, "")) for cell in row[:fitting]))
    terminal.print(table)
    for row in rows if fitting < len(columns) else ():
        if row[fitting]:
            click.echo(f"{row[0]}: {row[fitting]}")


def print_samples(title: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """Samples as the API and a dry run give them; with their delivery where that is told."""
    columns = ("metric", "value", "condition", "status", "about", "delivery")
    rows = [
        (
            each["metric"],
            format_number(each["value"]),
            each["tags"].get("condition", ""),
            each["tags"].get("status", ""),
            format_check(each["tags"]),
            f"{each.get('delivery', '')} {each.get('reason', '')}".strip(),
        )
        for each in samples
    ]
    shown = len(columns) if any("delivery" in each for each in samples) else len(columns) - 1
    print_table(title, columns[:shown], [row[:shown] for row in rows])


@contextmanager
def show_progress(*, quiet: bool = False, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Takes texts: on a terminal one line with the latest, in a pipe nothing, or with ``lines`` each on its line.

    The empty text clears the line, so that what is printed then stands by itself.
    """
    is_terminal = not is_plain(sys.stderr)

    def show(text: str) -> None:
        if is_terminal and not quiet:
            line = " ".join(escape(text).split())[: get_terminal_size().columns - 1]
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
        elif lines and text and not quiet:
            click.echo(escape(text), err=True)

    try:
        yield show
    finally:
        show("")


# Times, values and foreign texts as a person at a terminal reads them


def format_time(instant: str | None, missing: str = "never") -> str:
    """``2026-03-04 05:10:00 (4 min ago)``, ``... (in 6 min)``; UTC. Without the date on a terminal when it is today."""
    if not instant:
        return missing
    at = datetime.fromisoformat(instant).astimezone(UTC)
    is_brief = not is_plain(sys.stdout) and at.date() == datetime.now(UTC).date()
    time = f"{at:%H:%M:%S} ({format_age(at)})"
    return time if is_brief else f"{at:%Y-%m-%d} {time}"


def format_age(at: datetime) -> str:
    seconds = (datetime.now(UTC) - at).total_seconds()
    whole = round(abs(seconds))
    size, unit = next((pair for pair in ((86400, "d"), (3600, "h"), (60, "min")) if whole >= pair[0]), (1, "s"))
    return f"{whole // size} {unit} ago" if seconds >= 0 else f"in {whole // size} {unit}"


def format_duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def format_check(tags: Mapping[str, str]) -> str:
    """Which check it is: ``latest_state_of_main / tests_blocking_merge / flaky_tests``."""
    names = ("workflow_name", "task", "check", "label", "repo")
    return " / ".join(tags[name] for name in names if name in tags)


def format_log_line(line: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(line["time"]).astimezone(UTC)
    stack = line["fields"].get("error.stack")
    fields = {name: value for name, value in line["fields"].items() if name not in ("logger", "error.stack")}
    text = f"{at:%H:%M:%S} {line['level']:<8} {line['message']}  "
    text += " ".join(f"{name}={value}" for name, value in fields.items())
    return escape(text.rstrip()) + (f"\n{escape(stack)}" if stack else "")
