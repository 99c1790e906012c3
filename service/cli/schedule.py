"""``schedule``: when a collector, or an expression that one thinks of, fires next."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from service.cli import output as out
from service.cli.options import Options, command, complete_collector, message, read_with, refuse_unknown
from service.daemon import read_store
from service.domain import cron
from service.domain.runs import Mode, Run

_RECENT_RUNS = 50  # whose median is the usual duration
_POLICY_NOTES = {"Forbid": "it waits for that run's end", "Allow": "both run", "Replace": "it ends that run"}


def _read_time(text: str) -> datetime:
    from service.config.fields import read_time

    return read_time(text)


def _read_zone(name: str) -> ZoneInfo:
    from service.config.fields import read_time_zone

    return read_time_zone(name)


def _read_what(text: str) -> str | cron.Schedule:
    return cron.parse(text) if text.startswith("@") or len(text.split()) > 1 else text


@command(example='infra-health schedule "30 1 * * *" --time-zone America/New_York')
@click.argument(
    "what",
    metavar="[NAME or EXPRESSION]",
    required=False,
    callback=read_with(_read_what),
    shell_complete=complete_collector,
)
@click.option(
    "--time-zone",
    "zone",
    metavar="ZONE",
    callback=read_with(_read_zone),
    help="Such as America/New_York; else the collector's, else UTC.",
)
@click.option(
    "--at",
    metavar="TIME",
    callback=read_with(_read_time),
    help="Fires after this time (ISO 8601, local where it has no offset); else now.",
)
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
async def schedule(
    options: Options, what: str | cron.Schedule | None, zone: ZoneInfo | None, at: datetime | None, count: int
) -> None:
    """Of one collector, of all of them, or of an expression ("*/10 * * * *", @hourly, "@every 90s").

    What daylight saving skips or repeats is marked, and where a run usually is not done when the next one is due.
    """
    after = at or datetime.now(UTC)
    if not (what is None or isinstance(what, str)):
        found = [_describe(what, zone or ZoneInfo("UTC"), after, count)]
    else:
        settings = options.open("warning").settings
        refuse_unknown(settings, [what] if what else ())
        found = []
        async with read_store(settings) as store:
            slots = await store.runs.slots(Mode.LIVE) if store else {}
            for name, each in settings.collectors.items():
                if what in (None, name):
                    runs = await store.runs.list(name, limit=_RECENT_RUNS) if store else []
                    own = name, each.concurrency_policy.value, slots.get(name), _find_usual(runs)
                    found.append(_describe(cron.parse(each.schedule), zone or each.time_zone, after, count, *own))
    options.show(found, lambda: _print(found))


def find_fires(schedule: cron.Schedule, zone: ZoneInfo, after: datetime, count: int) -> list[datetime]:
    """The next times, fewer where there are no more within five years."""
    fires: list[datetime] = []
    at: datetime | None = after
    while len(fires) < count and at and (at := schedule.next(at, zone)):
        fires.append(at)
    return fires


def _find_usual(runs: Sequence[Run]) -> timedelta | None:
    """How long a run lasts that succeeds; None where none has."""
    from statistics import median

    seconds = [run.seconds for run in runs if run.seconds is not None and run.outcome and run.outcome.succeeded]
    return timedelta(seconds=median(seconds)) if seconds else None


def _describe(
    schedule: cron.Schedule,
    zone: ZoneInfo,
    after: datetime,
    count: int,
    collector: str | None = None,
    policy: str = "",
    last_slot: datetime | None = None,
    usual: timedelta | None = None,
) -> dict[str, Any]:
    """The next fires, with what is odd about each. ``policy`` and what follows it: the collector's."""
    if after.tzinfo is None:
        after = after.replace(tzinfo=zone)
    if isinstance(schedule, cron.Every) and last_slot and last_slot < after:
        # A period counts on from the last slot.
        after = schedule.latest(last_slot, after, zone) or last_slot
    fires: list[dict[str, Any]] = []
    before = after
    for at in find_fires(schedule, zone, after, count):
        skipped, repetition = list(_find_skipped(schedule, zone, before, at)), _repetition(at)
        # In UTC: the difference of two local times is that of their clocks' hands.
        overlaps = bool(fires and usual and at.astimezone(UTC) - before.astimezone(UTC) < usual)
        notes = []
        if skipped:
            first, last = f"{skipped[0]:%Y-%m-%d %H:%M}", f"{skipped[-1]:%Y-%m-%d %H:%M}"
            times = first if first == last else f"{first} to {last} ({len(skipped)} times)"
            notes.append(f"before it {times} does not exist: the clock is set forward")
        if repetition:
            notes.append(f"the clock shows this time twice: {'first' if repetition == 1 else 'second'} time")
        if overlaps:
            notes.append(f"the run before usually lasts longer: {_POLICY_NOTES[policy]} ({policy})")
        fires.append(
            {
                "local": at.isoformat(timespec="seconds"),
                "utc": at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                "skipped": [each.isoformat(timespec="seconds") for each in skipped],
                "repeated": repetition,
                "overlaps": overlaps,
                "notes": notes,
            }
        )
        before = at
    return {
        "collector": collector,
        "schedule": schedule.expression,
        "in_words": schedule.describe(),
        "time_zone": str(zone),
        "usual_seconds": usual.total_seconds() if usual else None,
        "fires": fires,
    }


def _find_skipped(schedule: cron.Schedule, zone: ZoneInfo, before: datetime, at: datetime) -> Iterator[datetime]:
    """Local times between two fires that are due but do not exist."""
    if isinstance(schedule, cron.Every):
        return
    wall: datetime | None = before.astimezone(zone).replace(tzinfo=UTC)
    while (wall := wall and schedule.next(wall, ZoneInfo("UTC"))) and wall < at.replace(tzinfo=UTC):
        local = wall.replace(tzinfo=zone)
        if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
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
