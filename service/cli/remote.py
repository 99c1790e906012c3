"""Commands that act on a running daemon, and its status: ``status``, ``trigger``, ``pause``, ``resume``."""

import sys
import time
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from service.cli import tables, words
from service.cli.client import answer, daemon, with_url
from service.cli.completion import collector_names
from service.cli.options import Exit, Options, common, end, say, told

if TYPE_CHECKING:
    import httpx

_FAILURES = ("Failed", "BackoffLimitExceeded", "DeadlineExceeded", "Replaced", "Interrupted")
_WAIT = 300
_POLL = 0.5


@common
@with_url
@click.option("--probe", is_flag=True, help="Only whether the daemon lives: exit code 0 or 1, for health checks.")
@click.option("--slots", is_flag=True, help="Only each collector's last slot in live mode, for k8s/cutover.sh.")
@click.command()
@click.pass_obj
def status(options: Options, url: str, probe: bool, slots: bool) -> None:
    """What the daemon does: collectors, their last and next runs, and the delivery."""
    with told(), daemon(url) as http:
        if probe:
            alive = http.get("/livez")
            say(alive.json().get("status", alive.reason_phrase))
            end(Exit.DONE if alive.is_success else Exit.FAILED)
        collectors = answer(http.get("/api/v1/collectors"))["collectors"]
        if slots:
            for each in collectors:
                # As Kubernetes writes times: whole seconds, Z.
                click.echo(f"{each['name']} {(each['last_slot'] or 'none').replace('+00:00', 'Z')}")
            return
        ready = http.get("/readyz").json()
        if options.json:
            tables.print_json({"collectors": collectors, "ready": ready})
            return
        brief = not tables.is_plain(sys.stdout)
        tables.print_table(
            "",
            ("collector", "state", "schedule", "last run", "outcome", "next run", "last error"),
            [
                (
                    each["name"],
                    _state(each),
                    each["schedule_in_words"],
                    words.ago((each["last_run"] or {}).get("started"), brief=brief),
                    (each["last_run"] or {}).get("outcome") or "",
                    words.ago(each["next_run"], "", brief=brief),
                    _trouble(each),
                )
                for each in collectors
            ],
            below=True,
        )
        for each in ready.get("checks", ()):
            if each["status"] != "ok":
                say(words.harmless(f"{each['name']}: {each['status']}: {each['detail']}"), fg="yellow")


def _trouble(collector: dict[str, Any]) -> str:
    """The last error with its age: an old one beside a good run is otherwise taken for a present one."""
    if not (error := collector["last_error"]):
        return ""
    return words.harmless(f"{words.relative(datetime.fromisoformat(error['at']))}: {'; '.join(error['errors'])}")


class _WithWait(click.Command):
    """``--wait`` alone waits for ``_WAIT`` seconds; click alone would take the word after it for the number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = [
            f"--wait={_WAIT}" if word == "--wait" and not after.isdigit() else word
            for word, after in pairwise([*args, ""])
        ]
        return super().parse_args(ctx, given)


@common
@with_url
@click.argument("name", shell_complete=collector_names)
@click.option(
    "--wait",
    type=click.IntRange(0, 3600),
    metavar="[SECONDS]",
    help=f"Wait for the run's end, {_WAIT} s unless told; the exit code is then the run's.",
)
@click.option("--reason", help="Kept with the trigger.")
@click.command(cls=_WithWait)
@click.pass_obj
def trigger(options: Options, url: str, name: str, wait: int | None, reason: str | None) -> None:
    """Runs a collector now. With --wait it shows the progress and the result."""
    with told(), daemon(url) as http:
        run = answer(http.post(f"/api/v1/collectors/{name}/runs", json=_body(reason)))
        if wait is not None:
            run = _wait(http, run["id"], wait, options.quiet)
        if options.json:
            tables.print_json(run)
        else:
            click.echo(_result(run))
        late = wait is not None and not run["ended"]
        if late:
            say(f"{run['id']} has not ended within {wait} s; `infra-health runs {run['id']}` shows it", fg="yellow")
        end(Exit.FAILED if late or run.get("outcome") in _FAILURES else Exit.DONE)


@common
@with_url
@click.argument("name", shell_complete=collector_names)
@click.option("--reason", help="Kept with the pause.")
@click.command()
@click.pass_obj
def pause(options: Options, url: str, name: str, reason: str | None) -> None:
    """Suspends a collector's schedule, across restarts, too."""
    _act(options, url, name, "pause", reason)


@common
@with_url
@click.argument("name", shell_complete=collector_names)
@click.option("--reason", help="Kept with the resume.")
@click.command()
@click.pass_obj
def resume(options: Options, url: str, name: str, reason: str | None) -> None:
    """Resumes a collector's schedule; the latest slot that it missed starts at once."""
    _act(options, url, name, "resume", reason)


def _act(options: Options, url: str, name: str, what: str, reason: str | None) -> None:
    with told(), daemon(url) as http:
        collector = answer(http.post(f"/api/v1/collectors/{name}/{what}", json=_body(reason)))
        if options.json:
            tables.print_json(collector)
        else:
            click.echo(f"{name}: {_state(collector)}, next run: {words.ago(collector['next_run'], 'none')}")


def _wait(http: "httpx.Client", run_id: str, seconds: int, quiet: bool) -> dict[str, Any]:
    """The run as it is when it ended or after ``seconds``, with its progress on stderr."""
    began, last = time.monotonic(), ""
    with tables.Progress(quiet=quiet, lines=True) as progress:
        while True:
            run = answer(http.get(f"/api/v1/runs/{run_id}"))
            errors = () if run["ended"] else run["errors"]  # those of an ended run are its result
            said = f"{run_id}: attempt {run['attempts'] or 1} {'; '.join(errors)}".rstrip()
            if said != last:
                progress.tell(words.harmless(said))
                last = said
            if run["ended"] or time.monotonic() - began >= seconds:
                return run
            time.sleep(_POLL)


def _result(run: dict[str, Any]) -> str:
    if "outcome" not in run:
        return f"{run['id']}: started"
    said = [f"{run['id']}: {run['outcome']}"]
    if run["ended"]:
        said[0] += f" in {words.span(run['duration'])}, {run['samples']} samples"
    return words.harmless(": ".join(said + run["errors"]))


def _body(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def _state(collector: dict[str, Any]) -> str:
    if not collector["enabled"]:
        return "disabled"
    return "running" if collector["running"] else "paused" if collector["paused"] else "waiting"
