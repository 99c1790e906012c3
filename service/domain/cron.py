"""Schedules as Kubernetes' CronJobs read them: the syntax and the instants of robfig/cron v3, to the letter.

What is accepted is what ``cron.ParseStandard`` accepts, but no time zone inside the expression: Kubernetes refuses it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from service.domain import cron_fields, go_duration
from service.domain.cron_fields import ALL_DAYS, CronError, quoted
from service.domain.cron_search import Times

__all__ = ["COUNT_LIMIT", "Calendar", "CronError", "Every", "Schedule", "parse"]

# Fires are counted up to this many: "more than 100".
COUNT_LIMIT = 101

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY = "@every "
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Schedule(ABC):
    """When something is due. ``expression`` is the text that it was read from."""

    __slots__ = ()
    expression: str

    @abstractmethod
    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        """The first fire later than ``after`` (aware), in ``zone``; None when there is none within five years."""

    @abstractmethod
    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, int]:
        """The last fire later than ``after`` and not later than ``until``, and how many there are, at most 101."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule in words where it is simple, else the expression itself."""

    def interval(self, at: datetime, zone: ZoneInfo) -> int:
        """Seconds between the next two fires after ``at``, 0 when there are no two."""
        first = self.next(at, zone)
        second = self.next(first, zone) if first else None
        return _instant(second) - _instant(first) if first and second else 0


@dataclass(frozen=True, slots=True)
class Calendar(Schedule):
    """A schedule by the wall clock: five fields, or a descriptor that stands for them."""

    expression: str
    times: Times

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        fire = self.times.next(_instant(after), zone)
        return None if fire is None else datetime.fromtimestamp(fire, zone)

    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, int]:
        begin, end = _instant(after), _instant(until)
        fires, fire = 0, begin
        while fires < COUNT_LIMIT and (following := self.times.next(fire, zone)) is not None and following <= end:
            fires, fire = fires + 1, following
        if fires == COUNT_LIMIT:
            fire = self._last(fire, end, zone)
        return (datetime.fromtimestamp(fire, zone) if fires else None), fires

    def _last(self, fire: int, end: int, zone: ZoneInfo) -> int:
        """The last fire not later than ``end``; ``fire`` is one of them. Looks back in growing spans, then halves."""

        def fire_after(instant: int) -> int | None:
            following = self.times.next(instant, zone)
            return following if following is not None and following <= end else None

        low, high, found = end, end, None  # the last fire comes after ``low``, none after ``high``
        span = 60
        while found is None and low > fire:
            high, low, span = low, max(fire, end - span), span * 2
            found = fire_after(low)
        if found is None:
            return fire
        while high - low > 1:
            middle = (low + high) // 2
            following = fire_after(middle)
            if following is None:
                high = middle
            else:
                low, found = middle, following
        return found

    def describe(self) -> str:
        times = self.times
        if (times.days, times.months, times.weekdays) != ALL_DAYS:
            return self.expression
        minute, minutes = _single(times.minutes), _step(times.minutes, 60)
        hour, hours = _single(times.hours), _step(times.hours, 24)
        if minutes and hours == 1:
            return "every minute" if minutes == 1 else f"every {minutes} minutes"
        if minute is not None and hours:
            return f"every {'hour' if hours == 1 else f'{hours} hours'} at minute {minute}"
        if minute is not None and hour is not None:
            return f"every day at {hour:02}:{minute:02}"
        return self.expression


@dataclass(frozen=True, slots=True)
class Every(Schedule):
    """A schedule by elapsed time: ``@every``. ``period`` in whole seconds; the caller anchors it at the last slot."""

    expression: str
    period: int

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        return _local(_instant(after) + self.period, zone)

    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, int]:
        begin = _instant(after)
        fires = max(0, _instant(until) - begin) // self.period
        return (_local(begin + fires * self.period, zone) if fires else None), min(fires, COUNT_LIMIT)

    def describe(self) -> str:
        for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
            if self.period % seconds == 0:
                count = self.period // seconds
                return f"every {unit}" if count == 1 else f"every {count} {unit}s"
        return self.expression


def parse(expression: str) -> Schedule:
    """Reads five fields, a descriptor (``@daily``) or ``@every DURATION``. Raises CronError."""
    if "TZ" in expression or expression.startswith(("tz=", "cron_tz=")):
        column = max(0, expression.find("TZ")) + 1
        raise CronError("a time zone does not belong into the expression; set time_zone beside it", column)
    if expression.startswith(_EVERY):
        return _every(expression)
    if expression.startswith("@"):
        if expression not in _DESCRIPTORS:
            raise CronError(f"{quoted(expression)} is not known; {_descriptor_remedy(expression)}", 1)
        return Calendar(expression, cron_fields.parse(_DESCRIPTORS[expression]))
    return Calendar(expression, cron_fields.parse(expression))


def _every(expression: str) -> Every:
    try:
        nanoseconds = go_duration.parse(expression[len(_EVERY) :])
    except go_duration.DurationError as error:
        raise CronError(f"@every: {error}", len(_EVERY) + error.offset + 1) from error
    return Every(expression, max(1, nanoseconds // go_duration.SECOND))


def _descriptor_remedy(text: str) -> str:
    plain = text.strip().lower()
    if plain in _DESCRIPTORS:
        return f"write {plain}, in lower case and without spaces"
    if plain.startswith(_EVERY.strip()):
        return "write @every and a duration, for example @every 90s"
    return f"there are {', '.join(_DESCRIPTORS)} and @every"


def _single(bits: int) -> int | None:
    """The only member, None when there are more."""
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def _step(bits: int, size: int) -> int | None:
    """The even distance of the members from 0 to ``size``, None where they are not spread so."""
    count = bits.bit_count()
    step = size // count if count > 1 and size % count == 0 else 0
    return step if step and bits == sum(1 << member for member in range(0, size, step)) else None


def _instant(at: datetime) -> int:
    """Whole seconds since the epoch, rounded down."""
    if at.tzinfo is None:
        raise ValueError(f"the time {at} has no zone")
    return (at - _EPOCH) // timedelta(seconds=1)


def _local(instant: int, zone: ZoneInfo) -> datetime | None:
    """None beyond the last year that a datetime can hold."""
    try:
        return datetime.fromtimestamp(instant, zone)
    except (ValueError, OverflowError):
        return None
