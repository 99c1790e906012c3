"""What a schedule is going to do, daylight saving and long runs marked."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from service.domain import cron
from service.domain.preview import Fire, preview

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def fires(expression: str, zone: ZoneInfo, after: str, count: int, usual: timedelta | None = None) -> list[Fire]:
    start = datetime.fromisoformat(after).replace(tzinfo=zone)
    return list(preview(cron.parse(expression), zone, start, count, usual))


def test_a_time_that_the_clock_skips_is_named_at_the_next_fire() -> None:
    first, second = fires("30 2 * * *", NEW_YORK, "2025-03-08T03:00", 2)
    assert first.at.isoformat() == "2025-03-10T02:30:00-04:00"
    assert first.notes == ["before it 2025-03-09 02:30 does not exist: the clock is set forward"]
    assert second.notes == []


def test_many_skipped_times_are_one_note() -> None:
    (fire,) = fires("*/15 * * * *", BERLIN, "2025-03-30T01:45", 1)
    assert fire.at.isoformat() == "2025-03-30T03:00:00+02:00"
    assert fire.notes == [
        "before it 2025-03-30 02:00 to 2025-03-30 02:45 (4 times) does not exist: the clock is set forward"
    ]


def test_a_time_that_the_clock_shows_twice_is_named_both_times() -> None:
    turns = [(f"{fire.at:%H:%M%z}", fire.turn) for fire in fires("*/30 * * * *", BERLIN, "2025-10-26T01:30", 5)]
    assert turns == [("02:00+0200", 1), ("02:30+0200", 1), ("02:00+0100", 2), ("02:30+0100", 2), ("03:00+0100", 0)]


def test_a_fire_within_the_usual_duration_of_the_run_before_overlaps() -> None:
    found = fires("0,5,30 * * * *", BERLIN, "2025-06-01T00:00", 4, timedelta(minutes=10))
    assert [fire.overlaps for fire in found] == [False, False, False, True]
    assert found[-1].notes == ["the run before usually lasts longer"]


def test_a_period_knows_no_wall_clock() -> None:
    assert not any(fire.skipped for fire in fires("@every 10m", BERLIN, "2025-03-30T01:45", 5))


def test_a_schedule_that_never_fires_has_no_fires() -> None:
    assert fires("0 0 30 2 *", BERLIN, "2025-03-30T01:45", 5) == []
