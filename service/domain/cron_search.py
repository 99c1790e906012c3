"""The instants at which the five fields of a cron expression match, as robfig/cron v3 finds them.

Kubernetes' CronJobs fire when that library says, so its search is the rule, daylight saving included
(https://github.com/robfig/cron/blob/v3.0.1/spec.go). While a zone keeps its offset the search is plain arithmetic on
the wall clock. Around a change of the offset the steps of the original decide what is skipped and what fires twice, so
there ``_Search`` takes the very same steps.

Instants are whole seconds since the epoch. A wall time is what the clock of the zone shows, written as if it were UTC.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

# The search ends with the fifth calendar year after the one it starts in, and a little before datetime itself does.
_YEARS = 5
_LAST_YEAR = 9990

_DAY = 86_400
_MIDNIGHT = time()
_EPOCH = date(1970, 1, 1).toordinal()
_SIX_WEEKS = sum(1 << 7 * week for week in range(6))
# A change of the offset is felt at most so many days away from it: offsets reach 15 hours, whole days were skipped.
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class Times:
    """Bit sets: bit n is set where the field matches n. Weekdays count from Sunday, 0.

    ``both``: day of month and day of week must match both; otherwise either one is enough.
    """

    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    both: bool

    def next(self, after: int, zone: ZoneInfo) -> int | None:
        """The first match later than ``after``, None when there is none within five years."""
        if not (self.minutes and self.hours and self.months):
            return None
        return _Search(self, after + 1, zone).run()

    def days_of(self, year: int, month: int) -> int:
        """The matching days of a month, as a bit set, whether the month itself matches or not."""
        monday_first, length = monthrange(year, month)
        by_weekday = self.weekdays * _SIX_WEEKS >> (monday_first + 1) % 7 << 1
        days = self.days & by_weekday if self.both else self.days | by_weekday
        return days & (2 << length) - 2

    def on_the_wall(self, begin: datetime, last_year: int) -> datetime | None:
        """The first match at or after ``begin`` on a clock that nobody sets."""
        if begin.second:
            begin += timedelta(seconds=60 - begin.second)
        year, month, day, hour = begin.year, begin.month, begin.day, begin.hour
        days = self.days_of(year, month) if self.months >> month & 1 else 0
        if days >> day & 1:
            minute = _least(self.minutes, begin.minute) if self.hours >> hour & 1 else -1
            if minute >= 0:
                return datetime(year, month, day, hour, minute, tzinfo=UTC)
            hour = _least(self.hours, hour + 1)
            if hour >= 0:
                return datetime(year, month, day, hour, _least(self.minutes, 0), tzinfo=UTC)
        day = _least(days, day + 1)
        while day < 0:
            month = _least(self.months, month + 1)
            if month < 0:
                year, month = year + 1, _least(self.months, 1)
                if year > last_year:
                    return None
            day = _least(self.days_of(year, month), 1)
        return datetime(year, month, day, _least(self.hours, 0), _least(self.minutes, 0), tzinfo=UTC)


class _Search:
    """The original's search, field by field from the month down, each step as Go's package time takes it.

    What it does near a change of the offset follows from these steps and nothing else, for example that in Lord Howe
    ``0 3 * * *`` does not fire on the day on which the clock goes back by half an hour.
    """

    def __init__(self, times: Times, begin: int, zone: ZoneInfo) -> None:
        self._times = times
        self._zone = zone
        self._moved = False  # whether the smaller fields were set to their least already
        self._go(begin)

    def run(self) -> int | None:
        last_year = min(self._local.year + _YEARS, _LAST_YEAR)
        goal = found = None
        while self._local.year <= last_year:
            if self._is_plain():
                wall = self._local.replace(tzinfo=UTC)
                if goal is None or goal < wall:
                    found = self._times.on_the_wall(wall, last_year)
                    goal = found or datetime(last_year, 12, 31, tzinfo=UTC)
                change = self._change_before(goal)
                if change is None:
                    return self._instant + round((found - wall).total_seconds()) if found else None
                self._skip_to(min(goal.toordinal(), change - _MARGIN - 1))
            # Each answers False where the larger fields are to be looked at again.
            if self._month() and self._day() and self._hour() and self._minute() and self._second():
                return self._instant
        return None

    def _is_plain(self) -> bool:
        """Whether the original goes on from here as arithmetic does, not with an odd day or hour carried along."""
        if not self._moved:
            return True
        matches = self._local.day == 1 or self._times.months >> self._local.month & 1
        return bool(matches) and self._local.time() == _MIDNIGHT

    def _change_before(self, goal: datetime) -> int | None:
        """The first day (ordinal) that could part arithmetic from the original on the way to ``goal``."""
        offset = self._local.utcoffset()
        # The original begins its search for another month at the first day of this one.
        here = self._local if self._moved or self._local.month == goal.month else self._local.replace(day=1)
        first = here.toordinal() - _MARGIN
        if offset is None or offset.seconds % 60:  # local mean time: minutes do not begin with the instants' minutes
            return first
        if self._zone.utcoffset(None) is not None:  # zones that never change answer without a time
            return None
        last = goal.toordinal() + _MARGIN
        for year in range(date.fromordinal(first).year, date.fromordinal(last).year + 1):
            for day in _changes(self._zone, year):
                if first <= day <= last:
                    return day
        return None

    def _skip_to(self, ordinal: int) -> None:
        """Goes to that midnight, which the original passes too; in a month that does not match, to its first day."""
        day = date.fromordinal(ordinal)
        if not self._times.months >> day.month & 1:
            day = day.replace(day=1)
        if day > self._local.date():
            self._go_to(datetime.combine(day, _MIDNIGHT))

    def _month(self) -> bool:
        if self._times.months >> self._local.month & 1:
            return True
        if not self._moved:
            self._go_to(self._local.replace(day=1, hour=0, minute=0, second=0))
        self._go_to(self._local, months=1)
        return False

    def _day(self) -> bool:
        while not self._times.days_of(self._local.year, self._local.month) >> self._local.day & 1:
            if not self._moved:
                self._go_to(self._local.replace(hour=0, minute=0, second=0))
            before = self._instant
            self._go_to(self._local, days=1)
            # Midnight may not exist: an hour before it means the day after, an hour after it means this day.
            hour = self._local.hour
            if hour:
                self._go(self._instant + ((24 - hour) if hour > 12 else -hour) * 3600)
            # A day that does not exist (Apia, 2011-12-30) leads the original back to the day before it, for ever.
            if self._instant <= before:
                self._go(before + _DAY)
            # Where the first of a month has no midnight, the original may not notice that the month is over.
            if self._local.day == 1 or self._times.months >> self._local.month & 1:
                return False
        return True

    def _hour(self) -> bool:
        while not self._times.hours >> self._local.hour & 1:
            if not self._moved:
                self._go_to(self._local.replace(minute=0, second=0))
            self._go_on(self._times.hours, self._local.hour, 24, 3600)
            if self._local.hour == 0:
                return False
        return True

    def _minute(self) -> bool:
        while not self._times.minutes >> self._local.minute & 1:
            if not self._moved:
                self._moved = True
                self._instant -= self._instant % 60
            self._go_on(self._times.minutes, self._local.minute, 60, 60)
            if self._local.minute == 0:
                return False
        return True

    def _second(self) -> bool:
        if self._local.second == 0:
            return True
        self._moved = True
        while self._local.second:
            self._go(self._instant + 60 - self._local.second)
        return False

    def _go(self, instant: int) -> None:
        self._instant = instant
        self._local = datetime.fromtimestamp(instant, self._zone)

    def _go_on(self, bits: int, value: int, size: int, unit: int) -> None:
        """Goes to the next matching value of a field, at most to its end; by one where the offset changes between."""
        following = _least(bits, value + 1)
        steps = (size if following < 0 else following) - value
        before, offset = self._instant, self._local.utcoffset()
        self._go(before + steps * unit)
        if self._local.utcoffset() != offset:
            self._go(before + unit)

    def _go_to(self, wall: datetime, *, months: int = 0, days: int = 0) -> None:
        """Goes to a time on the wall clock as ``time.Date`` does.

        Of a time that comes twice it takes the one that this guess at the offset gives, a time that does not exist it
        moves by the length of the gap.
        """
        self._moved = True
        year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
        day = date(year, month + 1, 1).toordinal() + wall.day - 1 + days
        seconds = (day - _EPOCH) * _DAY + wall.hour * 3600 + wall.minute * 60 + wall.second
        guess = _offset(self._zone, seconds)
        self._go(seconds - _offset(self._zone, seconds - guess))


def _least(bits: int, low: int) -> int:
    """The least member that is at least ``low``, -1 when there is none."""
    rest = bits >> low
    return low + (rest & -rest).bit_length() - 1 if rest else -1


@lru_cache(maxsize=4096)
def _changes(zone: ZoneInfo, year: int) -> tuple[int, ...]:
    """The days of a year (ordinals) within which the zone's offset changes; zoneinfo keeps its own list to itself."""
    january = date(year, 1, 1).toordinal()
    offsets = [_offset(zone, (january + day - _EPOCH) * _DAY) for day in range(367)]
    return tuple(january + day for day, (before, after) in enumerate(pairwise(offsets)) if before != after)


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    return offset.days * _DAY + offset.seconds if offset else 0
