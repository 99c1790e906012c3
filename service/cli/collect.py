"""One pass: ``--once`` and ``collect``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli import tables
from service.cli.options import Exit, Options, common, end, say, told

if TYPE_CHECKING:
    from service.once import Pass


@common
@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--push", is_flag=True, help="Submit the samples to Datadog.")
@click.option("--dry-run", is_flag=True, help="Print the samples as JSON; send and keep nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the samples here as JSON.")
@click.option("--strict", is_flag=True, help="A partial run (parts or records left out) exits 1, too.")
@click.pass_obj
def collect(
    options: Options, names: tuple[str, ...], push: bool, dry_run: bool, output: Path | None, strict: bool
) -> None:
    """Runs the named collectors once; without --push nothing is sent."""
    if push and dry_run:
        raise click.UsageError("--push and --dry-run exclude each other")
    with told():
        end(run_once(options, list(names), push=push, dry_run=dry_run, strict=strict, output=output))


def run_once(
    options: Options, names: Sequence[str] | None, *, push: bool, dry_run: bool, strict: bool, output: Path | None
) -> int:
    """The exit code. Raises HealthError when nothing could be tried at all."""
    import anyio

    from service.once import run_pass

    loaded = options.load()
    if unknown := [name for name in names or () if name not in loaded.settings.collectors]:
        known = ", ".join(loaded.settings.collectors)
        raise click.UsageError(f"no collector is called {', '.join(unknown)}; configured are: {known}")
    options.start_logs(loaded, level="warning")
    progress = options.exits.enter_context(tables.Progress(quiet=options.quiet))

    def report(result: "Pass") -> int:
        progress.end()
        samples = [sample.as_json() for each in result.runs for sample in each.samples]
        if output:
            tables.write_json(output, samples)
            say(f"{len(samples)} samples written to {output}")
        if dry_run:
            tables.print_json(samples)
        elif options.json:
            tables.print_json(result.as_json())
        elif not options.quiet:
            tables.print_pass(result)
        _tell(result, options, push=push, dry_run=dry_run)
        return _code(result, strict)

    return anyio.run(run_pass, loaded.settings, options.environ(), names, push, progress.tell, report)


def _tell(result: "Pass", options: Options, *, push: bool, dry_run: bool) -> None:
    for each in result.runs:
        outcome = each.run.outcome
        if outcome is None or not outcome.succeeded:
            say(f"{each.run.job}: failed: {each.run.error}", fg="red")
        elif each.run.faults:
            say(f"{each.run.job}: partial, left out: {each.run.error}", fg="yellow")
    if not push:
        say("Nothing was sent." if dry_run else "Nothing was sent (use --push to send).")
    elif result.undelivered:
        say(
            f"{result.delivered} points delivered, {result.undelivered} not: {result.trouble or 'not in time'}. "
            f"{'They stay stored and go with the next daemon or --once.' if result.waiting else ''}",
            fg="red",
        )
    elif not options.quiet:
        say(f"{result.delivered} points delivered in {result.seconds:.1f} s.", fg="green")


def _code(result: "Pass", strict: bool) -> int:
    outcomes = [each.run.outcome for each in result.runs]
    if result.undelivered or not all(outcome and outcome.succeeded for outcome in outcomes):
        return Exit.FAILED
    return Exit.FAILED if strict and any(each.run.faults for each in result.runs) else Exit.DONE
