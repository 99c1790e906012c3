"""Checks, their conditions, and the alerts that a change of their state makes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from service.domain import conditions
from service.domain.alerts import NotifiedState, find_changes, format_change
from service.domain.checks import CHECK_AGE, check_id, check_key, name_of, to_samples, update_checks
from service.domain.runs import Mode, NoData, first_slot_after
from service.domain.samples import Evidence, Kind, Metric, Sample, Status

NOW = datetime(2025, 1, 14, 15, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TAGS = {"source": "cron", "workflow_category": "ci", "workflow_name": "main", "task": "tests", "check": "passing"}
KEY = check_key(TAGS)
assert KEY


def sample(value: float, at: datetime = NOW, *, status: str = "pass", **tags: str) -> Sample:
    return Sample(Metric("m"), value, at, {**TAGS, "condition": "> 0", "status": status, **tags})


def test_a_condition_judges_a_value() -> None:
    for text, passes, fails in (
        ("< 5.0", 4.9, 5.0),
        ("<= 5", 5, 5.1),
        ("> 0", 1, 0),
        ("=1.0", 1, 0.9),
        ("in [0.8, 1.2]", 1.2, 1.3),
    ):
        condition = conditions.parse(text)
        assert condition
        assert (condition.status(passes), condition.status(fails)) == (Status.PASS, Status.FAIL)


def test_a_relative_condition_is_made_of_factors_alone_and_other_text_is_none() -> None:
    of_20 = {">= 0.85x": ">= 17", "<=1.2x": "<=24", "in [0.9x, 1.1x]": "in [18, 22]", "0x..1.005x": "0..20.1"}
    assert {text: conditions.resolve(text, 20) for text in of_20 if conditions.is_relative(text)} == of_20
    none = ("", "none", "< five", "> 1e999", "in [2, 1]", "< 5 min")
    mixed = (">= 0.85 x", "in [0.9x, 1.1]", "in [2x, 1x]", "< 1e999x", "< -1x")
    assert not any(map(conditions.parse, (*of_20, *none, *mixed)))
    assert not any(map(conditions.is_relative, (*none, *mixed, ">= 0.85")))


def test_a_check_is_known_by_its_stable_tags_alone() -> None:
    assert check_key({**TAGS, "status": "fail", "condition": "> 1", "zone": "a"}) == KEY
    assert check_key({"task": "tests", "check": "passing"}) is None
    labelled = check_key({**TAGS, "label": "P1", "repo": "a/b"})
    assert labelled
    assert name_of(labelled) == "main / tests / passing (label P1, repo a/b)"
    assert check_id("ci", labelled) == check_id("ci", labelled) != check_id("other", labelled)
    assert 0 <= check_id("ci", labelled) < 2**63


def test_the_three_samples_of_an_acceptance_criterion_are_one_check() -> None:
    own = {"job": "arena", "category": "training", "criterion": "sps", "operator": ">=", "target": "40000"}
    values = {"value": 41_000.0, "target": 40_000.0, "status": 1.0, "": 7.0}
    verdicts: list[tuple[dict[str, str], str, Status]] = [
        ({"status": "pass"}, ">= 40000", Status.PASS),
        ({}, ">= 40000", Status.PASS),
        ({"status": "skipped", "operator": "<"}, "< 40000", Status.FAIL),
        ({"operator": "in", "target_low": "1", "target_high": "5e4"}, "in [1, 5e4]", Status.PASS),
        ({"operator": "near"}, "near 40000", Status.UNKNOWN),
    ]
    for changes, condition, status in verdicts:
        tags = {**own, "gpus": "4", "source": "exec", **changes}
        samples = [Sample(Metric(f"acceptance.{name}".strip(".")), value, NOW, tags) for name, value in values.items()]
        (check,) = update_checks([], samples, [], NOW)
        assert list(check.tags.values()) == ["exec", "training", "arena", "sps", "sps"]
        assert (check.metric, check.value) == ("acceptance.value", 41_000)
        assert (check.condition, check.status) == (condition, status)


def test_of_a_checks_samples_the_newest_counts_and_of_equally_new_ones_the_worst() -> None:
    samples = [sample(1, NOW - HOUR, status="fail"), sample(2), sample(3, status="fail"), sample(4, status="unknown")]
    (check,) = update_checks([], samples, [], NOW)
    assert (check.status, check.value, check.since) == (Status.FAIL, 3, NOW)


def test_nothing_to_measure_is_unknown_and_what_nobody_measures_is_forgotten_after_a_week() -> None:
    """Events are no checks."""
    (known,) = update_checks([], [sample(1)], [], NOW)
    (unknown,) = update_checks([known], [], [NoData(TAGS, "no run ended")], NOW + HOUR)
    assert (unknown.status, unknown.value, unknown.measured_at) == (Status.UNKNOWN, 1, NOW)
    assert unknown.summary == "no run ended"
    (never,) = update_checks([], [], [NoData({**TAGS, "condition": "> 0"})], NOW)
    assert (never.status, never.condition, never.measured_at) == (Status.UNKNOWN, "> 0", None)
    assert update_checks([known], [], [], NOW + 8 * DAY) == []
    (asked,) = update_checks([known], [], [NoData(TAGS)], NOW + 8 * DAY)
    assert asked.measured_at == NOW, "what a run asks for is a check of the configuration"
    assert update_checks([never], [], [], NOW + HOUR) == [never]
    assert update_checks([never], [], [], NOW + HOUR, is_cycle=False, is_complete=True) == [never]
    assert not update_checks([never], [], [], NOW + HOUR, is_complete=True), "nobody asks for it any more"
    event = replace(sample(1), metric=Metric("m", Kind.DISTRIBUTION))
    assert update_checks([], [event, Sample(Metric("plain"), 1, NOW)], [], NOW) == []


def test_what_is_missing_has_an_age_and_what_has_no_verdict_by_nature_has_none() -> None:
    """So that a monitor of age and state wakes nobody for a bug count without a threshold."""
    (never,) = update_checks([], [], [NoData(TAGS)], NOW)
    (count,) = update_checks([], [sample(7, status="unknown", condition="none")], [], NOW)
    (lost,) = update_checks([count], [], [NoData(TAGS)], NOW + HOUR)
    for check, age in ((never, 7200), (count, None), (lost, 7200)):
        assert {each.metric: each.value for each in to_samples([check], NOW + 2 * HOUR, DAY)}.get(CHECK_AGE) == age


def test_a_change_waits_until_its_state_has_held_for_so_many_runs_and_one_that_flips_back_is_none() -> None:
    """One of age, for as long as so many runs take."""
    (known,) = update_checks([], [sample(1)], [], NOW)
    _, notified = find_changes("ci", "production", [known], {}, NOW, DAY, notify_after=3)
    found = []
    runs = [("fail", True), ("fail", True), ("pass", True), ("fail", True), ("fail", False)] + [("fail", True)] * 3
    for hours, (status, is_cycle) in enumerate(runs, 1):
        now = NOW + hours * HOUR
        (known,) = update_checks([known], [sample(0, now, status=status)], [], now, is_cycle=is_cycle)
        changes, notified = find_changes("ci", "production", [known], notified, now, DAY, notify_after=3)
        found += [(hours, change.before.value, change.check.since - NOW, change.lasted) for change in changes]
    assert found == [(7, "pass", 4 * HOUR, 4 * HOUR)], "since it began, and no run by webhook is a cycle"
    for age, is_told in ((1.99, False), (2, True)):
        at = now + DAY + age * HOUR
        changes, _ = find_changes("ci", "production", [known], notified, at, DAY, notify_after=3, interval=HOUR)
        assert bool(changes) is is_told


def test_an_event_says_what_changed_and_foreign_text_stays_text() -> None:
    evidence = (
        Evidence("a %%% [x](y)", "https://github.com/o/r/1", NOW, "failure"),
        Evidence("*b*", "javascript:x", commit="3f9a2c" * 7, author="me_2", note="first red"),
    )
    failed = replace(sample(0, status="fail"), evidence=evidence, summary="2 of 8 *ranks*")
    (check,) = update_checks([], [failed], [], NOW)
    before = {check.key: NotifiedState(Status.PASS, NOW - 30 * HOUR)}
    ((change,), _) = find_changes("ci", "production", [check], before, NOW, DAY)
    event = format_change(change, "https://health.example/checks/1")
    assert (event.title, event.alert_type) == ("main / tests / passing: pass -> fail", "error")
    assert "- since: 2025-01-14 15:00:00 UTC, after 1 d 6 h of pass" in event.text
    assert "[a % \\[x\\](y)](https://github.com/o/r/1) (failure, 2025-01-14 15:00:00 UTC)" in event.text
    assert "  - \\*b\\* (first red, commit 3f9a2c3, by me\\_2)" in event.text
    assert "- summary: 2 of 8 \\*ranks\\*\n" in event.text
    assert "javascript" not in event.text
    assert event.text.endswith("More: https://health.example/checks/1\n %%%")
    assert {"check:passing", "env:production", "collector:ci"} <= set(event.tags)
    long = format_change(replace(change, check=replace(check, condition="x" * 9000, evidence=evidence * 40)), None)
    assert len(long.text) <= 4000


def test_at_a_takeover_no_slot_is_lost_and_none_runs_twice() -> None:
    def at(hour: int | None) -> datetime | None:
        return None if hour is None else NOW + hour * HOUR

    for live, shadow, starts_after, mode, expected in (
        (None, None, None, Mode.LIVE, None),
        (1, 2, None, Mode.LIVE, 2),
        (3, 2, None, Mode.SHADOW, 3),
        (None, 5, 3, Mode.LIVE, 3),  # the CronJob's last slot: what came after it was not run by anybody
        (4, 5, 3, Mode.LIVE, 5),  # of an earlier change
        (None, 5, 3, Mode.SHADOW, 5),
    ):
        assert first_slot_after(at(live), at(shadow), at(starts_after), mode) == at(expected)
