"""``python -m bench [NAME...]``: runs the benchmarks and prints what they measured; without a name, the short ones."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from types import ModuleType

import click

import bench
from bench import Measured
from service.cli.output import print_table

Run = Callable[[], Iterable[Measured]]


def found() -> dict[str, ModuleType]:
    """The modules of this package that are benchmarks, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"bench.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def show(figures: Iterable[Measured]) -> None:
    """What does not depend on the machine first."""
    rows = []
    for each in sorted(figures, key=lambda figure: (not figure.counted, figure.ratio is None)):
        baseline = "" if each.baseline is None else _number(each.baseline, each.unit)
        rows.append(
            {"": each.name, "ratio": _ratio(each.ratio), "ours": _number(each.ours, each.unit), "baseline": baseline}
        )
    print_table(rows)


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
    for name in names or [name for name, module in benches.items() if not hasattr(module, "IS_LONG")]:
        module = benches[name]
        run: Run = module.run
        figures = list(run())
        if as_json:
            for figure in figures:
                print(json.dumps({"bench": name, **asdict(figure), "ratio": figure.ratio}))
            continue
        click.echo(f"{name}: {(module.__doc__ or '').partition(chr(10))[0]}")
        show(figures)


if __name__ == "__main__":
    main()
