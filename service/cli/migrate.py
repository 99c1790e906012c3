"""``migrate``: from the CronJobs of before to config.yaml and a patch of the Deployment."""

import itertools
from pathlib import Path

import click

from service.cli import tables
from service.cli.options import Exit, Options, common, end, say, told


@common
@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write config.yaml here.")
@click.option(
    "--patch",
    "patch_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the Deployment's patch here; with -o it is k8s-patch.yaml beside it unless named.",
)
@click.pass_obj
def migrate(options: Options, sources: tuple[str, ...], output: Path | None, patch_file: Path | None) -> None:
    """Turns CronJobs into config.yaml stanzas and a patch of the Deployment.

    SOURCE is a helmfile.yaml, CronJob manifests (`helm template`, `kubectl get cronjobs -o yaml`), a crontab, a crontab
    line in quotes, or - for standard input. Without -o config.yaml is printed, the patch as comments at its end.
    What can't be carried over stands there as a comment; what is no collector is listed and left alone.
    """
    from service.collectors import registry
    from service.migration import sources as reading
    from service.migration import write
    from service.migration.plan import plan

    with told():
        workloads, notes = [], []
        for source in sources:
            found, more = reading.read(source)
            workloads += found
            notes += more
        result = plan(workloads, {name: kind.Settings for name, kind in registry.installed().items()})
        config, patch = write.config(result, notes), write.patch(result)
        if output:
            patch_file = patch_file or output.with_name("k8s-patch.yaml")
        for path, text in ((output, config), (patch_file, patch)):
            if path:
                _write(path, text)
        if options.json:
            tables.print_json(
                {
                    "config": config,
                    "patch": patch,
                    "collectors": [
                        {
                            "name": each.name,
                            "source": each.source.name,
                            "carried": not each.why_not,
                            "notes": each.notes,
                        }
                        for each in result.stanzas
                    ],
                    "left_alone": [{"name": each.name, "reason": why} for each, why in result.left_alone],
                    "notes": [*notes, *result.patch_notes],
                }
            )
        elif not output:
            click.echo(config, nl=False)
            if not patch_file:
                click.echo(
                    "\n# The patch of the Deployment:\n" + "".join(f"# {line}\n" for line in patch.splitlines()),
                    nl=False,
                )
        for stanza in result.stanzas:
            if stanza.why_not:
                say(f"{stanza.source.name}: not carried over: {stanza.why_not}", fg="red")
            else:
                say(f"{stanza.source.name}: is collector {stanza.name}", fg="green")
        for workload, reason in result.left_alone:
            colour = "red" if workload in result.undecided else "yellow"
            say(f"{workload.name}: left alone, it {'; '.join([reason, *workload.notes])}", fg=colour)
        for note in (*notes, *result.patch_notes):
            say(f"note: {note}", fg="yellow")
        end(Exit.DONE if result.is_whole and result.stanzas else Exit.FAILED)


def _write(path: Path, text: str) -> None:
    """A file that is there already is kept as FILE.bak, and an older one of these as well."""
    from service.domain.errors import ConfigError

    try:
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            names = (f"{path.name}.bak{number or ''}" for number in itertools.count())
            kept = next(each for name in names if not (each := path.with_name(name)).exists())
            path.replace(kept)
            say(f"{path} was there: it is {kept.name} now", fg="yellow")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    say(f"{path} is written")
