"""``python -m bench [NAME...]``: runs the benchmarks and prints what they measured; without a name, the short ones."""

import importlib

import click

from bench import Measured
from service.cli.output import print_table
from service.domain.samples import format_number

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
    value, baseline, unit = figure.value, figure.baseline, f" {figure.unit}".rstrip()
    row = {"": figure.name, "ratio": "", "measured": f"{format_number(round(value, 3))}{unit}", "baseline": ""}
    if baseline:
        row["baseline"] = f"{format_number(round(baseline, 3))}{unit}"
        ratio = value / baseline
        row["ratio"] = f"{ratio:.1f} times" if ratio >= 1 or not value else f"{1 / ratio:.1f} times less"
    return row


if __name__ == "__main__":
    main()
