"""``datadog``: dashboards, monitors and metadata as code. All but ``render`` ask Datadog and need both its keys."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import Command, Options, command, message
from service.cli.output import to_json
from service.domain.errors import ConfigError, HealthError

if TYPE_CHECKING:
    from service.boards.sync import Difference, Resource, Sync
    from service.config.settings import Settings

_WORDS = ("dashboards", "monitors", "metadata", "health", "trends", "tv", "collectors")
_TEXTS = {
    "create": ("would be created", "green"),
    "update": ("would be updated", "yellow"),
    "edited": ("edited by hand, left alone", "red"),
    "unwanted": ("not wanted any more (push --prune removes it)", "yellow"),
    "waiting": ("not there yet", None),
    "created": ("created", "green"),
    "updated": ("updated", "yellow"),
    "removed": ("removed", None),
    "failed": ("failed", "red"),
}


@click.group()
def datadog() -> None:
    """Dashboards, monitors and metadata in Datadog, from the same catalogue as what is sent.

    \b
    Example: infra-health datadog diff
    """


def _with_words(command: Command) -> Command:
    metavar = "[dashboards|monitors|metadata]..."
    return click.argument("what", nargs=-1, type=click.Choice(_WORDS), metavar=metavar)(command)


@command(group=datadog, example="infra-health datadog render monitors")
@_with_words
async def render(options: Options, what: tuple[str, ...]) -> None:
    """Prints as JSON what a push would write. Needs no key and asks nobody."""
    from service.boards.sync import render as render_objects

    settings, desired = await _read_desired(options, what)
    click.echo(to_json(render_objects(desired, settings.datadog.env)))


@command(group=datadog, example="infra-health datadog diff")
@_with_words
async def diff(options: Options, what: tuple[str, ...]) -> None:
    """Shows what a push would change, and changes nothing."""
    async with _open(options, what) as (sync, desired):
        found = sync.diff(desired, what)
    options.show([_describe(each) for each in found], lambda: _print_differences(found))


@command(group=datadog, example="infra-health datadog push tv --share")
@_with_words
@click.option("--force", is_flag=True, help="Overwrite what was edited by hand.")
@click.option("--prune", is_flag=True, help="Remove ours of what is not configured any more.")
@click.option("--share", is_flag=True, help="With tv: make the board public to whoever knows its address; prints it.")
async def push(options: Options, what: tuple[str, ...], force: bool, prune: bool, share: bool) -> bool:
    """Creates what is missing and updates what differs. An object that was edited by hand is left alone."""
    if share and "tv" not in what:
        raise click.UsageError("--share goes with `push tv`")
    async with _open(options, what) as (sync, desired):
        done = list(sync.push(sync.diff(desired, what, force=force), prune=prune))
        address = sync.share("tv") if share else None

    def print_text() -> None:
        _print_differences(done)
        if address:
            click.echo(address)

    objects = [_describe(each) | {"id": each.id, "reason": each.reason} for each in done]
    options.show({"objects": objects} | ({"public_address": address} if address else {}), print_text)
    if edited := sum(each.action == "edited" for each in done):
        message(f"{edited} edited by hand and left alone; --force overwrites them.", "red")
    return not edited and not any(each.action == "failed" for each in done)


@command(group=datadog, example="infra-health datadog delete monitors --yes")
@_with_words
@click.option("--yes", is_flag=True, help="Do not ask.")
async def delete(options: Options, what: tuple[str, ...], yes: bool) -> bool:
    """Removes our objects from Datadog, and nobody else's. Points and metrics stay."""
    async with _open(options, what) as (sync, desired):
        pushed = [each for each in sync.find(desired, what) if each.fingerprint]
        for each in pushed:
            message(f"{each.kind} {each.key}: {each.id}")
        if pushed and not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("nobody can be asked here: --yes removes them")
            if not click.confirm(f"Remove these {len(pushed)}?", err=True):
                return False
        failed = 0
        for each in pushed:
            try:
                sync.delete(each)
            except HealthError as error:
                failed += 1
                message(f"{each.kind} {each.key}: {error}", "red")
    text = f"{len(pushed) - failed} removed" + (f", {failed} not" if failed else "")
    options.show([{"kind": each.kind, "key": each.key, "id": each.id} for each in pushed], lambda: click.echo(text))
    return not failed


async def _read_desired(options: Options, what: Sequence[str]) -> "tuple[Settings, list[Resource]]":
    from service.boards.catalogue import read_catalogue
    from service.boards.sync import build, is_meant

    # Nothing of ours logs here, and what urllib3 says of its retries ends in our message.
    settings = options.open("error").settings
    catalogue, notes = await read_catalogue(settings, datetime.now(UTC))
    for note in notes:
        message(f"note: {note}", "yellow")
    return settings, [each for each in build(catalogue) if is_meant(each, what)]


@asynccontextmanager
async def _open(options: Options, what: Sequence[str]) -> "AsyncIterator[tuple[Sync, list[Resource]]]":
    """Datadog's side and what it shall be. Raises ConfigError where a key is missing."""
    from service.boards.sync import Sync
    from service.config.secrets import credentials
    from service.datadog.api import DatadogApi
    from service.datadog.intake import intake_url

    settings, desired = await _read_desired(options, what)
    keys, known = [], credentials(settings, options.environ())
    for secret in (known.api_key, known.app_key):
        if not (value := await secret.get()):
            raise ConfigError(secret.missing)
        keys.append(value)
    with DatadogApi(intake_url(settings.datadog), *keys) as api:
        sync = Sync(api, settings.datadog.env)
        yield sync, desired
        for note in sync.notes:
            message(f"note: {note}", "yellow")


def _describe(each: "Difference") -> dict[str, Any]:
    return {"kind": each.kind, "key": each.key, "outcome": each.action, "changes": list(each.changes)}


def _print_differences(differences: "Sequence[Difference]") -> None:
    differing = [each for each in differences if each.action != "same"]
    for each in differing:
        text, colour = _TEXTS[each.action]
        click.secho(f"{each.kind} {each.key}: {text}" + (f": {each.reason}" if each.reason else ""), fg=colour)
        for change in each.changes:
            click.echo(f"    {change}")
    written = sum(each.action in ("created", "updated", "removed") for each in differing)
    same = len(differences) - len(differing)
    message(f"{same + written} of {len(differences)} are as they should be, {written} written.")
