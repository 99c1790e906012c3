"""How results look: tables on a terminal, plain text in a pipe, JSON where asked for."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.words import about
from service.domain.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from service.once import Pass

_STYLE = {"pass": "green", "fail": "bold red", "unknown": "dim"}


def console(*, stderr: bool = False) -> "Console":
    """rich's console: no colours into pipes or with NO_COLOR, and a pipe's lines are not cut at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 200)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a heading. Cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLE.get(cell, "")) for cell in row))
    console().print(table)


def print_pass(result: "Pass") -> None:
    """A table a collector: metric, value, condition, status."""
    for each in result.runs:
        run = each.run
        title = f"{run.job}: {run.outcome.value if run.outcome else 'no outcome'} in {run.seconds or 0:.1f} s"
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


@contextmanager
def progress(quiet: bool, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the latest word on a terminal; in a pipe nothing, or with ``lines`` each word on its line."""
    if quiet or not sys.stderr.isatty():
        yield (lambda text: click.echo(text, err=True)) if lines and not quiet else (lambda text: None)
        return
    with console(stderr=True).status("starting") as status:
        from rich.text import Text

        yield lambda text: status.update(Text(text))
