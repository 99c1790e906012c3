"""Checks that are compared with their own past, and those that fail only after several failures in a row."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from service.domain import conditions
from service.domain.alerts import StateChange, format_change
from service.domain.baseline import MIN_VALUES, judge_samples
from service.domain.checks import CHECK_THRESHOLD, Check, to_samples, update_checks
from service.domain.samples import Metric, Rule, Sample, Status

START = datetime(2025, 1, 14, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TAGS = {"source": "exec", "workflow_category": "training", "workflow_name": "arena", "task": "speed", "check": "sps"}
TWICE = Rule(fail_after=2)
STEADY = [14.0, 16.0, 15.3, 15.0, 15.6, 15.3, 15.3]  # their median is 15.3


def sample(value: float, at: datetime, condition: str = ">= 0.85x", rule: Rule | None = None) -> Sample:
    tags = {**TAGS, "condition": condition, "status": "unknown"}
    return Sample(Metric("sps"), value, at, tags, rule=rule or Rule())


def step(known: Sequence[Check], *samples: Sample, is_cycle: bool = True) -> tuple[Check, str]:
    """The check after a run, and the status that its last sample is sent with."""
    now = max(each.at for each in samples)
    sent, judged = judge_samples(known, samples, now, is_cycle=is_cycle)
    (check,) = update_checks(known, sent, [], now, judged)
    return check, sent[-1].tags["status"]


def play(values: Sequence[float], condition: str = ">= 0.85x", rule: Rule | None = None) -> Check:
    """The check after a run for each value, an hour apart."""
    known: list[Check] = []
    for number, value in enumerate(values):
        check, sent = step(known, sample(value, START + number * HOUR, condition, rule))
        assert sent == check.status
        known = [check]
    return known[0]


def threshold(check: Check) -> float | None:
    return {each.metric: each.value for each in to_samples([check], START, DAY)}.get(CHECK_THRESHOLD)


def counted(check: Check) -> Sequence[tuple[datetime, float]]:
    """The values that later ones are compared with."""
    assert check.past
    return check.past.values


def test_a_value_that_drops_by_a_fifth_against_its_median_fails_in_the_second_run() -> None:
    assert play(STEADY, rule=TWICE).status is Status.PASS
    first = play([*STEADY, 12.1], rule=TWICE)
    assert first.status is Status.PASS
    median_of = "12.1 against a median of 15.3 of the last 7 values"
    assert first.summary == f"{median_of}; 1 of 2 failures in a row that fail the check"
    second = play([*STEADY, 12.1, 12.2], rule=TWICE)
    assert (second.status, second.condition, second.limit) == (Status.FAIL, ">= 0.85x", ">= 13.005")
    assert threshold(second) == 13.005
    event = format_change(StateChange("gpu", "production", Status.PASS, HOUR, second), None)
    assert "- condition: >= 0.85x (>= 13.005)\n- summary: 12.2 against a median of" in event.text
    assert second.since == second.measured_at
    assert play([*STEADY, 12.1, 15, 12.1], rule=TWICE).status is Status.PASS, "not in a row"
    assert play([*STEADY, 12.1]).status is Status.FAIL
    of_a_number = [play([1, 0, 0][:count], "> 0", TWICE) for count in (1, 2, 3)]
    assert [check.status for check in of_a_number] == [Status.PASS, Status.PASS, Status.FAIL]
    assert threshold(of_a_number[0]) == 0


@pytest.mark.parametrize(
    ("values", "rule", "reason"),
    [
        ([15.0] * 8, Rule(skip=3), "4 earlier values to compare 15 with, a median takes 5"),
        ([-3.0] * 6, Rule(), "-3 against a median of -3 of the last 5 values: a factor takes one above 0"),
        ([1.7e308] * 6, Rule(), "1.7e+308 against a median of 1.7e+308 of the last 5 values: out of range"),
    ],
)
def test_what_can_not_be_compared_is_unknown_has_no_threshold_and_says_why(
    values: list[float], rule: Rule, reason: str
) -> None:
    check = play(values, "<= 1.2x", rule)
    assert (check.status, check.summary) == (Status.UNKNOWN, reason)
    assert threshold(check) is None


def test_the_newest_values_may_be_skipped_and_only_the_last_count() -> None:
    values = [*[100.0] * 9, *[10.0] * 5, *[50.0] * 3]
    check = play([*values, 8], rule=Rule(last=5, skip=3))
    assert check.summary == "8 against a median of 10 of the last 5 values before the newest 3"
    assert len(counted(check)) == 9, "no more are kept than are needed"


def test_a_value_that_comes_again_counts_once_and_one_that_was_corrected_as_it_is_now() -> None:
    before = play(STEADY, rule=TWICE)
    at = START + len(STEADY) * HOUR
    first, _ = step([before], sample(12.1, at, rule=TWICE))
    for _ in range(3):
        again, _ = step([first], sample(12.1, at, rule=TWICE))
        told = (again.status, again.past, again.summary)
        assert told == (first.status, first.past, first.summary), "carried over: no failure more, no value more"
    corrected, _ = step([first], sample(15.5, at, rule=TWICE))
    assert (corrected.status, counted(corrected)[-1]) == (Status.PASS, (at, 15.5))
    older, _ = step([first], sample(12.1, at - timedelta(minutes=30), rule=TWICE))
    assert older.status is Status.PASS, "a snapshot from before: no failure in a row with a later one"


def test_values_of_runs_by_webhook_are_judged_but_count_for_none_after_them() -> None:
    before = play(STEADY, rule=TWICE)
    at = START + len(STEADY) * HOUR
    changed = before
    for minute in range(3):
        changed, _ = step([changed], sample(12, at + minute * HOUR / 60, rule=TWICE), is_cycle=False)
        assert (changed.value, changed.status) == (12, Status.PASS)
        assert counted(changed) == counted(before)
    assert step([before], sample(12, at), is_cycle=False)[0].status is Status.FAIL, "at once, without for"
    first, _ = step([changed], sample(12, at + HOUR, rule=TWICE))
    second, _ = step([first], sample(12, at + 2 * HOUR, rule=TWICE))
    assert (first.status, second.status) == (Status.PASS, Status.FAIL)


def test_values_of_one_run_are_judged_one_after_the_other_and_two_of_one_instant_are_no_history() -> None:
    at = START + 9 * HOUR
    before = play(STEADY, rule=TWICE)
    check, sent = step([before], sample(12.0, at, rule=TWICE), sample(12.1, at - HOUR, rule=TWICE))
    assert (check.value, check.status, sent) == (12.0, Status.FAIL, "pass")
    check, _ = step([before], sample(15, at), sample(41_000, at))
    assert (check.status, check.summary[:23]) == (Status.UNKNOWN, "2 values of one instant")
    assert counted(check) == counted(before)


def test_of_a_rolling_window_one_value_counts_in_each_window() -> None:
    values = [10.0] * (24 * 6)
    check = play([*values, 16.0], "<= 1.5x", Rule(apart=DAY))
    assert check.summary == "16 against a median of 10 of the last 6 values"
    assert check.status is Status.FAIL
    assert play([*values[25:], 16.0], "<= 1.5x", Rule(apart=DAY)).status is Status.UNKNOWN


@given(some.lists(some.floats(-1e9, 1e9), min_size=1, max_size=30), some.integers(5, 12), some.integers(0, 4))
@example([5.0] * 6, 5, 0)
def test_the_bound_is_that_of_the_values_before(values: list[float], last: int, skip: int) -> None:
    check = play(values, "<= 1.2x", Rule(last, skip))
    before = values[: len(values) - 1 - skip] if len(values) > skip else []
    compared = before[-last:]
    if len(compared) < MIN_VALUES or median(compared) <= 0:
        assert (check.status, check.limit) == (Status.UNKNOWN, "")
        return
    limit = conditions.parse(check.limit)
    assert limit
    assert limit.threshold == pytest.approx(1.2 * median(compared))
    assert check.status is limit.status(values[-1])
