"""Records: what a pipeline says of one check, one JSON object each; what is wrong with one that is none.

An object that names no part of a check is a sample, as ``--dry-run`` prints it.

msgspec finds where each record begins and ends. A text that it refuses (NaN, halves of surrogate pairs, very many
brackets) is split by its brackets alone: so they make a bad record and no bad snapshot.
"""

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from sys import float_info
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.config.masking import mask_address
from service.domain import conditions
from service.domain.errors import Rejected, TooLarge, Unfinished
from service.domain.samples import LINK, MAX_POINT_AHEAD, Kind, Status

MAX_BYTES = 64 * 1024 * 1024  # once inflated
MAX_RECORDS = 200_000
MAX_FAILURES = 20  # that are shown; all are counted
GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1
_FOREIGN = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", GZIP_MAGIC: "gzip within gzip", b"<": "HTML or XML"}
_MAX_COMMAS = 30  # of a record, on average

_NAME = r"[A-Za-z0-9_.]+"  # https://docs.datadoghq.com/metrics/custom_metrics/#naming-custom-metrics
_MAX_NAME = 170  # characters; with any namespace at most 200
_MAX_WORDS, _MAX_URL = 200, 2000  # characters
_URL = f"({LINK})?"  # empty as where there is none
TEXTS = ("workflow_name", "task", "check", "condition")
MARKS = (*TEXTS, "metric_kind", "baseline", "for")  # one of these at its top level makes an object a record

# What msgspec can't say, for the schema alone; ``__post_init__`` holds to it. ``$`` may match before a line feed.
_Metric = Annotated[str, Meta(max_length=_MAX_NAME, extra_json_schema={"pattern": rf"^{_NAME}(?!\n)$"})]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": r"\S"})]
_Number = Annotated[float, Meta(extra_json_schema={"minimum": -float_info.max, "maximum": float_info.max})]
_Time = Annotated[str, Meta(examples=["2025-01-14T15:00:00Z"])]
_Url = Annotated[str, Meta(max_length=_MAX_URL, extra_json_schema={"pattern": rf"^{_URL}(?!\n)$"})]
_Words = Annotated[str, Meta(max_length=_MAX_WORDS)]
# From the year 1 to the year 9999, as Python has them.
_Seconds = Annotated[float, Meta(extra_json_schema={"minimum": -62_135_596_800, "maximum": 253_402_300_799})]


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of a collector have in common: tags, and the namespace of their metrics."""

    category: str
    namespace: str
    source: str


class BadRecord(ValueError):
    """Why a record is left out."""


class Baseline(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A relative condition compares with the median of the check's ``last`` values before this one, after skipping the
    newest ``skip`` of them.
    """

    of: Literal["median"] = "median"
    last: Annotated[float, Meta(ge=5, le=100, multiple_of=1)] = 10
    skip: Annotated[float, Meta(ge=0, le=100, multiple_of=1)] = 0


class _Item(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What records and samples have in common. Raises BadRecord (within msgspec ValidationError) where it is bad."""

    metric: _Metric
    value: _Number
    tags: dict[str, str] | None = None
    timestamp: _Time | _Seconds | None = None
    url: _Url | None = None
    commit: _Words | None = None
    owner: _Words | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.metric):
            shown = ascii(self.metric[:60])
            raise BadRecord(f"metric is {shown}; a metric's name has ASCII letters, digits, _ and . only")
        if not math.isfinite(self.value):
            raise BadRecord("value is not a finite number")
        if self.url and not re.fullmatch(_URL, self.url):
            shown = ascii(mask_address(self.url[:200]))
            raise BadRecord(f"url is {shown}; it must be a plain address such as https://ci.example/runs/42")
        _ = self.at

    @property
    def at(self) -> datetime | None:
        """When it was measured, aware; None where it does not say."""
        return None if self.timestamp is None else _parse_time(self.timestamp)


class Record(_Item, frozen=True, gc=False, kw_only=True):
    """What was measured of one check; category, workflow_name, task and check together name it.

    A collector's namespace comes before ``metric`` unless it begins with "metta.". Without ``status`` the check passes
    when ``condition`` ("> 0.5", "in [1, 2]") holds for ``value``. ``metric_kind``: gauge where it is absent; each count
    and distribution is sent once. ``timestamp``: ISO 8601, in UTC where it names no zone, at most 10 minutes ahead;
    without one it was measured when it was published. ``tags``: further ones; the daemon sets its own itself.
    A condition may be relative (">= 0.85x", "in [0.9x, 1.1x]"), to what ``baseline`` says. ``for``: so many values in a
    row must fail before the check does.
    What is behind the value, for who asks why, never a tag: ``url`` (http or https, without a password), ``commit``,
    ``owner``, and ``message``, a sentence, of which 500 characters are kept.
    """

    workflow_name: _Text
    task: _Text
    check: _Text
    condition: _Text
    status: Status | None = None
    metric_kind: Kind | None = None
    timestamp: _Time | None = None
    baseline: Baseline | None = None
    for_: Annotated[float, Meta(ge=1, le=100, multiple_of=1)] | None = msgspec.field(default=None, name="for")

    def __post_init__(self) -> None:
        for name in TEXTS:
            if not getattr(self, name).strip():
                raise BadRecord(f"{name} is empty")
        if self.status is None or self.baseline or self.for_:
            self._check_judgement()
        super().__post_init__()

    def _check_judgement(self) -> None:
        given = "baseline" if self.baseline else "for" if self.for_ else ""
        if given and (self.status or self.metric_kind is Kind.DISTRIBUTION):
            what = "status has the verdict already" if self.status else "a distribution is no check"
            raise BadRecord(f"{given} is of no use where {what}")
        if conditions.is_relative(self.condition) or (given != "baseline" and conditions.parse(self.condition)):
            return
        if given or re.match(conditions.LIKE_RELATIVE, self.condition):
            forms = "> 0.5 or >= 0.85x" if given == "for" else ">= 0.85x or in [0.9x, 1.1x]"
            wanted = f"{given} takes one" if given else "a relative one is written"
            raise BadRecord(f"condition is {ascii(self.condition)[:60]}; {wanted} such as {forms}")


class PrintedSample(_Item, frozen=True, gc=False, kw_only=True):
    """A sample as ``--dry-run`` prints it. ``timestamp``: ISO 8601, or seconds since 1970; without one, now.

    ``tags``: it keeps them, but for env, service and version. With workflow_name, task and check among them it measures
    that check; with job, criterion, operator and target an acceptance criterion; without either it is a plain metric.
    A condition in these may be relative, to the median of the last 10 values, where the tags hold no status.
    ``url``, ``commit``, ``owner``, ``message``: as in a record.
    """

    kind: Kind | None = None


Item = Record | PrintedSample


class _Envelope(msgspec.Struct):
    records: list[msgspec.Raw]


_RECORD = msgspec.json.Decoder(Record)
_FORMS = msgspec.json.Decoder(list[msgspec.Raw] | _Envelope)
_LINES = msgspec.json.Decoder(msgspec.Raw)
# Integers as floats, because Python refuses to read those of thousands of digits.
_JSON = json.JSONDecoder(parse_int=float)
# What msgspec raises at a text that is no JSON, or is so in its eyes only.
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# A string, whole or not, or what structures the text.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{},]', re.DOTALL)


def read_records(
    body: bytes, name: str, now: datetime, max_bytes: int = MAX_BYTES, max_records: int = MAX_RECORDS
) -> Iterator[Item | BadRecord]:
    """The records and samples of a snapshot in order; in place of a bad one why it is bad.

    ``body``: a JSON list, an object with a list "records", or JSON lines; plain or gzip. ``name``: for messages.
    Raises Unfinished where it is not whole, Rejected where it is no snapshot, TooLarge.
    """
    newest = now + MAX_POINT_AHEAD
    body = _inflate(body, name, max_bytes).removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    if not body.strip():
        raise Unfinished(f"{name} is empty; is it half-written?")
    if body.count(b",") > _MAX_COMMAS * max_records:  # a list of numbers takes sixty times its size once it is split
        raise TooLarge(f"{name} holds more values than {max_records:,} records have")
    for position, text in enumerate(_split(body, name), 1):
        if position > max_records:
            raise TooLarge(f"{name} holds more than {max_records:,} records; publish fewer, or in several snapshots")
        try:
            item = _decode(text)
            if (at := item.at) and at > newest:
                ahead = MAX_POINT_AHEAD // timedelta(minutes=1)
                raise BadRecord(f"timestamp {at.isoformat()} is more than {ahead} min in the future")
            yield item
        except BadRecord as bad:
            yield bad


@lru_cache(maxsize=4096)
def _parse_time(stamp: str | float) -> datetime:
    """ISO 8601, in UTC where it names no zone; or seconds since 1970. Raises BadRecord."""
    try:
        if not isinstance(stamp, str):
            return datetime.fromtimestamp(stamp, UTC)
        at = datetime.fromisoformat(stamp.strip().upper())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        shown = ascii(stamp)[:60]
        raise BadRecord(f"timestamp is {shown}; it must be ISO 8601, such as 2025-01-14T15:00:00Z") from error


def _decode(text: bytes | msgspec.Raw) -> Item:
    """The record, or where nothing in the object is a record's the sample. Raises BadRecord."""
    try:
        return _RECORD.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # no record, or one with a field that is odd but that nobody reads
    try:
        value = _decode_any(text)
        is_sample = isinstance(value, dict) and value.keys().isdisjoint(MARKS)
        item: Item = msgspec.convert(value, PrintedSample) if is_sample else msgspec.convert(value, Record)
        msgspec.json.encode(item)  # which no half of a surrogate pair survives
    except RecursionError as error:
        raise BadRecord("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadRecord("it is no valid JSON") from error
    except msgspec.ValidationError as error:
        raise BadRecord(str(error)) from error
    except UnicodeEncodeError as error:
        raise BadRecord("it holds half a surrogate pair, or bytes that are not UTF-8") from error
    return item


def _decode_any(text: bytes | msgspec.Raw) -> Any:
    """Bytes that are no UTF-8 become halves of surrogate pairs. Raises JSONDecodeError, RecursionError."""
    try:
        return msgspec.json.decode(text)
    except _NO_JSON:
        return _JSON.decode(bytes(text).decode("utf-8", "surrogateescape"))


def _inflate(body: bytes, name: str, max_bytes: int) -> bytes:
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
    if kind := next((kind for start, kind in _FOREIGN.items() if body.startswith(start)), ""):
        raise Rejected(f"{name} is {kind}; a snapshot is JSON in UTF-8")
    return body


def _split(body: bytes, name: str) -> Iterable[bytes | msgspec.Raw]:
    """The texts of the records. Raises Unfinished with the place where it is no JSON, Rejected where no snapshot."""
    try:
        try:
            found = _FORMS.decode(body)
            return found.records if isinstance(found, _Envelope) else found
        except msgspec.ValidationError as error:
            if not body.lstrip().startswith(b"{"):
                forms = 'neither a JSON list nor an object with a list "records" nor JSON lines'
                raise Rejected(f"{name} is {forms}") from error
            return _LINES.decode_lines(body)
    except _NO_JSON:
        return _split_odd(body, name)


def _split_odd(body: bytes, name: str) -> Iterator[bytes]:
    """As ``_split``, by brackets and commas alone: what stands between them is for the reader of a record to judge."""
    depth, begin, end = 0, 0, 0
    inside = 1 if body.lstrip().startswith(b"[") else None  # how deep the records lie
    for token in _TOKEN.finditer(body):
        text, end = token[0], token.end()
        if text[0] in b"[{":
            depth += 1
            begin = end if depth == inside else begin
        elif text == b"," and depth == inside:
            yield body[begin : token.start()]
            begin = end
        elif text[0] in b"]}":
            if depth == inside:
                inside = 0  # the list ends
                if body[begin : token.start()].strip():
                    yield body[begin : token.start()]
            depth -= 1
            if depth == 0:
                break
        elif text == b'"records"' and depth == 1 and inside is None and re.match(rb"\s*:\s*\[", body[end : end + 99]):
            inside = 2
    if inside is None:
        yield from _split_lines(body, name)
    elif depth:
        raise _unfinished(body, len(body), name, "it breaks off; is it half-written?")
    elif body[end:].strip():
        raise _unfinished(body, end, name, "more follows after its end")


def _split_lines(body: bytes, name: str) -> list[bytes]:
    """Each line begins anew, so of a broken one only this record is lost; the last one may be half-written."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    try:
        _decode_any(lines[-1])
    except RecursionError:
        pass  # whoever reads it says so
    except json.JSONDecodeError as error:
        raise _unfinished(
            body, body.rindex(lines[-1]) + error.pos, name, f"{error.msg}; is it half-written?"
        ) from error
    return lines


def _unfinished(body: bytes, at: int, name: str, reason: str) -> Unfinished:
    line, column = body.count(b"\n", 0, at) + 1, at - body.rfind(b"\n", 0, at)
    return Unfinished(f"{name}: no valid JSON at line {line}, column {column} (byte {at}): {reason}")
