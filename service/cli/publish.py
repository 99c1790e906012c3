"""``publish``: for who writes snapshots."""

import click

from service.cli.options import Options, command, message, read_input
from service.cli.output import to_json


@command(example="infra-health publish results.json --to s3://bucket/training.json")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option(
    "--to",
    metavar="PATH|s3://...|http(s)://...",
    help="Where the collector reads: a file, a directory, an S3 object or prefix, an address, or the daemon's "
    "/api/v1/collectors/NAME/snapshots.",
)
@click.option(
    "--token-env",
    metavar="NAME",
    help="Variable that holds the bearer token of an http(s) address; for a daemon INFRA_HEALTH_TOKEN.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a snapshot; nothing is published.")
def publish(options: Options, files: tuple[str, ...], to: str | None, token_env: str | None, schema: bool) -> None:
    """It is published whole or not at all.

    The records of several FILEs become one snapshot; - is standard input.
    """
    from service.publish import join_snapshots, snapshot_schema
    from service.publish import publish as publish_snapshot

    if schema:
        click.echo(to_json(snapshot_schema()))
        return
    if not files or not to:
        raise click.UsageError("name a FILE, or - for standard input, and --to; or --schema")
    bodies = {name: read_input(name) for name in files}
    body = next(iter(bodies.values())) if len(bodies) == 1 else join_snapshots(bodies)
    done = publish_snapshot(body, to, token_env=token_env, name=", ".join(files))
    for remark in done.remarks:
        message(f"left out: {remark}", "yellow")
    text = f"{'1 record' if done.records == 1 else f'{done.records:,} records'} published to {done.to}"
    if options.json or not options.quiet:
        found = {"to": done.to, "records": done.records, "bytes": done.size, "run": done.run}
        options.show(found, lambda: click.echo(text + (f"; run: {done.run}" if done.run else "")))
