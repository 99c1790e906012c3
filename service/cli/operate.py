"""Commands of whoever operates a daemon: status, trigger, pause, resume, cancel, backup, flare."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli import output as out
from service.cli.client import connect, quote_part, read_answer
from service.cli.options import (
    Command,
    Exit,
    Options,
    command,
    complete_collector,
    exit_with,
    message,
    with_url,
    with_watch,
)

if TYPE_CHECKING:
    import httpx

_REASON = click.option("--reason", help="Kept in the audit log.")
_SUCCESSES = ("Complete", "Partial")
_WAIT = 300
_POLL_INTERVAL = 0.5

# What a running daemon adds to a bundle: the file's name, and where it comes from.
_FLARE_FILES = {
    "daemon/version.json": "/version",
    "daemon/readyz.json": "/readyz",
    "daemon/collectors.json": "/api/v1/collectors",
    "daemon/runs.json": "/api/v1/runs?limit=200",
    "daemon/log.json": "/api/v1/log?limit=1000",
    "daemon/metrics.txt": "/metrics",
}


@command(asks_daemon=True, example="infra-health status --watch")
@click.option("--probe", is_flag=True, help="Only whether the daemon lives: exit code 0 or 1, for health checks.")
@click.option("--slots", is_flag=True, help="Only each collector's last slot in live mode, for k8s/cutover.sh.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when a check fails.")
@with_watch
def status(options: Options, http: "httpx.Client", probe: bool, slots: bool, exit_code: bool) -> None:
    """Shows what the daemon does: checks, delivery, GitHub's quota, collectors with their last and next runs."""
    if probe:
        alive = http.get("/livez")
        message(alive.json().get("status", alive.reason_phrase))
        exit_with(Exit.DONE if alive.is_success else Exit.FAILED)
    collectors = read_answer(http.get("/api/v1/collectors"))["collectors"]
    if slots:
        for each in collectors:
            # As Kubernetes writes times: whole seconds, Z.
            click.echo(f"{each['name']} {(each['last_slot'] or 'none').replace('+00:00', 'Z')}")
        return
    state, ready = read_answer(http.get("/api/v1/state")), http.get("/readyz").json()
    shown = {name: state[name] for name in ("checks", "delivery", "quota")}
    if options.json:
        out.print_json({"collectors": collectors, "ready": ready, **shown})
    else:
        _print_summary(**shown)
        columns = ("collector", "state", "schedule", "last run", "outcome", "next run", "last error")
        out.print_table("", columns, [_format_collector(each) for each in collectors], below=True)
        for each in ready.get("checks", ()):
            if each["status"] != "ok":
                message(out.escape(f"{each['name']}: {each['status']}: {each['detail']}"), fg="yellow")
    if exit_code and state["checks"]["failing"]:
        exit_with(Exit.FAILED)


def _print_summary(checks: dict[str, int], delivery: dict[str, Any], quota: list[dict[str, Any]]) -> None:
    """What the page begins with."""
    failing = checks["failing"]
    text = f"checks: {checks['passing']} pass, {failing} {'FAIL' if failing else 'fail'}, {checks['unknown']} unknown"
    why = "; `infra-health explain` tells why" if failing or checks["unknown"] else ""
    click.secho(text + why, fg="red" if failing else None)
    lost = ", ".join(f"{count} {status}" for status, count in delivery["lost"].items() if count)
    click.echo(
        f"delivery: {delivery['state']}, {delivery['pending']} points pending, last accepted "
        f"{out.format_time(delivery['last_accepted'])}" + (f"; lost: {lost}" if lost else "")
    )
    for each in quota:
        click.echo(
            f"GitHub's quota, {each['resource']}: {each['remaining']} of {each['limit']} left until "
            f"{out.format_time(each['reset_at'])}"
        )
    click.echo()


def _format_collector(collector: dict[str, Any]) -> tuple[str, ...]:
    run, error = collector["last_run"] or {}, collector["last_error"]
    # With its age: an old error beside a good run is otherwise taken for a present one.
    last = f"{out.format_age(datetime.fromisoformat(error['at']))}: {'; '.join(error['errors'])}" if error else ""
    return (
        collector["name"],
        _describe_state(collector),
        collector["schedule_in_words"],
        out.format_time(run.get("started")),
        run.get("outcome") or "",
        out.format_time(collector["next_run"], ""),
        last,
    )


def _describe_state(collector: dict[str, Any]) -> str:
    if not collector["enabled"]:
        return "disabled"
    if collector["running"]:
        return "running"
    # A collector of pushes has a note while it waits for the first one.
    return "paused" if collector["paused"] else collector["note"] or "waiting"


def _refuse_ambiguous(context: click.Context, _: click.Parameter, every: bool) -> bool:
    if every == bool(context.params["names"]):
        raise click.UsageError("name collectors, or all of them with --all", context)
    return every


def _with_names(command: Command) -> Command:
    every = click.option("--all", "every", is_flag=True, callback=_refuse_ambiguous, help="All that are configured.")
    names = click.argument("names", nargs=-1, is_eager=True, metavar="NAME...", shell_complete=complete_collector)
    return names(every(command))


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
def trigger(
    options: Options, http: "httpx.Client", names: tuple[str, ...], every: bool, reason: str | None, wait: int | None
) -> None:
    """Runs collectors now. With --wait it shows the progress and the result."""
    until = time.monotonic() + (wait or 0)

    def start(name: str) -> dict[str, Any]:
        answer = http.post(f"/api/v1/collectors/{quote_part(name)}/runs", json=_body(reason))
        if wait is not None and answer.status_code == 409 and (active := answer.json().get("run")):
            return {"id": active, "started": False}
        return read_answer(answer)

    if every:
        runs, is_good = read_answer(http.post("/api/v1/runs", json=_body(reason)))["runs"], True
    else:
        runs, is_good = _try_each(names, start)
    for at, run in enumerate(runs):
        if not run.get("started", True):
            message(f"{run['id']}: is active already", fg="yellow")
        if wait is not None:
            runs[at] = run = _wait_for_end(http, run["id"], until, options.quiet)
            if not run["ended"]:
                message(
                    f"{run['id']} has not ended within {wait} s; `infra-health runs {run['id']}` shows it", fg="yellow"
                )
            is_good = is_good and run["outcome"] in _SUCCESSES
        if not options.json:
            click.echo(_format_run(run))
    _print_answers(options, runs, is_list=every or len(names) > 1)
    exit_with(Exit.DONE if is_good else Exit.FAILED)


@command(asks_daemon=True, example='infra-health pause ci --reason "GitHub maintenance"')
@_with_names
@_REASON
def pause(options: Options, http: "httpx.Client", names: tuple[str, ...], every: bool, reason: str | None) -> None:
    """Suspends collectors' schedules, across restarts, too."""
    _post_for_collectors(options, http, names, every, "pause", reason)


@command(asks_daemon=True, example="infra-health resume --all")
@_with_names
@_REASON
def resume(options: Options, http: "httpx.Client", names: tuple[str, ...], every: bool, reason: str | None) -> None:
    """Resumes collectors' schedules; the latest slot that one missed starts at once."""
    _post_for_collectors(options, http, names, every, "resume", reason)


def _post_for_collectors(
    options: Options, http: "httpx.Client", names: Sequence[str], every: bool, action: str, reason: str | None
) -> None:
    if every:
        names = [each["name"] for each in read_answer(http.get("/api/v1/collectors"))["collectors"]]

    def post(name: str) -> dict[str, Any]:
        return read_answer(http.post(f"/api/v1/collectors/{quote_part(name)}/{action}", json=_body(reason)))

    collectors, is_good = _try_each(names, post)
    for each in () if options.json else collectors:
        next_run = out.format_time(each["next_run"], "none")
        click.echo(f"{each['name']}: {_describe_state(each)}, next run: {next_run}")
    _print_answers(options, collectors, is_list=every or len(names) > 1)
    exit_with(Exit.DONE if is_good else Exit.FAILED)


def _try_each(names: Sequence[str], ask: Callable[[str], dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The daemon's answers, and whether it refused none: what it says of one keeps it from no other."""
    from service.domain.errors import Rejected

    answers = []
    for name in dict.fromkeys(names):
        try:
            answers.append(ask(name))
        except Rejected as error:
            message(f"{name}: {error}" if len(names) > 1 else str(error), fg="red")
    return answers, len(answers) == len(set(names))


def _print_answers(options: Options, answers: Sequence[dict[str, Any]], *, is_list: bool) -> None:
    """As JSON: a list, the answer itself where one name was given."""
    if options.json and (is_list or answers):
        out.print_json(answers if is_list else answers[0])


@command(asks_daemon=True, example="infra-health cancel ci-20250114T150000-3f9a2c")
@click.argument("run")
@_REASON
def cancel(options: Options, http: "httpx.Client", run: str, reason: str | None) -> None:
    """Ends an active run; its outcome is Cancelled. `infra-health runs` lists the ids."""
    answer = read_answer(http.post(f"/api/v1/runs/{quote_part(run)}/cancel", json=_body(reason)))
    if options.json:
        out.print_json(answer)
    else:
        click.echo(f"{run}: is being cancelled")


def _wait_for_end(http: "httpx.Client", run_id: str, until: float, quiet: bool) -> dict[str, Any]:
    """The run as it is when it ended or at ``until`` (time.monotonic), with its progress on stderr."""
    last = ""
    with out.show_progress(quiet=quiet, lines=True) as progress:
        while True:
            run = read_answer(http.get(f"/api/v1/runs/{quote_part(run_id)}"))
            errors = () if run["ended"] else run["errors"]  # those of an ended run are its result
            text = f"{run_id}: attempt {run['attempts'] or 1} {'; '.join(errors)}".rstrip()
            if text != last:
                progress(text)
                last = text
            if run["ended"] or time.monotonic() >= until:
                return run
            time.sleep(_POLL_INTERVAL)


def _format_run(run: dict[str, Any]) -> str:
    if "outcome" not in run:
        return f"{run['id']}: started"
    text = f"{run['id']}: {run['outcome']}"
    if run["ended"]:
        text += f" in {out.format_duration(run['duration'])}, {run['samples']} samples"
    return out.escape(": ".join([text, *run["errors"]]))


def _body(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}


@command(example="infra-health backup state-backup.db")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(options: Options, file: Path) -> None:
    """Copies the state (outbox, runs, the collectors' state) to FILE, also while a daemon uses it.

    To restore: stop the daemon and put FILE in place of state.db in the state directory, without a state.db-wal.
    """
    import anyio

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    anyio.run(_copy_store, loaded.settings.state_dir, file)
    size = file.stat().st_size
    if options.json:
        out.print_json({"file": str(file), "bytes": size})
    else:
        message(f"{loaded.settings.state_dir} is backed up to {file} ({size:,} bytes)", fg="green")


async def _copy_store(directory: Path, file: Path) -> None:
    from service.store import Store

    store = await Store.open_reading(directory)
    try:
        await store.backup(file)
    finally:
        await store.close()


@command(example="infra-health flare support.zip")
@with_url
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def flare(options: Options, url: str, file: Path) -> None:
    """Writes a support bundle (.tar.gz or .zip): settings with secrets masked, state, last runs, recent log, versions.

    A running daemon adds what it knows; without one the state directory has to do.
    """
    import anyio

    from service.daemon.support import SUFFIXES, read_local_files, write_bundle

    if not file.name.endswith(SUFFIXES):
        raise click.UsageError(f"FILE ends in {' or '.join(SUFFIXES)}, not {file.name!r}")
    loaded = options.load()
    options.start_logs(loaded, level="error")
    with out.show_progress(quiet=options.quiet) as progress:
        progress("looking at the settings and the state directory")
        files = anyio.run(read_local_files, loaded, options.environ())
        progress(f"asking the daemon at {url}")
        files |= _ask_daemon(url)
    write_bundle(file, files)
    if options.json:
        out.print_json({"file": str(file), "contents": sorted(files)})
    else:
        click.echo(f"{file}: {len(files)} files. Secrets are masked; look into it before you send it.")


def _ask_daemon(url: str) -> dict[str, str]:
    from service.domain.errors import HealthError

    files: dict[str, str] = {}
    try:
        with connect(url) as http:
            for name, address in _FLARE_FILES.items():
                files[name] = http.get(address).text
    except HealthError as error:
        files["daemon/none.txt"] = f"{error}\n"
        message(f"The daemon adds nothing: {error}", fg="yellow")
    return files
