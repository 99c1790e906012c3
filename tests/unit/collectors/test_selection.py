"""What becomes of a snapshot's records: which are sent, as what and as of when, and what is said of the others."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.collectors.expectation import Seen
from service.collectors.records import Origin, read_records
from service.collectors.selection import Publication, Selection
from service.collectors.thresholds import Threshold, Thresholds
from service.domain.errors import Rejected
from service.domain.samples import Evidence, Kind, Rule
from tests.unit.collectors.snapshots import NOW, PRINTED, RECORD, record

DAY = timedelta(hours=24)
TRAINING = Origin("training", namespace="metta.infra.stablesuite", source="stable_suite")


def selected(
    records: Sequence[Any],
    *,
    now: datetime = NOW,
    sent: dict[bytes, int] | None = None,
    thresholds: Thresholds | None = None,
    expect: Sequence[str] = (),
) -> Selection:
    selection = Selection(TRAINING, now, DAY, sent or {}, expect, thresholds or {})
    found = read_records(json.dumps(records).encode(), "health.json", now)
    selection.add(found, Publication("health.json", "1", NOW))
    return selection


def reasons(result: Selection) -> list[str]:
    return [str(failure) for failure in result.failures]


def minutes_ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


# Records


def test_a_record_becomes_a_sample_with_its_tags() -> None:
    sample, other = selected([record(), record(metric="metta.other.hearts")]).samples
    assert (sample.metric.name, other.metric.name) == ("metta.infra.stablesuite.hearts", "metta.other.hearts")
    assert (sample.value, sample.metric.kind) == (0.92, Kind.GAUGE)
    assert sample.at == datetime(2025, 1, 14, 15, tzinfo=UTC)
    own = {name: RECORD[name] for name in ("workflow_name", "task", "check", "condition", "status")}
    assert sample.tags == {"source": "stable_suite", "workflow_category": "training", **own, "workflow": "training"}


def test_optional_fields_may_be_absent_or_null_and_a_time_without_a_zone_is_utc() -> None:
    for nothing in (..., None):
        fields = dict.fromkeys(("status", "metric_kind", "timestamp", "tags"), nothing)
        (sample,) = selected([record(**fields, more=[{"a": float("nan")}])]).samples
        assert "status" not in sample.tags
        assert (sample.metric.kind, sample.at) == (Kind.GAUGE, NOW)
    for text in ("2025-01-14T15:00:00Z", "2025-01-14T16:00:00+01:00", "2025-01-14T15:00:00", "20250114T150000z"):
        assert selected([record(timestamp=text)]).samples[0].at == datetime(2025, 1, 14, 15, tzinfo=UTC)


def test_an_object_that_has_nothing_of_a_record_is_a_sample_that_keeps_its_tags() -> None:
    check = {"workflow_name": "w", "task": "t", "check": "c", "source": "mine", "condition": "> 1"}
    told = [PRINTED, {"metric": "metta.x", "value": 1}, {**PRINTED, "tags": check}]
    plain, short, of_a_check = selected(told).samples
    assert (plain.metric.name, plain.metric.kind, plain.value) == ("metta.infra.stablesuite.queue", Kind.COUNT, 7)
    assert plain.at == datetime(2025, 1, 14, 15, 0, 0, 500_000, tzinfo=UTC)
    assert plain.tags == {"source": "stable_suite", "zone": "a"}
    assert (short.metric.name, short.metric.kind, short.at) == ("metta.x", Kind.GAUGE, NOW)
    assert of_a_check.tags == {"workflow_category": "training", **check}


BEHIND = {"url": "https://ci.example/42?tab=log#l1", "commit": "3f9a2c", "owner": "@ml", "message": "2 of 8\n ranks"}


def test_what_a_record_says_of_its_value_is_shown_and_becomes_no_tag() -> None:
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 1"}
    ofs = [record(**BEHIND), {**PRINTED, **BEHIND, "kind": None, "tags": check}, {**PRINTED, **BEHIND}]
    found = selected([*ofs, record(owner="", url="", commit=None, message="x " * 400)]).samples
    for sample, title in zip(found, ("arena", "w", "queue"), strict=False):
        at = sample.measured
        assert sample.evidence == (Evidence(title, BEHIND["url"], at, commit="3f9a2c", author="@ml"),)
        assert sample.summary == "2 of 8 ranks"
        assert not {*BEHIND, *BEHIND.values()} & {*sample.tags, *sample.tags.values()}
    assert (found[3].evidence, len(found[3].summary), found[3].summary[-1]) == ((), 500, "…")
    # What is told of an event does not make it another one.
    event = record(metric_kind="count")
    assert selected([event | BEHIND], sent=selected([event]).events).samples == []


def test_a_value_may_be_judged_by_the_past_of_its_check() -> None:
    whole = {"condition": "in [0.9x, 1.1x]", "baseline": {"of": "median", "last": 30, "skip": 2}, "for": 2}
    of_records: list[tuple[dict[str, Any], Rule | None]] = [
        ({}, None),
        ({"condition": ">= 0.85x"}, Rule()),
        (whole, Rule(30, 2, fail_after=2)),
        ({"condition": "> 0.5", "for": 3}, Rule(fail_after=3)),
        ({"condition": ">= 0.85x", "status": "fail"}, None),
        ({"condition": "none"}, None),
    ]
    for changes, rule in of_records:
        (sample,) = selected([record(**{"status": None, **changes})]).samples
        assert (sample.rule, sample.tags["condition"]) == (rule, changes.get("condition", "> 0.5"))
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "<= 1.2x"}
    triple = {"job": "w", "criterion": "c", "operator": ">=", "target": "0.85x", "status": "skipped"}
    tags = (check, {**check, "status": "unknown"}, triple, {"condition": "<= 1.2"})
    found = selected([{**PRINTED, "kind": "gauge", "tags": each} for each in tags])
    assert [each.rule for each in found.samples] == [Rule(), None, Rule(), None]


def test_a_threshold_of_the_settings_stands_in_place_of_a_record_s_own() -> None:
    whole = {"condition": ">= 0.85x", "baseline": {"last": 30, "skip": 1}, "for": 2}
    given = {"arena/*/nothing": "> 9", "arena/runs*": whole, "arena/*": ">= 0.9x", "w/t/c": "<= 5"}
    thresholds = {name: Threshold.model_validate(each) for name, each in given.items()}
    acceptance = {"job": "arena", "criterion": "runs", "operator": ">=", "target": "1", "status": "pass"}
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 1", "status": "pass"}
    printed = [{**PRINTED, "tags": check}, {**PRINTED, "metric": "x.value", "tags": acceptance}]
    told = [record(), record(task="other"), record(workflow_name="of none"), *printed]
    found = selected(told, thresholds=thresholds)
    assert [(each.tags.get("condition"), each.tags.get("status"), each.rule) for each in found.samples] == [
        (">= 0.85x", None, Rule(30, 1, fail_after=2)),
        (">= 0.9x", None, Rule()),
        ("> 0.5", "pass", None),
        ("<= 5", None, None),
        (">= 0.85x", None, Rule(30, 1, fail_after=2)),
    ]
    result, _ = found.to_result({}, "snapshot")
    assert [str(each) for each in result.failures] == ['thresholds "arena/*/nothing": no check has such a name']
    # A count that was sent once is the same one with another threshold.
    assert {each.metric.kind for each in selected(told, sent=found.events).samples} == {Kind.GAUGE}


def judged(
    expect: list[str], *names: str, seen: Seen | None = None, is_whole: bool = True
) -> tuple[list[str], list[str], Seen]:
    """Of a snapshot with these checks: the missing ones, the failures, and what is known afterwards."""
    brought = [dict(zip(("workflow_name", "task", "check"), name.split("|"), strict=True)) for name in names]
    selection = selected([record(**{**each, "tags": {"repo": "a/b"}}) for each in brought], expect=expect)
    result, known = selection.to_result(seen or {}, "snapshot", is_whole=is_whole)
    told = [f"{each.tags['check']} {each.tags.get('repo', '')}: {each.summary}" for each in result.no_data]
    return told, [str(each) for each in result.failures], known


def test_a_name_that_is_not_brought_is_a_check_without_data_and_a_pattern_without_a_match_a_failure() -> None:
    expect = ["arena/speed/sps", "nightly/*", "*/eval/?eward"]
    *both, seen = judged(expect, "arena|speed|sps", "nightly|eval|reward")
    assert (both, [*seen]) == ([[], []], expect)
    missing, failures, known = judged(expect, "arena|speed|other")
    assert missing == ["sps : no snapshot so far has had a check of this name"]
    assert failures == [f'expect "{each}": the snapshot has no check of such a name' for each in expect[1:]]
    assert known == {}
    lost = judged(expect, "nightly|eval|reward", seen=seen)
    assert lost == (["sps a/b: the last snapshot has no check of this name"], [], seen)
    assert judged([], "nightly|eval|reward", seen=seen)[2] == {}, "what is not expected any more is forgotten"
    assert judged(["a/b?c/d", "a/*"], "a/b|c|d")[:2] == ([], []), "a slash within a name is met by a pattern"


def test_a_push_of_one_pipeline_says_nothing_of_the_others_once_they_have_come() -> None:
    expect = ["arena/speed/sps", "nightly/*", "nightly/eval/reward"]
    *_, seen = judged(expect, "arena|speed|sps", "nightly|eval|reward")
    assert judged(expect, "arena|speed|sps", seen=seen, is_whole=False) == ([], [], seen)
    missing, failures, _ = judged(expect, "nightly|eval|other", seen=seen, is_whole=False)
    assert (len(missing), failures) == (1, [])


def test_no_spelling_of_a_required_tag_gets_past_the_daemon_s_own() -> None:
    """Datadog reads up to the first colon, in small letters, with underscores for what it does not keep."""
    tags = {"env": "x", "Service": "y", "env:staging": "x", "Workflow name": "y", " status": "z", "environment": "kept"}
    result = selected([record(tags=tags)])
    (sample,) = result.samples
    assert (sample.tags["status"], sample.tags["environment"]) == ("pass", "kept")
    assert not tags.keys() & sample.tags.keys() - {"environment"}
    assert len(result.failures) == 5
    assert reasons(result)[0] == "record 1: tag 'env' is set by the daemon; the record's own is left out"


@pytest.mark.parametrize(("minutes", "is_carried"), [(-10, False), (0, False), (45, False), (45.1, True), (1440, True)])
def test_an_older_gauge_is_sent_as_of_now_with_the_time_of_its_measurement(minutes: float, is_carried: bool) -> None:
    (sample,) = selected([record(timestamp=minutes_ago(minutes))]).samples
    measured = NOW - timedelta(minutes=minutes)
    assert (sample.at, sample.measured) == (NOW if is_carried else measured, measured)


def test_after_max_age_a_value_is_not_sent_its_check_is_unknown_and_a_snapshot_of_such_alone_fails() -> None:
    old = record(check="old", timestamp=minutes_ago(1441))
    result = selected([old, record()])
    assert [sample.tags["check"] for sample in result.samples] == ["reward_threshold"]
    assert [each.tags["check"] for each in result.no_data] == ["old"]
    assert reasons(result) == ["record 1: it is 24 h old, older than max_age (24 h)"]
    for snapshot, reason in (
        ([old], r"no usable record among 1: record 1: it is 24 h old"),
        ([7] * 4, "no usable record among 4: record 1: .*; record 2: Expected `object`.*; and 1 more"),
        ([], "health.json holds no record"),
    ):
        with pytest.raises(Rejected, match=reason):
            selected(snapshot)


def test_an_old_value_never_hides_a_newer_one_of_its_series() -> None:
    older, oldest = record(value=2, timestamp=minutes_ago(120), task="another"), record(timestamp=minutes_ago(180))
    result = selected([record(value=3, timestamp=minutes_ago(60), status="fail"), oldest, older])
    assert sorted(sample.value for sample in result.to_result({}, "snapshot")[0].samples) == [2, 3]
    assert len(result.failures) == 0


@pytest.mark.parametrize("kind", ["count", "distribution"])
def test_an_event_is_sent_once_with_its_own_time(kind: str) -> None:
    event = record(metric_kind=kind, timestamp=minutes_ago(50))
    first = selected([event, {**event, "value": 5}])
    assert reasons(first) == ["record 2: metric, tags and timestamp are those of record 1"]
    assert [(each.value, each.at) for each in first.samples] == [(0.92, NOW - timedelta(minutes=50))]
    again = selected([event, record()], sent=first.events, now=NOW + timedelta(hours=1))
    assert ([sample.metric.kind for sample in again.samples], again.failures) == ([Kind.GAUGE], [])
    assert len(selected([{**event, "tags": {"workflow": "b"}}], sent=again.events).samples) == 1
    # A file whose events were all sent is no failure; and they are forgotten when they can't come back.
    for minutes, kept in ((1440 - 50, first.events), (1440 - 49, {})):
        later = selected([event], sent=first.events, now=NOW + timedelta(minutes=minutes))
        assert (later.samples, later.failures, later.remember()) == ([], [], kept)
    late = selected([record(metric_kind=kind, timestamp=minutes_ago(56)), record()])
    assert len(late.samples) == 1
    assert reasons(late) == [f"record 1: it is 56 min old, and a {kind} can't be sent after 55 min"]
