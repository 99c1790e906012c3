"""Commands on the way from the CronJobs to the daemon: ``migrate``, ``compare``."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli import output as out
from service.cli.options import Exit, Options, command, exit_with, message

if TYPE_CHECKING:
    from service.config.settings import Settings
    from service.cutover.compare import Difference, Value

_COLOURS = {"unexplained": "red", "explained": "yellow", "same": "green"}
_File = click.Path(path_type=Path, dir_okay=False)


@command(example="helmfile template | infra-health migrate - -o config.yaml")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", type=_File, help="Write config.yaml here.")
def migrate(options: Options, sources: tuple[str, ...], output: Path | None) -> None:
    """Turns CronJobs into config.yaml stanzas and the daemon's release.

    SOURCE is a file of rendered CronJob manifests (of `helmfile template`, `helm template`, `kubectl get cronjobs -o
    yaml`), or - for standard input. Without -o config.yaml is printed. What has no counterpart stands there as a
    comment, at the end the release of k8s/chart for the helmfile, with what the pods had. A command that is no
    collector of ours becomes a stanza of type exec; one that only the image knows, or that holds a secret, is listed.

    Exit code 1: a collector could not be carried over, or there is none.
    """
    from service.cutover import migrate as migration

    found = [
        migration.read_cronjobs(_read(source, migration.REMEDY), "standard input" if source == "-" else source)
        for source in sources
    ]
    result = migration.migrate(itertools.chain(*found))
    config = migration.to_config(result)
    if output:
        _write(output, config)
    if options.json:
        collectors = [
            {"name": each.name, "source": each.cronjob, "carried": not each.problem, "notes": each.notes}
            for each in result.stanzas
        ]
        others = [{"name": name, "command": command} for name, command in result.others]
        texts = {"config": config, "release": migration.to_release(result), "notes": result.notes}
        out.print_json({**texts, "collectors": collectors, "left_alone": others})
    elif not output:
        click.echo(config, nl=False)
    for stanza in result.stanzas:
        if stanza.problem:
            message(f"{stanza.cronjob}: not carried over: {stanza.problem}", fg="red")
        else:
            message(f"{stanza.cronjob}: is collector {stanza.name}", fg="green")
    for name, _ in result.others:
        message(f"{name}: left alone, it runs no collector of ours", fg="yellow")
    for note in result.notes:
        message(f"note: {note}", fg="yellow")
    exit_with(Exit.DONE if result.is_whole else Exit.FAILED)


@command(example="infra-health compare --against ci.json --format markdown")
@click.option(
    "--against",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A file of the replaced tool (`collect NAME -o FILE`), or - for standard input; may be repeated.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "markdown"]), default="table", help="How the report looks."
)
def compare(options: Options, against: tuple[str, ...], form: str) -> None:
    """Lines up what the CronJobs sent with what the daemon measured, and explains each difference by its cause.

    Exit code 1: a difference is unexplained. Works beside a running daemon.
    """
    import anyio

    from service.cutover.compare import COLUMNS, read_baseline

    baselines = [read_baseline(_read(name), name) for name in against]
    loaded = options.load()
    options.start_logs(loaded, level="error")
    found, notes = anyio.run(_compare, loaded.settings, options.environ(), baselines)
    found.sort(key=lambda each: (list(_COLOURS).index(each.verdict), each.value.metric))
    counts = Counter(each.verdict for each in found)
    summary = {verdict: counts[verdict] for verdict in reversed(_COLOURS)}
    if form == "json" or options.json:
        out.print_json({"summary": summary, "values": [each.as_json() for each in found], "notes": notes})
    elif form == "markdown":
        rows = [COLUMNS, ("---", "---", "---:", "---:", "---"), *(each.as_row() for each in found)]
        click.echo("\n".join(f"| {' | '.join(map(_escape_cell, row))} |" for row in rows))
        click.echo("\n" + "\n".join(f"- {note}" for note in notes))
    else:
        out.print_table("", COLUMNS, [each.as_row() for each in found], below=True)
        for note in notes:
            message(note)
    worst = next((verdict for verdict in _COLOURS if summary[verdict]), "same")
    message(", ".join(f"{number} {verdict}" for verdict, number in summary.items()), fg=_COLOURS[worst])
    exit_with(Exit.FAILED if summary["unexplained"] else Exit.DONE)


async def _compare(
    settings: "Settings", environ: Mapping[str, str], baselines: "Sequence[list[Value]]"
) -> "tuple[list[Difference], list[str]]":
    """All files' differences, and the notes on them. Each file is of a moment of its own."""
    from service.cutover.compare import compare as compare_with_runs
    from service.daemon.wiring import open_clients
    from service.store import Store

    found: list[Difference] = []
    notes: list[str] = []
    store = await Store.open_reading(settings.state_dir, settings.store)
    try:
        async with open_clients(settings, environ) as clients:
            for baseline in baselines:
                more = await compare_with_runs(baseline, settings, store, clients.github)
                found += more[0]
                notes += (note for note in more[1] if note not in notes)
    finally:
        await store.close()
    return found, notes


def _escape_cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _read(name: str, remedy: str = "") -> bytes:
    from service.domain.errors import ConfigError

    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        told = f"{name} can't be read: {error.strerror or error}"
        raise ConfigError(f"{told}; {remedy}" if remedy else told) from error


def _write(path: Path, text: str) -> None:
    """A file that is there already is kept as FILE.bak, and an older one of these as well."""
    from service.domain.errors import ConfigError

    try:
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            names = (f"{path.name}.bak{number or ''}" for number in itertools.count())
            kept = next(each for name in names if not (each := path.with_name(name)).exists())
            path.replace(kept)
            message(f"{path} was there: it is {kept.name} now", fg="yellow")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error
    message(f"{path} is written")
