"""The instants at which the five fields of a cron expression match, as robfig/cron v3 finds them.

Kubernetes' CronJobs fire when that library says, so its search is the rule, daylight saving included: field by field
from the month down, each step as Go's package time takes it (https://github.com/robfig/cron/blob/v3.0.1/spec.go).
What happens near a change of the offset follows from these steps and nothing else, for example that in Lord Howe
``0 3 * * *`` does not fire on the day on which the clock goes back by half an hour.

Instants are whole seconds since the epoch. A wall time is what the clock of the zone shows.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

# The search ends with the fifth calendar year after the one it starts in, and a little before datetime itself does.
_YEARS = 5
_LAST_YEAR = 9990
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_SIX_WEEKS = sum(1 << 7 * week for week in range(6))


@dataclass(frozen=True, slots=True)
class Fields:
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


class _Search:
    def __init__(self, fields: Fields, begin: int, zone: ZoneInfo) -> None:
        self._fields = fields
        self._zone = zone
        self._is_reset = False  # whether the smaller fields were set to their least already
        self._go(begin)

    def run(self) -> int | None:
        last_year = min(self._wall.year + _YEARS, _LAST_YEAR)
        while self._wall.year <= last_year:
            # Each answers False where the larger fields are to be looked at again.
            if self._month() and self._day() and self._hour() and self._minute() and self._second():
                return self._instant
        return None

    def _month(self) -> bool:
        if self._fields.months >> self._wall.month & 1:
            return True
        self._reset(day=1, hour=0, minute=0, second=0)
        self._go_to(self._wall, months=1)
        return False

    def _day(self) -> bool:
        while not _days(self._fields, self._wall.year, self._wall.month) >> self._wall.day & 1:
            self._reset(hour=0, minute=0, second=0)
            before = self._instant
            self._go_to(self._wall, days=1)
            # Midnight may not exist: an hour before it means the day after, an hour after it means this day.
            if hour := self._wall.hour:
                self._go(self._instant + (24 - hour if hour > 12 else -hour) * 3600)
            # A day that does not exist (Apia, 2011-12-30) leads the original back to the day before it, for ever.
            if self._instant <= before:
                self._go(before + _DAY)
            # Where the first of a month has no midnight, the original may not notice that the month is over.
            if self._wall.day == 1:
                return False
        return True

    def _hour(self) -> bool:
        while not self._fields.hours >> self._wall.hour & 1:
            self._reset(minute=0, second=0)
            self._step(self._fields.hours, self._wall.hour, 24, 3600)
            if self._wall.hour == 0:
                return False
        return True

    def _minute(self) -> bool:
        while not self._fields.minutes >> self._wall.minute & 1:
            if not self._is_reset:
                self._is_reset = True
                self._instant -= self._instant % 60
            self._step(self._fields.minutes, self._wall.minute, 60, 60)
            if self._wall.minute == 0:
                return False
        return True

    def _second(self) -> bool:
        if self._wall.second == 0:
            return True
        self._is_reset = True
        while self._wall.second:  # more than once where the offset has seconds (local mean time)
            self._go(self._instant + 60 - self._wall.second)
        return False

    def _go(self, instant: int) -> None:
        self._instant = instant
        self._wall = datetime.fromtimestamp(instant, self._zone)

    def _step(self, bits: int, value: int, size: int, unit: int) -> None:
        """Goes to the next matching value of a field, at most to its end; by one where the offset changes between."""
        rest = bits >> value + 1
        steps = (rest & -rest).bit_length() if rest else size - value
        before, offset = self._instant, self._wall.utcoffset()
        self._go(before + steps * unit)
        if self._wall.utcoffset() != offset:
            self._go(before + unit)

    def _reset(self, **least: int) -> None:
        """Sets the smaller fields to their least, once in a search."""
        if not self._is_reset:
            self._is_reset = True
            self._go_to(self._wall.replace(**least))  # type: ignore[arg-type]

    def _go_to(self, wall: datetime, *, months: int = 0, days: int = 0) -> None:
        """Goes to a time on the wall clock as Go's ``time.Date`` does.

        Of a time that comes twice it takes the one that this guess at the offset gives, a time that does not exist it
        moves by the length of the gap.
        """
        year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
        day = date(year, month + 1, 1).toordinal() + wall.day - 1 + days
        seconds = (day - _EPOCH) * _DAY + wall.hour * 3600 + wall.minute * 60 + wall.second
        guess = _offset(self._zone, seconds)
        self._go(seconds - _offset(self._zone, seconds - guess))


@lru_cache(maxsize=4096)
def _days(fields: Fields, year: int, month: int) -> int:
    """The matching days of a month, as a bit set, whether the month itself matches or not."""
    monday_first, length = monthrange(year, month)
    by_weekday = fields.weekdays * _SIX_WEEKS >> (monday_first + 1) % 7 << 1
    days = fields.days & by_weekday if fields.both else fields.days | by_weekday
    return days & (2 << length) - 2


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    return offset.days * _DAY + offset.seconds if offset else 0
