"""``quota``: what the github_ci collectors will cost of GitHub's quota, from what their last cycles cost."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from service.cli import tables
from service.cli.options import Options, common, say, told

if TYPE_CHECKING:
    from service.config import Settings


@common
@click.command()
@click.pass_obj
def quota(options: Options) -> None:
    """The forecast of GitHub's quota: points an hour by question, from what the last cycles cost. Asks nobody."""
    import anyio

    with told():
        loaded = options.load()
        options.start_logs(loaded, level="warning")
        rows = anyio.run(_forecast, loaded.settings)
        if options.json:
            tables.print_json(rows)
            return
        if not rows:
            say("No github_ci collector is enabled: nothing is asked of GitHub.")
            return
        for row in rows:
            tables.print_table(
                f"{row['collector']}: {row['points_an_hour']:g} points an hour "
                f"({row['repositories']} repositories, {row['measured']} of them measured, "
                f"{row['cycles_an_hour']:g} cycles an hour)",
                ("question", "points an hour"),
                [(name, f"{points:g}") for name, points in row["by_question"].items()],
            )
        total = sum(row["points_an_hour"] for row in rows)
        say(f"In all {total:g} points an hour. GitHub grants a token 5,000, and 60 without a token.")
        if any(row["measured"] < row["repositories"] for row in rows):
            say("Repositories without a second cycle count as three points a cycle.", fg="yellow")


async def _forecast(settings: "Settings") -> list[dict[str, Any]]:
    from service.adapters.store import SqliteStore
    from service.collectors import ci_fleet
    from service.collectors.github_ci import FLEET, GithubCi
    from service.domain import cron

    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        rows = []
        for name, each in settings.collectors.items():
            if not isinstance(each, GithubCi.Settings) or not each.enabled:
                continue
            fleet = ci_fleet.load(await store.recall(name, FLEET))
            repositories = each.all_repositories
            interval = timedelta(seconds=cron.parse(each.schedule).interval(datetime.now(UTC), each.time_zone))
            points = ci_fleet.an_hour(fleet.by_question(repositories), interval)
            guessed = sum(fleet.cost(repo) for repo in repositories if repo not in fleet.costs)
            if guessed:
                points["not measured yet"] = ci_fleet.an_hour({"": guessed}, interval)[""]
            rows.append(
                {
                    "collector": name,
                    "repositories": len(repositories),
                    "measured": sum(repo in fleet.costs for repo in repositories),
                    "cycles_an_hour": round(timedelta(hours=1) / interval, 2),
                    "points_an_hour": round(sum(points.values()), 1),
                    "by_question": {question: round(value, 1) for question, value in points.items()},
                }
            )
        return rows
    finally:
        await store.close()
