"""What is wrong for longer than one run: said when it begins, when its reason changes and when it ends, not each time.

A collector that fails every ten minutes for a week is one incident, not a thousand.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime

# What differs each time without being another reason: which of several requests met it, waits, instants.
_VOLATILE = re.compile(r"[A-Z]+ /\S*|\d+(?:\.\d+)? ?(?:ms|s|min|h|seconds|bytes)\b|\d{4}-\d\d-\d\d[T ][\d:.]+")


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
        return known is None or _VOLATILE.sub("#", known.reason) != _VOLATILE.sub("#", reason)

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
