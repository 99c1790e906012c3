"""``compare``: what the CronJobs sent beside what the daemon measured."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from service.cli import tables
from service.cli.options import Exit, Options, common, end, say, told

if TYPE_CHECKING:
    from service.comparison.gather import Ours
    from service.comparison.values import Value
    from service.comparison.verdicts import Verdict
    from service.config import Settings


@common
@click.command()
@click.option(
    "--against",
    multiple=True,
    required=True,
    metavar="FILE|datadog",
    help="A file of the replaced tool (`collect NAME -o FILE`), - for standard input, or datadog; may be repeated.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "markdown"]), default="table", help="How the report looks."
)
@click.option("--offline", is_flag=True, help="Do not ask GitHub again; then some causes can't be told.")
@click.pass_obj
def compare(options: Options, against: tuple[str, ...], form: str, offline: bool) -> None:
    """Lines up what the CronJobs sent with what the daemon measured, and explains each difference by its cause.

    Exit code 1: a difference is unexplained. Works beside a running daemon.
    """
    import anyio

    from service.comparison import verdicts

    with told():
        loaded = options.load()
        options.start_logs(loaded, level="error")
        found, notes = anyio.run(_compare, loaded.settings, options.environ(), against, offline)
        counts = verdicts.summary(found)
        if form == "json" or options.json:
            tables.print_json({"summary": counts, "values": [each.as_json() for each in found], "notes": notes})
        elif form == "markdown":
            click.echo(verdicts.markdown(found, notes))
        else:
            tables.print_table("", verdicts.HEADS, verdicts.rows(found))
            for note in notes:
                say(note)
        say(
            ", ".join(f"{number} {name}" for name, number in counts.items()),
            fg="red" if counts["unexplained"] else "green",
        )
        end(Exit.FAILED if counts["unexplained"] else Exit.DONE)


async def _compare(
    settings: "Settings", environ: Mapping[str, str], against: tuple[str, ...], offline: bool
) -> "tuple[list[Verdict], list[str]]":
    from service.adapters.store import SqliteStore
    from service.comparison import theirs, verdicts
    from service.comparison.gather import gather
    from service.comparison.values import line_up
    from service.config import Mode
    from service.parts import edges

    values: list[Value] = []
    for name in against:
        if name != "datadog":
            values += theirs.from_file(name)
    at = max((value.at for value in values if value.at), default=None)
    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        async with edges(settings, environ) as parts:
            ours = await gather(settings, store, None if offline else parts.github, at)
            if "datadog" in against:
                values += await _from_datadog(settings, environ, ours)
                if settings.mode is Mode.LIVE:
                    ours.notes.append("mode is live: Datadog's values may be our own; compare while it is shadow")
    finally:
        await store.close()
    pairs = line_up(values, [value for value in ours.values if not value.metric.startswith(verdicts.OURS)])
    found = verdicts.judge(
        pairs, ours.facts, ours.unmeasured, ours.faults, ours.intervals, is_summed="datadog" in against
    )
    return found, ours.notes


async def _from_datadog(settings: "Settings", environ: Mapping[str, str], ours: "Ours") -> "list[Value]":
    import anyio.to_thread

    from service.adapters.datadog import intake_url
    from service.adapters.datadog_queries import DatadogQueries
    from service.comparison import theirs, verdicts
    from service.credentials import credentials
    from service.domain.errors import ConfigError

    known = credentials(settings, environ)
    keys = [await secret.get() for secret in (known.api_key, known.app_key)]
    api_key, app_key = keys
    if not api_key or not app_key:
        raise ConfigError((known.api_key if not api_key else known.app_key).missing)
    wanted = [value for value in ours.values if not value.metric.startswith(verdicts.OURS)]

    def ask() -> "list[Value]":
        with DatadogQueries(intake_url(settings.datadog), api_key, app_key) as queries:
            left_out = ours.unmeasured | ours.faults.keys()
            return theirs.from_datadog(queries, wanted, left_out, settings.datadog.env, datetime.now(UTC))

    return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
