"""The five fields of a cron expression as robfig/cron v3 reads them: what each one matches, or what is wrong where.

The rules are those of https://github.com/robfig/cron/blob/v3.0.1/parser.go, oddities such as ``1,,2`` and ``*-5``
included.
"""

import re
from dataclasses import dataclass

from service.domain.cron_search import Times

# What Go calls white space; Python counts U+001C to U+001F too.
_FIELD = re.compile(r"[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class CronError(ValueError):
    """The expression can't be read: what is wrong, where, and what to write instead.

    ``column``: where, in characters from 1.
    """

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"{message} (column {column})")
        self.column = column


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its bounds, and the names that stand for numbers in it."""

    title: str
    least: int
    most: int
    names: dict[str, int]

    @property
    def all(self) -> int:
        return (2 << self.most) - (1 << self.least)


_MINUTE = _Field("minute", 0, 59, {})
_HOUR = _Field("hour", 0, 23, {})
_DAY = _Field("day of month", 1, 31, {})
_MONTH = _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTH_NAMES, 1)})
_WEEKDAY = _Field("day of week", 0, 6, {name: number for number, name in enumerate(_WEEKDAY_NAMES)})
_FIELDS = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
# Every day of the year, as ``Times`` has it.
ALL_DAYS = (_DAY.all, _MONTH.all, _WEEKDAY.all)


class _Wrong(Exception):
    """What is wrong with a part of a field, without the place."""


def parse(expression: str) -> Times:
    """What the five fields match. Raises CronError."""
    found = list(_FIELD.finditer(expression))
    if len(found) != len(_FIELDS):
        raise _wrong_count(expression, found)
    bits, starred = [], []
    for field, match in zip(_FIELDS, found, strict=True):
        members, star, at = 0, False, match.start()
        for part in match[0].split(","):
            if part:
                try:
                    some, is_star = _members(part, field)
                except _Wrong as wrong:
                    raise CronError(f"{field.title} {quoted(part)}: {wrong}", at + 1) from None
                members, star = members | some, star or is_star
            at += len(part) + 1
        bits.append(members)
        starred.append(star)
    minutes, hours, days, months, weekdays = bits
    return Times(minutes, hours, days, months, weekdays, both=starred[2] or starred[4])


def _members(part: str, field: _Field) -> tuple[int, bool]:
    """The bits of one part of a list, and whether it is a star that leaves the field unrestricted."""
    span, *steps = part.split("/")
    low, *highs = span.split("-")
    star = low in ("*", "?")
    if star:
        first, last = field.least, field.most  # whatever follows a star and a hyphen counts for nothing
    else:
        if len(highs) > 1:
            raise _Wrong("there are too many hyphens; write FROM-TO")
        first = _number(low, field)
        last = _number(highs[0], field) if highs else field.most if steps else first
    step = 1
    if steps:
        if len(steps) > 1:
            raise _Wrong("there are too many slashes; write RANGE/STEP")
        step = _step_width(steps[0])
    for number in (first, last):
        if not field.least <= number <= field.most:
            hint = "; Sunday is 0" if field is _WEEKDAY and number == 7 else ""
            raise _Wrong(f"{number} is not within {field.least} to {field.most}{hint}")
    if first > last:
        raise _Wrong(f"the range runs backwards; write {low}-{field.most},{field.least}-{highs[0]}")
    if step == 1:
        return (2 << last) - (1 << first), star
    bits = 0
    for member in range(first, last + 1, step):
        bits |= 1 << member
    return bits, False


def _number(text: str, field: _Field) -> int:
    named = field.names.get(text.lower())
    if named is not None:
        return named
    if not _NUMBER.fullmatch(text):
        raise _Wrong(_number_remedy(text, field))
    return _integer(text)


def _step_width(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _Wrong(f"the step {quoted(text)} is not a number" if text else "the step after / is missing")
    width = _integer(text)
    if width < 1:
        raise _Wrong(f"the step is {width}; it must be 1 or more")
    return width


def _integer(text: str) -> int:
    digits = text.lstrip("+-0") or "0"
    # Beyond 64 bits the original refuses a number; Python itself refuses to read those of thousands of digits.
    if len(digits) > 19 or int(digits) >= 1 << 63:
        raise _Wrong("the number is too large")
    return -int(digits) if text.startswith("-") else int(digits)


def _wrong_count(expression: str, found: list[re.Match[str]]) -> CronError:
    if not found:
        return CronError("the expression is empty; write five fields, for example */10 * * * *", 1)
    if found[0][0].startswith("@"):
        return CronError("a descriptor must begin in the first column; remove the space before it", 1)
    names = "minute, hour, day of month, month and day of week"
    if len(found) < len(_FIELDS):
        return CronError(f"there are {len(found)} fields instead of five ({names})", len(expression) + 1)
    hint = "; seconds are not supported" if len(found) == len(_FIELDS) + 1 else ""
    return CronError(f"there are {len(found)} fields instead of five ({names}){hint}", found[len(_FIELDS)].start() + 1)


def _number_remedy(text: str, field: _Field) -> str:
    if not text:
        return "a number is missing"
    short = text[:3].lower()
    if short in field.names and text.isalpha():
        return f"write {short.upper()}; names have three letters"
    if field in (_DAY, _WEEKDAY) and re.fullmatch(r"(?i)l|w|lw|[0-9a-z]*[lw#][0-9]*", text):
        return "L, W and # are not supported"
    names = f" or {'-'.join((next(iter(field.names)).upper(), list(field.names)[-1].upper()))}" if field.names else ""
    return f"{quoted(text)} is not a number from {field.least} to {field.most}{names}"


def quoted(text: str) -> str:
    """For a message; long ones are cut."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
