"""Snapshot files as JSON, some hundred records at a time: one bad record costs no other, no call holds the interpreter.

More is read than JSON allows (NaN, 1e999, halves of surrogate pairs, bytes that are no UTF-8), for the record's own
check to refuse it with its position. Pieces of the file that are plain JSON go through orjson, which is ten times
quicker; only a piece that it refuses is read value by value.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from json import JSONDecodeError
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import orjson

from service.collectors.snapshot_content import Limits
from service.domain.errors import Rejected, TooLarge, Unfinished

_BOM = "\ufeff".encode()
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff", b"[\x00", b"{\x00", b"\x00[", b"\x00{")
_BLANKS = re.compile(rb"[ \t\n\r]*")
_BRACKETS_OR_STRING = re.compile(rb'[\[{]+|[\]}]+|"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# Between two records; inside of one it stands only where it has a list of objects.
_BETWEEN = re.compile(rb"\}[ \t\n\r]*,[ \t\n\r]*(?=\{)")
_PIECE = 128 * 1024  # bytes; takes orjson less than a millisecond
_CUTS = 3  # places tried for the end of one piece
_WINDOW = 4 * 1024  # bytes that are decoded for a single value, at first
_AT_ONCE = 500  # values that are read singly before the sink gets them
_LONGEST_INTEGER = 309  # digits; no longer one fits a float


class TooDeep:
    """Stands for a record that is nested too deeply to be read."""


class NoJson:
    """Stands for a line that is no JSON."""


class Sink(Protocol):
    """Takes the values of the records, in order: any JSON value, TooDeep or NoJson."""

    def take(self, values: Sequence[Any]) -> None: ...


Taker = TypeVar("Taker", bound=Sink)


def _integer(text: str) -> float:
    # Python refuses to read integers of thousands of digits, which would cost the file.
    return int(text) if len(text) <= _LONGEST_INTEGER else math.inf


_decoder = json.JSONDecoder(parse_int=_integer)


def read(body: bytes, name: str, begin: Callable[[], Taker], limits: Limits) -> Taker:
    """The sink that took every record of ``body``: a JSON list, an object with a list ``records``, or JSON lines.

    ``begin`` makes the sink; of a key ``records`` that comes twice the last counts, so it may be asked twice.
    Raises Unfinished with ``name``, line, column and byte where it is not JSON, Rejected where it is JSON but no
    snapshot, TooLarge where it holds too many records.
    """
    return _Reader(body, name, begin, limits).read()


class _Reader(Generic[Taker]):
    """``_at`` is the byte that is read next."""

    def __init__(self, body: bytes, name: str, begin: Callable[[], Taker], limits: Limits) -> None:
        self._body = body
        self._name = name
        self._begin = begin
        self._limits = limits
        self._first = len(_BOM) if body.startswith(_BOM) else 0
        self._at = self._first
        self._is_record = False
        self._count = 0

    def read(self) -> Taker:
        if self._body.startswith(_OTHER_ENCODINGS):
            raise Rejected(f"{self._name} is UTF-16 or UTF-32; JSON is UTF-8 (RFC 8259), so write it in UTF-8")
        sink: Taker | None = None
        mark = self._peek()
        start = self._at
        match mark:
            case b"":
                raise Unfinished(f"{self._name} is empty; is it half-written?")
            case b"[":
                sink = self._list()
            case b"{":
                sink = self._object()
            case _:
                self._value()
        if sink is None and self._is_a_line(start):
            return self._lines(start)
        if self._peek():
            self._fail("there is something after the end of the JSON value")
        if sink is None:
            raise Rejected(f'{self._name} is neither a JSON list nor an object with a list "records" nor JSON lines')
        return sink

    # A list, and the object around it

    def _object(self) -> Taker | None:
        sink = None
        self._at += 1
        if self._peek() == b"}":
            self._at += 1
            return None
        while True:
            if self._peek() != b'"':
                self._fail("a key in double quotes is expected")
            key = self._value()
            if self._peek() != b":":
                self._fail("a colon is expected")
            self._at += 1
            self._is_record |= key == "metric"
            if key != "records":
                self._value()
            elif self._peek() == b"[":
                sink = self._list()  # of a key that comes twice the last counts, as for JSON readers
            else:
                sink = None
                self._value()
            if self._ends(b"}"):
                return sink

    def _list(self) -> Taker:
        sink = self._begin()
        self._count = 0
        self._at += 1
        if self._peek() == b"]":
            self._at += 1
            return sink
        one_by_one = self._at  # up to here values are read singly
        is_over = False
        while not is_over:
            values = None
            if self._at >= one_by_one:
                values, one_by_one = self._piece()
            if values is None:
                values, is_over = self._some(one_by_one)
            self._hand_over(values, sink)
        return sink

    def _piece(self) -> tuple[list[Any] | None, int]:
        """The next values, None when they must be read singly; and up to where they go.

        What orjson takes between brackets is so many whole values, because JSON is read from left to right: a cut
        inside of a record leaves a bracket or a string open.
        """
        begin, end = self._at, self._at + _PIECE
        for _ in range(_CUTS):
            between = _BETWEEN.search(self._body, end)
            if between is None:
                return None, len(self._body)
            end = between.start() + 1
            try:
                values = orjson.loads(b"[%b]" % self._body[begin:end])
            except orjson.JSONDecodeError:
                continue
            self._at = between.end()
            return values, self._at
        return None, end

    def _some(self, until: int) -> tuple[list[Any], bool]:
        """Some values, at least one, that begin before ``until``; and whether the list is over."""
        values = []
        while True:
            values.append(self._value())
            if self._ends(b"]"):
                return values, True
            if self._at >= until or len(values) >= _AT_ONCE:
                return values, False

    def _ends(self, bracket: bytes) -> bool:
        """Passes the comma or the closing bracket after an element."""
        mark = self._peek()
        if mark not in (b",", bracket):
            self._fail(f"a comma or {bracket.decode()} is expected")
        self._at += 1
        return mark == bracket

    # Lines

    def _is_a_line(self, start: int) -> bool:
        """Whether the value from ``start`` to here is one of several on lines of their own, or one record alone."""
        if self._body.find(b"\n", start, self._at) >= 0:
            return False
        end = self._at
        return b"\n" in self._body[end : self._at] if self._peek() else self._is_record

    def _lines(self, start: int) -> Taker:
        sink = self._begin()
        self._count, self._at = 0, start
        while self._peek():
            end = self._body.find(b"\n", self._at + _PIECE)
            lines = self._body[self._at : end if end >= 0 else len(self._body)].split(b"\n")
            self._hand_over(self._values_of(lines), sink)
        return sink

    def _values_of(self, lines: list[bytes]) -> list[Any]:
        """The values of ``lines``, which begin here; passes them."""
        full = [line for line in lines if line.strip(b" \t\r")]
        try:
            values: list[Any] = orjson.loads(b"[%b]" % b",".join(full))
        except orjson.JSONDecodeError:
            values = []
        if len(values) == len(full):
            self._at += sum(map(len, lines)) + len(lines) - 1
            return values
        values = []
        for line in lines:
            begin, end = self._at, self._at + len(line)
            if line.strip(b" \t\r"):
                values.append(self._value_of_line(line, end))
            self._at = min(begin + len(line) + 1, len(self._body))
        return values

    def _value_of_line(self, line: bytes, end: int) -> Any:
        text = line.decode("utf-8", "surrogateescape")
        try:
            return _decoder.decode(text)
        except RecursionError:
            return TooDeep
        except JSONDecodeError as error:
            if self._body[end:].strip(b" \t\r\n"):
                return NoJson  # the next line begins anew, so only this one is lost
            self._at += len(text[: error.pos].encode("utf-8", "surrogateescape"))
            self._fail(error.msg)

    # Values

    def _hand_over(self, values: list[Any], sink: Taker) -> None:
        self._count += len(values)
        if self._count > self._limits.records:
            raise TooLarge(
                f"{self._name} holds more than {self._limits.records:,} records; publish fewer, or in several snapshots"
            )
        sink.take(values)

    def _peek(self) -> bytes:
        """The next byte that is not blank, empty at the end."""
        blanks = _BLANKS.match(self._body, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._body[self._at : self._at + 1]

    def _value(self) -> Any:
        self._peek()
        size = _WINDOW
        while True:
            is_all = self._at + size >= len(self._body)
            text = self._body[self._at : self._at + size].decode("utf-8", "surrogateescape")
            try:
                value, end = _decoder.raw_decode(text)
            except RecursionError:
                self._skip()
                return TooDeep
            except JSONDecodeError as error:
                if is_all:
                    self._at += _bytes(text, error.pos)
                    self._fail(error.msg)
            else:
                # A number that ends with the window may go on behind it.
                if end < len(text) or is_all:
                    self._at += _bytes(text, end)
                    return value
            size *= 8

    def _skip(self) -> None:
        """Passes a list or an object by its brackets alone."""
        depth = 0
        for match in _BRACKETS_OR_STRING.finditer(self._body, self._at):
            brackets = match[0]
            if brackets[:1] == b'"':
                continue
            step = len(brackets)
            if brackets[:1] in b"[{":
                depth += step
            elif depth > step:
                depth -= step
            else:
                self._at = match.start() + depth
                return
        self._at = len(self._body)
        self._fail("a bracket is not closed")

    def _fail(self, reason: str) -> NoReturn:
        begin = max(self._body.rfind(b"\n", 0, self._at) + 1, self._first)
        line = self._body.count(b"\n", 0, self._at) + 1
        column = len(self._body[begin : self._at].decode("utf-8", "surrogateescape")) + 1
        is_cut = not self._body[self._at :].strip() or reason.startswith("Unterminated string")
        half = "; is it half-written?" if is_cut else ""
        place = f"line {line}, column {column} (byte {self._at})"
        raise Unfinished(f"{self._name}: no valid JSON at {place}: {reason}{half}")


def _bytes(text: str, end: int) -> int:
    return end if text.isascii() else len(text[:end].encode("utf-8", "surrogateescape"))
