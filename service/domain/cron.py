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
_NUMBER = re.compile(r"[+-]?[0-9]+")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# Durations as Go writes them, in nanoseconds: https://pkg.go.dev/time#ParseDuration
_DURATION = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^.0-9]*)")
_SECOND = 1_000_000_000
_UNITS = {"h": 3600 * _SECOND, "m": 60 * _SECOND, "s": _SECOND, "ms": 1_000_000, "us": 1_000, "ns": 1}
_UNITS |= {"µs": 1_000, "μs": 1_000}  # the micro sign, and the Greek letter
_MAX_DURATION = (1 << 63) - 1


class CronError(ValueError):
    """The expression can't be read: what is wrong, where, and what to write instead.

    ``column``: where, in characters from 1.
    """

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"{message} (column {column})")
        self.column = column


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
        fields = self.fields
        if (fields.days, fields.months, fields.weekdays) != (_DAY.all, _MONTH.all, _WEEKDAY.all):
            return self.expression
        minute, minutes = _single(fields.minutes), _distance(fields.minutes, 60)
        hour, hours = _single(fields.hours), _distance(fields.hours, 24)
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
    """Reads five fields, a descriptor (``@daily``) or ``@every DURATION``. Raises CronError."""
    if "TZ" in expression or expression.startswith(("tz=", "cron_tz=")):
        column = max(0, expression.find("TZ")) + 1
        raise CronError("a time zone does not belong into the expression; set time_zone beside it", column)
    if expression.startswith("@every "):
        return Every(expression, max(1, _parse_duration(expression, len("@every ")) // _SECOND))
    if expression.startswith("@") and expression not in _DESCRIPTORS:
        raise CronError(f"{_quote(expression)} is not known; {_suggest_descriptor(expression)}", 1)
    return Calendar(expression, _parse_fields(_DESCRIPTORS.get(expression, expression)))


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its bounds, and the names that stand for numbers in it, from ``least`` on."""

    title: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    @property
    def all(self) -> int:
        return (2 << self.most) - (1 << self.least)

    def members(self, part: str) -> tuple[int, bool]:
        """The bits of one part of a list, and whether it is a star that leaves the field unrestricted.

        Raises ValueError with what is wrong.
        """
        span, *steps = part.split("/")
        low, *highs = span.split("-")
        is_star = low in ("*", "?")
        if len(steps) > 1:
            raise ValueError("there are too many slashes; write RANGE/STEP")
        if is_star:
            first, last = self.least, self.most  # whatever follows a star and a hyphen counts for nothing
        elif len(highs) > 1:
            raise ValueError("there are too many hyphens; write FROM-TO")
        else:
            first = self.number(low)
            last = self.number(highs[0]) if highs else self.most if steps else first
        step = _integer(steps[0], "the step after /") if steps else 1
        if step < 1:
            raise ValueError(f"the step is {step}; it must be 1 or more")
        for number in (first, last):
            if not self.least <= number <= self.most:
                hint = "; Sunday is 0" if self is _WEEKDAY and number == 7 else ""
                raise ValueError(f"{number} is not within {self.least} to {self.most}{hint}")
        if first > last:
            raise ValueError(f"the range runs backwards; write {low}-{self.most},{self.least}-{highs[0]}")
        return sum(1 << member for member in range(first, last + 1, step)), is_star and step == 1

    def number(self, text: str) -> int:
        word = text.lower()
        if word in self.names:
            return self.least + self.names.index(word)
        if not text or _NUMBER.fullmatch(text):
            return _integer(text, "a number")
        names = f" or {self.names[0].upper()}-{self.names[-1].upper()}" if self.names else ""
        raise ValueError(f"{_quote(text)} is not a number from {self.least} to {self.most}{names}")


_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 0, 6, _WEEKDAYS)
_FIELDS = (_Field("minute", 0, 59), _Field("hour", 0, 23), _DAY, _MONTH, _WEEKDAY)


def _parse_fields(expression: str) -> Fields:
    found = list(_FIELD.finditer(expression))
    if len(found) != len(_FIELDS):
        raise _wrong_count(expression, found)
    bits, stars = [0] * len(_FIELDS), [False] * len(_FIELDS)
    for index, (field, match) in enumerate(zip(_FIELDS, found, strict=True)):
        column = match.start() + 1
        for part in match[0].split(","):
            if part:
                try:
                    members, is_star = field.members(part)
                except ValueError as error:
                    raise CronError(f"{field.title} {_quote(part)}: {error}", column) from None
                bits[index] |= members
                stars[index] |= is_star
            column += len(part) + 1
    minutes, hours, days, months, weekdays = bits
    return Fields(minutes, hours, days, months, weekdays, both=stars[2] or stars[4])


def _wrong_count(expression: str, found: list[re.Match[str]]) -> CronError:
    if not found:
        return CronError("the expression is empty; write five fields, for example */10 * * * *", 1)
    if found[0][0].startswith("@"):
        return CronError("a descriptor must begin in the first column; remove the space before it", 1)
    text = f"there are {len(found)} fields instead of five (minute, hour, day of month, month and day of week)"
    if len(found) < len(_FIELDS):
        return CronError(text, len(expression) + 1)
    return CronError(text + "; seconds are not supported" * (len(found) == 6), found[5].start() + 1)


def _suggest_descriptor(text: str) -> str:
    plain = text.strip().lower()
    if plain in _DESCRIPTORS:
        return f"write {plain}, in lower case and without spaces"
    if plain.startswith("@every"):
        return "write @every and a duration, for example @every 90s"
    return f"there are {', '.join(_DESCRIPTORS)} and @every"


def _parse_duration(text: str, at: int) -> int:
    """Nanoseconds of the duration that begins at ``at``: a sign, then numbers with a unit each; ``0`` needs none."""
    sign = -1 if text[at:].startswith("-") else 1
    begin = at + text[at:].startswith(("+", "-"))
    if text[begin:] == "0":
        return 0
    if not text[begin:]:
        raise CronError("@every: there is no duration; write one such as 90s or 1h30m", len(text) + 1)
    total, at = 0, begin
    while at < len(text):
        match = _DURATION.match(text, at)
        whole, fraction, unit = match.groups(default="") if match else ("", "", "")
        if not whole and not fraction:
            raise CronError(f"@every: {text[at:]!r} does not begin with a number; write 90s or 1h30m", at + 1)
        if unit not in _UNITS:
            what = f"{unit!r} is no unit" if unit else "the unit is missing"
            raise CronError(f"@every: {what}; the units are h, m, s, ms, us and ns", at + len(whole) + 1)
        # Go, too, computes a fraction in floating point; 18 digits are what its 63 bits can hold.
        size, digits, whole = _UNITS[unit], fraction[:18], whole.lstrip("0")
        total += int(whole[:20] or "0") * size + int(int(digits or "0") * (size / 10 ** len(digits)))
        if total > _MAX_DURATION + (sign < 0) or len(whole) > 20:
            raise CronError("@every: the duration is too long; at most 2562047h47m", begin + 1)
        at += len(match[0]) if match else 0
    return sign * total


def _integer(text: str, title: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{title} {_quote(text)} is not a number" if text else f"{title} is missing")
    digits = text.lstrip("+-0") or "0"
    # Beyond 64 bits the original refuses a number; Python itself refuses to read those of thousands of digits.
    if len(digits) > 19 or int(digits) >= 1 << 63:
        raise ValueError("the number is too large")
    return -int(digits) if text.startswith("-") else int(digits)


def _single(bits: int) -> int | None:
    """The only member, None when there are more."""
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def _distance(bits: int, size: int) -> int | None:
    """The even distance of the members from 0 to ``size``, None where they are not spread so."""
    step = size // bits.bit_count() if bits.bit_count() > 1 else size
    return step if step < size and bits == sum(1 << member for member in range(0, size, step)) else None


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


def _quote(text: str) -> str:
    """For a message; long ones are cut."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
