"""Snapshot files as JSON: the three forms, what is read quickly and what value by value, and the bounds."""

import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.collectors import snapshot_json
from service.collectors.snapshot_content import Limits, inflated
from service.collectors.snapshot_json import NoJson, TooDeep
from service.domain.errors import Rejected, TooLarge, Unfinished


class Kept:
    def __init__(self) -> None:
        self.values: list[Any] = []

    def take(self, values: Sequence[Any]) -> None:
        self.values += values


def read(body: bytes, limits: Limits | None = None) -> list[Any]:
    return snapshot_json.read(body, "health.json", Kept, limits or Limits()).values


# More than one piece of 128 KiB, so that some of it is read quickly and the end of it value by value.
FILLING = [{"index": index, "text": "x},{" * 20, "list": [{"a": 1}, {"b": []}]} for index in range(5000)]

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_values, max_size=5), st.integers(0, len(FILLING)), st.booleans(), st.sampled_from([None, 1]))
def test_values_are_what_json_says_wherever_they_stand(
    some: list[Any], at: int, is_ascii: bool, indent: int | None
) -> None:
    values = [*FILLING[:at], *some, *FILLING[at:]]
    body = json.dumps(values, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    assert read(body) == json.loads(body.decode("utf-8", "surrogatepass"))


@settings(max_examples=20, deadline=None)
@given(st.lists(_values, max_size=5), st.integers(0, len(FILLING)), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_lines_are_values(some: list[Any], at: int, end: str) -> None:
    values = [{"first": 1}, *FILLING[:at], *some, *FILLING[at:]]
    assert read(end.join(json.dumps(value) for value in values).encode()) == values


@pytest.mark.parametrize("bad", [b"NaN", b"1e999", b'"\\ud800"', b'"\xff"', b"9" * 5000])
def test_what_is_no_plain_json_costs_no_other_value(bad: bytes) -> None:
    lines = [json.dumps(value).encode() for value in FILLING]
    lines[2500] = b'{"value": ' + bad + b"}"
    for body in (b"[" + b",\n".join(lines) + b"]", b"\n".join(lines)):
        values = read(body)
        assert len(values) == len(FILLING)
        assert values[:2500] + values[2501:] == FILLING[:2500] + FILLING[2501:]
        assert set(values[2500]) == {"value"}


def test_a_file_may_be_one_line_with_one_record() -> None:
    assert read(b'{"metric": "a"}') == [{"metric": "a"}]
    assert read(b'\xef\xbb\xbf{"metric": "a"}\r\n{"metric": "b"}\r\n') == [{"metric": "a"}, {"metric": "b"}]


def test_a_line_that_is_no_json_is_lost_alone_and_the_last_one_is_half_written() -> None:
    lines = [b'{"metric": "a"}', b'{"metric": ', b'{"metric": "c"}']
    assert read(b"\n".join(lines)) == [{"metric": "a"}, NoJson, {"metric": "c"}]
    with pytest.raises(Unfinished, match=r"line 3, column 12 \(byte 43\).*half-written"):
        read(b"\n".join([*lines[::2], lines[1]]))


def test_a_value_that_is_nested_without_end_is_passed() -> None:
    deep = b"[" * 1_000_000 + b'"]"' + b"]" * 1_000_000
    assert read(b"[1," + deep + b",2]") == [1, TooDeep, 2]
    assert read(b'{"metric": 1}\n' + deep + b'\n{"metric": 2}') == [{"metric": 1}, TooDeep, {"metric": 2}]
    assert read(b'{"more": ' + deep + b', "records": [3]}') == [3]


def test_a_place_far_into_the_file_is_named() -> None:
    body = json.dumps([{"text": "é" * 100}] * 5000, ensure_ascii=False, indent=1).encode()
    place = body.index(b"}", 900_000)
    with pytest.raises(Unfinished) as raised:
        read(body[:place] + b"?" + body[place:])
    line = body[:place].count(b"\n") + 1
    assert f"line {line}, column 2 (byte {place})" in str(raised.value)


def test_too_many_records_are_refused() -> None:
    assert len(read(b"[1,2,3]", Limits(records=3))) == 3
    for body in (b"[1,2,3,4]", b'{"metric":1}\n2\n3\n4'):
        with pytest.raises(TooLarge, match=r"health\.json holds more than 3 records"):
            read(body, Limits(records=3))


def test_gzip_is_told_by_its_content() -> None:
    body = json.dumps(FILLING).encode()
    assert inflated(body, "health.json", 10_000_000) == body
    assert inflated(gzip.compress(body), "health.json", 10_000_000) == body
    assert inflated(gzip.compress(gzip.compress(body)), "health.json", 10_000_000) == body
    parts = gzip.compress(body[:1000]) + gzip.compress(b"") + gzip.compress(body[1000:]) + b"\0" * 512
    assert inflated(parts, "health.json", 10_000_000) == body


def test_a_gzip_bomb_is_refused_before_its_memory_is_spent() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(TooLarge, match=r"inflates to more than 1,000,000 bytes"):
        inflated(bomb, "health.json", 1_000_000)
    with pytest.raises(TooLarge, match="gzip members"):
        inflated(gzip.compress(b"") * 10_001, "health.json", 1_000_000)


def test_gzip_that_breaks_off_is_half_written() -> None:
    whole = gzip.compress(json.dumps(FILLING).encode())
    with pytest.raises(Unfinished, match=rf"breaks off at byte {len(whole) - 5}"):
        inflated(whole[:-5], "health.json", 10_000_000)
    with pytest.raises(Unfinished, match="no valid gzip"):
        inflated(whole[:100] + b"\0" * 50 + whole[150:], "health.json", 10_000_000)
    with pytest.raises(Rejected, match="no valid gzip"):
        inflated(whole + b"more", "health.json", 10_000_000)


def test_numbers_keep_their_value() -> None:
    assert read(b"[0.1, 12345678901234567890123, -0.0]") == [0.1, 12345678901234567890123, -0.0]
    assert math.isinf(read(b"[1e999]")[0])
