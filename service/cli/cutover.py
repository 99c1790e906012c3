"""Commands for a move or a case of support: ``migrate``, ``compare``, ``backup``, ``store copy``, ``flare``."""

import itertools
from collections import Counter
from pathlib import Path

import click

from service.cli import output as out
from service.cli.client import connect, find_url
from service.cli.options import URL, Options, command, message, read_input
from service.domain.errors import ConfigError, HealthError

_COLOURS = {"unexplained": "red", "explained": "yellow", "same": "green"}

# What a running daemon adds to a bundle: the file's name, and where it comes from.
_FLARE_FILES = {
    "daemon/version.json": "/version",
    "daemon/readyz.json": "/readyz",
    "daemon/collectors.json": "/api/v1/collectors",
    "daemon/runs.json": "/api/v1/runs?limit=200",
    "daemon/log.json": "/api/v1/log?limit=1000",
    "daemon/metrics.txt": "/metrics",
}


@command(example="helmfile template | infra-health migrate - -o config.yaml")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write config.yaml here.")
def migrate(options: Options, sources: tuple[str, ...], output: Path | None) -> bool:
    """SOURCE is a file of rendered CronJob manifests (of `helmfile template`, `helm template`, `kubectl get cronjobs -o
    yaml`), or - for standard input. Without -o config.yaml is printed. What has no counterpart stands there as a
    comment, at the end the release of k8s/chart for the helmfile, with what the pods had. A command that is no
    collector of ours becomes a stanza of type exec; one that only the image knows, or that holds a secret, is listed.

    Exit code 1: a collector could not be carried over, or there is none.
    """
    from service.cutover import migrate as migration

    found = [
        migration.read_cronjobs(read_input(source, migration.REMEDY), "standard input" if source == "-" else source)
        for source in sources
    ]
    result = migration.migrate(itertools.chain(*found))
    config = migration.to_config(result)
    if output:
        _write(output, config)
    report = {
        "config": config,
        "release": migration.to_release(result),
        "notes": result.notes,
        "collectors": [
            {"name": each.name, "source": each.cronjob, "carried": not each.problem, "notes": each.notes}
            for each in result.stanzas
        ],
        "left_alone": [{"name": name, "command": command} for name, command in result.others],
    }
    options.show(report, lambda: click.echo("" if output else config, nl=False))
    for stanza in result.stanzas:
        if stanza.problem:
            message(f"{stanza.cronjob}: not carried over: {stanza.problem}", "red")
        else:
            message(f"{stanza.cronjob}: is collector {stanza.name}", "green")
    for name, _ in result.others:
        message(f"{name}: left alone, it runs no collector of ours", "yellow")
    for note in result.notes:
        message(f"note: {note}", "yellow")
    return bool(result.stanzas) and not any(stanza.problem for stanza in result.stanzas)


def _write(path: Path, text: str) -> None:
    """A file that is there already is kept as FILE.bak, and an older one of these as well."""
    try:
        if path.is_file() and path.read_bytes() != text.encode():
            names = (f"{path.name}.bak{number or ''}" for number in itertools.count())
            kept = next(each for name in names if not (each := path.with_name(name)).exists())
            path.replace(kept)
            message(f"{path} was there: it is {kept.name} now", "yellow")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error
    message(f"{path} is written")


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
async def compare(options: Options, against: tuple[str, ...], form: str) -> bool:
    """Each difference is explained by its cause.

    Exit code 1: a difference is unexplained. Works beside a running daemon.
    """
    from service.cutover import compare as comparison
    from service.daemon.wiring import open_clients
    from service.store import Store

    baselines = [comparison.read_baseline(read_input(name), name) for name in against]
    settings = options.open("error").settings
    found: list[comparison.Difference] = []
    notes: list[str] = []
    store = await Store.open_reading(settings.state_dir, settings.store)
    try:
        async with open_clients(settings, options.environ()) as clients:
            for baseline in baselines:  # each file is of a moment of its own
                differences, more = await comparison.compare(baseline, settings, store, clients.github)
                found += differences
                notes += [each for each in more if each not in notes]
    finally:
        await store.close()
    found.sort(key=lambda each: (list(_COLOURS).index(each.verdict), each.value.metric))
    counts = Counter(each.verdict for each in found)
    summary = {verdict: counts[verdict] for verdict in reversed(_COLOURS)}
    rows = [dict(zip(comparison.COLUMNS, each.as_row(), strict=True)) for each in found]

    def print_report() -> None:
        if form == "table":
            out.print_table(rows, below="why", optional=("check",))
            for note in notes:
                message(note)
            return
        for row in (comparison.COLUMNS, ("---", "---", "---:", "---:", "---"), *(row.values() for row in rows)):
            click.echo(f"| {' | '.join(map(_escape_cell, row))} |")
        click.echo("\n" + "\n".join(f"- {note}" for note in notes))

    options.json |= form == "json"
    options.show({"summary": summary, "values": [each.as_json() for each in found], "notes": notes}, print_report)
    worst = next((verdict for verdict in _COLOURS if summary[verdict]), "same")
    message(", ".join(f"{number:,} {verdict}" for verdict, number in summary.items()), _COLOURS[worst])
    return not summary["unexplained"]


def _escape_cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


@command(example="infra-health backup state-backup.db")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(options: Options, file: Path) -> None:
    """The state is the outbox, the runs and what the collectors keep. An earlier FILE is replaced by a whole copy.

    To restore: stop the daemon and put FILE in place of state.db in the state directory, without a state.db-wal.
    """
    from service.store.state_directory import back_up

    settings = options.open("warning").settings
    if settings.store.url:
        raise ConfigError("the state is in store.url: back that up with the tools of PostgreSQL, such as pg_dump")
    back_up(settings.state_dir, file)
    size = file.stat().st_size
    text = f"{settings.state_dir} is backed up to {file} ({size:,} bytes)"
    options.show({"file": str(file), "bytes": size}, lambda: click.echo(text))


@click.group(
    help="docs/replicas.md says when to.\n\n\b\nExample: infra-health store copy --to postgresql://USER@HOST/DATABASE"
)
def store() -> None: ...


@command(group=store, example="infra-health store copy --to postgresql://infra_health@db.example.org/infra_health")
@click.option("--to", metavar="URL", help="Of an empty PostgreSQL; else store.url of the settings.")
def copy(options: Options, to: str | None) -> None:
    """Copies slots, pauses, collectors' state, checks and what waits to be sent from SQLite in state_dir.

    The daemon must be stopped; the store in state_dir stays as it is. All or nothing, and only into an empty database.
    """
    from service.config.masking import mask, secrets_in_address
    from service.store.state_directory import copy_store

    settings = options.open("warning").settings
    if to is None:
        if settings.store.url is None:
            raise click.UsageError("--to URL, or store.url of the settings, says where to")
        to = settings.store.url.get_secret_value()
    mask(secrets_in_address(to))
    counts = copy_store(settings.state_dir, to, is_pooled=settings.store.pooled)
    copied = ", ".join(f"{count:,} {table}" for table, count in counts.items() if count) or "nothing"
    options.show({"copied": counts}, lambda: click.echo(f"copied: {copied}"))
    message("set store.url (INFRA_HEALTH_STORE__URL) for every replica before any of them starts")


@command(example="infra-health flare support.zip")
@URL
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
async def flare(options: Options, url: str | None, file: Path) -> None:
    """FILE (.zip) holds settings, state, last runs, recent log, versions.

    A running daemon adds what it knows; without one the state directory has to do.
    """
    from service.daemon.support_bundle import read_local_files, write_bundle

    if file.suffix != ".zip":
        raise click.UsageError(f"FILE ends in .zip, not {file.name!r}")
    loaded = options.open("error")
    with out.show_progress(quiet=options.quiet) as progress:
        progress("looking at the settings and the state directory")
        files = await read_local_files(loaded, options.environ())
        url = url or find_url(options)
        progress(f"asking the daemon at {url}")
        try:
            with connect(url) as daemon:
                files |= {name: daemon.http.get(address).text for name, address in _FLARE_FILES.items()}
        except HealthError as error:
            files["daemon/none.txt"] = f"{error}\n"
            message(f"The daemon adds nothing: {error}", "yellow")
    write_bundle(file, files)
    text = f"{file}: {len(files)} files. Secrets are masked; look into it before you send it."
    options.show({"file": str(file), "contents": sorted(files)}, lambda: click.echo(text))
