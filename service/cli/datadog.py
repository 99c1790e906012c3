"""``datadog``: dashboards, monitors and metadata as code. All but ``render`` ask Datadog and need both its keys."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from service.cli import tables
from service.cli.options import Command, Exit, Options, common, end, say, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.boards.plan import Found, Step, Wanted
    from service.pushing import Pusher

_IN_VAIN = 3  # objects in a row that Datadog could not take, each after several tries: the others would fare alike
_BOARDS = ("health", "tv", "collectors")
_WORDS = ("dashboards", "monitors", "metadata", *_BOARDS)
_WOULD = {
    "create": "would be created",
    "update": "would be updated",
    "same": "same",
    "edited": "edited by hand, would be left alone",
    "unwanted": "not wanted any more, push --prune would remove it",
}
_STYLE = {"create": "green", "update": "yellow", "edited": "red", "unwanted": "yellow"}


@click.group()
def datadog() -> None:
    """Dashboards, monitors and metadata in Datadog, from the same catalogue as what is sent."""


def _what(command: Command) -> Command:
    return click.argument("what", nargs=-1, type=click.Choice(_WORDS), metavar="[dashboards|monitors|metadata]...")(
        command
    )


@common
@_what
@datadog.command()
@click.pass_obj
def render(options: Options, what: tuple[str, ...]) -> None:
    """Prints as JSON what a push would write. Needs no key and asks nobody."""
    from service.boards import marks
    from service.boards.marks import Mark
    from service.boards.plan import Kind

    with told():
        wishes, env, _ = _wishes(options, what)
        found: dict[str, list[Any]] = {kind.value: [] for kind in _kinds(what)}
        for wish in wishes:
            total = marks.digest(wish.content)
            mark = Mark(wish.key, marks.env_of(env), total, total)
            if wish.kind is Kind.DASHBOARD:
                found[wish.kind].append(marks.mark_board(wish.content, mark))
            elif wish.kind is Kind.MONITOR:
                found[wish.kind].append(marks.mark_monitor(wish.content, mark))
            else:
                found[wish.kind].append({"metric": wish.key, **marks.mark_metric(wish.content, mark)})
        tables.print_json(found)


@common
@_what
@datadog.command()
@click.pass_obj
def diff(options: Options, what: tuple[str, ...]) -> None:
    """Shows what a push would change, and changes nothing."""
    with told():
        wishes, env, _ = _wishes(options, what)
        with _pusher(options, env) as pusher:
            steps = _plan(pusher, wishes, what, force=False)
        if options.json:
            tables.print_json([_as_json(step, step.act.value) for step in steps])
            return
        for step in steps:
            _tell(step, _WOULD[step.act.value])
        _summary(steps)


@common
@_what
@datadog.command()
@click.option("--force", is_flag=True, help="Overwrite what was edited by hand.")
@click.option("--prune", is_flag=True, help="Remove ours of what is not configured any more.")
@click.option("--share", is_flag=True, help="With tv: make the board public to whoever knows its address; prints it.")
@click.pass_obj
def push(options: Options, what: tuple[str, ...], force: bool, prune: bool, share: bool) -> None:
    """Creates what is missing and updates what differs. An object that was edited by hand is left alone."""
    from service.boards.plan import Act

    if share and "tv" not in what:
        raise click.UsageError("--share goes with `push tv`")
    with told():
        wishes, env, _ = _wishes(options, what)
        with _pusher(options, env) as pusher:
            steps = _plan(pusher, wishes, what, force=force)
            done = _carry_out_all(pusher, steps, options, prune=prune)
            # A free layout is what Datadog calls a screenboard.
            address = pusher.share("tv", "custom_screenboard") if share else None
        if options.json:
            tables.print_json({"objects": done, **({"public_address": address} if address else {})})
        elif address:
            click.echo(address)
        left = sum(step.act is Act.EDITED for step in steps)
        if left:
            say(f"{left} edited by hand and left alone; --force overwrites them.", fg="red")
        if not options.json:
            _summary(steps, sum(each["outcome"] in ("created", "updated", "removed") for each in done))
        failed = len(done) < len(steps) or any(each["outcome"] == "failed" for each in done)
        end(Exit.FAILED if failed or left else Exit.DONE)


@common
@_what
@datadog.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(options: Options, what: tuple[str, ...], yes: bool) -> None:
    """Removes our objects from Datadog, and nobody else's. Points and metrics stay."""
    import sys

    from service.domain.errors import HealthError

    with told():
        wishes, env, _ = _wishes(options, what)
        with _pusher(options, env) as pusher:
            ours = [each for each in pusher.find(wishes, _kinds(what)) if each.mark and _is_meant(each, what)]
            for each in ours:
                say(f"{each.kind.value} {each.key}: {each.id}")
            if ours and not yes and sys.stdin.isatty() and not click.confirm(f"Remove these {len(ours)}?", err=True):
                end(Exit.FAILED)
            failed = 0
            for each in ours:
                try:
                    pusher.remove(each)
                except HealthError as error:
                    failed += 1
                    say(f"{each.kind.value} {each.key}: {error}", fg="red")
        if options.json:
            tables.print_json([{"kind": each.kind.value, "key": each.key, "id": each.id} for each in ours])
        else:
            click.echo(f"{len(ours) - failed} removed" + (f", {failed} not" if failed else ""))
        end(Exit.FAILED if failed else Exit.DONE)


def _wishes(options: Options, what: Sequence[str]) -> "tuple[list[Wanted], str, list[str]]":
    """What is wanted of ``what``, the environment, and what the operator was told."""
    import anyio

    from service.boards.plan import wanted
    from service.catalogue import catalogue

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    shown, notes = anyio.run(catalogue, loaded.settings)
    for note in notes:
        say(f"note: {note}", fg="yellow")
    wishes = [each for each in wanted(shown) if each.kind in _kinds(what) and _is_meant(each, what)]
    return wishes, loaded.settings.datadog.env, notes


def _kinds(what: Sequence[str]) -> "list[Any]":
    from service.boards.plan import Kind

    words = {"dashboards" if word in _BOARDS else word for word in what}
    return [kind for kind in Kind if not words or kind.value in words]


def _is_meant(each: "Wanted | Found", what: Sequence[str]) -> bool:
    """Single boards may be named; all of them are meant where none is."""
    named = [word for word in what if word in _BOARDS]
    return each.kind.value != "dashboards" or not named or "dashboards" in what or each.key in named


@contextmanager
def _pusher(options: Options, env: str) -> "Iterator[Pusher]":
    """Raises ConfigError where a key is missing."""
    import anyio

    from service.adapters.datadog import intake_url
    from service.adapters.datadog_admin import DatadogAdmin, Keys
    from service.credentials import credentials
    from service.domain.errors import ConfigError
    from service.pushing import Pusher

    settings = options.load().settings

    async def keys() -> Keys:
        found = []
        known = credentials(settings, options.environ())
        for secret in (known.api_key, known.app_key):
            value = await secret.get()
            if not value:
                raise ConfigError(secret.missing)
            found.append(value)
        return Keys(*found)

    with DatadogAdmin(intake_url(settings.datadog), anyio.run(keys)) as admin:
        yield Pusher(admin, env, lambda text: say(f"note: {text}", fg="yellow"))


def _plan(pusher: "Pusher", wishes: "list[Wanted]", what: Sequence[str], *, force: bool) -> "list[Step]":
    from service.boards.plan import steps

    there = [each for each in pusher.find(wishes, _kinds(what)) if _is_meant(each, what)]
    return steps(wishes, there, force=force)


def _carry_out_all(pusher: "Pusher", steps: "Sequence[Step]", options: Options, *, prune: bool) -> list[dict[str, Any]]:
    """What came of each step; when Datadog can't take anything any more, of those up to then."""
    done: list[dict[str, Any]] = []
    in_vain = 0
    for step in steps:
        result, is_lost = _carry_out(pusher, step, options, prune=prune)
        done.append(result)
        in_vain = in_vain + 1 if is_lost else 0
        if in_vain == _IN_VAIN and len(done) < len(steps):
            say(f"Datadog takes nothing now; {len(steps) - len(done)} were not tried. Push again later.", fg="red")
            break
    return done


def _carry_out(pusher: "Pusher", step: "Step", options: Options, *, prune: bool) -> tuple[dict[str, Any], bool]:
    """One step, told; what came of it, and whether Datadog was out of reach for all its tries.

    Raises Unauthorized: the next step would fail alike.
    """
    from service.adapters.datadog_client import NotThere
    from service.boards.plan import Act, Kind
    from service.domain.errors import HealthError, Unauthorized, Unavailable

    is_lost = False
    outcome, number, reason = {"same": "same", "edited": "edited by hand, left alone"}.get(step.act.value, ""), "", ""
    try:
        if step.act in (Act.CREATE, Act.UPDATE):
            number = pusher.write(step)
            outcome = "created" if step.act is Act.CREATE else "updated"
        elif step.act is Act.UNWANTED and step.found:
            outcome = "removed" if prune else "not wanted any more (--prune removes it)"
            if prune:
                pusher.remove(step.found)
    except Unauthorized:
        raise
    except NotThere as error:
        is_new = step.kind is Kind.METRIC
        outcome, reason = ("not there yet" if is_new else "failed"), str(error)
        if is_new:
            reason = "Datadog has no point of it so far; push again when it has"
    except HealthError as error:
        outcome, reason = "failed", str(error)
        is_lost = isinstance(error, Unavailable)
    if not options.json:
        _tell(step, f"{outcome}{f': {reason}' if reason else ''}")
    elif outcome == "failed":
        say(f"{step.kind.value} {step.key}: {reason}", fg="red")
    result = _as_json(step, outcome) | {"id": number or (step.found.id if step.found else ""), "reason": reason}
    return result, is_lost


def _as_json(step: "Step", outcome: str) -> dict[str, Any]:
    return {"kind": step.kind.value, "key": step.key, "outcome": outcome, "changes": list(step.changes)}


def _tell(step: "Step", outcome: str) -> None:
    if step.act.value == "same":
        return
    click.secho(f"{step.kind.value} {step.key}: {outcome}", fg=_STYLE.get(step.act.value))
    for change in step.changes:
        click.echo(f"    {change}")


def _summary(steps: "list[Step]", written: int = 0) -> None:
    """``written``: what a push has just brought to what it should be."""
    same = sum(step.act.value == "same" for step in steps)
    say(f"{same + written} of {len(steps)} are as they should be" + (f", {written} written." if written else "."))
