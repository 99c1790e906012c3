"""``flare``: one file to send to whoever helps."""

from pathlib import Path

import click

from service.cli import tables
from service.cli.client import daemon, with_url
from service.cli.options import Options, common, say, told

# What a running daemon adds: the file's name, and where it comes from.
_ASKED = {
    "daemon/version.json": "/version",
    "daemon/readyz.json": "/readyz",
    "daemon/collectors.json": "/api/v1/collectors",
    "daemon/runs.json": "/api/v1/runs?limit=200",
    "daemon/log.json": "/api/v1/log?limit=1000",
    "daemon/metrics.txt": "/metrics",
}


@common
@with_url
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.command()
@click.pass_obj
def flare(options: Options, url: str, file: Path) -> None:
    """Writes a support bundle (.tar.gz or .zip): resolved settings with secrets masked, state, last runs, recent log,
    versions. A running daemon adds what it knows; without one the state directory tells.
    """
    import anyio

    from service import flare as bundle

    if not file.name.endswith(bundle.SUFFIXES):
        raise click.UsageError(f"FILE ends in {' or '.join(bundle.SUFFIXES)}, not {file.name!r}")
    with told():
        loaded = options.load()
        options.start_logs(loaded, level="error")
        with tables.Progress(quiet=options.quiet) as progress:
            progress.tell("looking at the settings and the state directory")
            files = anyio.run(bundle.local_files, loaded, options.environ())
            progress.tell(f"asking the daemon at {url}")
            files |= _of_daemon(url)
        bundle.write(file, files)
        if options.json:
            tables.print_json({"file": str(file), "contents": sorted(files)})
        else:
            click.echo(f"{file}: {len(files)} files. Secrets are masked; look into it before you send it.")


def _of_daemon(url: str) -> dict[str, str]:
    from service.domain.errors import HealthError

    files: dict[str, str] = {}
    try:
        with daemon(url) as http:
            for name, address in _ASKED.items():
                files[name] = http.get(address).text
    except HealthError as error:
        files["daemon/none.txt"] = f"{error}\n"
        say(f"The daemon adds nothing: {error}", fg="yellow")
    return files
