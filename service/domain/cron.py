"""Schedules as Kubernetes' CronJobs read them: the syntax and the instants of robfig/cron v3, to the letter.

What is accepted is what ``cron.ParseStandard`` accepts (https://github.com/robfig/cron/blob/v3.0.1/parser.go), oddities
such as ``1,,2`` and ``*-5`` included, but no time zone inside the expression: Kubernetes refuses it.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from service.domain.cron_search import Fields

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# What Go calls white space; Python counts U+001C to U+001F too.
_FIELD = re.compile(r"[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_NUMBER = re.compile(r"\+?0*([0-9]{1,19})")  # the original takes what 64 bits can hold
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# Durations as Go writes them, in nanoseconds: https://pkg.go.dev/time#ParseDuration
_SECOND = 1_000_000_000
_UNITS = {"h": 3600 * _SECOND, "ms": 1_000_000, "m": 60 * _SECOND, "s": _SECOND, "us": 1_000, "ns": 1}
_UNITS |= {"µs": 1_000, "μs": 1_000}  # the micro sign, and the Greek letter
_PART = r"(?=\.?[0-9])0*([0-9]{0,19})(?:\.([0-9]*))?(" + "|".join(_UNITS) + ")"
_DURATION = re.compile(rf"([+-]?)(0|(?:{_PART})+)")
# Steps that divide an hour, or a day, evenly: others start anew with it.
_IN_WORDS = (
    (r"\* \* \* \* \*", "every minute"),
    (r"\*/([2-6]|10|12|15|20|30) \* \* \* \*", "every {} minutes"),
    (r"(\d+) \* \* \* \*", "every hour at minute {}"),
    (r"(\d+) \*/([2-4]|6|8|12) \* \* \*", "every {1} hours at minute {0}"),
    (r"(\d+) (\d+) \* \* \*", "every day at {1:0>2}:{0:0>2}"),
)


class Schedule(ABC):
    """When something is due. ``expression`` is the text that it was read from."""

    __slots__ = ()
    expression: str

    @abstractmethod
    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        """The first fire later than ``after`` (aware), in ``zone``; None when there is none within five years."""

    @abstractmethod
    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
        """The last fire later than ``after`` and not later than ``until``, None when there is none."""

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
    fields: Fields

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        fire = self.fields.next(_instant(after), zone)
        return None if fire is None else datetime.fromtimestamp(fire, zone)

    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
        end = _instant(until)
        fire, limit = self.fields.next(_instant(after), zone), end
        if fire is None or fire > end:
            return None
        # Years may lie between: no fire is looked at one by one. ``fire`` is one, none comes after ``limit``.
        while limit - fire > 1:
            following = self.fields.next((fire + limit) // 2, zone)
            if following is None or following > end:
                limit = (fire + limit) // 2
            else:
                fire = following
        return datetime.fromtimestamp(fire, zone)

    def describe(self) -> str:
        fields = _DESCRIPTORS.get(self.expression, self.expression).split()
        text = " ".join("*" if field in ("?", "*/1") else field for field in fields)
        found = ((re.fullmatch(pattern, text), words) for pattern, words in _IN_WORDS)
        return next((words.format(*match.groups()) for match, words in found if match), self.expression)


@dataclass(frozen=True, slots=True)
class Every(Schedule):
    """A schedule by elapsed time: ``@every``. ``period`` in whole seconds; the caller anchors it at the last slot."""

    expression: str
    period: int

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        return _local(_instant(after) + self.period, zone)

    def latest(self, after: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
        begin = _instant(after)
        count = (_instant(until) - begin) // self.period
        return _local(begin + count * self.period, zone) if count > 0 else None

    def describe(self) -> str:
        units = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
        unit, seconds = next(each for each in units if self.period % each[1] == 0)
        count = self.period // seconds
        return f"every {unit}" if count == 1 else f"every {count} {unit}s"


def parse(expression: str) -> Schedule:
    """Reads five fields, a descriptor (``@daily``) or ``@every DURATION``. Raises ValueError with what is wrong."""
    if "TZ" in expression or expression.startswith(("tz=", "cron_tz=")):
        raise ValueError("a time zone does not belong into the expression; set time_zone beside it")
    if expression.startswith("@every "):
        return Every(expression, max(1, _parse_duration(expression.removeprefix("@every ")) // _SECOND))
    if expression.startswith("@") and expression not in _DESCRIPTORS:
        raise ValueError(f"{expression!r:.40} is not known; there are {', '.join(_DESCRIPTORS)} and @every DURATION")
    parts = _FIELD.findall(_DESCRIPTORS.get(expression, expression))
    if len(parts) != len(_FIELDS):
        names = "minute, hour, day of month, month and day of week"
        raise ValueError(f"there are {len(parts)} fields instead of five ({names}), as in */10 * * * *")
    minutes, hours, days, months, weekdays = map(_Field.parse, _FIELDS, parts)
    both = days[1] or weekdays[1]
    return Calendar(expression, Fields(minutes[0], hours[0], days[0], months[0], weekdays[0], both))


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its bounds, and the names that stand for numbers in it, from ``least`` on."""

    title: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    def parse(self, text: str) -> tuple[int, bool]:
        """The bits of a list, and whether a star in it leaves the field unrestricted."""
        bits, is_unrestricted = 0, False
        for part in filter(None, text.split(",")):
            try:
                members, is_star = self._members(part)
            except ValueError as error:
                raise ValueError(f"{self.title} {part!r:.40}: {error}") from None
            bits, is_unrestricted = bits | members, is_unrestricted or is_star
        return bits, is_unrestricted

    def _members(self, part: str) -> tuple[int, bool]:
        span, *steps = part.split("/")
        low, *highs = span.split("-")
        is_star = low in ("*", "?")  # whatever follows it and a hyphen counts for nothing
        if len(steps) > 1 or (len(highs) > 1 and not is_star):
            raise ValueError("write FROM-TO/STEP")
        first = self.least if is_star else self._number(low)
        last = self.most if is_star or (steps and not highs) else self._number(highs[0]) if highs else first
        step = _integer(steps[0]) if steps else 1
        if step < 1:
            raise ValueError("the step must be 1 or more")
        if outside := [number for number in (first, last) if not self.least <= number <= self.most]:
            hint = "; Sunday is 0" if self is _WEEKDAY else ""
            raise ValueError(f"{outside[0]} is not within {self.least} to {self.most}{hint}")
        if first > last:
            raise ValueError("the range runs backwards")
        return sum(1 << member for member in range(first, last + 1, step)), is_star and step == 1

    def _number(self, text: str) -> int:
        word = text.lower()
        return self.least + self.names.index(word) if word in self.names else _integer(text)


_WEEKDAY = _Field("day of week", 0, 6, _WEEKDAYS)
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _WEEKDAY,
)


def _integer(text: str) -> int:
    if (digits := _NUMBER.fullmatch(text)) and int(digits[1]) < 1 << 63:
        return int(digits[1])
    raise ValueError(f"{text!r:.40} is not a number")


def _parse_duration(text: str) -> int:
    """Nanoseconds: a sign, then numbers with a unit each; ``0`` needs none."""
    total = 0
    if match := _DURATION.fullmatch(text):
        for whole, fraction, unit in re.findall(_PART, match[2]):
            # Go, too, computes a fraction in floating point; 18 digits are what its 63 bits can hold.
            size, digits = _UNITS[unit], fraction[:18]
            total += int(whole or "0") * size + int(int(digits or "0") * (size / 10 ** len(digits)))
    if match is None or total >= 1 << 63:
        raise ValueError(f"{text!r:.40} is no duration of at most 2562047h; write one such as 90s or 1h30m")
    return -total if match[1] == "-" else total


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
