"""Commands that look and change nothing: ``list``, ``check``, ``diagnose``, ``list-workflows``, ``completion``."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli import output as out
from service.cli.options import Exit, Options, command, exit_with, message

if TYPE_CHECKING:
    from service.config.settings import CollectorSettings, Settings
    from service.daemon.series import SeriesForecast

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@command("list", example="infra-health list --json")
def list_(options: Options) -> None:
    """Lists the collectors with type, schedule and next run."""
    rows = [_next_runs(name, each, 1) for name, each in options.load().settings.collectors.items()]
    if options.json:
        out.print_json(rows)
        return
    columns = ("collector", "type", "schedule", "in words", "next run")
    keys = ("name", "type", "schedule", "in_words")
    out.print_table("", columns, [(*(row[key] for key in keys), " ".join(row["next"]) or "disabled") for row in rows])


@command(example="infra-health check --resolved")
@click.option("--resolved", is_flag=True, help="Print every setting as resolved, secrets masked.")
def check(options: Options, resolved: bool) -> None:
    """Validates the configuration: verdict, collectors with their next runs, series, secrets, warnings."""
    loaded = options.load()  # before the imports: see there
    options.start_logs(loaded, level="error")
    import anyio

    from service.config.clients import check_environment
    from service.config.settings import describe
    from service.daemon.series import find_collisions
    from service.domain.errors import ConfigError

    settings = loaded.settings
    if problems := check_environment(options.environ()):
        raise ConfigError("\n".join(problems))
    rows = [_next_runs(name, each, 3) for name, each in settings.collectors.items()]
    series, waiting, secrets = anyio.run(_examine, settings, options.environ())
    warnings = [*loaded.warnings, *find_collisions(settings), *filter(None, [series.warning])]
    warnings += [
        f"collectors.{name} has no source: it is waiting for a first push (or name a source)" for name in waiting
    ]
    if options.json:
        out.print_json(
            {
                "file": str(loaded.file) if loaded.file else None,
                "settings": describe(settings),
                "next": {row["name"]: row["next"] for row in rows},
                "series": series.as_json(),
                "secrets": secrets,
                "notes": warnings,
            }
        )
        return
    message("The configuration is valid.", fg="green", err=False)
    click.echo(f"file: {loaded.file or 'none: defaults and environment'}")
    runs = [f"{row['name']} ({row['type']}, {row['in_words']}): {', '.join(row['next']) or 'disabled'}" for row in rows]
    _print_section("collectors and their next runs", runs)
    click.echo(f"\nseries: {series}")
    for metric in series.metrics if resolved else ():
        click.echo(f"  {metric}")
    _print_section("secrets", [_describe_secret(secret) for secret in secrets])
    _print_section("warnings", warnings, "yellow")
    if resolved:
        import yaml

        click.echo("\n" + yaml.safe_dump(describe(settings), sort_keys=False, allow_unicode=True).rstrip())


async def _examine(
    settings: "Settings", environ: Mapping[str, str]
) -> tuple["SeriesForecast", list[str], list[dict[str, Any]]]:
    """The series, the enabled collectors without a source that nothing was pushed to yet, and the secrets."""
    from service.daemon import read_store
    from service.daemon.series import forecast_series

    waiting = [
        name
        for name, each in settings.collectors.items()
        if each.enabled and getattr(each, "source", "elsewhere") is None
    ]
    # Whether a configuration is right does not depend on a server that may be away.
    async with nullcontext() if settings.store.url else read_store(settings) as store:
        series = await forecast_series(settings, store, datetime.now(UTC))
        if store:
            waiting = [name for name in waiting if not await store.states.pushes(name)]
    return series, waiting, await _look_up_secrets(settings, environ)


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


def _describe_secret(secret: Mapping[str, Any]) -> str:
    if secret["trouble"]:
        note = secret["trouble"]
    elif secret["can_change"]:
        note = "a new value is taken over while the daemon runs"
    else:
        is_set = secret["source"] != "nowhere"
        note = "can't change while the daemon runs: rotating it needs a restart" if is_set else "not set"
    return f"{secret['name']}: {secret['source']} ({note})"


def _print_section(title: str, lines: Sequence[str], colour: str | None = None) -> None:
    if lines:
        click.echo(f"\n{title}")
    for line in lines:
        click.secho(f"  {line}", fg=colour)


@command(example="infra-health diagnose")
def diagnose(options: Options) -> None:
    """Asks GitHub, Datadog and AWS, and looks at the clock and the state directory; one line each, with the remedy."""
    import anyio

    from service.daemon.support import diagnose as find_problems

    loaded = options.load()
    options.start_logs(loaded, level="error")
    findings = anyio.run(find_problems, loaded.settings, options.environ())
    if options.json:
        out.print_json([asdict(each) for each in findings])
    else:
        for each in findings:
            status = click.style(f"{each.status:<5}", fg=_COLOURS[each.status])
            line = each.detail + (f". Remedy: {each.remedy}" if each.remedy else "")
            click.echo(f"{each.name:<16}{status}{out.escape(' '.join(line.splitlines()))}")
    exit_with(Exit.FAILED if any(each.status == "fail" for each in findings) else Exit.DONE)


def _check_repository(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    from service.collectors.github_ci.settings import check_repository

    try:
        return check_repository(name) if name else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@command("list-workflows", example="infra-health list-workflows --repo Metta-AI/metta")
@click.option(
    "--repo",
    metavar="OWNER/NAME",
    callback=_check_repository,
    help="Else the repositories of the configured github_ci collectors.",
)
def list_workflows(options: Options, repo: str | None) -> None:
    """Lists the repository's workflows, to fill the lists tests_blocking_merge and benchmarks."""
    import anyio

    rows = anyio.run(_read_workflows, options, repo)
    if options.json:
        out.print_json(rows)
        return
    columns = ("id", "name", "file", "state")
    out.print_table("", columns, [(str(row["id"]), row["name"], row["path"], row["state"]) for row in rows])


async def _read_workflows(options: Options, repo: str | None) -> list[dict[str, Any]]:
    from service.collectors.github_ci import GithubCiSettings, list_workflows
    from service.daemon.wiring import open_clients
    from service.domain.errors import ConfigError

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    collectors = [each for each in loaded.settings.collectors.values() if isinstance(each, GithubCiSettings)]
    names = [repo] if repo else sorted({name for each in collectors for name in each.all_repositories})
    if not names:
        raise ConfigError("no github_ci collector is configured; name a repository with --repo OWNER/NAME")
    async with open_clients(loaded.settings, options.environ()) as clients:
        return [
            {"repo": name, "id": each.id, "name": each.name, "path": each.path, "state": each.state}
            for name in names
            for each in await list_workflows(clients.github, name)
        ]


@command(example='eval "$(infra-health completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(options: Options, shell: str) -> None:
    """Prints what the shell must source."""
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    main = click.get_current_context().find_root().command
    script = kind(main, {}, "infra-health", "_INFRA_HEALTH_COMPLETE").source()
    if options.json:
        out.print_json({"shell": shell, "script": script})
    else:
        click.echo(script)


def _next_runs(name: str, settings: "CollectorSettings", count: int) -> dict[str, Any]:
    from service.domain import cron

    schedule = cron.parse(settings.schedule)
    fires: list[datetime] = []
    at: datetime | None = datetime.now(UTC)
    while settings.enabled and len(fires) < count and at and (at := schedule.next(at, settings.time_zone)):
        fires.append(at)
    return {
        "name": name,
        "type": settings.type,
        "schedule": settings.schedule,
        "in_words": schedule.describe(),
        "time_zone": str(settings.time_zone),
        "enabled": settings.enabled,
        "next": [fire.isoformat(timespec="seconds") for fire in fires],
    }
