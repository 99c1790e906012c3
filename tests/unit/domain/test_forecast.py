"""The quota's forecast."""

from datetime import UTC, datetime, timedelta

import pytest

from service.domain.forecast import Forecast, forecast

NOW = datetime(2025, 1, 14, 15, 0, tzinfo=UTC)


def minutes(count: float) -> datetime:
    return NOW + timedelta(minutes=count)


@pytest.mark.parametrize(
    ("resource", "remaining", "reset", "expected"),
    [
        ("core", 4000, 30, Forecast(3000, None)),  # 1000 in 30 minutes, so 1000 more
        ("core", 2500, 40, Forecast(0, minutes(20))),  # 2500 in 20 minutes
        ("core", 4900, 59, Forecast(4310, None)),  # 100 at once are spread over ten minutes, not over one
        ("core", 0, 20, Forecast(0, NOW)),
        ("core", 5000, 60, Forecast(5000, None)),
        ("core", 10, -1, Forecast(5000, None)),  # it is whole again
        ("search", 4990, 0.5, Forecast(4985, None)),  # search counts by the minute
    ],
)
def test_a_quota_is_spent_on_as_it_was(resource: str, remaining: int, reset: float, expected: Forecast) -> None:
    assert forecast(resource, 5000, remaining, minutes(reset), NOW) == expected
