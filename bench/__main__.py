"""``python -m bench [NAME...]``: runs the benchmarks and prints what they measured; without a name, the short ones."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from types import ModuleType

import click
from rich.console import Console
from rich.table import Table

import bench
from bench import Measured

Run = Callable[[], Iterable[Measured]]


def found() -> dict[str, ModuleType]:
    """The modules of this package that are benchmarks, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"bench.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def table(figures: Iterable[Measured]) -> Table:
    drawn = Table()
    drawn.add_column()
    for heading in ("ratio", "ours", "baseline"):
        drawn.add_column(heading, justify="right")
    for figure in sorted(figures, key=lambda figure: (not figure.counted, figure.ratio is None)):
        baseline = "" if figure.baseline is None else _number(figure.baseline, figure.unit)
        drawn.add_row(figure.name, _ratio(figure.ratio), _number(figure.ours, figure.unit), baseline)
    return drawn


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    if ratio < 1:
        return f"{1 / ratio:.1f} times less" if ratio else "none"
    return f"{ratio:.1f} times" if ratio > 1 else "the same"


def _number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


@click.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure and line.")
def main(names: tuple[str, ...], as_json: bool) -> None:
    benches = found()
    if unknown := set(names) - set(benches):
        raise click.UsageError(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benches)}")
    console = Console()
    for name in names or [name for name, module in benches.items() if not hasattr(module, "IS_LONG")]:
        module = benches[name]
        run: Run = module.run
        figures = list(run())
        if as_json:
            for figure in figures:
                print(json.dumps({"bench": name, **asdict(figure), "ratio": figure.ratio}))
            continue
        console.print(f"[bold]{name}[/bold]  {(module.__doc__ or '').strip().splitlines()[0]}", soft_wrap=True)
        console.print(table(figures))
        console.print()


if __name__ == "__main__":
    main()
