"""Whether a quota lasts until it is filled up again, if it is spent on as it was."""

from dataclasses import dataclass
from datetime import datetime, timedelta

# Spent in one go at the window's start, a cycle's requests are no rate: at least the usual ten minutes are assumed.
_LEAST = timedelta(minutes=10)
# GitHub counts search by the minute and all else by the hour.
# https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
_WINDOWS = {"search": timedelta(minutes=1), "code_search": timedelta(minutes=1)}
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Forecast:
    """``left``: what will be left at the reset; ``empty_at``: when nothing is, None where it lasts."""

    left: int
    empty_at: datetime | None


def forecast(resource: str, limit: int, remaining: int, reset_at: datetime, now: datetime) -> Forecast:
    """What becomes of ``remaining`` (of ``limit``) by ``reset_at``; after it, the quota is whole."""
    ahead = reset_at - now
    if ahead <= timedelta(0):
        return Forecast(limit, None)
    window = _WINDOWS.get(resource, _HOUR)
    spent_in = max(window - ahead, min(_LEAST, window))
    rate = max(0, limit - remaining) / spent_in.total_seconds()
    left = remaining - rate * ahead.total_seconds()
    if remaining <= 0:
        return Forecast(0, now)
    if left < 0:
        return Forecast(0, now + timedelta(seconds=remaining / rate))
    return Forecast(int(left), None)
