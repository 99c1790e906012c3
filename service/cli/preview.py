"""``preview``: what would be sent now, and how it differs from the last cycle."""

from typing import TYPE_CHECKING

import click

from service.cli import tables, words
from service.cli.completion import collector_names
from service.cli.options import Exit, Options, common, end, say, told

if TYPE_CHECKING:
    from service import preview as previews


@common
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=collector_names)
@click.option("--all", "show_all", is_flag=True, help="Show what is the same as in the last cycle, too.")
@click.command()
@click.pass_obj
def preview(options: Options, names: tuple[str, ...], show_all: bool) -> None:
    """What would be sent now and how it differs from the last cycle; nothing is sent or kept."""
    import anyio

    from service import preview as previews

    with told():
        loaded = options.load()
        if unknown := [name for name in names if name not in loaded.settings.collectors]:
            known = ", ".join(loaded.settings.collectors)
            raise click.UsageError(f"no collector is called {', '.join(unknown)}; configured are: {known}")
        options.start_logs(loaded, level="warning")
        with tables.Progress(quiet=options.quiet) as progress:
            wanted = list(names) or None
            found = anyio.run(previews.preview, loaded.settings, options.environ(), wanted, progress.tell)
        if options.json:
            tables.print_json([each.as_json() for each in found])
        else:
            for each in found:
                _print(each, show_all)
        for each in found:
            if each.run.error:
                say(words.harmless(f"{each.run.job}: {each.run.outcome}: {each.run.error}"), fg="yellow")
        say("Nothing was sent or kept.")
        failed = [each for each in found if each.run.outcome is None or not each.run.outcome.succeeded]
        end(Exit.FAILED if failed else Exit.DONE)


def _print(each: "previews.Preview", show_all: bool) -> None:
    counts = {
        change: sum(line.change == change for line in each.lines) for change in ("same", "changed", "new", "gone")
    }
    said = ", ".join(f"{count} {change}" for change, count in counts.items() if count)
    against = f"against run {each.before}" if each.before else "no run to compare with yet"
    tables.print_table(
        f"{each.run.job}: {len(each.samples)} samples ({said}; {against})",
        ("change", "metric", "before", "now", "status", "about"),
        [
            (
                line.change,
                line.metric,
                words.number(line.value_before),
                words.number(line.value),
                line.status
                if line.status == line.status_before or not line.status_before
                else f"{line.status_before} -> {line.status or 'gone'}",
                words.about(line.tags) or line.tags.get("collector", ""),
            )
            for line in each.lines
            if show_all or line.change != "same"
        ],
    )
