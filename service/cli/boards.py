"""``datadog``: dashboards, monitors and metadata as code. All but ``render`` ask Datadog and need both its keys."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli import output as out
from service.cli.options import Command, Exit, Options, command, exit_with, message

if TYPE_CHECKING:
    from service.boards.sync import Difference, Resource, Sync

_WORDS = ("dashboards", "monitors", "metadata", "health", "tv", "collectors")
_DIFF_TEXTS = {
    "create": "would be created",
    "update": "would be updated",
    "edited": "edited by hand, would be left alone",
    "unwanted": "not wanted any more, push --prune would remove it",
}
_PUSH_TEXTS = {
    "edited": "edited by hand, left alone",
    "unwanted": "not wanted any more (--prune removes it)",
    "waiting": "not there yet",
    "not tried": "not tried",
}
_STYLES = {"create": "green", "created": "green", "update": "yellow", "updated": "yellow", "edited": "red"}
_STYLES |= {"unwanted": "yellow", "failed": "red"}


@click.group()
def datadog() -> None:
    """Dashboards, monitors and metadata in Datadog, from the same catalogue as what is sent.

    \b
    Example: infra-health datadog diff
    """


def _what(command: Command) -> Command:
    return click.argument("what", nargs=-1, type=click.Choice(_WORDS), metavar="[dashboards|monitors|metadata]...")(
        command
    )


@command(group=datadog, example="infra-health datadog render monitors")
@_what
def render(options: Options, what: tuple[str, ...]) -> None:
    """Prints as JSON what a push would write. Needs no key and asks nobody."""
    from service.boards.sync import render as render_objects

    desired, env = _read_desired(options, what)
    out.print_json(render_objects(desired, env))


@command(group=datadog, example="infra-health datadog diff")
@_what
def diff(options: Options, what: tuple[str, ...]) -> None:
    """Shows what a push would change, and changes nothing."""
    desired, env = _read_desired(options, what)
    with _connect(options, env) as sync:
        differences = sync.diff(desired, what)
    if options.json:
        out.print_json([_to_json(each) for each in differences])
        return
    for each in differences:
        _print(each, _DIFF_TEXTS)
    _print_summary(differences)


@command(group=datadog, example="infra-health datadog push tv --share")
@_what
@click.option("--force", is_flag=True, help="Overwrite what was edited by hand.")
@click.option("--prune", is_flag=True, help="Remove ours of what is not configured any more.")
@click.option("--share", is_flag=True, help="With tv: make the board public to whoever knows its address; prints it.")
def push(options: Options, what: tuple[str, ...], force: bool, prune: bool, share: bool) -> None:
    """Creates what is missing and updates what differs. An object that was edited by hand is left alone."""
    if share and "tv" not in what:
        raise click.UsageError("--share goes with `push tv`")
    desired, env = _read_desired(options, what)
    done: list[Difference] = []
    with _connect(options, env) as sync:
        for each in sync.push(sync.diff(desired, what, force=force), prune=prune):
            done.append(each)
            if not options.json:
                _print(each, _PUSH_TEXTS)
            elif each.action == "failed":
                message(f"{each.kind} {each.key}: {each.reason}", fg="red")
        address = sync.share("tv") if share else None
    if options.json:
        objects = [_to_json(each) | {"id": each.id, "reason": each.reason} for each in done]
        out.print_json({"objects": objects, **({"public_address": address} if address else {})})
    elif address:
        click.echo(address)
    if left := sum(each.action == "edited" for each in done):
        message(f"{left} edited by hand and left alone; --force overwrites them.", fg="red")
    if not options.json:
        _print_summary(done)
    exit_with(Exit.FAILED if left or any(each.action in ("failed", "not tried") for each in done) else Exit.DONE)


@command(group=datadog, example="infra-health datadog delete monitors --yes")
@_what
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(options: Options, what: tuple[str, ...], yes: bool) -> None:
    """Removes our objects from Datadog, and nobody else's. Points and metrics stay."""
    import sys

    from service.domain.errors import HealthError

    desired, env = _read_desired(options, what)
    with _connect(options, env) as sync:
        ours = [each for each in sync.find(desired, what) if each.fingerprint]
        for each in ours:
            message(f"{each.kind} {each.key}: {each.id}")
        if ours and not yes and sys.stdin.isatty() and not click.confirm(f"Remove these {len(ours)}?", err=True):
            exit_with(Exit.FAILED)
        failed = 0
        for each in ours:
            try:
                sync.delete(each)
            except HealthError as error:
                failed += 1
                message(f"{each.kind} {each.key}: {error}", fg="red")
    if options.json:
        out.print_json([{"kind": each.kind, "key": each.key, "id": each.id} for each in ours])
    else:
        click.echo(f"{len(ours) - failed} removed" + (f", {failed} not" if failed else ""))
    exit_with(Exit.FAILED if failed else Exit.DONE)


def _read_desired(options: Options, what: Sequence[str]) -> "tuple[list[Resource], str]":
    """What is wanted of ``what``, and the environment."""
    import anyio

    from service.boards.sync import read_desired

    loaded = options.load()
    # Nothing of ours logs here, and what urllib3 says of its retries ends in our message.
    options.start_logs(loaded, level="error")
    desired, notes = anyio.run(read_desired, loaded.settings, datetime.now(UTC), what)
    for note in notes:
        message(f"note: {note}", fg="yellow")
    return desired, loaded.settings.datadog.env


@contextmanager
def _connect(options: Options, env: str) -> "Iterator[Sync]":
    """Raises ConfigError where a key is missing."""
    import anyio

    from service.boards.sync import Sync
    from service.config.secrets import credentials
    from service.datadog.api import DatadogApi
    from service.datadog.intake import intake_url
    from service.domain.errors import ConfigError

    settings = options.load().settings

    async def read_keys() -> list[str]:
        keys = []
        known = credentials(settings, options.environ())
        for secret in (known.api_key, known.app_key):
            value = await secret.get()
            if not value:
                raise ConfigError(secret.missing)
            keys.append(value)
        return keys

    with DatadogApi(intake_url(settings.datadog), *anyio.run(read_keys)) as api:
        sync = Sync(api, env)
        yield sync
        for note in sync.notes:
            message(f"note: {note}", fg="yellow")


def _to_json(difference: "Difference") -> dict[str, Any]:
    return {
        "kind": difference.kind,
        "key": difference.key,
        "outcome": difference.action,
        "changes": list(difference.changes),
    }


def _print(difference: "Difference", texts: dict[str, str]) -> None:
    if difference.action == "same":
        return
    text = texts.get(difference.action, difference.action.replace("_", " "))
    reason = f": {difference.reason}" if difference.reason else ""
    click.secho(f"{difference.kind} {difference.key}: {text}{reason}", fg=_STYLES.get(difference.action))
    for change in difference.changes:
        click.echo(f"    {change}")


def _print_summary(differences: "Sequence[Difference]") -> None:
    written = sum(each.action in ("created", "updated", "removed") for each in differences)
    same = sum(each.action == "same" for each in differences)
    text = f"{same + written} of {len(differences)} are as they should be"
    message(text + (f", {written} written." if written else "."))
