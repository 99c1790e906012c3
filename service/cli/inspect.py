"""Commands that look and change nothing: ``list``, ``check``, ``list-workflows``."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli import tables
from service.cli.options import Options, common, say, told

if TYPE_CHECKING:
    from service.config import CollectorSettings, Settings


@common
@click.command("list")
@click.pass_obj
def list_(options: Options) -> None:
    """Collectors with type, schedule and next run."""
    with told():
        settings = options.load().settings
        rows = [_upcoming(name, each, 1) for name, each in settings.collectors.items()]
        if options.json:
            tables.print_json(rows)
            return
        tables.print_table(
            "",
            ("collector", "type", "schedule", "in words", "next run"),
            [
                (row["name"], row["type"], row["schedule"], row["in_words"], " ".join(row["next"]) or "disabled")
                for row in rows
            ],
        )


@common
@click.command()
@click.pass_obj
def check(options: Options) -> None:
    """Validates the configuration and prints it resolved, with the next runs and the series that it makes."""
    import anyio

    from service.config_view import describe
    from service.series import collisions, expected_series

    with told():
        loaded = options.load()
        settings = loaded.settings
        upcoming = [_upcoming(name, each, 3) for name, each in settings.collectors.items()]
        notes = [*loaded.notes, *collisions(settings)]
        series = anyio.run(expected_series, settings)
        notes += [series.warning] if series.warning else []
        secrets = anyio.run(_secrets, settings, options.environ())
        if options.json:
            tables.print_json(
                {
                    "file": str(loaded.file) if loaded.file else None,
                    "settings": describe(settings),
                    "next": {row["name"]: row["next"] for row in upcoming},
                    "series": series.as_json(),
                    "secrets": secrets,
                    "notes": notes,
                }
            )
            return
        import yaml

        click.echo(f"# {loaded.file or 'no file: defaults and environment'}")
        click.echo(yaml.safe_dump(describe(settings), sort_keys=False, allow_unicode=True).rstrip())
        click.echo("\n# next runs")
        for row in upcoming:
            click.echo(f"#   {row['name']}: {', '.join(row['next']) or 'disabled'}")
        click.echo(f"# series: {series}")
        for each in series.collectors:
            for metric in each.metrics:
                click.echo(f"#   {each.name}: {metric}")
        click.echo("# secrets")
        for secret in secrets:
            click.echo(f"#   {secret['name']}: {secret['source']} ({_rotation(secret)})")
        for note in notes:
            say(f"note: {note}", fg="yellow")
        say("The configuration is valid.", fg="green")


async def _secrets(settings: "Settings", environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Which source gives each secret, as a look-up says now; never a value."""
    import anyio

    from service.adapters.secrets import from_environment
    from service.collectors.snapshot import SnapshotSettings
    from service.credentials import credentials

    known = list(credentials(settings, environ))
    named = {each.token_env for each in settings.collectors.values() if isinstance(each, SnapshotSettings)}
    known += [from_environment(name, environ) for name in sorted(filter(None, named))]
    async with anyio.create_task_group() as tasks:
        for secret in known:
            tasks.start_soon(secret.get)
    return [
        {
            "name": secret.title,
            "source": secret.source,
            "can_change": secret.can_change,
            "trouble": secret.trouble,
        }
        for secret in known
    ]


def _rotation(secret: Mapping[str, Any]) -> str:
    if secret["trouble"]:
        return str(secret["trouble"])
    if secret["can_change"]:
        return "a new value is taken over while the daemon runs"
    return (
        "not set"
        if secret["source"] == "nowhere"
        else "can't change while the daemon runs: rotating it needs a restart"
    )


def _repository(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    from service.collectors.ci_settings import repository_name

    try:
        return repository_name(name) if name else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@common
@click.command("list-workflows")
@click.option(
    "--repo",
    metavar="OWNER/NAME",
    callback=_repository,
    help="Else the repository of the configured github_ci collectors.",
)
@click.pass_obj
def list_workflows(options: Options, repo: str | None) -> None:
    """The repository's workflows, to fill the lists tests_blocking_merge and benchmarks."""
    import anyio

    with told():
        rows = anyio.run(_workflows, options, repo)
        if options.json:
            tables.print_json(rows)
            return
        tables.print_table(
            "",
            ("id", "name", "file", "state"),
            [(str(row["id"]), row["name"], row["path"], row["state"]) for row in rows],
        )


async def _workflows(options: Options, repo: str | None) -> list[dict[str, Any]]:
    from service.collectors.github_ci import GithubCi, workflows
    from service.domain.errors import ConfigError
    from service.parts import edges

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    ours = [each for each in loaded.settings.collectors.values() if isinstance(each, GithubCi.Settings)]
    configured = [name for each in ours for name in each.all_repositories]
    names = [repo] if repo else sorted(set(configured))
    if not names:
        raise ConfigError("no github_ci collector is configured; name a repository with --repo OWNER/NAME")
    async with edges(loaded.settings, options.environ()) as parts:
        return [
            {"repo": name, "id": each.id, "name": each.name, "path": each.path, "state": each.state}
            for name in names
            for each in await workflows(parts.github, name)
        ]


def _upcoming(name: str, settings: "CollectorSettings", count: int) -> dict[str, Any]:
    from service.domain import cron

    schedule = cron.parse(settings.schedule)
    fires: list[datetime] = []
    while settings.enabled and len(fires) < count:
        fire = schedule.next(fires[-1] if fires else datetime.now(UTC), settings.time_zone)
        if fire is None:
            break
        fires.append(fire)
    return {
        "name": name,
        "type": settings.type,
        "schedule": settings.schedule,
        "in_words": schedule.describe(),
        "time_zone": str(settings.time_zone),
        "enabled": settings.enabled,
        "next": [fire.isoformat(timespec="seconds") for fire in fires],
    }
