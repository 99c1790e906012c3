"""``schedule``: when a collector, or an expression that one thinks of, fires next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from service.cli import output as out
from service.cli.options import Options, command, complete_collector, message, refuse_unknown
from service.daemon import read_store
from service.domain import cron

if TYPE_CHECKING:
    from service.config.settings import Settings

_RECENT_RUNS = 50  # whose median is the usual duration
_POLICY_NOTES = {"Forbid": "it waits for that run's end", "Allow": "both run", "Replace": "it ends that run"}


@dataclass(frozen=True)
class _Plan:
    """One schedule. ``last_slot``: its collector's; ``usual``: how long its runs last, None when that is not known."""

    collector: str | None
    schedule: cron.Schedule
    time_zone: ZoneInfo
    policy: str = ""
    last_slot: datetime | None = None
    usual: timedelta | None = None


def _read_time(_: click.Context, __: click.Parameter, text: str | None) -> datetime:
    try:
        return datetime.fromisoformat(text) if text else datetime.now(UTC)
    except ValueError:
        example = "such as 2025-03-09T01:30 or 2025-03-09T06:30:00Z"
        raise click.BadParameter(f'"{text}" is no time {example}') from None


@command(example='infra-health schedule "30 1 * * *" --time-zone America/New_York')
@click.argument("what", metavar="[NAME or EXPRESSION]", required=False, shell_complete=complete_collector)
@click.option("--time-zone", metavar="ZONE", help="Such as America/New_York; else the collector's, else UTC.")
@click.option(
    "--at",
    metavar="TIME",
    callback=_read_time,
    help="Fires after this time (ISO 8601, local where it has no offset); else now.",
)
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
def schedule(options: Options, what: str | None, time_zone: str | None, at: datetime, count: int) -> None:
    """Of one collector, of all of them, or of an expression ("*/10 * * * *", @hourly, "@every 90s").

    What daylight saving skips or repeats is marked, and where a run usually is not done when the next one is due.
    """
    from service.config.fields import read_time_zone

    try:
        zone = read_time_zone(time_zone) if time_zone else None
        if what and (what.startswith("@") or len(what.split()) > 1):
            plans = [_Plan(None, cron.parse(what), zone or ZoneInfo("UTC"))]
        else:
            settings = options.open("warning").settings
            refuse_unknown(settings, [what] if what else ())
            plans = options.run(_plan_collectors, settings, what, zone)
    except ValueError as error:  # a CronError is one
        raise click.BadParameter(str(error)) from error
    results = [_describe_plan(plan, at if at.tzinfo else at.replace(tzinfo=plan.time_zone), count) for plan in plans]
    options.show(results, lambda: _print(results))


def find_fires(schedule: cron.Schedule, zone: ZoneInfo, after: datetime, count: int) -> list[datetime]:
    """The next times, fewer where there are no more within five years."""
    fires: list[datetime] = []
    at: datetime | None = after
    while len(fires) < count and at and (at := schedule.next(at, zone)):
        fires.append(at)
    return fires


async def _plan_collectors(settings: "Settings", name: str | None, zone: ZoneInfo | None) -> list[_Plan]:
    from statistics import median

    from service.domain.runs import Mode

    plans = []
    async with read_store(settings) as store:
        slots = await store.runs.slots(Mode.LIVE) if store else {}
        for key, each in settings.collectors.items():
            if name not in (None, key):
                continue
            runs = await store.runs.list(key, limit=_RECENT_RUNS) if store else []
            seconds = [run.seconds for run in runs if run.seconds is not None and run.outcome and run.outcome.succeeded]
            usual = timedelta(seconds=median(seconds)) if seconds else None
            policy, found = each.concurrency_policy.value, cron.parse(each.schedule)
            plans.append(_Plan(key, found, zone or each.time_zone, policy, slots.get(key), usual))
    return plans


def _describe_plan(plan: _Plan, after: datetime, count: int) -> dict[str, Any]:
    if isinstance(plan.schedule, cron.Every) and plan.last_slot and plan.last_slot < after:
        # A period counts on from the last slot.
        after = plan.schedule.latest(plan.last_slot, after, plan.time_zone) or plan.last_slot
    fires = find_fires(plan.schedule, plan.time_zone, after, count)
    return {
        "collector": plan.collector,
        "schedule": plan.schedule.expression,
        "in_words": plan.schedule.describe(),
        "time_zone": str(plan.time_zone),
        "usual_seconds": plan.usual.total_seconds() if plan.usual else None,
        "fires": [
            _describe_fire(plan, before, at, is_first=before is after)
            for before, at in zip([after, *fires], fires, strict=False)
        ],
    }


def _describe_fire(plan: _Plan, before: datetime, at: datetime, *, is_first: bool) -> dict[str, Any]:
    """``before``: the fire before this one, of the first one the time after which fires were asked for."""
    skipped, repetition = list(_find_skipped(plan, before, at)), _repetition(at)
    # In UTC: the difference of two local times is that of their clocks' hands.
    overlaps = bool(not is_first and plan.usual and at.astimezone(UTC) - before.astimezone(UTC) < plan.usual)
    notes = []
    if skipped:
        first, last = f"{skipped[0]:%Y-%m-%d %H:%M}", f"{skipped[-1]:%Y-%m-%d %H:%M}"
        times = first if first == last else f"{first} to {last} ({len(skipped)} times)"
        notes.append(f"before it {times} does not exist: the clock is set forward")
    if repetition:
        notes.append(f"the clock shows this time twice: {'first' if repetition == 1 else 'second'} time")
    if overlaps:
        notes.append(f"the run before usually lasts longer: {_POLICY_NOTES[plan.policy]} ({plan.policy})")
    return {
        "local": at.isoformat(timespec="seconds"),
        "utc": at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "skipped": [each.isoformat(timespec="seconds") for each in skipped],
        "repeated": repetition,
        "overlaps": overlaps,
        "notes": notes,
    }


def _find_skipped(plan: _Plan, before: datetime, at: datetime) -> Iterator[datetime]:
    """Local times between two fires that are due but do not exist."""
    if isinstance(plan.schedule, cron.Every):
        return
    wall: datetime | None = before.astimezone(plan.time_zone).replace(tzinfo=UTC)
    while (wall := wall and plan.schedule.next(wall, ZoneInfo("UTC"))) and wall < at.replace(tzinfo=UTC):
        local = wall.replace(tzinfo=plan.time_zone)
        if local.astimezone(UTC).astimezone(plan.time_zone).replace(tzinfo=None) != local.replace(tzinfo=None):
            yield local.replace(tzinfo=None)


def _repetition(at: datetime) -> int | None:
    """1 or 2 where the clock is set back and shows this time twice."""
    first, second = at.replace(fold=0).utcoffset(), at.replace(fold=1).utcoffset()
    return 1 + at.fold if first and second is not None and first > second else None


def _print(results: Sequence[dict[str, Any]]) -> None:
    for each in results:
        in_words = f" ({each['in_words']})" if each["in_words"] != each["schedule"] else ""
        title = f"{each['collector'] or 'expression'}: {each['schedule']}{in_words}, {each['time_zone']}"
        if each["usual_seconds"] is not None:
            title += f"; a run usually takes {each['usual_seconds']:.3g} s"
        if not each["fires"]:
            message(f"{title}: does not fire within five years", "yellow")
        fires = [
            {"local": fire["local"], "UTC": fire["utc"], "note": "; ".join(fire["notes"])} for fire in each["fires"]
        ]
        out.print_table(fires, title=title, below="note")
