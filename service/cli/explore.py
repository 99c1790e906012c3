"""Commands that read what a running daemon knows: ``explain``, ``runs``, ``logs``."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import click

from service.cli import output as out
from service.cli.client import Daemon
from service.cli.options import WATCH, Options, command, complete_collector, message, read_with
from service.domain.runs import Outcome

_ORDER = ("fail", "unknown", "pass")
_MAX_EVIDENCE = 10
_MAX_LINES = 1000  # that the daemon keeps
_FOLLOW_INTERVAL = 1


@command(asks_daemon=True, example="infra-health explain flaky_tests")
@click.argument("metric", required=False)
@click.option("--collector", metavar="NAME", shell_complete=complete_collector, help="Only this collector's checks.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when one of these checks fails.")
@WATCH
def explain(options: Options, daemon: Daemon, metric: str | None, collector: str | None, exit_code: bool) -> bool:
    """METRIC is a metric, the last parts of its name (flaky_tests), or a check's name, task, workflow or collector.

    Without it: all that is not well.
    """
    collectors = {each["name"]: each for each in daemon.collectors()}
    names = [collector] if collector else collectors
    known = [check for name in names for check in daemon.pages("collectors", name, "checks", key="checks", limit=1000)]
    found = [check for check in known if (_is_named(check, metric) if metric else check["status"] != "pass")]
    found.sort(key=lambda check: (_ORDER.index(check["status"]), check["collector"], check["metric"]))

    def print_checks() -> None:
        for check in found:
            _print_check(check, collectors.get(check["collector"], {}))
        if not found and not metric:
            has_run = any((each["last_run"] or {}).get("ended") for each in collectors.values())
            why = "no run has brought one (`infra-health runs`)" if has_run else "no run has ended"
            all_pass = "The one check passes." if len(known) == 1 else f"All {len(known)} checks pass."
            click.echo(all_pass if known else f"No check was measured yet: {why}.")
        for name in () if metric else names:
            _print_left_out(collectors.get(name, {}))

    options.show(found, print_checks)
    if metric and not found:
        message(_describe_missing(metric, known), "red")
        return False
    return not exit_code or all(check["status"] != "fail" for check in found)


def _print_left_out(collector: dict[str, Any]) -> None:
    """What the collector's last run did not bring."""
    run = collector.get("last_run") or {}
    for error in run.get("errors", ())[:_MAX_EVIDENCE] if run.get("ended") else ():
        out.print_wrapped(click.style(f"{run['outcome']:<7} ", "yellow", bold=True), f"{run['id']}: {error}")


_NAMING = ("check", "task", "workflow_name")


def _is_named(check: dict[str, Any], name: str) -> bool:
    names = check["metric"], check["collector"], *(check["tags"].get(tag) for tag in _NAMING)
    return name in names or check["metric"].endswith(f".{name}")


def _describe_missing(metric: str, known: Sequence[dict[str, Any]]) -> str:
    names = {check["metric"].rpartition(".")[2]: check["metric"] for check in known if check["metric"]}
    near = get_close_matches(metric.rpartition(".")[2], names, n=3) or sorted(names)[:10]
    return f"No check has a metric {metric!r}. There is: {', '.join(names[name] for name in near) or 'none yet'}"


def _print_check(check: dict[str, Any], collector: dict[str, Any]) -> None:
    out.print_wrapped(
        click.style(f"{check['status'].upper():<8}", out.COLOURS[check["status"]], bold=True), check["summary"]
    )
    title = f"{check['metric'] or check['tags'].get('check', '')} ({out.format_check(check['tags'])})"
    why = "" if check["why"] in check["summary"] else f"{check['why']}, "
    lines = [("check", title), ("why", f"{why}{check['status']} since {out.format_time(check['since'])}")]
    if check["status"] != "unknown":
        is_foreign = check["why"].startswith("the source says")
        lines.append(("verdict", "of its source, not of its condition" if is_foreign else "as its condition says"))
    if check["help"] and not check["summary"].startswith(check["help"].partition(";")[0]):
        lines.append(("is", check["help"]))
    if check["measured_at"]:
        lines.append(("measured", f"{out.format_time(check['measured_at'])} by collector {check['collector']}"))
    lines += [("evidence", _describe_evidence(each)) for each in check["evidence"][:_MAX_EVIDENCE]]
    if more := len(check["evidence"][_MAX_EVIDENCE:]):
        lines.append(("evidence", f"and {more} more (--json shows all)"))
    if collector:
        last = (collector["last_run"] or {}).get("id", "none yet")
        lines.append(("last run", f"{last}; next run {out.format_time(collector['next_run'], 'none')}"))
    before = ""
    for label, text in lines:
        out.print_wrapped(f"  {'' if label == before else label:<8}  ", text)
        before = label


def _describe_evidence(evidence: dict[str, Any]) -> str:
    # A scheduled run is titled as its workflow.
    parts = dict.fromkeys(evidence[name] for name in ("conclusion", "workflow", "title"))
    note = f"{evidence['note']}:" if evidence["note"] else ""
    commit = f"commit {evidence['commit'][:7]}" if evidence["commit"] else ""
    author = f"by {evidence['author']}" if evidence["author"] else ""
    return " ".join(filter(None, (note, *parts, commit, author, out.format_time(evidence["at"], ""), evidence["url"])))


def _read_since(text: str) -> str:
    """The instant that is so long ago."""
    from service.config.fields import read_duration

    return (datetime.now(UTC) - read_duration(text)).isoformat()


@command(asks_daemon=True, example="infra-health runs ci -n 5 --outcome Failed --since 2h")
@click.argument("run", required=False, metavar="[RUN or NAME]", shell_complete=complete_collector)
@click.option("--collector", metavar="NAME", shell_complete=complete_collector, help="Only this collector's runs.")
@click.option(
    "--outcome",
    type=click.Choice([outcome.value for outcome in Outcome], case_sensitive=False),
    metavar="OUTCOME",
    help=f"Only runs that ended so: {', '.join(Outcome)}.",
)
@click.option(
    "--since", metavar="AGE", callback=read_with(_read_since), help="Only runs that started since, such as 90s, 2h, 1d."
)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@WATCH
def runs(
    options: Options,
    daemon: Daemon,
    run: str | None,
    collector: str | None,
    outcome: str | None,
    since: str | None,
    limit: int,
) -> None:
    """The newest comes first; RUN is an id."""
    if run and not collector:
        run, collector = _tell_apart(daemon, run)
    if run:
        _show_run(options, daemon, run)
        return
    query = {"collector": collector, "outcome": outcome, "since": since, "limit": min(limit, 200)}
    found = daemon.pages("runs", key="runs", most=limit, **query)
    options.show(found, lambda: _print_runs(found))
    if not found:
        message("No run is kept that fits.")


def _print_runs(found: Sequence[dict[str, Any]]) -> None:
    rows = [
        {
            "run": each["id"],
            "cause": each["cause"],
            "started": out.format_time(each["started"]),
            "took": out.format_duration(each["duration"]),
            "outcome": each["outcome"],
            "samples": f"{each['samples']:,}",
            "delivered": f"{each['delivery']['delivered']:,}",
            "errors": "; ".join(each["errors"]),
        }
        for each in found
    ]
    out.print_table(rows, below="errors", optional=("cause", "delivered", "samples", "took"))


def _show_run(options: Options, daemon: Daemon, run_id: str) -> None:
    run = daemon.get("runs", run_id)
    samples = daemon.pages("runs", run_id, "samples", key="samples", limit=1000)

    def print_run() -> None:
        click.echo(f"{run['id']}: {run['outcome']}, cause {run['cause']}, attempts {run['attempts']}")
        took = out.format_duration(run["duration"]) or "... it is under way"
        where = f", by {run['replica']}" if run["replica"] else ""
        click.echo(f"  started {out.format_time(run['started'])}, took {took}{where}")
        for error in run["errors"]:
            out.print_wrapped("  ", error)
        out.print_samples(samples)

    options.show({**run, "sent": samples}, print_run)


@command(asks_daemon=True, example="infra-health logs ci -f")
@click.argument("run", required=False, metavar="[RUN or NAME]", shell_complete=complete_collector)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines: until the run has ended, else until Ctrl-C.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="Without RUN: how many."
)
def logs(options: Options, daemon: Daemon, run: str | None, follow: bool, limit: int) -> None:
    """Those of a run include debug lines."""
    run, collector = _tell_apart(daemon, run) if run else (None, None)

    def read() -> list[dict[str, Any]]:
        answer = daemon.get("runs", run, "log") if run else daemon.get("log", limit=_MAX_LINES)
        return [line for line in answer["lines"] if collector in (None, line["fields"].get("collector"))]

    lines = read()
    shown = lines if run else lines[-limit:]
    if options.json and not follow:
        click.echo(out.to_json(shown))
    else:
        _print_lines(options, shown)
    with suppress(KeyboardInterrupt):
        while follow:
            # Asked before the lines: those of a run that has ended are complete.
            follow = not (run and daemon.get("runs", run)["ended"])
            before, lines = set(map(json.dumps, lines)), read()
            _print_lines(options, [line for line in lines if json.dumps(line) not in before])
            time.sleep(_FOLLOW_INTERVAL if follow else 0)
    if not lines:
        message("No lines are kept of it.")


def _print_lines(options: Options, lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        click.echo(json.dumps(line) if options.json else out.format_log_line(line))


def _tell_apart(daemon: Daemon, word: str) -> tuple[str | None, str | None]:
    """The run or the collector that ``word`` names; it may be configured no more. Raises Rejected."""
    from service.domain.runs import RUN_ID

    if RUN_ID.fullmatch(word):
        return word, None
    daemon.get("runs", collector=word, limit=1)  # refused where there is neither such a collector nor a run of it
    return None, word
