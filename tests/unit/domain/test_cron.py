"""Schedules fire when Kubernetes' CronJobs do: against the original's recorded answers."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import cron

PAYLOADS = Path(__file__).parents[2] / "payloads"
VECTORS = json.loads((PAYLOADS / "cron_vectors.json").read_text())
# [expression, zone, start, fires] around changes of the offset, as robfig/cron v3.0.1 (Go 1.19) printed them.
RECORDED = json.loads((PAYLOADS / "cron_dst.json").read_text())
UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def fires(
    expression: str, start: datetime, zone: ZoneInfo, *, count: int | None = None, until: datetime | None = None
) -> list[datetime]:
    """In UTC: Python holds times of an overlap for unequal to every time of another zone."""
    schedule, found, after = cron.parse(expression), list[datetime](), start
    while len(found) != count and (fire := schedule.next(after, zone)) and not (until and fire > until):
        assert after.astimezone(UTC) < fire.astimezone(UTC)
        # A wall time inside a gap comes back as another one; a wrong fold as another instant.
        back = fire.astimezone(UTC).astimezone(zone)
        assert (back.replace(tzinfo=None), back.fold, zone) == (fire.replace(tzinfo=None), fire.fold, fire.tzinfo)
        found.append(fire.astimezone(UTC))
        after = fire
    return found


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: f"{case['class']} {case['expr']!r} {case['tz']}")
def test_every_shared_case_agrees_with_the_original(case: dict[str, Any]) -> None:
    expression, zone = case["expr"], ZoneInfo(case["tz"] or "UTC")
    if not case["k8s_accepts"]:
        with pytest.raises(ValueError, match=r"\w"):
            cron.parse(expression)
        return
    assert fires(expression, at(case["start"]), zone, count=12) == [at(text) for text in case["fires"]]


def test_recorded_answers_around_changes_of_the_offset_agree() -> None:
    """And the latest fire of a span is the last of them, wherever the span ends."""
    for expression, zone_name, start, texts in RECORDED:
        zone, expected = ZoneInfo(zone_name), [at(text) for text in texts]
        case = (expression, zone_name, start)
        assert fires(expression, at(start), zone, count=len(expected)) == expected, case
        if zone_name == "America/St_Johns":
            continue  # its clocks went back at 00:01: which fire is next depends there on where the search begins
        for before, after in pairwise(expected):
            latest = cron.parse(expression).latest(at(start), after - timedelta(seconds=1), zone)
            assert (latest and latest.astimezone(UTC), latest and latest.tzinfo) == (before, zone), case


def test_every_takes_durations_as_go_writes_them() -> None:
    start = at("2025-01-15T10:07:30.75Z")
    durations = {"1.s": 1, "100ms": 1, "3000000µs": 3, "3000000μs": 3, "5000000000ns": 5, "-2m": 1, "1h1m1s1ms": 3661}
    for duration, seconds in {**durations, "2562047h47m16.854775807s": 9223372036}.items():
        found = cron.parse(f"@every {duration}").next(start, UTC_ZONE)
        assert found == start.replace(microsecond=0) + timedelta(seconds=seconds)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*?,-/+ LW#@evryTZ=hmsun.\t", max_size=30))
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert cron.parse(text).expression == text


def test_no_search_goes_on_for_long() -> None:
    """For the latest of thirty years they are not counted."""
    for expression, latest in (
        ("* * * * *", "2025-06-01T00:00:00Z"),
        ("* * * 1 *", "2025-01-31T22:59:00Z"),
        ("@every 11s", "2025-05-31T23:59:55Z"),
    ):
        found = cron.parse(expression).latest(at("1995-01-01T00:00:00Z"), at("2025-06-01T00:00:00Z"), BERLIN)
        assert found == at(latest)
    # Samoa had no 2011-12-30: the original's search never comes back from it.
    found = cron.parse("0 12 31 12 *").next(at("2011-12-28T00:00:00Z"), ZoneInfo("Pacific/Apia"))
    assert found == at("2011-12-30T22:00:00Z")


def test_the_interval_is_the_time_between_the_next_two_fires() -> None:
    noon = at("2025-03-29T12:00:00Z")
    assert cron.parse("*/10 * * * *").interval(noon, UTC_ZONE) == 600
    assert cron.parse("@every 1h30m").interval(noon, UTC_ZONE) == 5400
    assert cron.parse("0 0 * * *").interval(noon, BERLIN) == 23 * 3600  # the night in which an hour is skipped
    assert cron.parse("0 0 31 2 *").interval(noon, UTC_ZONE) == 0


def test_simple_schedules_are_described_in_words() -> None:
    words = {
        "* * * * *": "every minute",
        "*/10 * ? * *": "every 10 minutes",
        "15 */6 * * *": "every 6 hours at minute 15",
        "@daily": "every day at 00:00",
        "@every 90s": "every 90 seconds",
        "0 9 * * MON-FRI": "0 9 * * MON-FRI",
    }
    assert {expression: cron.parse(expression).describe() for expression in words} == words
