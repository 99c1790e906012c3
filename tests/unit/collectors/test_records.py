"""Reading a snapshot: each record is taken or named with its place and reason, whatever stands beside it."""

import gzip
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from service.collectors.records import BadRecord, Item, read_records
from service.collectors.snapshot.schema import InvalidSnapshot, check_snapshot, snapshot_schema
from service.domain.errors import HealthError, Rejected, TooLarge, Unfinished
from tests.golden.generate import FOLDER, list_bad_records
from tests.unit.collectors.snapshots import NOW, PRINTED, RECORD, record

GOOD = json.dumps(record()).encode()


def read(body: bytes, **limits: int) -> list[Item | BadRecord]:
    return list(read_records(body, "health.json", NOW, **limits))


def test_a_bad_record_is_named_with_its_position_and_reason_and_the_others_go() -> None:
    """tests/payloads/bad_records.jsonl"""
    assert list_bad_records() == (FOLDER / "bad_records.txt").read_text()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"1e999", "not a finite number"),
        (b"NaN", "not a finite number"),
        (b"-Infinity", "not a finite number"),
        (b"9" * 5000, "not a finite number"),
        (b'"\xed\xa0\x80"', "half a surrogate pair"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b'1, "more": ' + b"[" * 100_000 + b'"]"' + b"]" * 100_000, "nested too deeply"),
    ],
    ids=["1e999", "NaN", "-Infinity", "huge integer", "raw surrogate", "surrogate", "deep field"],
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
        (b'[{"metric": "a"},', r"line 1, column 18 \(byte 17\).*half-written"),
        (b"[" * 100_000, "half-written"),
        (b"[] []", r"column 3 \(byte 2\): more follows after its end"),
        (b"<html>", r"line 1, column 1 \(byte 0\)"),
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
        (b"[" + b"1," * (31 * 1_000) + b"1]", {"max_records": 1_000}, "more values than 1,000 records"),
        (gzip.compress(b"\0" * 50_000_000), {"max_bytes": 1_000_000}, "more than 1,000,000 bytes"),
    ):
        with pytest.raises(TooLarge, match=f"health.json holds {reason}"):
            read(body, **limits)


def test_gzip_is_told_by_its_content_and_half_written_where_it_breaks_off() -> None:
    body = json.dumps([record()] * 2).encode()
    whole = gzip.compress(body)
    parts = gzip.compress(body[:99]) + gzip.compress(b"") + gzip.compress(body[99:]) + b"\0" * 512
    for packed in (whole, parts):
        assert len(read(packed)) == 2
    broken = whole[:50] + b"\0" * 50 + whole[100:]
    for packed, reason in ((whole[:-5], "breaks off"), (broken, "no valid gzip"), (whole + b"more", "no valid gzip")):
        with pytest.raises(Unfinished, match=reason):
            read(packed)


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
