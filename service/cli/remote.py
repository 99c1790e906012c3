"""Commands that talk to a running daemon: ``status``, ``trigger``, ``pause``, ``resume``."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from service.cli import tables
from service.cli.options import Command, Exit, Options, common, end, say, told

if TYPE_CHECKING:
    import httpx

_DEFAULT_URL = "http://127.0.0.1:8080"
_FAILURES = ("Failed", "BackoffLimitExceeded", "DeadlineExceeded", "Interrupted")


def _with_url(command: Command) -> Command:
    return click.option(
        "--url",
        default=lambda: os.environ.get("INFRA_HEALTH_URL") or _DEFAULT_URL,
        show_default=f"INFRA_HEALTH_URL, else {_DEFAULT_URL}",
        help="The daemon's address. Write calls send INFRA_HEALTH_TOKEN.",
    )(command)


@common
@_with_url
@click.option("--probe", is_flag=True, help="Only whether the daemon lives: exit code 0 or 1, for health checks.")
@click.command()
@click.pass_obj
def status(options: Options, url: str, probe: bool) -> None:
    """What the daemon does: collectors, their last and next runs, and the delivery."""
    with told(), _daemon(url) as http:
        if probe:
            alive = http.get("/livez")
            say(alive.json().get("status", alive.reason_phrase))
            end(Exit.DONE if alive.is_success else Exit.FAILED)
        collectors = _answer(http.get("/api/v1/collectors"))["collectors"]
        ready = http.get("/readyz").json()
        if options.json:
            tables.print_json({"collectors": collectors, "ready": ready})
            return
        tables.print_table(
            "",
            ("collector", "state", "schedule", "last run", "outcome", "next run", "last error"),
            [
                (
                    each["name"],
                    _state(each),
                    each["schedule"],
                    (each["last_run"] or {}).get("started") or "never",
                    (each["last_run"] or {}).get("outcome") or "",
                    each["next_run"] or "",
                    "; ".join((each["last_error"] or {}).get("errors", ())),
                )
                for each in collectors
            ],
        )
        for each in ready.get("checks", ()):
            if each["status"] != "ok":
                say(f"{each['name']}: {each['status']}: {each['detail']}", fg="yellow")


@common
@_with_url
@click.argument("name")
@click.option("--wait", type=click.IntRange(0, 3600), metavar="SECONDS", help="Wait so long for the run's end.")
@click.option("--reason", help="Kept with the trigger.")
@click.command()
@click.pass_obj
def trigger(options: Options, url: str, name: str, wait: int | None, reason: str | None) -> None:
    """Runs a collector now. With --wait the exit code is the run's."""
    with told(), _daemon(url) as http:
        run = _answer(http.post(f"/api/v1/collectors/{name}/runs", json=_body(reason)))
        if wait is not None:
            run = _wait(http, run["id"], wait)
        if options.json:
            tables.print_json(run)
        else:
            errors = "; ".join(run.get("errors", ()))
            click.echo(f"{run['id']}: {run.get('outcome', 'started')}" + (f": {errors}" if errors else ""))
        end(Exit.FAILED if run.get("outcome") in _FAILURES else Exit.DONE)


@common
@_with_url
@click.argument("name")
@click.option("--reason", help="Kept with the pause.")
@click.command()
@click.pass_obj
def pause(options: Options, url: str, name: str, reason: str | None) -> None:
    """Suspends a collector's schedule, across restarts, too."""
    _act(options, url, name, "pause", reason)


@common
@_with_url
@click.argument("name")
@click.option("--reason", help="Kept with the resume.")
@click.command()
@click.pass_obj
def resume(options: Options, url: str, name: str, reason: str | None) -> None:
    """Resumes a collector's schedule; the latest slot that it missed starts at once."""
    _act(options, url, name, "resume", reason)


def _act(options: Options, url: str, name: str, what: str, reason: str | None) -> None:
    with told(), _daemon(url) as http:
        collector = _answer(http.post(f"/api/v1/collectors/{name}/{what}", json=_body(reason)))
        if options.json:
            tables.print_json(collector)
        else:
            click.echo(f"{name}: {_state(collector)}")


@contextmanager
def _daemon(url: str) -> "Iterator[httpx.Client]":
    """A client for the daemon. Raises Unavailable when it does not answer, ConfigError when the address is none."""
    import httpx

    from service.domain.errors import ConfigError, Unavailable

    token = os.environ.get("INFRA_HEALTH_TOKEN")
    headers = {"X-Actor": os.environ.get("USER", "")} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with httpx.Client(base_url=url, timeout=15, headers=headers) as http:
            yield http
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ConfigError(f"{url}: {error}") from error
    except (httpx.TransportError, ValueError) as error:
        raise Unavailable(f"no infra-health daemon answers at {url}: {error}; --url says where it is") from error


def _answer(response: "httpx.Response") -> dict[str, Any]:
    """The body. Raises Rejected with what the daemon says."""
    from service.domain.errors import Rejected

    body: dict[str, Any] = response.json()
    if response.is_error:
        raise Rejected(body.get("detail") or body.get("title") or response.reason_phrase)
    return body


def _wait(http: "httpx.Client", run_id: str, seconds: int) -> dict[str, Any]:
    """The run as it is when it ended or after ``seconds``."""
    deadline = time.monotonic() + seconds
    with tables.Progress() as progress:
        while True:
            run = _answer(http.get(f"/api/v1/runs/{run_id}"))
            if run["ended"] or time.monotonic() >= deadline:
                return run
            progress.tell(f"{run_id}: attempt {run['attempts']} {'; '.join(run['errors'])}")
            time.sleep(0.5)


def _body(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def _state(collector: dict[str, Any]) -> str:
    if not collector["enabled"]:
        return "disabled"
    return "running" if collector["running"] else "paused" if collector["paused"] else "waiting"
