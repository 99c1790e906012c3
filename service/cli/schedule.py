"""``schedule``: when a collector, or an expression that one thinks of, fires next."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from service.cli import output as out
from service.cli.options import Options, command, complete_collector, message

if TYPE_CHECKING:
    from service.config.settings import Settings
    from service.domain.cron import Schedule

_RECENT_RUNS = 50  # whose median is the usual duration
_MAX_SKIPPED = 3_000  # local times that are looked at between two fires: more than two days of minutes
_POLICY_NOTES = {"Forbid": "it waits for that run's end", "Allow": "both run", "Replace": "it ends that run"}


@dataclass(frozen=True)
class _Plan:
    """One schedule. ``last_slot``: its collector's; ``usual``: how long its runs last, None when that is not known."""

    collector: str | None
    schedule: "Schedule"
    time_zone: ZoneInfo
    policy: str = ""
    last_slot: datetime | None = None
    usual: timedelta | None = None


@command(example='infra-health schedule "30 1 * * *" --time-zone America/New_York')
@click.argument("what", metavar="[NAME or EXPRESSION]", required=False, shell_complete=complete_collector)
@click.option("--time-zone", metavar="ZONE", help="Such as America/New_York; else the collector's, else UTC.")
@click.option("--at", metavar="TIME", help="Fires after this time (ISO 8601, local where it has no offset); else now.")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
def schedule(options: Options, what: str | None, time_zone: str | None, at: str | None, count: int) -> None:
    """Prints the next fire times in local and UTC time.

    Of one collector, of all of them, or of an expression ("*/10 * * * *", @hourly, "@every 90s"). What daylight saving
    skips or repeats is marked, and where a run usually is not done when the next one is due.
    """
    from service.config.fields import read_time_zone
    from service.domain import cron

    try:
        zone = read_time_zone(time_zone) if time_zone else None
        if what and (what.startswith("@") or len(what.split()) > 1):
            plans = [_Plan(None, cron.parse(what), zone or ZoneInfo("UTC"))]
        else:
            plans = _plan_collectors(options, what, zone)
    except ValueError as error:  # a CronError is one
        raise click.BadParameter(str(error)) from error
    results = [_to_json(plan, _parse_time(at, plan.time_zone), count) for plan in plans]
    if options.json:
        out.print_json(results)
        return
    for result in results:
        _print(result)


def _plan_collectors(options: Options, name: str | None, zone: ZoneInfo | None) -> list[_Plan]:
    from service.config.fields import did_you_mean
    from service.domain import cron

    loaded = options.load()
    options.start_logs(loaded, level="warning")
    known = loaded.settings.collectors
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; configured are: {', '.join(known)}"
        raise click.UsageError(f"no collector is called {name}{hint}")
    plans = [
        _Plan(key, cron.parse(each.schedule), zone or each.time_zone, each.concurrency_policy.value)
        for key, each in known.items()
        if name in (None, key)
    ]
    import anyio

    return anyio.run(_add_history, plans, loaded.settings)


async def _add_history(plans: list[_Plan], settings: "Settings") -> list[_Plan]:
    from service.daemon import read_store
    from service.domain.runs import Mode

    async with read_store(settings) as store:
        if store is None:
            return plans
        slots = await store.runs.slots(Mode.LIVE)
        found = []
        for plan in plans:
            name = plan.collector or ""
            runs = await store.runs.list(name, limit=_RECENT_RUNS)
            seconds = [run.seconds for run in runs if run.seconds is not None and run.outcome and run.outcome.succeeded]
            usual = timedelta(seconds=median(seconds)) if seconds else None
            found.append(replace(plan, last_slot=slots.get(name), usual=usual))
        return found


def _parse_time(text: str | None, zone: ZoneInfo) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        example = "such as 2025-03-09T01:30 or 2025-03-09T06:30:00Z"
        raise click.BadParameter(f'"{text}" is no time {example}', param_hint="--at") from error
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _to_json(plan: _Plan, after: datetime, count: int) -> dict[str, Any]:
    from service.domain.cron import Every

    is_period = isinstance(plan.schedule, Every)
    if is_period and plan.last_slot and plan.last_slot < after:
        # A period counts on from the last slot.
        after = plan.schedule.latest(plan.last_slot, after, plan.time_zone) or plan.last_slot
    fires: list[dict[str, Any]] = []
    before = after
    while len(fires) < count and (at := plan.schedule.next(before, plan.time_zone)):
        skipped = [] if is_period else list(_find_skipped(plan, before, at))
        # In UTC: the difference of two local times is that of their clocks' hands.
        distance = at.astimezone(UTC) - before.astimezone(UTC)
        overlaps = bool(fires and plan.usual and distance < plan.usual)
        fires.append(_describe_fire(plan, at, skipped, overlaps))
        before = at
    return {
        "collector": plan.collector,
        "schedule": plan.schedule.expression,
        "in_words": plan.schedule.describe(),
        "time_zone": str(plan.time_zone),
        "usual_seconds": plan.usual.total_seconds() if plan.usual else None,
        "fires": fires,
    }


def _describe_fire(plan: _Plan, at: datetime, skipped: list[datetime], overlaps: bool) -> dict[str, Any]:
    repetition = _repetition(at)
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
        "repeated": repetition or None,
        "overlaps": overlaps,
        "notes": notes,
    }


def _find_skipped(plan: _Plan, before: datetime, at: datetime) -> Iterator[datetime]:
    """Local times between two fires that are due but do not exist."""
    utc, until = ZoneInfo("UTC"), at.replace(tzinfo=UTC)
    wall: datetime | None = before.astimezone(plan.time_zone).replace(tzinfo=UTC)
    for _ in range(_MAX_SKIPPED):
        wall = plan.schedule.next(wall, utc) if wall else None
        if wall is None or wall >= until:
            return
        local = wall.replace(tzinfo=plan.time_zone)
        if local.astimezone(UTC).astimezone(plan.time_zone).replace(tzinfo=None) != wall.replace(tzinfo=None):
            yield wall.replace(tzinfo=None)


def _repetition(at: datetime) -> int:
    """1 or 2 where the clock is set back and shows this time twice, else 0."""
    first, second = at.replace(fold=0).utcoffset(), at.replace(fold=1).utcoffset()
    if first is None or second is None or first <= second:
        return 0  # the same, or set forward
    return 2 if at.fold else 1


def _print(result: dict[str, Any]) -> None:
    in_words = f" ({result['in_words']})" if result["in_words"] != result["schedule"] else ""
    title = f"{result['collector'] or 'expression'}: {result['schedule']}{in_words}, {result['time_zone']}"
    if result["usual_seconds"] is not None:
        title += f"; a run usually takes {result['usual_seconds']:.3g} s"
    if not result["fires"]:
        message(f"{title}: does not fire within five years", fg="yellow")
        return
    rows = [(fire["local"], fire["utc"], "; ".join(fire["notes"])) for fire in result["fires"]]
    out.print_table(title, ("local", "UTC", "note"), rows)
