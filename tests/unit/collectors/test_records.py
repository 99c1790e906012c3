"""A snapshot's records: each is read or named with its place and reason; which are sent, as what and as of when."""

import gzip
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from service.collectors.expectation import Seen
from service.collectors.records import BadRecord, Item, Origin, read_records
from service.collectors.selection import Publication, Selection
from service.collectors.snapshot.schema import check_snapshot, snapshot_schema
from service.collectors.thresholds import Threshold, Thresholds
from service.domain.errors import HealthError, Rejected, TooLarge, Unfinished
from service.domain.samples import Evidence, Kind, Rule
from tests.golden.generate import FOLDER, list_bad_records

NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
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
# As `--dry-run` prints a sample.
OF_A_QUEUE = {"metric": "queue", "value": 7, "kind": "count", "timestamp": 1736866800.5}
PRINTED: dict[str, Any] = {**OF_A_QUEUE, "tags": {"zone": "a"}}
CHECK = {"workflow_name": "w", "task": "t", "check": "c", "condition": "> 1"}


def record(**changes: Any) -> dict[str, Any]:
    """A valid one; a field set to ... is left out."""
    return {name: value for name, value in (RECORD | changes).items() if value is not ...}


GOOD = json.dumps(record()).encode()


def read(body: bytes, **limits: int) -> list[Item | BadRecord]:
    return list(read_records(body, "health.json", NOW, **limits))


def test_a_bad_record_is_named_with_its_position_and_reason_and_the_others_go() -> None:
    """tests/payloads/bad_records.jsonl"""
    assert list_bad_records() == (FOLDER / "bad_records.txt").read_text()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"-Infinity", "not a finite number"),
        (b"9" * 5000, "not a finite number"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b'1, "more": ' + b"[" * 100_000 + b'"]"' + b"]" * 100_000, "nested too deeply"),
    ],
    ids=["infinity", "huge integer", "surrogate", "deep field"],
)
@pytest.mark.parametrize("form", [b"[%b,%b]", b'{"suite": [], "records": [%b,%b], "n": 2}', b"%b\n%b\n"])
def test_what_json_does_not_allow_makes_a_bad_record_and_no_bad_file(value: bytes, reason: str, form: bytes) -> None:
    for place in (0, 1):
        pair = [GOOD, GOOD]
        pair[place] = GOOD.replace(b"0.92", value)
        found = read(form % tuple(pair))
        assert [isinstance(each, BadRecord) for each in found] == [place == 0, place == 1]
        assert reason in str(found[place])


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
    end = "]" if form == "[" else '], "b": [1]}'
    text = "\r\n".join(texts) if form == "lines" else form + ",\r\n".join(texts) + end
    body = b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    found = read(body)
    assert [getattr(each, "check", "bad") for each in found if getattr(each, "check", "") != "reward_threshold"] == [
        *(f"c{index}" for index in range(at)),
        *["bad"] * sum(each not in ODD[-1:] for each in odd),
        *(f"c{index}" for index in range(at, len(FILLING))),
    ]


def test_a_record_that_is_no_json_is_lost_alone_and_a_last_line_is_half_written() -> None:
    first, broken, last = read(b"\n".join([GOOD, b'{"metric": ', GOOD]))
    assert (first, str(broken)) == (last, "it is no valid JSON")
    assert str(read(b'["\xc3\xa9" x, 7]')[0]) == "it is no valid JSON"
    with pytest.raises(Unfinished, match=r"line 2, column 12 .*half-written"):
        read(GOOD + b'\n{"metric": ')


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'[{"metric": "a"},\n {"metric"', r"line 2, column 11 \(byte 28\).*half-written"),
        (b"[" * 100_000, "half-written"),
        (b"[] []", r"column 3 \(byte 2\): more follows after its end"),
        (b"", "health.json is empty"),
        (b"7", 'neither a JSON list nor an object with a list "records" nor JSON lines'),
        (b"{'records': []}", "no valid JSON at line 1, column 2"),
    ],
)
def test_what_is_no_snapshot_fails_with_the_place_or_the_reason(body: bytes, place: str) -> None:
    with pytest.raises(Rejected, match=place) as raised:
        read(body)
    assert "health.json" in str(raised.value)


def test_what_is_too_large_is_refused_before_its_memory_is_spent() -> None:
    for body, limits, reason in (
        (json.dumps([record()] * 4).encode(), {"max_records": 3}, "more than 3 records"),
        (b"[" + b"1," * 31_000 + b"1]", {"max_records": 1_000}, "more values than 1,000 records"),
        (gzip.compress(b"\0" * 50_000_000), {"max_bytes": 1_000_000}, "more than 1,000,000 bytes"),
    ):
        with pytest.raises(TooLarge, match=f"health.json holds {reason}"):
            read(body, **limits)


def test_gzip_is_told_by_its_content_and_half_written_where_it_breaks_off() -> None:
    body = json.dumps([record()] * 2).encode()
    whole = gzip.compress(body)
    in_parts = gzip.compress(body[:99]) + gzip.compress(body[99:]) + b"\0" * 512
    assert len(read(whole)) == len(read(in_parts)) == 2
    for packed, reason in ((whole[:-5], "breaks off"), (whole + b"more", "no valid gzip")):
        with pytest.raises(Unfinished, match=reason):
            read(packed)


# Publishing, and its schema


# Of each field what a schema and a reader may see differently. What is too far ahead depends on the clock.
FIELDS: dict[str, list[Any]] = {
    "metric": ["metta.x", ".", "x\n", "a-b", "é", "", "m" * 170, "m" * 171],
    "workflow_name": [" ", "\n", "\x1f", "\x85", "a\n", ""],
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


# What is sent, and as what

DAY = timedelta(hours=24)
TRAINING = Origin("training", namespace="metta.infra.stablesuite", source="stable_suite")


def selected(
    records: Sequence[Any],
    now: datetime = NOW,
    sent: dict[bytes, int] | None = None,
    thresholds: Thresholds | None = None,
    expect: Sequence[str] = (),
) -> Selection:
    selection = Selection(TRAINING, now, DAY, sent or {}, expect, thresholds or {})
    selection.add(read(json.dumps(records).encode()), Publication("health.json", "1", NOW))
    return selection


def reasons(result: Selection) -> list[str]:
    return [str(failure) for failure in result.failures]


def minutes_ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


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
    check = {**CHECK, "source": "mine"}
    told = [PRINTED, {"metric": "metta.x", "value": 1}, {**PRINTED, "tags": check}]
    plain, short, of_a_check = selected(told).samples
    assert (plain.metric.name, plain.metric.kind, plain.value) == ("metta.infra.stablesuite.queue", Kind.COUNT, 7)
    assert plain.at == datetime(2025, 1, 14, 15, 0, 0, 500_000, tzinfo=UTC)
    assert plain.tags == {"source": "stable_suite", "zone": "a"}
    assert (short.metric.name, short.metric.kind, short.at) == ("metta.x", Kind.GAUGE, NOW)
    assert of_a_check.tags == {"workflow_category": "training", **check}


BEHIND = {"url": "https://ci.example/42?tab=log#l1", "commit": "3f9a2c", "owner": "@ml", "message": "2 of 8\n ranks"}


def test_what_a_record_says_of_its_value_is_shown_and_becomes_no_tag() -> None:
    ofs = [record(**BEHIND), {**PRINTED, **BEHIND, "kind": None, "tags": CHECK}, {**PRINTED, **BEHIND}]
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
        ({"condition": "> 0.5"}, None),
        ({"condition": ">= 0.85x"}, Rule()),
        (whole, Rule(30, 2, fail_after=2)),
        ({"condition": "> 0.5", "for": 3}, Rule(fail_after=3)),
        ({"condition": ">= 0.85x", "status": "fail"}, None),
    ]
    for changes, rule in of_records:
        (sample,) = selected([record(**{"status": None, **changes})]).samples
        assert (sample.rule, sample.tags["condition"]) == (rule, changes["condition"])
    check = {**CHECK, "condition": "<= 1.2x"}
    triple = {"job": "w", "criterion": "c", "operator": ">=", "target": "0.85x", "status": "skipped"}
    tags = (check, {**check, "status": "unknown"}, triple, {"condition": "<= 1.2"})
    found = selected([{**PRINTED, "kind": "gauge", "tags": each} for each in tags])
    assert [each.rule for each in found.samples] == [Rule(), None, Rule(), None]


def test_a_threshold_of_the_settings_stands_in_place_of_a_record_s_own() -> None:
    whole = {"condition": ">= 0.85x", "baseline": {"last": 30, "skip": 1}, "for": 2}
    given = {"arena/*/nothing": "> 9", "arena/runs*": whole, "arena/*": ">= 0.9x", "w/t/c": "<= 5"}
    thresholds = {name: Threshold.model_validate(each) for name, each in given.items()}
    acceptance = {"job": "arena", "criterion": "runs", "operator": ">=", "target": "1", "status": "pass"}
    printed = [{**PRINTED, "tags": CHECK | {"status": "pass"}}, {**PRINTED, "metric": "x.value", "tags": acceptance}]
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


def judged(expect: list[str], *names: str, seen: Seen | None = None) -> tuple[list[str], list[str], Seen]:
    """Of a snapshot with these checks: the missing ones, the failures, and what is known afterwards."""
    brought = [dict(zip(("workflow_name", "task", "check"), name.split("|"), strict=True)) for name in names]
    selection = selected([record(**{**each, "tags": {"repo": "a/b"}}) for each in brought], expect=expect)
    result, known = selection.to_result(seen or {}, "snapshot")
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
