"""The bytes of a snapshot as the JSON texts of its records: gzip, and the three forms that it may have.

No record is read here. msgspec finds where each one begins and ends. A file that it refuses is read value by value with
Python's own scanner, which takes NaN and halves of surrogate pairs: they make a bad record and no bad file.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from service.domain.errors import Rejected, TooLarge, Unfinished

MAX_BYTES = 64 * 1024 * 1024  # once inflated
GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1
_BOM = "\ufeff".encode()
# As floats, because Python refuses to read integers of thousands of digits.
_JSON = json.JSONDecoder(parse_int=float)
_BLANKS = re.compile(r"[ \t\n\r]*")
_RECORDS = re.compile(r'"records"[ \t\n\r]*:[ \t\n\r]*(?=\[)')
_MAX_LOOKS = 10  # at keys that are called records
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")  # two records


class _Envelope(msgspec.Struct):
    records: list[msgspec.Raw]


_FORMS = msgspec.json.Decoder(list[msgspec.Raw] | _Envelope)
_LINES = msgspec.json.Decoder(msgspec.Raw)


def inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    """``body``, unpacked where it is gzip. Raises TooLarge beyond ``max_bytes``, Unfinished where it breaks off."""
    if body.startswith(GZIP_MAGIC):
        try:
            with gzip.open(io.BytesIO(body)) as file:
                body = file.read(max_bytes + 1)
        except EOFError as error:
            raise Unfinished(f"{name}: the gzip data breaks off at byte {len(body)}; is it half-written?") from error
        except (zlib.error, OSError) as error:
            raise Unfinished(f"{name}: no valid gzip: {error}") from error
    if len(body) > max_bytes:
        raise TooLarge(f"{name} holds more than {max_bytes:,} bytes; publish less, or in several snapshots")
    return body


def split(body: bytes, name: str) -> Iterable[bytes | msgspec.Raw]:
    """The JSON texts of the records: of a list, of the list ``records`` of an object, or of lines.

    Raises Unfinished with ``name`` and the place where it is no JSON, Rejected where it is no snapshot.
    """
    body = body.removeprefix(_BOM)
    if not body.strip():
        raise Unfinished(f"{name} is empty; is it half-written?")
    try:
        try:
            found = _FORMS.decode(body)
            return found.records if isinstance(found, _Envelope) else found
        except msgspec.ValidationError as error:
            if not body.lstrip().startswith(b"{"):
                forms = 'neither a JSON list nor an object with a list "records" nor JSON lines'
                raise Rejected(f"{name} is {forms}") from error
            return _LINES.decode_lines(body)
    except (msgspec.DecodeError, RecursionError):
        return _split_odd(body.decode("utf-8", "surrogateescape"), name)


def decode_odd(text: bytes) -> object:
    """The value of a text that msgspec refuses; bytes that are no UTF-8 become halves of surrogate pairs.

    Raises JSONDecodeError or RecursionError.
    """
    return _JSON.decode(text.decode("utf-8", "surrogateescape"))


def _split_odd(text: str, name: str) -> Iterator[bytes]:
    """As ``split``, one value at a time."""
    try:
        begin = _find_list(text)
        for value in _split_lines(text) if begin is None else _split_list(text, begin):
            yield value.encode("utf-8", "surrogateescape")
    except json.JSONDecodeError as error:
        is_cut = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        place = f"line {error.lineno}, column {error.colno} (character {error.pos})"
        half = "; is it half-written?" if is_cut else ""
        raise Unfinished(f"{name}: no valid JSON at {place}: {error.msg}{half}") from error


def _find_list(text: str) -> int | None:
    """Where the list of records begins, None where the text is one of lines."""
    begin = _skip_blanks(text, 0)
    if text.startswith("[", begin):
        return begin
    for match in islice(_RECORDS.finditer(text), _MAX_LOOKS):
        try:
            before = _JSON.decode(f"{text[: match.end()]}[]}}")
        except (json.JSONDecodeError, RecursionError):
            continue  # it belongs to an inner object, or stands in another line
        if isinstance(before, dict) and "records" in before:
            return match.end()
    return None


def _split_list(text: str, begin: int) -> Iterator[str]:
    at = _skip_blanks(text, begin + 1)
    while not text.startswith("]", at):
        try:
            _, end = _JSON.raw_decode(text, at)
        except RecursionError:
            between = _BETWEEN.search(text, at)
            end = between.start() + 1 if between else text.rfind("]")
            if end <= at:
                raise json.JSONDecodeError("a bracket is not closed", text, len(text)) from None
        yield text[at:end]
        at = _skip_blanks(text, end)
        if text.startswith(",", at):
            at = _skip_blanks(text, at + 1)
            if text.startswith("]", at):
                raise json.JSONDecodeError("a value is expected", text, at)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("a comma or ] is expected", text, at)
    _check(f"{text[:begin]}[]{text[at + 1 :]}", text, at - begin - 1)  # what stands around the list


def _split_lines(text: str) -> list[str]:
    lines = [line for line in text.split("\n") if line.strip()]
    # Each line begins anew, so of a broken one only this record is lost; the last one may be half-written.
    _check(lines[-1], text, text.rindex(lines[-1]))
    return lines


def _check(part: str, text: str, offset: int) -> None:
    """Raises JSONDecodeError with its place in ``text`` where ``part`` is no JSON."""
    try:
        _JSON.decode(part)
    except RecursionError:
        pass  # whoever reads it says so
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, text, min(offset + error.pos, len(text))) from error


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at
