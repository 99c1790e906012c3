"""``python -m bench [NAME...]``: runs the benchmarks and prints what they measured; without a name, the short ones."""

import importlib

import click

from bench import Measured
from service.cli.output import print_table

SHORT = ("burst", "cycle", "daemon", "deliver", "http", "replicas", "schedule", "snapshots")
LONG = ("soak",)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice((*SHORT, *LONG)))
def main(names: tuple[str, ...]) -> None:
    for name in names or SHORT:
        module = importlib.import_module(f"bench.{name}")
        title, *_ = (module.__doc__ or "").splitlines()
        print_table([_to_row(each) for each in module.run()], title=f"{name}: {title}")


def _to_row(figure: Measured) -> dict[str, str]:
    row = {"": figure.name, "ratio": "", "measured": _format(figure.value, figure.unit), "baseline": ""}
    if figure.baseline:
        row["baseline"], ratio = _format(figure.baseline, figure.unit), figure.value / figure.baseline
        row["ratio"] = f"{ratio:.1f} times" if ratio >= 1 or not ratio else f"{1 / ratio:.1f} times less"
    return row


def _format(value: float, unit: str) -> str:
    return (f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}") + f" {unit}".rstrip()


if __name__ == "__main__":
    main()
