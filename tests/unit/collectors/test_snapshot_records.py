"""What becomes of a snapshot's records: which are sent, as what and as of when, and what is said of the others."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.collectors.snapshot import SnapshotSettings
from service.collectors.snapshot_samples import Category, Known, Publication, to_collected
from service.domain.errors import Rejected
from service.domain.runs import Collected
from service.domain.samples import Kind

NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
TRAINING = Category("training", namespace="metta.infra.stablesuite", source="stable_suite")
RECORDED = Path(__file__).parents[2] / "payloads" / "snapshots"
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


def collected(
    content: Any, *, now: datetime = NOW, sent: bytes | None = None, version: str = "1", max_age: float = 24
) -> Collected:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    published = Publication(body, "health.json", version)
    result, _ = to_collected(published, category=TRAINING, now=now, max_age=timedelta(hours=max_age), known=Known(sent))
    return result


def reasons(result: Collected) -> list[str]:
    return [str(fault) for fault in result.faults]


def minutes_ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


def test_a_record_becomes_a_sample_with_its_tags_in_the_written_order() -> None:
    (sample,) = collected([record()]).samples
    assert sample.metric.name == "metta.infra.stablesuite.hearts"
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


@pytest.mark.parametrize("name", ["training_health.json", "eval_health.json"])
def test_the_recorded_snapshots_are_read_whole(name: str) -> None:
    result = collected((RECORDED / name).read_bytes())
    assert len(result.samples) == 2
    assert result.faults == ()


def test_both_shapes_of_a_file_are_read_and_other_keys_ignored() -> None:
    for content in (
        [record()],
        {"records": [record()]},
        {"version": {"records": 1}, "records": [record()], "by": "suite"},
    ):
        assert len(collected(content).samples) == 1


def test_a_byte_order_mark_and_crlf_do_no_harm() -> None:
    assert (
        len(collected(b"\xef\xbb\xbf" + json.dumps([record()], indent=1).replace("\n", "\r\n").encode()).samples) == 1
    )


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    text = json.dumps(record())
    twice = text.replace('"value": 0.92', '"value": 1, "value": 2')
    assert collected(f"[{twice}]".encode()).samples[0].value == 2
    assert collected(f'{{"records": [1, 2], "records": [{text}]}}'.encode()).faults == ()


def test_a_metric_of_the_whole_project_keeps_its_name() -> None:
    (sample,) = collected([record(metric="metta.other.hearts")]).samples
    assert sample.metric.name == "metta.other.hearts"


def test_optional_fields_may_be_absent_or_null() -> None:
    for nothing in (..., None):
        fields = {
            "condition": "stable",
            "status": nothing,
            "metric_kind": nothing,
            "timestamp": nothing,
            "tags": nothing,
        }
        (sample,) = collected([record(**fields)]).samples
        assert (sample.tags["status"], sample.metric.kind, sample.at) == ("unknown", Kind.GAUGE, NOW)


@pytest.mark.parametrize(
    "text", ["2025-01-14T15:00:00Z", "2025-01-14T16:00:00+01:00", "2025-01-14T15:00:00", "20250114T150000Z"]
)
def test_a_time_may_have_any_zone_and_without_one_it_is_utc(text: str) -> None:
    assert collected([record(timestamp=text)]).samples[0].at == datetime(2025, 1, 14, 15, tzinfo=UTC)


BAD = [
    (record(metric=...), "metric is missing"),
    (record(task=""), "task is empty"),
    (record(check=7), "check is a number, not text"),
    (record(condition=None), "condition is missing"),
    (record(metric="hearts per minute"), "metric is 'hearts per minute'; a metric's name has"),
    (record(metric="m" * 200), "at most 200"),
    (record(value=...), "value is missing"),
    (record(value="0.9"), "value is text, not a number"),
    (record(value=True), "value is true or false, not a number"),
    (record(value=[1]), "value is a list, not a number"),
    (record(value=float("nan")), "value is not a finite number"),
    (record(value=float("-inf")), "value is not a finite number"),
    (record(value=10**400), "value is not a finite number"),
    (record(status="passed"), "status is 'passed'; it may be pass, fail, unknown"),
    (record(status=["pass"]), "status is ['pass']"),
    (record(metric_kind="rate"), "metric_kind is 'rate'; it may be gauge, count, distribution"),
    (record(timestamp="yesterday"), "timestamp is 'yesterday'; it must be ISO 8601"),
    (record(timestamp="2025-13-01T00:00:00Z"), "it must be ISO 8601"),
    (record(timestamp="0001-01-01T00:00:00+14:00"), "it must be ISO 8601"),
    (record(timestamp=1736866800), "timestamp is a number"),
    (record(timestamp="2025-01-14T15:40:01Z"), "more than 10 min in the future"),
    (record(tags=["a:b"]), "tags is a list, not an object"),
    (record(tags={"commit": 7}), "tag 'commit' is a number, not text"),
    (record(task="half \ud800"), "task holds half a surrogate pair"),
    (record(tags={"who": "\udfff"}), "tag 'who' holds half a surrogate pair"),
    (record(tags={"\udfff": "who"}), "holds half a surrogate pair"),
    ("text", "it is text, not an object"),
    (None, "it is null, not an object"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_record_is_left_out_with_its_position_and_reason_and_the_others_go(bad: Any, reason: str) -> None:
    result = collected([record(check="first"), bad, record(check="last")])
    assert [sample.tags["check"] for sample in result.samples] == ["first", "last"]
    assert len(result.faults) == result.left_out == 1
    assert reasons(result)[0].startswith("record 2: ")
    assert reason in reasons(result)[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"1e999", "not a finite number"),
        (b"NaN", "not a finite number"),
        (b"-Infinity", "not a finite number"),
        (b"9" * 5000, "not a finite number"),
        (b'"\xed\xa0\x80"', "value is text"),
        (b"[" * 100_000 + b'"]"' + b"]" * 100_000, "nested too deeply"),
    ],
    ids=["1e999", "NaN", "-Infinity", "huge integer", "raw surrogate", "deep"],
)
def test_what_json_does_not_allow_makes_a_bad_record_and_no_bad_file(value: bytes, reason: str) -> None:
    good = json.dumps(record()).encode()
    result = collected(b"[" + good.replace(b"0.92", value) + b"," + good + b"]")
    assert len(result.samples) == 1
    assert reason in reasons(result)[0]


def test_bytes_that_are_no_utf8_make_a_bad_record() -> None:
    good = json.dumps(record()).encode()
    result = collected(b"[" + good.replace(b"arena", b"ar\xe9na") + b"," + good + b"]")
    assert reasons(result) == ["record 1: workflow_name holds half a surrogate pair, or bytes that are not UTF-8"]


def test_a_record_can_not_set_a_required_tag() -> None:
    result = collected([record(tags={"env": "x", "Service": "y", "status": "fail", "commit": "abc"})])
    (sample,) = result.samples
    assert (sample.tags["status"], sample.tags["commit"]) == ("pass", "abc")
    assert not {"env", "Service"} & set(sample.tags)
    assert [fault.part for fault in result.faults] == ["record 1"] * 3
    assert "tag 'env' is set by the daemon" in reasons(result)[0]


def test_no_spelling_of_a_required_tag_gets_past_the_daemon_s_own() -> None:
    """Datadog reads up to the first colon, in small letters, with underscores for what it does not keep."""
    tags = {"env:staging": "x", "Workflow name": "y", " status": "z", "service:": "q", "environment": "kept"}
    result = collected([record(tags=tags)])
    (sample,) = result.samples
    assert not tags.keys() & sample.tags.keys() - {"environment"}
    assert sample.tags["environment"] == "kept"
    assert len(result.faults) == 4


def test_a_condition_beyond_all_numbers_gives_no_verdict() -> None:
    (sample,) = collected([record(condition="> 1e999", status=None)]).samples
    assert sample.tags["status"] == "unknown"


def test_twenty_faults_are_shown_and_all_are_counted() -> None:
    result = collected([record(), *[record(value="x")] * 50])
    assert (len(result.faults), result.left_out) == (20, 50)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'[{"metric": "a"},\n {"metric"', r"line 2, column 11 \(byte 28\).*half-written"),
        (b'[{"metric": "a"},', r"line 1, column 18 \(byte 17\).*half-written"),
        (b'[{"metric": "a"}', r"a comma or \] is expected; is it half-written"),
        (b'{"records": [{}]', r"a comma or } is expected; is it half-written"),
        (b"[" * 50_000, "half-written"),
        (b'\xef\xbb\xbf["\xc3\xa9" x]', r"column 6 \(byte 9\): a comma or \] is expected"),
        (b"[{} {}]", r"line 1, column 5 \(byte 4\): a comma or \] is expected"),
        (b"[{},]", "column 5"),
        (b"[] []", "something after the end"),
        (b"<html>", r"line 1, column 1 \(byte 0\)"),
        (b"", "health.json is empty"),
        (b" \n ", "health.json is empty"),
        (b"{}", 'neither a JSON list nor an object with a list "records"'),
        (b"7", "neither a JSON list"),
        (b'{"records": {}}', "neither a JSON list"),
        ("[]".encode("utf-16"), "is UTF-16 or UTF-32; JSON is UTF-8"),
        ("[]".encode("utf-16-be"), "is UTF-16 or UTF-32; JSON is UTF-8"),
        (gzip.compress(gzip.compress(gzip.compress(b"[]"))), "packed with gzip more than 2 times; pack it once"),
        (b"{'records': []}", "a key in double quotes is expected"),
    ],
)
def test_what_is_no_snapshot_fails_with_the_place(body: bytes, place: str) -> None:
    with pytest.raises(Rejected, match=place) as raised:
        collected(body)
    assert "health.json" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "health.json holds no record"),
        ({"records": []}, "health.json holds no record"),
        ([7, record(value="x")], "no usable record among 2: record 1: .*; record 2: value is text"),
        ([7] * 9, "no usable record among 9: .*; and 6 more"),
        ([record(timestamp="2025-01-12T15:30:00Z")], r"record 1: it is 48 h old, older than max_age \(24 h\)"),
    ],
)
def test_no_usable_record_fails_the_run_and_says_why(content: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        collected(content)


@pytest.mark.parametrize(
    ("condition", "value", "status"),
    [
        ("> 0.5", 0.6, "pass"),
        ("> 0.5", 0.5, "fail"),
        (">=0.5", 0.5, "pass"),
        ("< 120", 121, "fail"),
        ("<= 1e2", 100, "pass"),
        ("=1.0", 1, "pass"),
        ("== 1", 2, "fail"),
        ("!= 1", 2, "unknown"),
        ("stable for a week", 1, "unknown"),
    ],
)
def test_without_a_status_the_condition_tells_it(condition: str, value: float, status: str) -> None:
    (sample,) = collected([record(condition=condition, value=value, status=...)]).samples
    assert (sample.tags["status"], sample.tags["condition"]) == (status, condition)


def test_a_status_against_its_condition_stands_and_is_warned_about_once() -> None:
    known = Known()
    published = Publication(json.dumps([record(value=0.1), record(check="b", status="unknown")]).encode(), "f", "1")
    with capture_logs() as logs:
        for _ in range(2):
            result, _ = to_collected(published, category=TRAINING, now=NOW, max_age=timedelta(hours=24), known=known)
    assert [sample.tags["status"] for sample in result.samples] == ["pass", "unknown"]
    assert result.faults == ()
    (warning,) = [each for each in logs if each["log_level"] == "warning"]
    assert warning["checks"] == 1
    assert "0.1 is pass, the condition is '> 0.5'" in warning["first"][0]


def test_a_record_that_is_nested_too_deeply_is_left_out_by_the_bound() -> None:
    def nested(levels: int) -> Any:
        return [nested(levels - 1)] if levels else []

    result = collected([record(more=nested(29)), record(more=nested(31)), record(more=nested(40))])
    assert len(result.samples) == 1
    assert reasons(result) == [f"record {n}: it is nested more than 32 levels deep" for n in (2, 3)]


# Age


def test_a_record_without_a_time_is_as_old_as_its_publication() -> None:
    body = json.dumps([record(timestamp=...), record(check="told")]).encode()
    for hours, measured in ((1, [NOW - timedelta(hours=1)]), (25, [])):
        published = Publication(body, "f", "1", NOW - timedelta(hours=hours))
        result, newest = to_collected(published, category=TRAINING, now=NOW, max_age=timedelta(hours=24), known=Known())
        untold = [sample for sample in result.samples if sample.tags["check"] != "told"]
        assert [(sample.measured, sample.at) for sample in untold] == [(each, NOW) for each in measured]
        assert newest == datetime(2025, 1, 14, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "is_restamped"), [(-10, False), (0, False), (45, False), (45.1, True), (1440, True)]
)
def test_an_older_gauge_is_sent_as_of_now_with_the_time_of_its_measurement(minutes: float, is_restamped: bool) -> None:
    (sample,) = collected([record(timestamp=minutes_ago(minutes))]).samples
    measured = NOW - timedelta(minutes=minutes)
    assert (sample.at, sample.measured) == (NOW if is_restamped else measured, measured)


def test_after_max_age_a_value_is_not_sent_and_its_check_is_unknown() -> None:
    result = collected([record(check="old", timestamp=minutes_ago(1441)), record()])
    assert [sample.tags["check"] for sample in result.samples] == ["reward_threshold"]
    assert [tags["check"] for tags in result.unmeasured] == ["old"]
    assert reasons(result) == ["record 1: it is 24 h old, older than max_age (24 h)"]


def test_an_old_value_never_hides_a_newer_one_of_its_series() -> None:
    result = collected(
        [
            record(value=3, timestamp=minutes_ago(60), status="fail"),
            record(value=1, timestamp=minutes_ago(180)),
            record(value=2, timestamp=minutes_ago(120), task="another"),
        ]
    )
    assert sorted(sample.value for sample in result.samples) == [2, 3]
    assert result.faults == ()


@pytest.mark.parametrize("kind", ["count", "distribution"])
def test_an_event_is_sent_once_with_its_own_time(kind: str) -> None:
    event = record(metric_kind=kind, timestamp=minutes_ago(50))
    first = collected([event])
    assert [(sample.at, sample.metric.kind) for sample in first.samples] == [(NOW - timedelta(minutes=50), Kind(kind))]
    again = collected([event, record()], sent=first.remember["sent"], now=NOW + timedelta(hours=1))
    assert [sample.metric.kind for sample in again.samples] == [Kind.GAUGE]
    assert again.faults == ()
    other = collected([{**event, "tags": {"workflow": "b"}}], sent=again.remember["sent"])
    assert len(other.samples) == 1


def test_a_file_whose_events_were_all_sent_is_no_failure() -> None:
    event = record(metric_kind="count")
    first = collected([event])
    later = collected([event], sent=first.remember["sent"], now=NOW + timedelta(hours=30))
    assert (later.samples, later.faults) == ((), ())


@pytest.mark.parametrize("kind", ["count", "distribution"])
def test_an_event_that_is_too_old_to_deliver_is_reported(kind: str) -> None:
    result = collected([record(metric_kind=kind, timestamp=minutes_ago(56)), record()])
    assert len(result.samples) == 1
    assert reasons(result) == [f"record 1: it is 56 min old, and a {kind} can't be sent after 55 min"]


def test_an_event_that_comes_twice_in_a_file_is_sent_once_and_reported() -> None:
    event = record(metric_kind="distribution")
    result = collected([event, {**event, "value": 5}])
    assert [sample.value for sample in result.samples] == [0.92]
    assert reasons(result) == ["record 2: metric, tags and timestamp are those of record 1"]


def test_an_event_without_a_time_is_sent_once_per_publication() -> None:
    event = record(metric_kind="count", timestamp=...)
    first = collected([event], version="monday")
    assert first.samples[0].at == NOW
    same = collected([event], version="monday", sent=first.remember["sent"])
    assert same.samples == ()
    assert len(collected([event], version="tuesday", sent=same.remember["sent"]).samples) == 1


def test_what_was_sent_is_forgotten_when_it_can_not_come_back() -> None:
    first = collected([record(metric_kind="count")])
    later = collected([record(timestamp=...)], sent=first.remember["sent"], now=NOW + timedelta(hours=25))
    assert later.remember == {"sent": None}
    assert collected([record()]).remember == {}


def test_memory_of_another_shape_is_no_reason_to_fail() -> None:
    assert len(collected([record(metric_kind="count")], sent=b"what is this?").samples) == 1


# Settings


@pytest.mark.parametrize(
    ("category", "source"), [("training", "/data/t.json"), ("evaluation", "s3://bucket/e.json"), ("other", None)]
)
def test_the_replaced_names_fill_the_source_by_category(category: str, source: str | None) -> None:
    environ = {"TRAINING_HEALTH_FILE": "/data/t.json", "EVAL_HEALTH_FILE": "s3://bucket/e.json"}
    assert SnapshotSettings.legacy_environment({"category": category}, environ).get("source") == source
    assert "source" not in SnapshotSettings.legacy_environment({"category": category}, {})
