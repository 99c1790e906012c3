"""What becomes of a snapshot's records: which are sent, as what and as of when, and what is said of the others."""

import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from service.collectors.records import Origin, read_records
from service.collectors.selection import Publication, Selection
from service.collectors.snapshot import SnapshotSettings
from service.collectors.snapshot.schema import InvalidSnapshot, check_snapshot, snapshot_schema
from service.collectors.thresholds import Threshold, Thresholds
from service.domain.errors import HealthError, Rejected, TooLarge, Unfinished
from service.domain.samples import Evidence, Kind, Rule, Sample

NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
DAY = timedelta(hours=24)
TRAINING = Origin("training", namespace="metta.infra.stablesuite", source="stable_suite")
RECORD = {
    "metric": "hearts",
    "workflow_name": "arena",
    "task": "runs_successfully",
    "check": "reward_threshold",
    "condition": "> 0.5",
    "value": 0.92,
    "status": "pass",
    "timestamp": "2025-01-14T15:00:00Z",
    "tags": {"workflow": "training"},
}


def record(**changes: Any) -> dict[str, Any]:
    """A valid one; a field set to ... is left out."""
    return {name: value for name, value in (RECORD | changes).items() if value is not ...}


def selected(
    snapshot: Any,
    *,
    now: datetime = NOW,
    sent: dict[bytes, int] | None = None,
    version: str = "1",
    at: datetime = NOW,
    thresholds: Thresholds | None = None,
    **limits: int,
) -> Selection:
    body = snapshot if isinstance(snapshot, bytes) else json.dumps(snapshot).encode()
    selection = Selection(TRAINING, now, DAY, sent or {}, thresholds=thresholds or {})
    selection.add(read_records(body, "health.json", now, **limits), Publication("health.json", version, at))
    return selection


def samples(selection: Selection) -> list[Sample]:
    return list(selection.to_result({}, "snapshot")[0].samples)


def reasons(result: Selection) -> list[str]:
    return [str(failure) for failure in result.failures]


def minutes_ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


# Records


def test_a_record_becomes_a_sample_with_its_tags_in_the_written_order() -> None:
    sample, other = selected([record(), record(metric="metta.other.hearts")]).samples
    assert (sample.metric.name, other.metric.name) == ("metta.infra.stablesuite.hearts", "metta.other.hearts")
    assert (sample.value, sample.metric.kind) == (0.92, Kind.GAUGE)
    assert sample.at == datetime(2025, 1, 14, 15, tzinfo=UTC)
    assert list(sample.tags.items()) == [
        ("source", "stable_suite"),
        ("workflow_category", "training"),
        ("workflow_name", "arena"),
        ("task", "runs_successfully"),
        ("check", "reward_threshold"),
        ("condition", "> 0.5"),
        ("status", "pass"),
        ("workflow", "training"),
    ]


def test_optional_fields_may_be_absent_or_null_and_unknown_ones_are_ignored() -> None:
    for nothing in (..., None):
        fields = dict.fromkeys(("status", "metric_kind", "timestamp", "tags"), nothing)
        (sample,) = selected([record(**fields, more=[{"a": float("nan")}])]).samples
        assert "status" not in sample.tags
        assert (sample.metric.kind, sample.at) == (Kind.GAUGE, NOW)


def test_a_time_may_have_any_zone_and_without_one_it_is_utc() -> None:
    for text in ("2025-01-14T15:00:00Z", "2025-01-14T16:00:00+01:00", "2025-01-14T15:00:00", "20250114T150000z"):
        assert selected([record(timestamp=text)]).samples[0].at == datetime(2025, 1, 14, 15, tzinfo=UTC)


PRINTED: dict[str, Any] = {
    "metric": "queue",
    "value": 7,
    "tags": {"zone": "a", "env": "x"},
    "kind": "count",
    "timestamp": 1736866800.5,
}


def test_an_object_that_has_nothing_of_a_record_is_a_sample_that_keeps_its_tags() -> None:
    check = {"workflow_name": "w", "task": "t", "check": "c", "source": "mine", "condition": "> 1"}
    plain, short, of_a_check = selected(
        [PRINTED, {"metric": "metta.x", "value": 1}, {**PRINTED, "tags": check}]
    ).samples
    assert (plain.metric.name, plain.metric.kind, plain.value) == ("metta.infra.stablesuite.queue", Kind.COUNT, 7)
    assert plain.at == datetime(2025, 1, 14, 15, 0, 0, 500_000, tzinfo=UTC)
    assert plain.tags == {"source": "stable_suite", **PRINTED["tags"]}
    assert (short.metric.name, short.metric.kind, short.at, dict(short.tags)) == (
        *("metta.x", Kind.GAUGE, NOW),
        {"source": "stable_suite"},
    )
    assert of_a_check.tags == {"workflow_category": "training", **check}


BEHIND = {
    "url": "https://ci.example/runs/42?tab=log#l1",
    "commit": "3f9a2c",
    "owner": "@ml",
    "message": "2 of 8\n ranks",
}


def test_what_a_record_says_of_its_value_is_shown_and_becomes_no_tag() -> None:
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 1"}
    ofs = [record(**BEHIND), {**PRINTED, **BEHIND, "kind": None, "tags": check}, {**PRINTED, **BEHIND}]
    found = selected([*ofs, record(owner="", url="", commit=None, message="x " * 400)], at=NOW).samples
    for sample, title in zip(found, ("arena", "w", "queue"), strict=False):
        at = sample.measured
        assert sample.evidence == (Evidence(title, BEHIND["url"], at, commit="3f9a2c", author="@ml"),)
        assert sample.summary == "2 of 8 ranks"
        assert not {*BEHIND, *BEHIND.values()} & {*sample.tags, *sample.tags.values()}
    assert (found[3].evidence, len(found[3].summary), found[3].summary[-1]) == ((), 500, "…")
    # What is told of an event does not make it another one.
    event = record(metric_kind="count")
    assert selected([event | BEHIND], sent=selected([event]).events).samples == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        ({"condition": ">= 0.85x"}, Rule()),
        (
            {"condition": "in [0.9x, 1.1x]", "baseline": {"of": "median", "last": 30, "skip": 2}, "for": 2},
            Rule(30, 2, fail_after=2),
        ),
        ({"condition": "> 0.5", "for": 3}, Rule(fail_after=3)),
        ({"condition": ">= 0.85x", "status": "fail"}, None),
        ({"condition": "none"}, None),
    ],
)
def test_a_record_may_be_judged_by_the_past_of_its_check(changes: dict[str, Any], rule: Rule | None) -> None:
    (sample,) = selected([record(**{"status": None, **changes})]).samples
    assert (sample.rule, sample.tags["condition"]) == (rule, changes.get("condition", "> 0.5"))


def test_a_condition_in_the_tags_of_a_sample_may_be_relative_too() -> None:
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "<= 1.2x"}
    triple = {"job": "w", "criterion": "c", "operator": ">=", "target": "0.85x", "status": "skipped"}
    tags = (check, {**check, "status": "unknown"}, triple, {"condition": "<= 1.2"})
    found = selected([{**PRINTED, "kind": "gauge", "tags": each} for each in tags])
    assert [each.rule for each in found.samples] == [Rule(), None, Rule(), None]


def test_a_threshold_of_the_settings_stands_in_place_of_a_record_s_own() -> None:
    given = {"arena/*/nothing": "> 9", "arena/runs*": {"condition": ">= 0.85x", "for": 2}, "w/t/c": "<= 5"}
    thresholds = {name: Threshold.model_validate(each) for name, each in given.items()}
    acceptance = {"job": "arena", "criterion": "runs", "operator": ">=", "target": "1", "status": "pass"}
    check = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 1", "status": "pass"}
    told = [
        record(),
        record(task="other"),
        {**PRINTED, "tags": check},
        {**PRINTED, "metric": "x.value", "tags": acceptance},
    ]
    found = selected(told, thresholds=thresholds)
    verdicts = [(each.tags.get("condition"), each.tags.get("status"), each.rule) for each in found.samples]
    assert verdicts == [
        *((">= 0.85x", None, Rule(fail_after=2)), ("> 0.5", "pass", None), ("<= 5", None, None)),
        (">= 0.85x", None, Rule(fail_after=2)),
    ]
    result, _ = found.to_result({}, "snapshot")
    assert [str(each) for each in result.failures] == ['thresholds "arena/*/nothing": no check has such a name']
    # A count that was sent once is the same one with another threshold.
    assert {each.metric.kind for each in selected(told, sent=found.events).samples} == {Kind.GAUGE}


BAD = [
    (record(status=None, baseline={}), "condition is '> 0.5'; baseline takes one such as >= 0.85x or in [0.9x, 1.1x]"),
    (record(status=None, condition="low", **{"for": 2}), "condition is 'low'; for takes one such as > 0.5 or >= 0.85x"),
    (record(status=None, condition=">= 0.85 x"), "'>= 0.85 x'; a relative one is written such as >= 0.85x"),
    (record(status=None, condition="in [0.9x, 1]"), "a relative one is written such as"),
    (record(condition="> 1x", baseline={}), "baseline is of no use where status has the verdict already"),
    (
        record(status=None, metric_kind="distribution", **{"for": 2}),
        "for is of no use where a distribution is no check",
    ),
    (record(status=None, condition="> 1x", baseline={"of": "mean"}), "Invalid enum value 'mean' - at `$.baseline.of`"),
    (record(status=None, condition="> 1x", baseline={"last": 4}), ">= 5.0 - at `$.baseline.last`"),
    (record(status=None, condition="> 1x", baseline={"lst": 9}), "unknown field `lst` - at `$.baseline`"),
    (record(**{"for": 2.5}), "multiple of 1.0 - at `$.for`"),
    ({**PRINTED, "timestamp": None, "for": 2}, "missing required field `workflow_name`"),
    (record(url="ftp://a.example"), "url is 'ftp://a.example'; it must be a plain address such as https://"),
    (record(url="https://me:secret@a.example"), "url is 'https://********@a.example'; it must be a plain address"),
    (record(url="https://a.example/a b"), "it must be a plain address"),
    (record(url="https://ci.example/" + "a" * 2000), "length <= 2000 - at `$.url`"),
    (record(commit="a" * 201), "length <= 200 - at `$.commit`"),
    (record(owner=7), "Expected `str | null`, got `int` - at `$.owner`"),
    ({**PRINTED, "message": []}, "Expected `str | null`, got `array` - at `$.message`"),
    ({**PRINTED, "timestamp": 1e300}, "timestamp is 1e+300; it must be ISO 8601"),
    ({**PRINTED, "value": "7"}, "got `str` - at `$.value`"),
    ({**PRINTED, "metric": "a b"}, "a metric's name has"),
    ({"value": 7}, "missing required field `metric`"),
    (record(metric=...), "missing required field `metric`"),
    (record(task=" "), "task is empty"),
    (record(check=7), "Expected `str`, got `int` - at `$.check`"),
    (record(condition=None), "Expected `str`, got `null` - at `$.condition`"),
    (record(metric="hearts per minute"), "metric is 'hearts per minute'; a metric's name has"),
    (record(metric="hearts\n"), "a metric's name has"),
    (record(metric="m" * 200), "length <= 170 - at `$.metric`"),
    (record(value=...), "missing required field `value`"),
    (record(value="0.9"), "got `str` - at `$.value`"),
    (record(value=True), "got `bool` - at `$.value`"),
    (record(value=float("nan")), "value is not a finite number"),
    (record(value=float("-inf")), "value is not a finite number"),
    (record(value=10**400), "out of range - at `$.value`"),
    (record(status="passed"), "Invalid enum value 'passed' - at `$.status`"),
    (record(metric_kind="rate"), "Invalid enum value 'rate' - at `$.metric_kind`"),
    (record(timestamp="yesterday"), "timestamp is 'yesterday'; it must be ISO 8601"),
    (record(timestamp="0001-01-01T00:00:00+14:00"), "it must be ISO 8601"),
    (record(timestamp=1736866800), "got `int` - at `$.timestamp`"),
    (record(timestamp="2025-01-14T15:40:01Z"), "more than 10 min in the future"),
    (record(tags=["a:b"]), "got `array` - at `$.tags`"),
    (record(tags={"commit": 7}), "got `int` - at `$.tags[...]`"),
    (record(task="half \ud800"), "it holds half a surrogate pair"),
    (record(tags={"who": "\udfff"}), "it holds half a surrogate pair"),
    (record(tags={"\udfff": "who"}), "holds half a surrogate pair"),
    ("text", "Expected `object`, got `str`"),
    (None, "Expected `object`, got `null`"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_record_is_left_out_with_its_position_and_reason_and_the_others_go(bad: Any, reason: str) -> None:
    result = selected([record(check="first"), bad, record(check="last")])
    assert [sample.tags["check"] for sample in result.samples] == ["first", "last"]
    assert len(result.failures) == 1
    assert reasons(result)[0].startswith("record 2: ")
    assert reason in reasons(result)[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"1e999", "not a finite number"),
        (b"NaN", "not a finite number"),
        (b"-Infinity", "not a finite number"),
        (b"9" * 5000, "not a finite number"),
        (b'"\xed\xa0\x80"', "half a surrogate pair"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b"[" * 100_000 + b'"]"' + b"]" * 100_000, "nested too deeply"),
        (b'1, "more": ' + b"[" * 100_000 + b'"]"' + b"]" * 100_000, "nested too deeply"),
    ],
    ids=["1e999", "NaN", "-Infinity", "huge integer", "raw surrogate", "surrogate", "deep value", "deep field"],
)
@pytest.mark.parametrize("form", [b"[%b,%b]", b'{"suite": [], "records": [%b,%b], "n": 2}', b"%b\n%b\n"])
def test_what_json_does_not_allow_makes_a_bad_record_and_no_bad_file(value: bytes, reason: str, form: bytes) -> None:
    good = json.dumps(record()).encode()
    for pair in ((good.replace(b"0.92", value), good), (good, good.replace(b"0.92", value))):
        result = selected(form % pair)
        assert len(result.samples) == 1
        assert reason in reasons(result)[0]


def test_no_spelling_of_a_required_tag_gets_past_the_daemon_s_own() -> None:
    """Datadog reads up to the first colon, in small letters, with underscores for what it does not keep."""
    tags = {"env": "x", "Service": "y", "env:staging": "x", "Workflow name": "y", " status": "z", "environment": "kept"}
    result = selected([record(tags=tags)])
    (sample,) = result.samples
    assert (sample.tags["status"], sample.tags["environment"]) == ("pass", "kept")
    assert not tags.keys() & sample.tags.keys() - {"environment"}
    assert len(result.failures) == 5
    assert reasons(result)[0] == "record 1: tag 'env' is set by the daemon; the record's own is left out"


# Content

# Some of it is read quickly, and what is odd value by value.
FILLING = [record(check=f"c{index}", more="x},{" * 300, odd=[{"a": 1}, {"b": []}]) for index in range(300)]
ODD: list[Any] = [record(value=float("nan")), record(task="\ud800"), 7, [], {"records": []}, record(more=[{"x": "]"}])]


@settings(max_examples=25, deadline=None)
@given(
    some.lists(some.sampled_from(ODD), max_size=4),
    some.integers(0, len(FILLING)),
    some.booleans(),
    some.sampled_from([None, 1]),
    some.sampled_from(["[", '{"a": {"records": []}, "records": [', "lines"]),
)
def test_each_record_is_read_whatever_stands_beside_it(
    odd: list[Any], at: int, is_ascii: bool, indent: int | None, form: str
) -> None:
    at = max(at, 1) if form == "lines" else at  # what begins the file says which form it has
    whole = [*FILLING[:at], *odd, *FILLING[at:]]
    texts = [json.dumps(each, ensure_ascii=is_ascii, indent=None if form == "lines" else indent) for each in whole]
    text = (
        "\r\n".join(texts) if form == "lines" else form + ",\r\n".join(texts) + ("]" if form == "[" else '], "b": [1]}')
    )
    body = b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    found = list(read_records(body, "health.json", NOW))
    assert [getattr(each, "check", "bad") for each in found if getattr(each, "check", "") != "reward_threshold"] == [
        *(f"c{index}" for index in range(at)),
        *["bad"] * sum(each not in ODD[-1:] for each in odd),
        *(f"c{index}" for index in range(at, len(FILLING))),
    ]


def test_a_line_that_is_no_json_is_lost_alone_and_the_last_one_is_half_written() -> None:
    line = json.dumps(record()).encode()
    assert len(selected(line).samples) == 1
    result = selected(b"\n".join([line, b'{"metric": ', line]))
    assert (len(result.samples), reasons(result)) == (2, ["record 2: it is no valid JSON"])
    with pytest.raises(Unfinished, match=r"line 2, column 12 .*half-written"):
        selected(line + b'\n{"metric": ')


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'[{"metric": "a"},\n {"metric"', r"line 2, column 11 \(byte 28\).*half-written"),
        (b'[{"metric": "a"},', r"line 1, column 18 \(byte 17\).*half-written"),
        (b'[{"metric": "a"}', "half-written"),
        (b'[{"metric": "a]}', "half-written"),
        (b'{"records": [{}]', "half-written"),
        (b"[" * 100_000, "half-written"),
        (b'\xef\xbb\xbf["\xc3\xa9" x]', "no usable record among 1: record 1: it is no valid JSON"),
        (b"[{} {}]", "no usable record among 1: record 1: it is no valid JSON"),
        (b"[{},]", "no usable record among 1"),
        (b"[] []", r"column 3 \(byte 2\): more follows after its end"),
        (b"<html>", r"line 1, column 1 \(byte 0\)"),
        (b"", "health.json is empty"),
        (b" \n ", "health.json is empty"),
        (b"7", 'neither a JSON list nor an object with a list "records" nor JSON lines'),
        (b'{"records": {}}', "no usable record among 1: record 1: Object missing required field `metric`"),
        (b"[]", "health.json holds no record"),
        (b'{"records": []}', "health.json holds no record"),
        (b"[7, 7, 7, 7]", "no usable record among 4: record 1: .*; record 2: Expected `object`.*; and 1 more"),
        (b"{'records': []}", "no valid JSON at line 1, column 2"),
    ],
)
def test_what_is_no_snapshot_fails_with_the_place_or_the_reason(body: bytes, place: str) -> None:
    with pytest.raises(Rejected, match=place) as raised:
        selected(body)
    assert "health.json" in str(raised.value)


GOOD = json.dumps(record()).encode()


@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        (b"[" + b",".join([GOOD] * 4) + b"]", {"max_records": 3}, "more than 3 records"),
        (b"\n".join([GOOD] * 4), {"max_records": 3}, "more than 3 records"),
        (b"[" + b"1," * (31 * 1_000) + b"1]", {"max_records": 1_000}, "more values than 1,000 records"),
        (gzip.compress(b"\0" * 50_000_000), {"max_bytes": 1_000_000}, "more than 1,000,000 bytes"),
    ],
    ids=["list", "lines", "numbers", "gzip bomb"],
)
def test_what_is_too_large_is_refused_before_its_memory_is_spent(
    body: bytes, limits: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TooLarge, match=f"health.json holds {reason}"):
        selected(body, **limits)


def test_gzip_is_told_by_its_content() -> None:
    body = json.dumps([record()] * 2).encode()
    parts = gzip.compress(body[:99]) + gzip.compress(b"") + gzip.compress(body[99:]) + b"\0" * 512
    for packed in (body, gzip.compress(body), parts):
        assert len(selected(packed).samples) == 2


def test_gzip_that_breaks_off_is_half_written() -> None:
    whole = gzip.compress(json.dumps(FILLING).encode())
    for broken, reason in (
        (whole[:-5], "breaks off"),
        (whole[:100] + b"\0" * 50 + whole[150:], "no valid gzip"),
        (whole + b"more", "no valid gzip"),
    ):
        with pytest.raises(Unfinished, match=reason):
            selected(broken)


# Age


def test_a_record_without_a_time_is_as_old_as_its_publication() -> None:
    snapshot = [record(timestamp=...), record(check="told")]
    for hours, measured in ((1, [NOW - timedelta(hours=1)]), (25, [])):
        result = selected(snapshot, at=NOW - timedelta(hours=hours))
        untold = [sample for sample in result.samples if sample.tags["check"] != "told"]
        assert [(sample.measured, sample.at) for sample in untold] == [(each, NOW) for each in measured]


@pytest.mark.parametrize(("minutes", "is_carried"), [(-10, False), (0, False), (45, False), (45.1, True), (1440, True)])
def test_an_older_gauge_is_sent_as_of_now_with_the_time_of_its_measurement(minutes: float, is_carried: bool) -> None:
    (sample,) = selected([record(timestamp=minutes_ago(minutes))]).samples
    measured = NOW - timedelta(minutes=minutes)
    assert (sample.at, sample.measured) == (NOW if is_carried else measured, measured)


def test_after_max_age_a_value_is_not_sent_and_its_check_is_unknown() -> None:
    old = record(check="old", timestamp=minutes_ago(1441))
    result = selected([old, record()])
    assert [sample.tags["check"] for sample in result.samples] == ["reward_threshold"]
    assert [each.tags["check"] for each in result.no_data] == ["old"]
    assert reasons(result) == ["record 1: it is 24 h old, older than max_age (24 h)"]
    with pytest.raises(Rejected, match=r"no usable record among 1: record 1: it is 24 h old"):
        selected([old])


def test_an_old_value_never_hides_a_newer_one_of_its_series() -> None:
    older, oldest = record(value=2, timestamp=minutes_ago(120), task="another"), record(timestamp=minutes_ago(180))
    result = selected([record(value=3, timestamp=minutes_ago(60), status="fail"), oldest, older])
    assert sorted(sample.value for sample in samples(result)) == [2, 3]
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
    # A file whose events were all sent is no failure.
    later = selected([event], sent=first.events, now=NOW + timedelta(hours=30))
    assert (later.samples, later.failures) == ([], [])
    late = selected([record(metric_kind=kind, timestamp=minutes_ago(56)), record()])
    assert len(late.samples) == 1
    assert reasons(late) == [f"record 1: it is 56 min old, and a {kind} can't be sent after 55 min"]


def test_an_event_without_a_time_is_sent_once_per_publication() -> None:
    event = record(metric_kind="count", timestamp=...)
    first = selected([event], version="monday")
    assert first.samples[0].at == NOW
    assert selected([event], version="monday", sent=first.events).samples == []
    assert len(selected([event], version="tuesday", sent=first.events).samples) == 1


def test_what_was_sent_is_forgotten_when_it_can_not_come_back() -> None:
    sent = selected([record(metric_kind="count")]).events
    tomorrow = datetime(2025, 1, 15, 15, tzinfo=UTC)
    assert selected([record()], sent=sent, now=tomorrow).remember() == sent
    assert selected([record(timestamp=None)], sent=sent, now=tomorrow + timedelta(seconds=1)).remember() == {}


# Publishing, and its schema


def test_a_publisher_is_refused_every_bad_record_and_told_what_will_be_left_out() -> None:
    records, (remark,) = check_snapshot(json.dumps([record(tags={"env": "x"})]).encode(), "it", NOW)
    assert (len(records), str(remark)[:19]) == (1, "record 1: tag 'env'")
    with pytest.raises(InvalidSnapshot, match=r"it: 2 of 3 records are bad:\n  record 1: .*\n  record 3: ") as raised:
        check_snapshot(json.dumps([7, record(), record(value=None)]).encode(), "it", NOW)
    assert (raised.value.count, raised.value.summary) == (2, "it: 2 of 3 records are bad")


# Of each field what a schema and a reader may see differently. What is too far ahead depends on the clock.
FIELDS: dict[str, list[Any]] = {
    "metric": ["metta.x", ".", "x\n", "a-b", "é", "", "m" * 170, "m" * 171],
    "workflow_name": [" ", "\n", "\x1f", "\x85", "a\n"],
    "check": ["", "ä"],
    "condition": ["none", "", ">= 0.85x", "< 2 x"],
    "baseline": [{"of": "median", "last": 5.0, "skip": 100}, {"last": 101}, {"every": 1}],
    "for": [1, 2.0, 100, 101, 0],
    "value": [-0.0, 1e308, 10**308, 10**309, -(10**320)],
    "status": ["fail", "unknown", "PASS", ""],
    "metric_kind": ["count", "distribution", "rate"],
    "kind": ["count", "rate"],
    "timestamp": ["2025-01-14T15:00:00", 0, 1e300, -1e300],
    "tags": [{"a": "b"}, {"a": None}, {"a": 1}, {"": ""}],
    "url": ["http://a", "http://a:b@c", "https://a/\n", "", "/runs/1", "x" * 2001],
    "commit": ["", "a" * 200, "a" * 201],
    "message": ["", "a\nb"],
    "more": [{"a": [1]}],
}
SNAPSHOTS = [
    *([], {}, {"records": {}}, {"records": None}, {"records": [record()], "suite": "x"}, [7], [None], [[]]),
    [record(status=None, condition="> 1x", baseline={}, **{"for": 2})],
    *(
        [{**shape, name: value}]
        for name, values in FIELDS.items()
        for value in (*values, None, 7, True, "x", [], {})
        for shape in (RECORD, PRINTED)
        if (name, value) != ("timestamp", "x")  # a format is no matter of validation
    ),
    *([{key: each[key] for key in each if key != name}] for each in (RECORD, PRINTED) for name in each),
]


def test_what_the_schema_accepts_the_reader_takes_and_nothing_else() -> None:
    schema = Draft202012Validator(snapshot_schema())
    for snapshot in SNAPSHOTS:
        body = json.dumps(snapshot).encode()
        try:
            check_snapshot(body, "it", NOW)
            refusal = None
        except HealthError as error:
            refusal = str(error)
        errors = [error.message for error in schema.iter_errors(json.loads(body))]
        if refusal and re.search("record 1: (condition is|baseline is of|for is of)", refusal):
            continue  # of conditions the schema says nothing
        assert (refusal is None) == (not errors), (snapshot, refusal, errors)


# Settings


@pytest.mark.parametrize(
    ("category", "source"), [("training", "/data/t.json"), ("evaluation", "s3://bucket/e.json"), ("other", None)]
)
def test_the_replaced_names_fill_the_source_by_category(category: str, source: str | None) -> None:
    environ = {"TRAINING_HEALTH_FILE": "/data/t.json", "EVAL_HEALTH_FILE": "s3://bucket/e.json"}
    assert SnapshotSettings.legacy_environment({"category": category}, environ).get("source") == source
