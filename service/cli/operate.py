"""Commands of whoever operates a daemon: status, trigger, pause, resume, cancel."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import click

from service.cli import output as out
from service.cli.client import Daemon, read_answer
from service.cli.options import WATCH, Command, Options, command, complete_collector, message
from service.domain.errors import Rejected

_REASON = click.option("--reason", help="Kept in the audit log.")
_SUCCESSES = ("Complete", "Partial")
_WAIT = 300
_POLL_INTERVAL = 0.5


@command(asks_daemon=True, example="infra-health status --watch")
@click.option("--probe", is_flag=True, help="Only whether the daemon lives: exit code 0 or 1, for health checks.")
@click.option("--slots", is_flag=True, help="Only each collector's last slot in live mode, for k8s/cutover.sh.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when a check fails.")
@WATCH
def status(options: Options, daemon: Daemon, probe: bool, slots: bool, exit_code: bool) -> bool:
    if probe:
        alive = daemon.http.get("/livez")
        message(alive.json().get("status", alive.reason_phrase))
        return alive.is_success
    collectors = daemon.collectors()
    if slots:
        for each in collectors:
            # As Kubernetes writes times: whole seconds, Z.
            click.echo(f"{each['name']} {(each['last_slot'] or 'none').replace('+00:00', 'Z')}")
        return True
    state = daemon.get("state")
    found = {name: state[name] for name in ("checks", "delivery", "quota", "webhooks", "replicas", "mode")}
    found |= {name: daemon.http.get(f"/{path}").json() for name, path in (("version", "version"), ("ready", "readyz"))}
    found["collectors"] = collectors
    options.show(found, lambda: _print_status(found))
    return not (exit_code and state["checks"]["failing"])


def _print_status(found: dict[str, Any]) -> None:
    """Begins with what the page begins with."""
    checks, delivery, webhooks, version = (found[name] for name in ("checks", "delivery", "webhooks", "version"))
    failing, unknown = checks["failing"], checks["unknown"]
    text = f"checks: {checks['passing']} pass, {failing} {'FAIL' if failing else 'fail'}, {unknown} unknown"
    hint = "; `infra-health explain` tells why" if failing or unknown else ""
    click.secho(text + hint, fg="red" if failing else None)
    lost = ", ".join(f"{count:,} {status}" for status, count in delivery["lost"].items() if count)
    text = f"delivery: {delivery['state']}, {delivery['pending']:,} points pending"
    text += f", last accepted {out.format_time(delivery['last_accepted'])}"
    click.echo(text + (f"; lost: {lost}" if lost else ""))
    for each in found["quota"]:
        left = f"{each['remaining']:,} of {each['limit']:,} left until {out.format_time(each['reset_at'])}"
        click.echo(f"GitHub's quota, {each['resource']}: {left}")
    if webhooks:
        last = f"GitHub's webhook: last delivery {out.format_time(webhooks['last'])}"
        click.echo(f"{last}, {webhooks['today']:,} today, {webhooks['missed_today']:,} missed")
        if webhooks["hint"]:
            message(webhooks["hint"], "yellow")
    for each in found["replicas"]:
        what = f"{each['active']} active, {each['pending']:,} points pending"
        click.echo(f"replica {each['id']} {each['version']}: last beat {out.format_age(each['beat'])}, {what}")
    up = f"mode {found['mode']}, up since {out.format_time(version['started'])}"
    click.echo(f"{version['name']} {version['version']}, env {version['env']}, {up}\n")
    rows = [_describe_collector(each) for each in sorted(found["collectors"], key=_is_retrying, reverse=True)]
    out.print_table(rows, optional=("schedule", "next run"), below="note")
    for each in found["ready"].get("checks", ()):
        if each["status"] != "ok":
            message(f"{each['name']}: {each['status']}: {each['detail']}", "yellow")


def _describe_collector(collector: dict[str, Any]) -> dict[str, str]:
    run, pause, error = collector["last_run"] or {}, collector["pause"], collector["last_error"]
    notes = [collector["note"]]
    if _is_retrying(collector) or run.get("outcome") == "Partial":
        notes += run["errors"]
    elif error:
        # With its age, and as the page has it: an old error is otherwise taken for a present one.
        at = datetime.fromisoformat(error["at"])
        is_past = bool(good := collector["last_success"]) and datetime.fromisoformat(good) > at
        was_cancelled = error.get("outcome") == "Cancelled"
        what = "run cancelled" if was_cancelled else "error" if is_past else "failed"
        age = f"{'earlier ' if is_past else ''}{what} {out.format_age(error['at'])}"
        notes.append(": ".join(filter(None, (age, "; ".join(error["errors"])))))
    if pause:
        notes.append(_describe_pause(pause))
    return {
        "collector": collector["name"],
        "state": _describe_state(collector),
        "schedule": collector["schedule_in_words"],
        "last run": out.format_time(run.get("started")),
        "outcome": run.get("outcome") or "",
        "next run": out.format_time(collector["next_run"], ""),
        "note": "; ".join(filter(None, notes)),
    }


def _describe_pause(pause: dict[str, Any]) -> str:
    reason = f": {pause['reason']}" if pause["reason"] else ""
    return f"paused by {pause['by']} {out.format_age(pause['at'])}{reason}"


def _is_retrying(collector: dict[str, Any]) -> bool:
    """Whether the run under way had an attempt that failed."""
    run = collector["last_run"]
    return run is not None and run["id"] == collector["running"] and bool(run["errors"])


def _describe_state(collector: dict[str, Any]) -> str:
    if not collector["enabled"]:
        return "disabled"
    if _is_retrying(collector):
        return f"retrying (attempt {collector['last_run']['attempts']} of {collector['max_attempts']})"
    if collector["running"]:
        return "running, paused" if collector["paused"] else "running"
    return "paused" if collector["paused"] else "waiting"


def _refuse_ambiguous(context: click.Context, _: click.Parameter, is_all: bool) -> None:
    if is_all == bool(context.params["names"]):
        raise click.UsageError("name collectors, or all of them with --all", context)


def _with_names(command: Command) -> Command:
    """``names``: each once; none of them means all."""
    names = click.argument(
        "names",
        nargs=-1,
        is_eager=True,
        metavar="NAME...",
        callback=lambda _, __, given: tuple(dict.fromkeys(given)),
        shell_complete=complete_collector,
    )
    is_all = click.option(
        "--all",
        "is_all",
        is_flag=True,
        callback=_refuse_ambiguous,
        expose_value=False,
        help="All that are configured.",
    )
    return names(is_all(command))


class _WithWait(click.Command):
    """``--wait`` alone waits for ``_WAIT`` seconds; click alone would take the word after it for the number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = [
            f"--wait={_WAIT}" if word == "--wait" and not after.isdigit() else word
            for word, after in pairwise([*args, ""])
        ]
        return super().parse_args(ctx, given)


@command(cls=_WithWait, asks_daemon=True, example='infra-health trigger ci --wait --reason "after the fix"')
@_with_names
@_REASON
@click.option(
    "--wait",
    type=click.IntRange(0, 3600),
    metavar="[SECONDS]",
    help=f"Wait for the end, {_WAIT} s unless told, of a run that is active already, too; the exit code is the runs'.",
)
def trigger(options: Options, daemon: Daemon, names: tuple[str, ...], reason: str | None, wait: int | None) -> bool:
    """With --wait it shows the progress and the result."""
    daemon.check_collectors(names)
    until = time.monotonic() + (wait or 0)

    def run(name: str) -> dict[str, Any]:
        answer = daemon.post("collectors", name, "runs", reason=reason)
        if wait is not None and answer.status_code == 409 and (active := answer.json().get("run")):
            message(f"{active}: is active already", "yellow")
            return {"id": active}
        return read_answer(answer)

    runs = _ask_each(names, run) if names else read_answer(daemon.post("runs", reason=reason))["runs"]
    is_good = len(runs) >= len(names)
    if wait is not None:
        runs = [_wait_for_end(daemon, each["id"], until, options.quiet) for each in runs]
        is_good = is_good and all(each["outcome"] in _SUCCESSES for each in runs)
    _show_each(options, runs, names, _describe_run)
    return is_good


def _wait_for_end(daemon: Daemon, run_id: str, until: float, quiet: bool) -> dict[str, Any]:
    """The run as it is when it ended or at ``until`` (time.monotonic), with its progress on stderr."""
    last = ""
    with out.show_progress(quiet=quiet, lines=True) as progress:
        while True:
            run = daemon.get("runs", run_id)
            errors = () if run["ended"] else run["errors"]  # those of an ended run are its result
            text = f"{run_id}: attempt {run['attempts'] or 1} {'; '.join(errors)}".rstrip()
            if text != last:
                progress(text)
                last = text
            if run["ended"] or time.monotonic() >= until:
                break
            time.sleep(_POLL_INTERVAL)
    if not run["ended"]:
        message(f"{run_id} has not ended in that time; `infra-health runs {run_id}` shows it", "yellow")
    return run


def _describe_run(run: dict[str, Any]) -> str:
    if "outcome" not in run:
        return f"{run['id']}: {'started' if run['started'] else 'is active already'}"
    text = f"{run['id']}: {run['outcome']}"
    if run["ended"]:
        text += f" in {out.format_duration(run['duration'])}, {run['samples']:,} samples"
    return ": ".join([text, *run["errors"]])


@command(asks_daemon=True, example='infra-health pause ci --reason "GitHub maintenance"')
@_with_names
@_REASON
def pause(options: Options, daemon: Daemon, names: tuple[str, ...], reason: str | None) -> bool:
    return _change(options, daemon, names, "pause", reason)


@command(asks_daemon=True, example="infra-health resume --all")
@_with_names
@_REASON
def resume(options: Options, daemon: Daemon, names: tuple[str, ...], reason: str | None) -> bool:
    """The latest slot that one missed starts at once."""
    return _change(options, daemon, names, "resume", reason)


def _change(options: Options, daemon: Daemon, names: Sequence[str], action: str, reason: str | None) -> bool:
    pauses = {each["name"]: each["pause"] for each in daemon.collectors()}
    names = names or list(pauses)
    found = _ask_each(names, lambda name: read_answer(daemon.post("collectors", name, action, reason=reason)))

    def describe(each: dict[str, Any]) -> str:
        text = f"{each['name']}: {_describe_state(each)}, next run: {out.format_time(each['next_run'], 'none')}"
        before = pauses.get(each["name"])
        return f"{text}; was {_describe_pause(before)}" if before else text

    _show_each(options, found, names, describe)
    return len(found) == len(names)


def _ask_each(names: Sequence[str], ask: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The daemon's answers: what it refuses of one collector keeps it from no other."""
    answers = []
    for name in names:
        try:
            answers.append(ask(name))
        except Rejected as error:
            message(f"{name}: {error}" if len(names) > 1 else str(error), "red")
    return answers


def _show_each(
    options: Options, answers: Sequence[dict[str, Any]], names: Sequence[str], describe: Callable[[dict[str, Any]], str]
) -> None:
    """One line each; as JSON a list, or the answer itself where one name was given."""

    def print_lines() -> None:
        for each in answers:
            out.print_wrapped("", describe(each))

    if len(names) != 1:
        options.show(answers, print_lines)
    elif answers:
        options.show(answers[0], print_lines)


@command(asks_daemon=True, example="infra-health cancel ci-20250114T150000-3f9a2c")
@click.argument("run")
@_REASON
def cancel(options: Options, daemon: Daemon, run: str, reason: str | None) -> None:
    """Its outcome is Cancelled. `infra-health runs` lists the ids."""
    answer = read_answer(daemon.post("runs", run, "cancel", reason=reason))
    options.show(answer, lambda: click.echo(f"{run}: is being cancelled"))
