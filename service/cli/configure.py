"""Commands for who sets things up: ``list``, ``check``, ``diagnose``, ``list-workflows``, ``webhook``, ``publish``."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli import output as out
from service.cli.options import Options, command, message, read_input, read_with
from service.cli.schedule import find_fires
from service.domain import cron
from service.domain.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    import httpx

    from service.config.settings import CollectorSettings, Settings

_PING = b'{"zen": "infra-health webhook test"}'


@command("list", example="infra-health list --json")
def list_(options: Options) -> None:
    found = [_describe_schedule(name, each, 1) for name, each in options.load().settings.collectors.items()]
    rows = [
        {
            "collector": each["name"],
            "type": each["type"],
            "schedule": each["schedule"],
            "in words": each["in_words"],
            "next run": out.format_time(next(iter(each["next"]), None), "disabled"),
        }
        for each in found
    ]
    options.show(found, lambda: out.print_table(rows, optional=("in words",)))


def _describe_schedule(name: str, settings: "CollectorSettings", count: int) -> dict[str, Any]:
    schedule = cron.parse(settings.schedule)
    fires = find_fires(schedule, settings.time_zone, datetime.now(UTC), count if settings.enabled else 0)
    return {
        "name": name,
        "type": settings.type,
        "schedule": settings.schedule,
        "in_words": schedule.describe(),
        "time_zone": str(settings.time_zone),
        "enabled": settings.enabled,
        "next": [fire.isoformat(timespec="seconds") for fire in fires],
    }


@command(example="infra-health check --resolved")
@click.option("--resolved", is_flag=True, help="Print every setting as resolved, secrets masked.")
async def check(options: Options, resolved: bool) -> None:
    from service.config.clients import check_environment
    from service.config.settings import describe
    from service.daemon import read_store
    from service.daemon.series_forecast import find_collisions, forecast_series

    loaded, now = options.open("error"), datetime.now(UTC)
    settings = loaded.settings
    if problems := check_environment(options.environ()):
        raise ConfigError("\n".join(problems))
    if url := settings.store.url:
        from service.store.engine import open_server

        open_server(url.get_secret_value())  # asks nothing of it: it tells whether the address can be one
    enabled = {name: each for name, each in settings.collectors.items() if each.enabled}
    waiting = [name for name, each in enabled.items() if getattr(each, "source", "elsewhere") is None]
    unread: str | None = None
    async with AsyncExitStack() as opened:
        store = None
        if not settings.store.url:  # a server may be away
            # Whether a configuration is right depends on no store, which may be that of the version before.
            try:
                store = await opened.enter_async_context(read_store(settings))
            except Unavailable as error:
                unread = f"stored runs are not counted: {error}"
        series = await forecast_series(settings, store, now)
        waiting = [name for name in waiting if not (store and await store.states.pushes(name))]
    secrets = await _look_up_secrets(settings, options.environ())
    collectors = [_describe_schedule(name, each, 3) for name, each in settings.collectors.items()]
    warnings = [*loaded.warnings, *find_collisions(settings), *filter(None, [series.warning, unread])]
    warnings += [
        f"collectors.{name} has no source: it is waiting for a first push (or name a source)" for name in waiting
    ]
    if (key := settings.datadog.api_key) and re.fullmatch("[0-9a-f]{40}", key.get_secret_value()):
        warnings.append(
            "datadog.api_key is as long as an application key: DD_API_KEY takes the other, of 32 characters"
        )
    # Of github_ci; named here, so that its type need not be.
    looks = {name: count for name, each in enabled.items() if (count := getattr(each, "looks_an_hour", 0))}

    def print_text() -> None:
        click.secho("The configuration is valid.", fg="green")
        click.echo(f"file: {loaded.file or 'none: defaults and environment'}")
        _print_section("collectors and their next runs", map(_format_schedule, collectors))
        for name, count in looks.items():
            click.echo(f"  {name} watches: {count} looks an hour, each of which may cost a point of GitHub's quota")
        click.echo()
        out.print_wrapped("series: ", str(series))
        for metric in series.metrics if resolved else ():
            click.echo(f"  {metric}")
        _print_section("secrets", map(_format_secret, secrets))
        _print_section("warnings", warnings)
        if resolved:
            import yaml

            click.echo("\n" + yaml.safe_dump(describe(settings), sort_keys=False, allow_unicode=True).rstrip())

    found = {
        "file": str(loaded.file) if loaded.file else None,
        "settings": describe(settings),
        "next": {each["name"]: each["next"] for each in collectors},
        "looks_an_hour": looks,
        "series": series.as_json(),
        "secrets": secrets,
        "notes": warnings,
    }
    options.show(found, print_text)


async def _look_up_secrets(settings: "Settings", environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Which source gives each secret, as a look-up says now; never a value."""
    import anyio

    from service.config.secrets import credentials, from_environment

    known = list(credentials(settings, environ))
    named = {getattr(each, "token_env", None) for each in settings.collectors.values()}
    known += [from_environment(name, environ) for name in sorted(filter(None, named))]
    for each in settings.collectors.values():
        known += getattr(each, "open_secrets", dict)().values()
    async with anyio.create_task_group() as tasks:
        for secret in known:
            tasks.start_soon(secret.get)
    return [
        {"name": secret.title, "source": secret.source, "can_change": secret.can_change, "trouble": secret.trouble}
        for secret in known
    ]


def _format_schedule(collector: Mapping[str, Any]) -> str:
    next_runs = ", ".join(map(out.format_time, collector["next"])) or "disabled"
    return f"{collector['name']} ({collector['type']}, {collector['in_words']}): {next_runs}"


def _format_secret(secret: Mapping[str, Any]) -> str:
    if secret["trouble"]:
        note = secret["trouble"]
    elif secret["can_change"]:
        note = "a new value is taken over while the daemon runs"
    elif secret["source"] == "nowhere":
        note = "not set"
    else:
        note = "can't change while the daemon runs: rotating it needs a restart"
    return f"{secret['name']}: {secret['source']} ({note})"


def _print_section(title: str, lines: Iterable[str]) -> None:
    for number, line in enumerate(lines):
        if not number:
            click.echo(f"\n{title}")
        out.print_wrapped("  ", line)


@command(example="infra-health diagnose")
async def diagnose(options: Options) -> bool:
    """It looks at the clock and the state directory, too. One line each, with the remedy."""
    from service.daemon.diagnosis import diagnose as find_problems

    findings = await find_problems(options.open("error").settings, options.environ())

    def print_findings() -> None:
        width = max(len(each.name) for each in findings) + 1
        for each in findings:
            status = click.style(f"{each.status:<5}", out.COLOURS[each.status])
            remedy = f". Remedy: {each.remedy}" if each.remedy else ""
            out.print_wrapped(f"{each.name:<{width}}{status}", " ".join(f"{each.detail}{remedy}".split()))

    options.show([asdict(each) for each in findings], print_findings)
    return all(each.status != "fail" for each in findings)


def _read_repository(name: str) -> str:
    from service.collectors.github_ci.settings import check_repository

    return check_repository(name)


@command("list-workflows", example="infra-health list-workflows --repo Metta-AI/metta")
@click.option(
    "--repo",
    metavar="OWNER/NAME",
    callback=read_with(_read_repository),
    help="Else the repositories of the configured github_ci collectors.",
)
async def list_workflows(options: Options, repo: str | None) -> None:
    """The lists are tests_blocking_merge and benchmarks."""
    from service.collectors.github_ci import GithubCiSettings, list_workflows
    from service.daemon.wiring import open_clients

    settings = options.open("warning").settings
    collectors = [each for each in settings.collectors.values() if isinstance(each, GithubCiSettings)]
    names = [repo] if repo else sorted({name for each in collectors for name in each.all_repositories})
    if not names:
        raise ConfigError("no github_ci collector is configured; name a repository with --repo OWNER/NAME")
    async with open_clients(settings, options.environ()) as clients:
        found = [(name, each) for name in names for each in await list_workflows(clients.github, name)]
    rows = [
        {"repository": name, "id": str(each.id), "name": each.name, "file": each.path, "state": each.state}
        for name, each in found
    ]
    answer = [
        {"repo": name, "id": each.id, "name": each.name, "path": each.path, "state": each.state} for name, each in found
    ]
    options.show(answer, lambda: out.print_table(rows, optional=("state", "id", "repository")))


@click.group(help="docs/webhooks.md says how to set it up.\n\n\b\nExample: infra-health webhook test")
def webhook() -> None: ...


@command(group=webhook, example="infra-health webhook test")
async def test(options: Options) -> bool:
    """Posts a signed ping to http.public_url, as GitHub does, and says what is wrong.

    Whether GitHub itself gets there, only GitHub can tell: Settings, Webhooks, Recent Deliveries.
    """
    import httpx

    from service.config.clients import sync_http_client
    from service.config.secrets import credentials

    settings, environ = options.open("warning").settings, options.environ()
    if settings.http.public_url is None:
        raise ConfigError("http.public_url is not set: it is the address that GitHub delivers to")
    known = credentials(settings, environ).webhook_secret
    keys = [key.strip() for key in (await known.get() or "").split(",") if key.strip()]
    if not keys:
        raise ConfigError(known.missing)
    url = f"{settings.http.public_url.rstrip('/')}/api/v1/webhooks/github"
    try:
        with sync_http_client(environ, base_url=url) as http:
            answers = [http.post(url, content=_PING, headers=_sign(key)) for key in keys]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"no connection to {url}: {error}") from error
    troubles = [trouble for answer in answers if (trouble := _find_trouble(answer))]
    done = "" if troubles else f"{url}: the ping was taken" + (", with either secret" if len(keys) > 1 else "")
    found = {"url": url, "statuses": [each.status_code for each in answers], "troubles": troubles}
    options.show(found, lambda: click.echo(done, nl=bool(done)))
    for text in troubles:
        message(f"{url}: {text}", "red")
    return not troubles


def _sign(key: str) -> dict[str, str]:
    signature = hmac.new(key.encode(), _PING, hashlib.sha256).hexdigest()
    signed = {"X-GitHub-Event": "ping", "X-Hub-Signature-256": f"sha256={signature}"}
    return {"Content-Type": "application/json", **signed}


def _find_trouble(answer: "httpx.Response") -> str:
    """What is wrong, with the remedy; empty where all is well."""
    is_ours = answer.headers.get("content-type", "").startswith("application/problem+json")
    match answer.status_code:
        case 200 if not answer.content:
            return ""
        case 401 if is_ours:
            return "401, the daemon there has another secret; is GITHUB_WEBHOOK_SECRET the same here and there?"
        case 404 if is_ours:
            return "404, the daemon there has no secret; set GITHUB_WEBHOOK_SECRET for it, too"
        case 301 | 302 | 307 | 308:
            return f"{answer.status_code}, redirected to {answer.headers.get('location')}; GitHub follows no redirect"
        case status:
            what = "the daemon" if is_ours else "something before the daemon (an Ingress, a login, a proxy)"
            return f"{status} by {what}; let POST to this one path through (docs/webhooks.md)"


@command(example="infra-health publish results.json --to s3://bucket/training.json")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option(
    "--to",
    metavar="PATH|s3://...|http(s)://...",
    help="Where the collector reads: a file, a directory, an S3 object or prefix, an address, or the daemon's "
    "/api/v1/collectors/NAME/snapshots.",
)
@click.option(
    "--token-env",
    metavar="NAME",
    help="Variable that holds the bearer token of an http(s) address; for a daemon INFRA_HEALTH_TOKEN.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a snapshot; nothing is published.")
def publish(options: Options, files: tuple[str, ...], to: str | None, token_env: str | None, schema: bool) -> None:
    """It is published whole or not at all.

    The records of several FILEs become one snapshot; - is standard input.
    """
    from service.publish import join_snapshots, snapshot_schema
    from service.publish import publish as publish_snapshot

    if schema:
        click.echo(out.to_json(snapshot_schema()))
        return
    if not files or not to:
        raise click.UsageError("name a FILE, or - for standard input, and --to; or --schema")
    bodies = {name: read_input(name) for name in files}
    body = next(iter(bodies.values())) if len(bodies) == 1 else join_snapshots(bodies)
    done = publish_snapshot(body, to, token_env=token_env, name=", ".join(files))
    for remark in done.remarks:
        message(f"left out: {remark}", "yellow")
    text = f"{'1 record' if done.records == 1 else f'{done.records:,} records'} published to {done.to}"
    if options.json or not options.quiet:
        found = {"to": done.to, "records": done.records, "bytes": done.size, "run": done.run}
        options.show(found, lambda: click.echo(text + (f"; run: {done.run}" if done.run else "")))
