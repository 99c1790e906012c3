"""Commands that read what a running daemon knows: ``explain``, ``runs``, ``logs``."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from service.cli import output as out
from service.cli.client import quote_part, read_answer, read_pages
from service.cli.options import Exit, Options, command, complete_collector, exit_with, message, with_watch
from service.domain import conditions
from service.domain.runs import Outcome

if TYPE_CHECKING:
    import httpx

_ORDER = {"fail": 0, "unknown": 1, "pass": 2}
_MAX_EVIDENCE = 10
_MAX_LINES = 1000  # that the daemon keeps
_FOLLOW_INTERVAL = 1


@command(asks_daemon=True, example="infra-health explain flaky_tests")
@click.argument("metric", required=False)
@click.option("--collector", metavar="NAME", shell_complete=complete_collector, help="Only this collector's checks.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when one of these checks fails.")
@with_watch
def explain(options: Options, http: "httpx.Client", metric: str | None, collector: str | None, exit_code: bool) -> None:
    """Tells why a check passes or fails: value, condition, since when, and the evidence.

    METRIC is a metric, the last parts of its name (flaky_tests), or a check's name; without it, all that is not well.
    """
    collectors = {each["name"]: each for each in read_answer(http.get("/api/v1/collectors"))["collectors"]}
    known = [
        check
        for name in ([collector] if collector else collectors)
        for check in read_pages(http, f"/api/v1/collectors/{quote_part(name)}/checks", "checks")
    ]
    found = [check for check in known if (_matches(check, metric) if metric else check["status"] != "pass")]
    found.sort(key=lambda check: (_ORDER[check["status"]], check["collector"], check["metric"]))
    if options.json:
        out.print_json(found)
    else:
        for check in found:
            _print_check(check, collectors.get(check["collector"]))
    if not found and metric:
        message(_describe_missing(metric, known), fg="red")
        exit_with(Exit.FAILED)
    if not found and not options.json:
        click.echo(f"All {len(known)} checks pass." if known else "No check was measured yet.")
    if exit_code and any(check["status"] == "fail" for check in found):
        exit_with(Exit.FAILED)


def _read_since(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """The instant that is so long ago."""
    from service.config.fields import read_duration

    try:
        return (datetime.now(UTC) - read_duration(text)).isoformat() if text else None
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error)) from error


@command(asks_daemon=True, example="infra-health runs ci -n 5 --outcome Failed --since 2h")
@click.argument("run", required=False, metavar="[RUN or NAME]", shell_complete=complete_collector)
@click.option("--collector", metavar="NAME", shell_complete=complete_collector, help="Only this collector's runs.")
@click.option(
    "--outcome",
    type=click.Choice([outcome.value for outcome in Outcome], case_sensitive=False),
    metavar="OUTCOME",
    help=f"Only runs that ended so: {', '.join(Outcome)}.",
)
@click.option("--since", metavar="AGE", callback=_read_since, help="Only runs that started since, such as 90s, 2h, 1d.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@with_watch
def runs(
    options: Options,
    http: "httpx.Client",
    run: str | None,
    collector: str | None,
    outcome: str | None,
    since: str | None,
    limit: int,
) -> None:
    """Lists the last runs, newest first; with RUN (an id) that run with its samples and their delivery."""
    if run and not collector:
        run, collector = _tell_apart(http, run)
    if run:
        _print_run(http, options, run)
        return
    asked = {"limit": str(min(limit, 200)), "collector": collector, "outcome": outcome, "since": since}
    query = urlencode({name: value for name, value in asked.items() if value})
    found = read_pages(http, f"/api/v1/runs?{query}", "runs", limit)
    if options.json:
        out.print_json(found)
        return
    columns = ("run", "cause", "started", "took", "outcome", "samples", "delivered", "errors")
    rows = [
        (
            each["id"],
            each["cause"],
            out.format_time(each["started"]),
            out.format_duration(each["duration"]),
            each["outcome"],
            str(each["samples"]),
            str(each["delivery"]["delivered"]),
            "; ".join(each["errors"]),
        )
        for each in found
    ]
    out.print_table("", columns, rows, below=True)


@command(asks_daemon=True, example="infra-health logs ci -f")
@click.argument("run", required=False, metavar="[RUN or NAME]", shell_complete=complete_collector)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines: until the run has ended, else until Ctrl-C.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="Without RUN: how many."
)
def logs(options: Options, http: "httpx.Client", run: str | None, follow: bool, limit: int) -> None:
    """Prints the log lines of a run, debug ones included; of a collector, or without RUN, the daemon's last ones."""
    run, collector = _tell_apart(http, run) if run else (None, None)
    lines = _read_lines(http, run, collector)
    shown = lines if run else lines[-limit:]
    if options.json and not follow:
        out.print_json(shown)
        return
    _print_lines(options, shown)
    with suppress(KeyboardInterrupt):
        is_open = follow
        while is_open:
            # Asked before the lines: those of a run that has ended are complete.
            is_open = not (run and read_answer(http.get(f"/api/v1/runs/{quote_part(run)}"))["ended"])
            before, lines = set(map(json.dumps, lines)), _read_lines(http, run, collector)
            _print_lines(options, [line for line in lines if json.dumps(line) not in before])
            time.sleep(_FOLLOW_INTERVAL if is_open else 0)
    if not lines:
        message("No lines are kept of it.")


def _read_lines(http: "httpx.Client", run: str | None, collector: str | None) -> list[dict[str, Any]]:
    """The lines that are kept of a run, of a collector or of all."""
    address = f"/api/v1/runs/{quote_part(run)}/log" if run else f"/api/v1/log?limit={_MAX_LINES}"
    lines: list[dict[str, Any]] = read_answer(http.get(address))["lines"]
    return [line for line in lines if collector in (None, line["fields"].get("collector"))]


def _print_lines(options: Options, lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        click.echo(json.dumps(line, ensure_ascii=True) if options.json else out.format_log_line(line))


def _tell_apart(http: "httpx.Client", word: str) -> tuple[str | None, str | None]:
    """The run or the collector that ``word`` names."""
    names = [each["name"] for each in read_answer(http.get("/api/v1/collectors"))["collectors"]]
    return (None, word) if word in names else (word, None)


def _print_run(http: "httpx.Client", options: Options, run_id: str) -> None:
    address = f"/api/v1/runs/{quote_part(run_id)}"
    run = read_answer(http.get(address))
    samples = read_pages(http, f"{address}/samples?limit=1000", "samples")
    if options.json:
        out.print_json({**run, "sent": samples})
        return
    click.echo(f"{run['id']}: {run['outcome']}, cause {run['cause']}, attempts {run['attempts']}")
    took = out.format_duration(run["duration"]) or "... it is under way"
    click.echo(f"  started {out.format_time(run['started'])}, took {took}")
    for error in run["errors"]:
        click.echo(f"  {out.escape(error)}")
    out.print_samples("", samples)


def _print_check(check: dict[str, Any], collector: dict[str, Any] | None) -> None:
    style = {"fail": "red", "pass": "green"}.get(check["status"], "yellow")
    click.secho(f"{check['status'].upper():<8}", fg=style, bold=True, nl=False)
    click.echo(out.escape(f"{check['metric'] or check['tags'].get('check', '')} ({out.format_check(check['tags'])})"))
    click.echo(out.escape(f"  why       {check['why']}, since {out.format_time(check['since'])}"))
    if check["status"] != "unknown":
        condition = conditions.parse(check["condition"])
        is_by_condition = condition is not None and condition.status(check["value"]) == check["status"]
        click.echo(
            f"  verdict   {'as its condition says' if is_by_condition else 'of its source, not of its condition'}"
        )
    if check["help"]:
        click.echo(f"  is        {check['help']}")
    if check["measured_at"]:
        click.echo(f"  measured  {out.format_time(check['measured_at'])} by collector {check['collector']}")
    evidence = check["evidence"]
    for number, each in enumerate(evidence[:_MAX_EVIDENCE]):
        # A scheduled run is titled as its workflow.
        parts = dict.fromkeys(part for part in (each["conclusion"], each["workflow"], each["title"]) if part)
        line = f"{' '.join(parts)} {out.format_time(each['at'], '')} {each['url']}".rstrip()
        click.echo(out.escape(f"  {'' if number else 'evidence':<8}  {line}"))
    if len(evidence) > _MAX_EVIDENCE:
        click.echo(f"  {'':<8}  and {len(evidence) - _MAX_EVIDENCE} more (--json shows all)")
    if collector:
        last = (collector["last_run"] or {}).get("id", "none yet")
        click.echo(f"  last run  {last}; next run {out.format_time(collector['next_run'], 'none')}")


def _matches(check: dict[str, Any], asked: str) -> bool:
    return asked in (check["metric"], check["tags"].get("check")) or check["metric"].endswith(f".{asked}")


def _describe_missing(metric: str, known: list[dict[str, Any]]) -> str:
    names = {check["metric"].rpartition(".")[2]: check["metric"] for check in known if check["metric"]}
    near = get_close_matches(metric.rpartition(".")[2], names, n=3) or sorted(names)[:10]
    return f"No check has a metric {metric!r}. There is: {', '.join(names[name] for name in near) or 'none yet'}"
