"""A bound on the series that are sent: each one is paid for, and one tag that holds an id can make a million of them.

Datadog counts the distinct series of each hour (https://docs.datadoghq.com/account_management/billing/custom_metrics/),
so a series that was silent for an hour makes room for another.
"""

from collections.abc import Sequence

from service.domain.delivery import Point

_HOUR = 3600.0


class SeriesLimit:
    """Lets ``limit`` series an hour pass, first come, first served. Those that pass already go on passing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # When a series' last point passed, in monotonic seconds; oldest first.
        self._seen: dict[tuple[str, tuple[str, ...]], float] = {}

    def find_excess(self, points: Sequence[Point], now: float) -> list[int]:
        """The places of those points that may not be sent at ``now``."""
        while self._seen and (oldest := next(iter(self._seen.items())))[1] <= now - _HOUR:
            del self._seen[oldest[0]]
        excess = []
        for place, point in enumerate(points):
            series = point.metric, point.tags
            if self._seen.pop(series, None) is None and len(self._seen) >= self.limit:
                excess.append(place)
            else:
                self._seen[series] = now
        return excess
