"""How many series an hour are sent at most: each is paid for, and a tag that holds an id can make a million of them."""

from service.clock import Clock
from service.domain.delivery import Point

_HOUR = 3600.0


class SeriesLimit:
    """Lets the first ``max_series`` of an hour pass, which go on passing; one that was silent for an hour
    makes room.

    https://docs.datadoghq.com/account_management/billing/custom_metrics/: distinct series of each hour.
    """

    def __init__(self, max_series: int, clock: Clock) -> None:
        self.max_series = max_series
        self._clock = clock
        # When a series' last point passed, in monotonic seconds; oldest first.
        self._seen: dict[tuple[str, tuple[str, ...]], float] = {}

    def is_excess(self, point: Point) -> bool:
        """Whether the point is of a new series beyond the limit."""
        now, seen, series = self._clock.monotonic(), self._seen, (point.metric, point.tags)
        while seen and (oldest := next(iter(seen.items())))[1] <= now - _HOUR:
            del seen[oldest[0]]
        if seen.pop(series, None) is None and len(seen) >= self.max_series:
            return True
        seen[series] = now
        return False
