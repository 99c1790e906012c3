"""Conditions such as ``< 5.0``: the text travels to Datadog as written, the number becomes a threshold."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from service.domain.samples import Status

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
}
_PATTERN = re.compile(r"\s*(>=|<=|==|=|>|<)\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with a number."""

    operator: str
    threshold: float

    def status(self, value: float) -> Status:
        return Status.PASS if _HOLDS[self.operator](value, self.threshold) else Status.FAIL


def parse(text: str) -> Condition | None:
    """The comparison that ``text`` writes, None where it writes something else ("none", "stable for a week")."""
    match = _PATTERN.fullmatch(text)
    # 1e999 is written as a number, but none that a value could be compared with or a threshold be sent as.
    return Condition(match[1], float(match[2])) if match and math.isfinite(float(match[2])) else None
