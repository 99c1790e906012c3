"""Lasting faults: said when they begin, each time their reason changes, and when they end; nothing in between.

A collector that fails every ten minutes for a week has one fault, not a thousand.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

# What differs each time without being another reason: waits, instants, request ids.
_VOLATILE = re.compile(
    r"\d+(?:\.\d+)? ?(?:ms|s|sec|seconds|min|minutes|h|hours|bytes)\b"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b(?:[0-9A-F]+:){2,}[0-9A-F]+\b|\b0x[0-9a-f]+\b"
)
# A server that is away or refuses the token does so to whichever of several requests meets it first. (What it answers
# otherwise, such as 404, may well be of this one request.)
_WHOLE_SERVER = re.compile(r"(did not answer |answered (?:401|429|5\d\d)\b.*\()[A-Z]+ /[^\s:)]*")


class News(Enum):
    BEGUN = "begun"
    CHANGED = "changed"
    SAME = "same"


@dataclass(slots=True)
class Standing:
    """A fault that lasts. ``times``: how often it was met."""

    reason: str
    since: datetime
    times: int = 1


class Faults:
    """The faults that stand now, by what they are of."""

    def __init__(self) -> None:
        self._standing: dict[Hashable, Standing] = {}

    def of(self, what: Hashable) -> Standing | None:
        return self._standing.get(what)

    def compare(self, what: Hashable, reason: str) -> News:
        """What ``meet`` would say, without meeting it."""
        before = self._standing.get(what)
        if before is None:
            return News.BEGUN
        return News.SAME if _steady(before.reason) == _steady(reason) else News.CHANGED

    def meet(self, what: Hashable, reason: str, now: datetime) -> News:
        """The fault was met (again)."""
        news = self.compare(what, reason)
        if news is News.BEGUN:
            self._standing[what] = Standing(reason, now)
        else:
            standing = self._standing[what]
            standing.times += 1
            standing.reason = reason
        return news

    def end(self, what: Hashable) -> Standing | None:
        """All is well: the fault that ended, None where none stood."""
        return self._standing.pop(what, None)


def _steady(reason: str) -> str:
    return _VOLATILE.sub("#", _WHOLE_SERVER.sub(r"\1#", reason))
