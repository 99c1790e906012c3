"""What is wrong for longer than one run: said when it begins, when its reason changes and when it ends, not each time.

A collector that fails every ten minutes for a week is one incident, not a thousand.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime

# What differs each time without being another reason: waits, instants, request ids.
_VOLATILE = re.compile(
    r"\d+(?:\.\d+)? ?(?:ms|s|sec|seconds|min|minutes|h|hours|bytes)\b"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b(?:[0-9A-F]+:){2,}[0-9A-F]+\b|\b0x[0-9a-f]+\b"
)
# A server that is away or refuses the token does so to whichever of several requests meets it first. (What it answers
# otherwise, such as 404, may well be of this one request.)
_WHOLE_SERVER = re.compile(r"(did not answer |answered (?:401|429|5\d\d)\b.*\()[A-Z]+ /[^\s:)]*")


@dataclass(slots=True)
class Incident:
    """``count``: how often it was met."""

    reason: str
    since: datetime
    count: int = 1


class Incidents:
    """Those that last, by what they are of."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Incident] = {}

    def since(self, subject: Hashable) -> datetime:
        """When an incident that lasts began."""
        return self._open[subject].since

    def is_news(self, subject: Hashable, reason: str) -> bool:
        """Whether ``report`` would be the first of this reason in a row."""
        known = self._open.get(subject)
        return known is None or _normalize(known.reason) != _normalize(reason)

    def report(self, subject: Hashable, reason: str, now: datetime) -> bool:
        """It was met (again). Whether that is news."""
        is_news = self.is_news(subject, reason)
        known = self._open.setdefault(subject, Incident(reason, now, 0))
        known.reason = reason
        known.count += 1
        return is_news

    def resolve(self, subject: Hashable) -> Incident | None:
        """All is well: the incident that has ended, None where there was none."""
        return self._open.pop(subject, None)


def _normalize(reason: str) -> str:
    return _VOLATILE.sub("#", _WHOLE_SERVER.sub(r"\1#", reason))
