"""Commands that read what a running daemon knows: ``explain``, ``runs``, ``logs``."""

import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from service.cli import tables, words
from service.cli.client import answer, daemon, with_url
from service.cli.completion import collector_names
from service.cli.options import Exit, Options, common, end, say, told

if TYPE_CHECKING:
    import httpx

_ORDER = {"fail": 0, "unknown": 1, "pass": 2}
_SHOWN_EVIDENCE = 10


@common
@with_url
@click.argument("metric", required=False)
@click.option("--collector", metavar="NAME", shell_complete=collector_names, help="Only this collector's checks.")
@click.command()
@click.pass_obj
def explain(options: Options, url: str, metric: str | None, collector: str | None) -> None:
    """Why a check says what it says: value, condition, since when, and the evidence.

    METRIC is a metric, the last parts of its name (flaky_tests), or a check's name; without it, all that is not well.
    """
    with told(), daemon(url) as http:
        collectors = {each["name"]: each for each in answer(http.get("/api/v1/collectors"))["collectors"]}
        names = [collector] if collector else list(collectors)
        known = [
            check for name in names for check in _pages(http, f"/api/v1/collectors/{_safe(name)}/checks", "checks")
        ]
        found = [check for check in known if (_is_meant(check, metric) if metric else check["status"] != "pass")]
        found.sort(key=lambda check: (_ORDER[check["status"]], check["collector"], check["metric"]))
        if options.json:
            tables.print_json(found)
        else:
            for check in found:
                _print_check(check, collectors.get(check["collector"]))
        if not found and metric:
            say(_not_found(metric, known), fg="red")
            end(Exit.FAILED)
        if not found and not options.json:
            click.echo(f"All {len(known)} checks pass." if known else "No check was measured yet.")


@common
@with_url
@click.argument("run", required=False)
@click.option("--collector", metavar="NAME", shell_complete=collector_names, help="Only this collector's runs.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="So many, newest first.")
@click.command()
@click.pass_obj
def runs(options: Options, url: str, run: str | None, collector: str | None, limit: int) -> None:
    """The last runs; with RUN (an id) that run with its samples and what became of them.

    A collector's name in the place of RUN is as --collector NAME.
    """
    with told(), daemon(url) as http:
        if run and not collector and run in _names(http):
            run, collector = None, run
        if run:
            _show_run(http, options, run)
            return
        only = f"&collector={_safe(collector)}" if collector else ""
        found = _pages(http, f"/api/v1/runs?limit={min(limit, 200)}{only}", "runs", limit)
        if options.json:
            tables.print_json(found)
            return
        brief = not tables.is_plain(sys.stdout)
        tables.print_table(
            "",
            ("run", "cause", "started", "took", "outcome", "samples", "delivered", "errors"),
            [
                (
                    each["id"],
                    each["cause"],
                    words.ago(each["started"], brief=brief),
                    words.span(each["duration"]),
                    each["outcome"],
                    str(each["samples"]),
                    str(each["delivery"]["delivered"]),
                    words.harmless("; ".join(each["errors"])),
                )
                for each in found
            ],
            below=True,
        )


@common
@with_url
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="Without RUN: so many.")
@click.command()
@click.pass_obj
def logs(options: Options, url: str, run: str | None, limit: int) -> None:
    """The log lines of a run, debug ones included; without RUN the daemon's last ones."""
    with told(), daemon(url) as http:
        address = f"/api/v1/runs/{_safe(run)}/log" if run else f"/api/v1/log?limit={limit}"
        lines = answer(http.get(address))["lines"]
        if options.json:
            tables.print_json(lines)
            return
        for line in lines:
            click.echo(words.log_line(line))
        if not lines:
            say("No lines are kept of it.")


def _names(http: "httpx.Client") -> list[str]:
    return [each["name"] for each in answer(http.get("/api/v1/collectors"))["collectors"]]


def _show_run(http: "httpx.Client", options: Options, run_id: str) -> None:
    address = f"/api/v1/runs/{_safe(run_id)}"
    run = answer(http.get(address))
    samples = _pages(http, f"{address}/samples?limit=1000", "samples")
    if options.json:
        tables.print_json({**run, "sent": samples})
        return
    click.echo(f"{run['id']}: {run['outcome']}, cause {run['cause']}, attempts {run['attempts']}")
    click.echo(f"  started {words.ago(run['started'])}, took {words.span(run['duration']) or '... it is under way'}")
    for error in run["errors"]:
        click.echo(f"  {words.harmless(error)}")
    tables.print_table(
        "",
        ("metric", "value", "condition", "status", "about", "delivery"),
        [
            (
                each["metric"],
                words.number(each["value"]),
                each["tags"].get("condition", ""),
                each["tags"].get("status", ""),
                words.about(each["tags"]),
                f"{each['delivery']} {each['reason']}".strip(),
            )
            for each in samples
        ],
    )


def _print_check(check: dict[str, Any], collector: dict[str, Any] | None) -> None:
    style = {"fail": "red", "pass": "green"}.get(check["status"], "yellow")
    click.secho(f"{check['status'].upper():<8}", fg=style, bold=True, nl=False)
    click.echo(words.harmless(f"{check['metric'] or check['tags'].get('check', '')} ({words.about(check['tags'])})"))
    click.echo(words.harmless(f"  why       {check['why']}, since {words.ago(check['since'])}"))
    if check["help"]:
        click.echo(f"  is        {check['help']}")
    if check["measured_at"]:
        click.echo(f"  measured  {words.ago(check['measured_at'])} by collector {check['collector']}")
    evidence = check["evidence"]
    for number, each in enumerate(evidence[:_SHOWN_EVIDENCE]):
        # A scheduled run is titled as its workflow.
        said = " ".join(dict.fromkeys(part for part in (each["conclusion"], each["workflow"], each["title"]) if part))
        when = words.ago(each["at"], "")
        click.echo(words.harmless(f"  {'' if number else 'evidence':<8}  {said} {when} {each['url']}".rstrip()))
    if len(evidence) > _SHOWN_EVIDENCE:
        click.echo(f"  {'':<8}  and {len(evidence) - _SHOWN_EVIDENCE} more (--json shows all)")
    if collector:
        last = (collector["last_run"] or {}).get("id", "none yet")
        click.echo(f"  last run  {last}; next run {words.ago(collector['next_run'], 'none')}")


def _is_meant(check: dict[str, Any], asked: str) -> bool:
    return asked in (check["metric"], check["tags"].get("check")) or check["metric"].endswith(f".{asked}")


def _not_found(metric: str, known: list[dict[str, Any]]) -> str:
    names = {check["metric"].rpartition(".")[2]: check["metric"] for check in known if check["metric"]}
    near = get_close_matches(metric.rpartition(".")[2], names, n=3) or sorted(names)[:10]
    return f"No check has a metric {metric!r}. There is: {', '.join(names[name] for name in near) or 'none yet'}"


def _pages(http: "httpx.Client", address: str, key: str, most: int = 1_000_000) -> list[dict[str, Any]]:
    """All items of a list, over its pages."""
    found: list[dict[str, Any]] = []
    following: str | None = address
    # The address comes out of an answer: only this daemon's own API is asked.
    while following and following.startswith("/api/") and len(found) < most:
        page = answer(http.get(following))
        found += page[key]
        following = page["next"]
    return found[:most]


def _safe(part: str) -> str:
    return quote(part, safe="")
