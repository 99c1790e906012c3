"""Conditions such as ``< 5.0`` or ``in [0.8, 1.2]``: the text travels to Datadog as written, with a threshold.

A relative one, ``>= 0.85x``, compares with so much of a number that is known only when a value is judged.
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from service.domain.samples import Status

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
}
_NUMBER = r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
_COMPARISON = re.compile(rf"\s*(>=|<=|==|=|>|<)\s*{_NUMBER}\s*")
_RANGE = re.compile(rf"\s*(?:in\s*\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]|{_NUMBER}\s*\.\.\s*{_NUMBER})\s*")


_FACTOR = re.compile(rf"{_NUMBER}x")
_TIMES = r"((\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?x)"
_RELATIVE = re.compile(
    rf"\s*((>=|<=|==|=|>|<)\s*{_TIMES}|in\s*\[\s*{_TIMES}\s*,\s*{_TIMES}\s*\]|{_TIMES}\s*\.\.\s*{_TIMES})\s*"
)
# How a relative one begins, right or wrong.
LIKE_RELATIVE = r"\s*([<>=]|in\s*\[).*[\d.]\s*x\b"


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with a number, or a range with both bounds included.

    ``operator``: one of ``> >= < <= = ==``, or ``in``. ``threshold``: the number; of a range the upper bound.
    ``low``: the lower bound of a range, None of a comparison.
    """

    operator: str
    threshold: float
    low: float | None = None

    def status(self, value: float) -> Status:
        if self.low is not None:
            holds = self.low <= value <= self.threshold
        else:
            holds = _COMPARISONS[self.operator](value, self.threshold)
        return Status.PASS if holds else Status.FAIL


@lru_cache(maxsize=4096)
def parse(text: str) -> Condition | None:
    """The condition that ``text`` writes, None where it writes something else ("none", "stable for a week")."""
    if match := _COMPARISON.fullmatch(text):
        condition = Condition(match[1], float(match[2]))
    elif match := _RANGE.fullmatch(text):
        low, high = (float(number) for number in match.groups() if number is not None)
        condition = Condition("in", high, low)
    else:
        return None
    # 1e999 is written as a number, but none that a value could be compared with or a threshold be sent as.
    numbers = (condition.threshold, condition.low or 0.0)
    is_usable = all(map(math.isfinite, numbers)) and (condition.low is None or condition.low <= condition.threshold)
    return condition if is_usable else None


@lru_cache(maxsize=4096)
def is_relative(text: str) -> bool:
    """Whether ``text`` is a condition whose numbers are factors, such as ``in [0.9x, 1.1x]``."""
    return _RELATIVE.fullmatch(text) is not None and parse(_FACTOR.sub(r"\1", text)) is not None


def resolve(text: str, reference: float) -> str:
    """A relative condition in numbers: ``>= 0.85x`` of 20 is ``>= 17``. One that has numbers already stays as it is."""
    # Twelve digits: 1.1 times 100 is 110, and not a little more.
    return _FACTOR.sub(lambda factor: f"{float(factor[1]) * reference:.12g}", text)
