"""``schedule``: when a collector, or an expression that one thinks of, fires next."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from service.cli import tables
from service.cli.options import Options, common, say, told

if TYPE_CHECKING:
    from service.config import CollectorSettings, Settings
    from service.domain.cron import Schedule
    from service.domain.preview import Fire

_RUNS = 50  # the runs whose median is the usual duration
_WHEN_ACTIVE = {
    "Forbid": "it waits for that run's end",
    "Allow": "both run",
    "Replace": "it ends that run",
}


@dataclass(frozen=True)
class _Planned:
    """What is shown of one schedule. ``last``: its last slot; ``usual``: how long its runs usually take."""

    name: str | None
    schedule: "Schedule"
    zone: ZoneInfo
    policy: str | None = None
    last: datetime | None = None
    usual: timedelta | None = None


@common
@click.command()
@click.argument("what", metavar="[NAME or EXPRESSION]", required=False)
@click.option("--time-zone", metavar="ZONE", help="Such as America/New_York; else the collector's, else UTC.")
@click.option("--at", metavar="TIME", help="Fires after this time (ISO 8601, local where it has no offset); else now.")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@click.pass_obj
def schedule(options: Options, what: str | None, time_zone: str | None, at: str | None, count: int) -> None:
    """The next fire times in local and UTC time.

    Of one collector, of all of them, or of an expression ("*/10 * * * *", @hourly, "@every 90s"). What daylight saving
    skips or repeats is marked, and where a run usually is not done when the next one is due.
    """
    from service.config_values import zone

    with told():
        try:
            chosen = zone(time_zone) if time_zone else None
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--time-zone") from error
        if what and (what.startswith("@") or len(what.split()) > 1):
            plans = [_expression(what, chosen)]
        else:
            plans = _collectors(options, what, chosen)
        results = [_result(plan, at, count) for plan in plans]
        if options.json:
            tables.print_json(results)
            return
        for result in results:
            _print(result)


def _expression(text: str, zone: ZoneInfo | None) -> _Planned:
    from service.domain import cron

    try:
        return _Planned(None, cron.parse(text), zone or ZoneInfo("UTC"))
    except cron.CronError as error:
        raise click.BadParameter(str(error), param_hint="EXPRESSION") from error


def _collectors(options: Options, name: str | None, zone: ZoneInfo | None) -> list[_Planned]:
    import anyio

    from service.config_values import did_you_mean

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    settings = loaded.settings
    if name is not None and name not in settings.collectors:
        hint = did_you_mean(name, settings.collectors) or f"; configured are: {', '.join(settings.collectors)}"
        raise click.UsageError(f"no collector is called {name}{hint}")
    chosen = {each: settings.collectors[each] for each in ([name] if name else settings.collectors)}
    return anyio.run(_planned, settings, chosen, zone)


async def _planned(
    settings: "Settings", chosen: "dict[str, CollectorSettings]", zone: ZoneInfo | None
) -> list[_Planned]:
    from service.adapters.store import SqliteStore
    from service.domain import cron

    store = await SqliteStore.open_reading(settings.state_dir)
    try:
        slots = await store.last_slots()
        plans = []
        for name, each in chosen.items():
            runs = await store.runs(name, _RUNS)
            taken = [run.seconds for run in runs if run.seconds is not None and run.outcome and run.outcome.succeeded]
            usual = timedelta(seconds=median(taken)) if taken else None
            plans.append(
                _Planned(
                    name,
                    cron.parse(each.schedule),
                    zone or each.time_zone,
                    each.concurrency_policy.value,
                    slots.get(name),
                    usual,
                )
            )
        return plans
    finally:
        await store.close()


def _result(plan: _Planned, at: str | None, count: int) -> dict[str, Any]:
    from service.domain.cron import Every
    from service.domain.preview import preview

    after = _time(at, plan.zone)
    if isinstance(plan.schedule, Every) and plan.last and plan.last < after:
        # A period counts on from the last slot.
        after = plan.schedule.latest(plan.last, after, plan.zone)[0] or plan.last
    fires = list(preview(plan.schedule, plan.zone, after, count, plan.usual))
    return {
        "collector": plan.name,
        "schedule": plan.schedule.expression,
        "in_words": plan.schedule.describe(),
        "time_zone": str(plan.zone),
        "usual_seconds": plan.usual.total_seconds() if plan.usual else None,
        "fires": [_fire(fire, plan.policy) for fire in fires],
    }


def _fire(fire: "Fire", policy: str | None) -> dict[str, Any]:
    notes = fire.notes
    if fire.overlaps and policy:
        notes[-1] += f": {_WHEN_ACTIVE[policy]} ({policy})"
    return {
        "local": fire.at.isoformat(timespec="seconds"),
        "utc": fire.at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "skipped": [each.isoformat(timespec="seconds") for each in fire.skipped],
        "repeated": fire.turn or None,
        "overlaps": fire.overlaps,
        "notes": notes,
    }


def _time(text: str | None, zone: ZoneInfo) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        example = "such as 2025-03-09T01:30 or 2025-03-09T06:30:00Z"
        raise click.BadParameter(f'"{text}" is no time {example}', param_hint="--at") from error
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _print(result: dict[str, Any]) -> None:
    words = f" ({result['in_words']})" if result["in_words"] != result["schedule"] else ""
    title = f"{result['collector'] or 'expression'}: {result['schedule']}{words}, {result['time_zone']}"
    if result["usual_seconds"] is not None:
        title += f"; a run usually takes {result['usual_seconds']:.3g} s"
    if not result["fires"]:
        say(f"{title}: does not fire within five years", fg="yellow")
        return
    tables.print_table(
        title,
        ("local", "UTC", "note"),
        [(fire["local"], fire["utc"], "; ".join(fire["notes"])) for fire in result["fires"]],
    )
