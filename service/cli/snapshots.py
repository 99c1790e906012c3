"""Commands for who writes snapshots: ``publish`` and ``schema``."""

import sys
from pathlib import Path
from typing import Any

import click

from service.cli import tables
from service.cli.options import Options, common, say, told


@common
@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--to",
    required=True,
    metavar="PATH|s3://...|http(s)://...",
    help="Where the collector reads: a file, a directory, an S3 object or prefix, an address, or the daemon's "
    "/api/v1/collectors/NAME/snapshots.",
)
@click.option(
    "--token-env",
    metavar="NAME",
    help="Variable that holds the bearer token of an http(s) address; for a daemon INFRA_HEALTH_TOKEN.",
)
@click.pass_obj
def publish(options: Options, files: tuple[str, ...], to: str, token_env: str | None) -> None:
    """Checks snapshots as the collector does and publishes them whole or not at all.

    The records of several FILEs become one snapshot; - is standard input.
    """
    from service.publish import publish as publish_snapshot

    with told():
        done = publish_snapshot(_body(files), to, token_env=token_env, name=", ".join(files))
        for remark in done.remarks:
            say(f"left out: {remark}", fg="yellow")
        if options.json:
            tables.print_json({"to": done.to, "records": done.records, "bytes": done.size, "run": done.run})
            return
        if not options.quiet:
            records = "1 record" if done.records == 1 else f"{done.records:,} records"
            click.echo(f"{records} published to {done.to}" + (f"; run: {done.run}" if done.run else ""))


@common
@click.command()
@click.argument("what", type=click.Choice(["snapshot"]))
@click.pass_obj
def schema(options: Options, what: str) -> None:
    """Prints the JSON Schema of a snapshot."""
    from service.collectors.snapshot_schema import schema as snapshot_schema

    tables.print_json(snapshot_schema())


def _body(files: tuple[str, ...]) -> bytes:
    """One file as it is; of several all records, once each file is fit to be published."""
    import orjson

    from service.publish import records_of

    if len(files) == 1:
        return _read(files[0])
    records: list[Any] = []
    for name in files:
        records += records_of(_read(name), name)
    return orjson.dumps(records)


def _read(name: str) -> bytes:
    from service.domain.errors import ConfigError

    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} can't be read: {error.strerror or error}") from error
