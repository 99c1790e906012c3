"""GitHub's primary rate limits, as their headers tell them.

https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from dataclasses import dataclass
from datetime import datetime

# Requests in so many seconds, of one authorised caller.
LIMITS = {"core": (5000, 3600), "search": (30, 60), "graphql": (5000, 3600)}


@dataclass(slots=True)
class _Window:
    limit: int
    seconds: int
    used: int = 0
    reset: int = 0


class Quota:
    """Counts requests by resource; a window opens with the first request after the last one closed."""

    def __init__(self) -> None:
        self._windows = {name: _Window(*bounds) for name, bounds in LIMITS.items()}

    def take(self, resource: str, now: datetime) -> bool:
        """Counts one request, False when none is left."""
        window = self._current(resource, now)
        if window.used >= window.limit:
            return False
        window.used += 1
        return True

    def state(self, resource: str, now: datetime) -> dict[str, int]:
        window = self._current(resource, now)
        return {
            "limit": window.limit,
            "used": window.used,
            "remaining": window.limit - window.used,
            "reset": window.reset,
        }

    def headers(self, resource: str, now: datetime) -> dict[str, str]:
        state = {f"x-ratelimit-{name}": str(value) for name, value in self.state(resource, now).items()}
        return {**state, "x-ratelimit-resource": resource}

    def all(self, now: datetime) -> dict[str, dict[str, int]]:
        return {name: self.state(name, now) for name in self._windows}

    def _current(self, resource: str, now: datetime) -> _Window:
        window = self._windows[resource]
        seconds = int(now.timestamp())
        if seconds >= window.reset:
            window.used, window.reset = 0, seconds + window.seconds
        return window
