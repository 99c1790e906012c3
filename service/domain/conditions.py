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
# The forms, as a JSON Schema may hold them, too. LIKE_RELATIVE: how a relative one begins, right or wrong.
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_FORMS = r"\s*(?:(>=|<=|==|=|>|<)\s*({0})|in\s*\[\s*({0})\s*,\s*({0})\s*\]|({0})\s*\.\.\s*({0}))\s*"
ABSOLUTE, RELATIVE = _FORMS.format(rf"[+-]?{_NUMBER}"), _FORMS.format(rf"{_NUMBER}x")
LIKE_RELATIVE = r"\s*([<>=]|in\s*\[).*[\d.]\s*x\b"
_FACTOR = re.compile(rf"({_NUMBER})x")


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
    if not (match := re.fullmatch(ABSOLUTE, text)):
        return None
    comparison, *found = match.groups()
    numbers = [float(number) for number in found if number is not None]
    # 1e999 is written as a number, but none that a value could be compared with or a threshold be sent as.
    if not all(map(math.isfinite, numbers)) or numbers != sorted(numbers):
        return None
    return Condition(comparison or "in", numbers[-1], None if comparison else numbers[0])


@lru_cache(maxsize=4096)
def is_relative(text: str) -> bool:
    """Whether ``text`` is a condition whose numbers are factors, such as ``in [0.9x, 1.1x]``."""
    return re.fullmatch(RELATIVE, text) is not None and parse(_FACTOR.sub(r"\1", text)) is not None


def resolve(text: str, reference: float) -> str:
    """A relative condition in numbers: ``>= 0.85x`` of 20 is ``>= 17``. One that has numbers already stays as it is."""
    # Twelve digits: 1.1 times 100 is 110, and not a little more.
    return _FACTOR.sub(lambda factor: f"{float(factor[1]) * reference:.12g}", text)
