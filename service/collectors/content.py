"""The bytes of a snapshot as the JSON texts of its records: gzip, encodings, and the three forms that it may have.

No record is read here. The texts come from msgspec, a piece of the file at a time, so that no call holds the
interpreter for long. A piece that it refuses is passed value by value with Python's own scanner, which takes NaN and
halves of surrogate pairs: they make a bad record and no bad file.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NoReturn

import msgspec

from service.domain.errors import Rejected, TooLarge, Unfinished

Text = bytes | msgspec.Raw

MAX_BYTES = 64 * 1024 * 1024  # once inflated
GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1

_BOM = "\ufeff".encode()
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff", b"[\x00", b"{\x00", b"\x00[", b"\x00{")
_BLANKS = re.compile(rb"[ \t\n\r]*")
_RECORDS = re.compile(rb'"records"[ \t\n\r]*:[ \t\n\r]*(?=\[)')
_BRACKETS_OR_STRING = re.compile(rb'[\[{]+|[\]}]+|"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# Between two records; inside of one it stands only where it has a list of objects.
_BETWEEN = re.compile(rb"\}[ \t\n\r]*,[ \t\n\r]*\{")
_PIECE = 256 * 1024  # bytes; takes msgspec less than a millisecond
_WINDOW = 4 * 1024  # bytes that are decoded for a single value, at first
_MAX_VALUE = 4 * 1024 * 1024  # bytes of one value that msgspec refuses; each takes Python's scanner 10 ns
_MAX_LOOKS = 10  # at keys that are called records
_TEXTS = msgspec.json.Decoder(list[msgspec.Raw])
# As floats, because Python refuses to read integers of thousands of digits.
_JSON = json.JSONDecoder(parse_int=float)


def inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    """``body``, unpacked where it is gzip (also of a .gz file that its server packed again).

    Raises TooLarge beyond ``max_bytes``, Unfinished where it breaks off.
    """
    for _ in range(2):
        if not body.startswith(GZIP_MAGIC):
            break
        try:
            with gzip.open(io.BytesIO(body)) as file:
                body = file.read(max_bytes + 1)
        except EOFError as error:
            raise Unfinished(f"{name}: the gzip data breaks off at byte {len(body)}; is it half-written?") from error
        except (zlib.error, OSError) as error:
            raise Unfinished(f"{name}: no valid gzip: {error}") from error
    if body.startswith(GZIP_MAGIC):
        raise Rejected(f"{name} is packed with gzip more than twice; pack it once")
    if len(body) > max_bytes:
        raise too_large(name, max_bytes)
    return body


def too_large(name: str, max_bytes: int) -> TooLarge:
    return TooLarge(f"{name} holds more than {max_bytes:,} bytes; publish less, or in several snapshots")


def decode_odd(text: bytes) -> object:
    """The value of a text that msgspec refuses; bytes that are no UTF-8 become halves of surrogate pairs.

    Raises JSONDecodeError or RecursionError.
    """
    return _JSON.decode(text.decode("utf-8", "surrogateescape"))


def split(body: bytes, name: str) -> Iterator[Text]:
    """The JSON texts of the records: of a list, of the list ``records`` of an object, or of lines.

    Raises Unfinished with ``name``, line, column and byte where it is no JSON, Rejected where it is no snapshot.
    """
    return _Splitter(body, name).split()


class _Splitter:
    """``_at`` is the byte that is read next."""

    def __init__(self, body: bytes, name: str) -> None:
        self._body = body
        self._name = name
        self._at = self._first = len(_BOM) if body.startswith(_BOM) else 0

    def split(self) -> Iterator[Text]:
        if self._body.startswith(_OTHER_ENCODINGS):
            raise Rejected(f"{self._name} is UTF-16 or UTF-32; JSON is UTF-8 (RFC 8259), so write it in UTF-8")
        mark, start = self._peek(), self._at
        if not mark:
            raise Unfinished(f"{self._name} is empty; is it half-written?")
        if mark == b"[":
            yield from self._split_list()
        elif list_begin := self._find_records():
            self._at = list_begin
            yield from self._split_list()
            self._pass_rest_of_object()
        else:
            value = self._pass_value()
            if mark != b"{" or b"\n" in value or not (self._peek() or b'"metric"' in value):
                raise Rejected(
                    f'{self._name} is neither a JSON list nor an object with a list "records" nor JSON lines'
                )
            self._at = start
            yield from self._split_lines()
        if self._peek():
            self._fail("there is something after the end of the JSON value")

    def _find_records(self) -> int | None:
        """Where the list ``records`` of the object that begins here begins."""
        matches = _RECORDS.finditer(self._body, self._at, self._at + _MAX_VALUE)
        for match in islice(matches, _MAX_LOOKS):
            try:
                before = decode_odd(self._body[self._at : match.end()] + b"[]}")
            except (json.JSONDecodeError, RecursionError):
                continue  # it belongs to an inner object, or the object is no JSON
            if isinstance(before, dict) and "records" in before:
                return match.end()
        return None

    def _pass_rest_of_object(self) -> None:
        while self._peek() == b",":
            self._at += 1
            self._pass_value()
            if self._peek() != b":":
                self._fail("a colon is expected")
            self._at += 1
            self._pass_value()
        if self._peek() != b"}":
            self._fail("a comma or } is expected")
        self._at += 1

    def _split_list(self) -> Iterator[Text]:
        self._at += 1
        if self._peek() == b"]":
            self._at += 1
            return
        one_by_one = self._at  # up to here msgspec has refused
        while True:
            texts, end = self._next_piece() if self._at >= one_by_one else ([], one_by_one)
            if texts:
                yield from texts
                self._at = end
            else:
                one_by_one = end
                yield self._pass_value()
            mark = self._peek()
            if mark not in (b",", b"]"):
                self._fail("a comma or ] is expected")
            self._at += 1
            if mark == b"]":
                return

    def _next_piece(self) -> tuple[list[msgspec.Raw], int]:
        """Some values and where they end; none where they must be passed one by one up to there.

        What is a list between brackets is so many whole values, because JSON is read from left to right: a cut inside
        of a record leaves a bracket or a string open.
        """
        between = _BETWEEN.search(self._body, self._at + _PIECE, self._at + 2 * _PIECE)
        if between:
            end = between.start() + 1
        elif len(self._body) - self._at <= 2 * _PIECE:
            end = max(self._body.rfind(b"]"), self._at)
        else:
            return [], self._at + _PIECE
        try:
            return _TEXTS.decode(b"[%b]" % self._body[self._at : end]), end
        except (msgspec.DecodeError, RecursionError):
            return [], end

    def _split_lines(self) -> Iterator[Text]:
        last = len(self._body.rstrip())
        while self._peek():
            end = self._body.find(b"\n", self._at)
            if 0 <= end < last:  # the next line begins anew, so of a broken one only this record is lost
                yield self._body[self._at : end]
                self._at = end
            else:
                yield self._pass_value()
                if self._peek():
                    self._fail("a line holds one record")

    def _peek(self) -> bytes:
        """The next byte that is not blank, empty at the end."""
        blanks = _BLANKS.match(self._body, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._body[self._at : self._at + 1]

    def _pass_value(self) -> bytes:
        """Passes one value, also one that is JSON for Python alone; its text."""
        self._peek()
        begin, size = self._at, _WINDOW
        while True:
            is_all = begin + size >= len(self._body)
            text = self._body[begin : begin + size].decode("utf-8", "surrogateescape")
            try:
                _, end = _JSON.raw_decode(text)
            except RecursionError:
                self._pass_brackets()
                return self._body[begin : self._at]
            except json.JSONDecodeError as error:
                if is_all:
                    self._at += _count_bytes(text, error.pos)
                    self._fail(error.msg)
            else:
                # A number that ends with the window may go on behind it.
                if end < len(text) or is_all:
                    self._at += _count_bytes(text, end)
                    return self._body[begin : self._at]
            size *= 8
            if size > _MAX_VALUE:
                raise TooLarge(f"{self._name}: the value at byte {begin} is longer than {_MAX_VALUE:,} bytes")

    def _pass_brackets(self) -> None:
        """Passes a list or an object that is nested too deeply for the scanner, by its brackets alone."""
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
        raise Unfinished(
            f"{self._name}: no valid JSON at line {line}, column {column} (byte {self._at}): {reason}{half}"
        )


def _count_bytes(text: str, end: int) -> int:
    return end if text.isascii() else len(text[:end].encode("utf-8", "surrogateescape"))
