"""How results look: tables on a terminal, plain text in a pipe, JSON where asked for."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from service.cli.words import about
from service.domain.errors import Rejected
from service.domain.logged import harmless

if TYPE_CHECKING:
    from rich.console import Console

    from service.once import Pass

_STYLE = {"pass": "green", "fail": "bold red", "unknown": "dim"}


def is_plain(stream: TextIO) -> bool:
    """Whether it gets text alone. NO_COLOR promises that as much as a pipe does; rich leaves bold and spinners in."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR"))


def console(*, stderr: bool = False) -> "Console":
    """rich's console: no colours into pipes, and a pipe's lines are not cut at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 200)


def print_json(value: Any) -> None:
    click.echo(_json(value))


def write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(_json(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise Rejected(f"{path}: can't be written: {error.strerror}") from error


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Halves of surrogate pairs, which a foreign collector may bring, can be said as escapes alone.
    return text.encode(errors="backslashreplace").decode()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, below: bool = False) -> None:
    """A table with a heading. Cells are text, never markup, and steer no terminal.

    On a terminal that is narrower nothing is cut off, least of all the first column, which is what other commands take;
    ``below``: the last column, sentences that would fill a screen word under word, stands under the table there.

    In a pipe and with NO_COLOR: no lines, no colours, each row one line however long, an empty cell a dash, two
    spaces between columns.
    """
    rows = [[harmless(cell) for cell in row] for row in rows]
    told = [[" ".join(cell.split()) or "-" for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in told) for at in range(len(columns))]
    if is_plain(sys.stdout):
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in told]
        click.echo("\n".join([*filter(None, [title]), *lines]) + ("\n" if title else ""))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    shown = len(columns) - (1 if below and sum(widths) + 3 * len(widths) > terminal.width else 0)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(columns[:shown]):
        table.add_column(name, no_wrap=at == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLE.get(cell, "")) for cell in row[:shown]))
    terminal.print(table)
    for row in rows if shown < len(columns) else ():
        if row[shown]:
            click.echo(f"{row[0]}: {row[shown]}")


def print_pass(result: "Pass") -> None:
    """A table a collector: metric, value, condition, status."""
    for each in result.runs:
        run = each.run
        title = f"{run.job}: {run.outcome.value if run.outcome else 'no outcome'} in {run.seconds or 0:.1f} s"
        if not each.samples:
            click.echo(f"{title}, no samples" + (f": {harmless(run.error)}" if run.error else "") + "\n")
            continue
        rows = [
            (
                sample.metric.name,
                f"{sample.value:.6g}",
                sample.tags.get("condition", ""),
                sample.tags.get("status", ""),
                about(sample.tags),
            )
            for sample in each.samples
        ]
        print_table(title, ("metric", "value", "condition", "status", "about"), rows)


class Progress:
    """A spinner with the latest word on a terminal; in a pipe nothing, or with ``lines`` each word on its line."""

    def __init__(self, *, quiet: bool = False, lines: bool = False) -> None:
        is_terminal = not is_plain(sys.stderr)
        self._status = console(stderr=True).status("starting") if is_terminal and not quiet else None
        self._lines = lines and not quiet and not is_terminal

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def tell(self, text: str) -> None:
        if self._status:
            from rich.text import Text

            self._status.update(Text(text))  # as text: what a server said is no markup
        elif self._lines:
            click.echo(text, err=True)

    def end(self) -> None:
        """Clears the line; what is printed from now on stands by itself."""
        if self._status:
            self._status.stop()
