"""What a schedule is going to do: its next fires, with what daylight saving and the length of the runs do to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from service.domain.cron import Every, Schedule

_UTC_ZONE = ZoneInfo("UTC")
# Times of the wall clock that are looked at between two fires: more than two days of minutes.
_MOST_SKIPPED = 3_000


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire, in local time.

    ``skipped``: the local times before it at which the schedule would have fired, had the clock not been set forward.
    ``turn``: 1 or 2 where the clock is set back and shows this time twice, else 0.
    ``overlaps``: the run of the fire before usually takes longer than until this one.
    """

    at: datetime
    skipped: tuple[datetime, ...] = ()
    turn: int = 0
    overlaps: bool = False

    @property
    def notes(self) -> list[str]:
        notes = []
        if self.skipped:
            first, last = (f"{at:%Y-%m-%d %H:%M}" for at in (self.skipped[0], self.skipped[-1]))
            times = first if first == last else f"{first} to {last} ({len(self.skipped)} times)"
            notes.append(f"before it {times} does not exist: the clock is set forward")
        if self.turn:
            notes.append(f"the clock shows this time twice: {'first' if self.turn == 1 else 'second'} time")
        if self.overlaps:
            notes.append("the run before usually lasts longer")
        return notes


def preview(
    schedule: Schedule, zone: ZoneInfo, after: datetime, count: int, usual: timedelta | None = None
) -> Iterator[Fire]:
    """The next ``count`` fires later than ``after`` (aware), fewer where the schedule ends.

    ``usual``: how long a run usually takes, None when that is not known.
    """
    before = after
    for number in range(count):
        at = schedule.next(before, zone)
        if at is None:
            return
        skipped = () if isinstance(schedule, Every) else tuple(_skipped(schedule, zone, before, at))
        lasts = bool(usual and number and at.astimezone(UTC) - before.astimezone(UTC) < usual)
        yield Fire(at, skipped, _turn(at), lasts)
        before = at


def _skipped(schedule: Schedule, zone: ZoneInfo, before: datetime, at: datetime) -> Iterator[datetime]:
    """Times of the wall clock between two fires that are due but do not exist."""
    wall = before.astimezone(zone).replace(tzinfo=UTC)
    until = at.replace(tzinfo=UTC)
    for _ in range(_MOST_SKIPPED):
        following = schedule.next(wall, _UTC_ZONE)
        if following is None or following >= until:
            return
        wall = following
        local = following.replace(tzinfo=None)
        if local.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
            yield local


def _turn(at: datetime) -> int:
    first, second = at.replace(fold=0), at.replace(fold=1)
    offsets = first.utcoffset(), second.utcoffset()
    if offsets[0] is None or offsets[1] is None or offsets[0] <= offsets[1]:
        return 0  # the same, or set forward
    return 2 if at.fold else 1
