"""Durations as Go writes them (``1h30m``, ``1.5h``, ``100ms``), read to the nanosecond as ``time.ParseDuration`` does.

The rules are those of https://pkg.go.dev/time#ParseDuration: a sign, then numbers with a unit each; ``0`` needs none.
"""

import re

SECOND = 1_000_000_000  # in nanoseconds, as everything here

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_LIMIT = 1 << 63
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^.0-9]*)")


class DurationError(ValueError):
    """``offset``: where in the text, in characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def parse(text: str) -> int:
    """Nanoseconds, negative where the text is. Raises DurationError."""
    signed = text[:1] in ("+", "-")
    if text[signed:] == "0":
        return 0
    if not text[signed:]:
        raise DurationError("there is no duration; write one such as 90s or 1h30m", len(text))
    total, at = 0, int(signed)
    while at < len(text):
        match = _PART.match(text, at)
        whole, fraction, unit = match.groups(default="") if match else ("", "", "")
        if not whole and not fraction:
            raise DurationError(f"{text[at:]!r} does not begin with a number; write durations as in 90s or 1h30m", at)
        if unit not in _UNITS:
            what = f"{unit!r} is no unit" if unit else "the unit is missing"
            raise DurationError(f"{what}; the units are h, m, s, ms, us and ns", at + len(whole))
        total += _nanoseconds(whole, fraction, _UNITS[unit], at)
        at += len(match[0]) if match else 0
    negative = text[0] == "-"
    if total > _LIMIT - (not negative):
        raise _too_long(0)
    return -total if negative else total


def _nanoseconds(whole: str, fraction: str, unit: int, at: int) -> int:
    digits = whole.lstrip("0")
    if len(digits) > len(str(_LIMIT)):  # Python itself refuses to read numbers of thousands of digits
        raise _too_long(at)
    value = int(digits or "0") * unit
    numerator, scale = 0, 1.0
    for digit in fraction:
        # Go stops reading a fraction where it would leave 63 bits, and computes the rest in floating point.
        if numerator > (_LIMIT - 1) // 10 or numerator * 10 + int(digit) > _LIMIT:
            break
        numerator, scale = numerator * 10 + int(digit), scale * 10
    value += int(float(numerator) * (float(unit) / scale))
    if value > _LIMIT:
        raise _too_long(at)
    return value


def _too_long(at: int) -> DurationError:
    return DurationError("the duration is too long; at most 2562047h47m", at)
