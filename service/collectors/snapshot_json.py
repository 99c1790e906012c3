"""Snapshot files as JSON, record by record: one bad record costs no other, and no call holds the interpreter for long.

More is read than JSON allows (NaN, 1e999, halves of surrogate pairs, bytes that are no UTF-8), for the record's own
check to refuse it with its position.
"""

import json
import math
import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, NoReturn, TypeVar

from service.domain.errors import Rejected

Record = TypeVar("Record")

_BLANKS = re.compile(r"[ \t\n\r]*")
_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"', re.DOTALL)
_BOM = "\ufeff"
_LONGEST_INTEGER = 309  # digits; no longer one fits a float


class TooDeep:
    """Stands for a record that is nested too deeply to be read."""


def _integer(text: str) -> float:
    # Python refuses to read integers of thousands of digits, which would cost the file.
    return int(text) if len(text) <= _LONGEST_INTEGER else math.inf


_decoder = json.JSONDecoder(parse_int=_integer)


def read(body: bytes, name: str, convert: Callable[[Any], Record]) -> list[Record]:
    """``convert(value)`` of every record, in order; the value is any JSON value, or TooDeep.

    ``body`` is a JSON list or an object with a list ``records``. Raises Rejected with ``name``, line, column and byte
    where it is not JSON.
    """
    return _Reader(body, name).records(convert)


class _Reader:
    def __init__(self, body: bytes, name: str) -> None:
        self._text = body.decode("utf-8", "surrogateescape").removeprefix(_BOM)
        self._bom = len(body) >= 3 and body.startswith(_BOM.encode())
        self._name = name
        self._at = 0

    def records(self, convert: Callable[[Any], Record]) -> list[Record]:
        found: list[Record] | None = None
        match self._peek():
            case "":
                raise Rejected(f"{self._name} is empty; is it half-written?")
            case "[":
                found = self._list(convert)
            case "{":
                found = self._object(convert)
            case _:
                self._value()
        if self._peek():
            self._fail("there is something after the end of the JSON value")
        if found is None:
            raise Rejected(f'{self._name} is neither a JSON list nor an object with a list "records"')
        return found

    def _object(self, convert: Callable[[Any], Record]) -> list[Record] | None:
        found = None
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return None
        while True:
            if self._peek() != '"':
                self._fail("a key in double quotes is expected")
            key = self._value()
            if self._peek() != ":":
                self._fail("a colon is expected")
            self._at += 1
            if key != "records":
                self._value()
            elif self._peek() == "[":
                found = self._list(convert)  # of a key that comes twice the last counts, as for JSON readers
            else:
                found = None
                self._value()
            if self._ends("}"):
                return found

    def _list(self, convert: Callable[[Any], Record]) -> list[Record]:
        found: list[Record] = []
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return found
        while True:
            found.append(convert(self._value()))
            if self._ends("]"):
                return found

    def _ends(self, bracket: str) -> bool:
        """Passes the comma or the closing bracket after an element."""
        mark = self._peek()
        if mark not in (",", bracket) or not mark:
            self._fail(f"a comma or {bracket} is expected")
        self._at += 1
        return mark == bracket

    def _peek(self) -> str:
        """The next character that is not blank, empty at the end."""
        blanks = _BLANKS.match(self._text, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        self._peek()
        try:
            value, self._at = _decoder.raw_decode(self._text, self._at)
        except JSONDecodeError as error:
            self._at = error.pos
            self._fail(error.msg)
        except RecursionError:
            self._skip()
            return TooDeep
        return value

    def _skip(self) -> None:
        """Passes a list or an object by its brackets alone."""
        depth, begin = 0, self._at
        for match in _BRACKET_OR_STRING.finditer(self._text, begin):
            if match[0][0] == '"':
                continue
            depth += 1 if match[0] in "[{" else -1
            if depth == 0:
                self._at = match.end()
                return
        self._at = len(self._text)
        self._fail("a bracket is not closed")

    def _fail(self, reason: str) -> NoReturn:
        before = self._text[: self._at]
        line, column = before.count("\n") + 1, self._at - (before.rfind("\n") + 1) + 1
        byte = len(before.encode("utf-8", "surrogateescape")) + (3 if self._bom else 0)
        is_cut = not self._text[self._at :].strip() or reason.startswith("Unterminated string")
        half = "; is it half-written?" if is_cut else ""
        raise Rejected(f"{self._name}: no valid JSON at line {line}, column {column} (byte {byte}): {reason}{half}")
