"""A bound on the series that leave: each one is paid for, and one tag that holds an id can make a million of them.

Datadog counts the distinct series of each hour (https://docs.datadoghq.com/account_management/billing/custom_metrics/),
so a series that was silent for an hour makes room for another.
"""

from collections.abc import Sequence

from service.domain.points import Point

_HOUR = 3600.0


class SeriesLimit:
    """Lets ``most`` series an hour pass, first come; None: all. Those that pass already go on passing."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._seen: dict[tuple[str, str], float] = {}  # when a series' last point passed, monotonic; oldest first

    def part(self, points: Sequence[Point], now: float) -> tuple[Sequence[Point], list[Point]]:
        """The points that may leave at ``now`` (monotonic seconds), and those that may not."""
        if self.most is None:
            return points, []
        self._forget(now - _HOUR)
        passed, held = [], []
        for point in points:
            series = point.metric, point.tags
            if self._seen.pop(series, None) is None and len(self._seen) >= self.most:
                held.append(point)
                continue
            self._seen[series] = now
            passed.append(point)
        return passed, held

    def _forget(self, before: float) -> None:
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] > before:
                return
            del self._seen[oldest]
