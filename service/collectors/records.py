"""Records: what a pipeline says of one check, one JSON object each; what is wrong with one that is none.

An object that names no part of a check is a sample, as ``--dry-run`` prints it. The same reading serves the collectors
and who publishes: a collector leaves bad records out and reports them, a publisher is refused, since it can mend them.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from sys import float_info
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.collectors import content
from service.domain.errors import Rejected, TooLarge
from service.domain.runs import PartialFailure
from service.domain.samples import (
    MAX_POINT_AHEAD,
    REQUIRED_TAGS,
    Kind,
    Status,
    normalize_tag_name,
)

MAX_RECORDS = 200_000
MAX_FAILURES = 20  # that are shown; all are counted
SCHEMA_VERSION = 1
_MAX_COMMAS = 30  # of a record, on average

_NAME = r"[A-Za-z0-9_.]+"  # https://docs.datadoghq.com/metrics/custom_metrics/#naming-custom-metrics
_MAX_NAME = 170  # characters; with any namespace at most 200
_KEPT_NAME = "metta."
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TEXTS = ("workflow_name", "task", "check", "condition")
_MARKS = (*_TEXTS, "metric_kind")  # one of these at its top level makes an object a record

# What msgspec can't say, for the schema alone; ``_check`` holds to it. In some dialects $ matches before a line feed.
_Metric = Annotated[str, Meta(max_length=_MAX_NAME, extra_json_schema={"pattern": rf"^{_NAME}(?!\n)$"})]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": r"\S"})]
_Number = Annotated[float, Meta(extra_json_schema={"minimum": -float_info.max, "maximum": float_info.max})]
_Time = Annotated[str, Meta(examples=["2025-01-14T15:00:00Z"])]


class Record(msgspec.Struct, frozen=True, gc=False):
    """What was measured of one check; category, workflow_name, task and check together name it.

    A collector's namespace comes before ``metric`` unless it begins with "metta.". Without ``status`` the check passes
    when ``condition`` ("> 0.5", "in [1, 2]") holds for ``value``. ``metric_kind``: gauge where it is absent; each count
    and distribution is sent once. ``timestamp``: ISO 8601, in UTC where it names no zone, at most 10 minutes ahead;
    without one it was measured when it was published. ``tags``: further ones; the daemon sets its own itself.
    """

    metric: _Metric
    workflow_name: _Text
    task: _Text
    check: _Text
    condition: _Text
    value: _Number
    status: Status | None = None
    metric_kind: Kind | None = None
    timestamp: _Time | None = None
    tags: dict[str, str] | None = None

    @property
    def at(self) -> datetime | None:
        """When it was measured, aware; None where it does not say."""
        return parse_time(self.timestamp) if self.timestamp is not None else None


class PrintedSample(msgspec.Struct, frozen=True, gc=False):
    """A sample as ``--dry-run`` prints it. ``timestamp``: ISO 8601, or seconds since 1970; without one, now.

    ``tags``: it keeps them, but for env, service and version. With workflow_name, task and check among them it measures
    that check; with job, criterion, operator and target an acceptance criterion; without either it is a plain metric.
    """

    metric: _Metric
    value: _Number
    tags: dict[str, str] | None = None
    kind: Kind | None = None
    timestamp: _Time | _Number | None = None

    @property
    def at(self) -> datetime | None:
        """When it was measured, aware; None where it does not say."""
        if isinstance(self.timestamp, str):
            return parse_time(self.timestamp)
        return None if self.timestamp is None else _from_seconds(self.timestamp)


_RECORD = msgspec.json.Decoder(Record)


class BadRecord(ValueError):
    """Why a record is left out."""


class InvalidSnapshot(Rejected):
    """Some records are bad. ``failures``: the first of them; ``count``: how many; ``summary``: without the list."""

    def __init__(self, name: str, failures: Sequence[PartialFailure], records: int) -> None:
        self.failures, self.count = failures[:MAX_FAILURES], len(failures)
        self.summary = f"{name}: {self.count:,} of {records:,} records are bad"
        more = f"\n  and {self.count - MAX_FAILURES:,} more" if self.count > MAX_FAILURES else ""
        super().__init__(f"{self.summary}:" + "".join(f"\n  {failure}" for failure in self.failures) + more)


def read_records(
    body: bytes, name: str, now: datetime, max_bytes: int = content.MAX_BYTES, max_records: int = MAX_RECORDS
) -> Iterator[Record | PrintedSample | BadRecord]:
    """The records and samples of a snapshot in order; in place of a bad one why it is bad.

    Raises Unfinished where it is not whole, Rejected where it is no snapshot, TooLarge.
    """
    newest = now + MAX_POINT_AHEAD
    body = content.inflate(body, name, max_bytes)
    if body.count(b",") > _MAX_COMMAS * max_records:  # a list of numbers takes sixty times its size once it is split
        raise TooLarge(f"{name} holds more values than {max_records:,} records have")
    for position, text in enumerate(content.split(body, name), 1):
        if position > max_records:
            raise TooLarge(f"{name} holds more than {max_records:,} records; publish fewer, or in several snapshots")
        try:
            record = _decode(text)
            if record.at and record.at > newest:
                ahead = MAX_POINT_AHEAD // timedelta(minutes=1)
                raise BadRecord(f"timestamp {record.at.isoformat()} is more than {ahead} min in the future")
            yield record
        except BadRecord as bad:
            yield bad


def _decode(text: bytes | msgspec.Raw) -> Record | PrintedSample:
    """The record or sample that a JSON text describes. Raises BadRecord."""
    record: Record | PrintedSample
    try:
        record = _RECORD.decode(text)
    except msgspec.ValidationError as error:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRecord(str(error)) from error
        record = _convert(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = _decode_odd(bytes(text))
    check_item(record)
    return record


def _convert(value: object) -> Record | PrintedSample:
    """The record, or where nothing in ``value`` is a record's the sample. Raises BadRecord."""
    is_sample = isinstance(value, dict) and value.keys().isdisjoint(_MARKS)
    try:
        return msgspec.convert(value, PrintedSample) if is_sample else msgspec.convert(value, Record)
    except msgspec.ValidationError as error:
        raise BadRecord(str(error)) from error


def _decode_odd(text: bytes) -> Record | PrintedSample:
    """What msgspec takes for no JSON: it may be so only in a field that nobody reads."""
    try:
        record = _convert(content.decode_odd(text))
    except RecursionError as error:
        raise BadRecord("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadRecord("it is no valid JSON") from error
    for name, value in (*msgspec.structs.asdict(record).items(), *(record.tags or {}).items()):
        if _SURROGATE.search(f"{name}{value if isinstance(value, str) else ''}"):
            raise BadRecord(f"{name!a} holds half a surrogate pair, or bytes that are not UTF-8")
    return record


def check_item(record: Record | PrintedSample) -> None:
    """What the types of the fields don't say. Raises BadRecord."""
    if not re.fullmatch(_NAME, record.metric):
        shown = ascii(record.metric[:60])
        raise BadRecord(f"metric is {shown}; a metric's name has ASCII letters, digits, _ and . only")
    for name in _TEXTS if isinstance(record, Record) else ():
        if not getattr(record, name).strip():
            raise BadRecord(f"{name} is empty")
    if not math.isfinite(record.value):
        raise BadRecord("value is not a finite number")
    _ = record.at  # which raises where it is no time


@lru_cache(maxsize=4096)
def parse_time(text: str) -> datetime:
    """ISO 8601, in UTC where it names no zone. Raises BadRecord."""
    try:
        at = datetime.fromisoformat(text.strip().upper())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        shown = ascii(text[:60])
        raise BadRecord(f"timestamp is {shown}; it must be ISO 8601, such as 2025-01-14T15:00:00Z") from error


def _from_seconds(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadRecord(f"timestamp is {seconds:g}; it must be seconds since 1970, or ISO 8601") from error


@lru_cache(maxsize=4096)
def full_name(metric: str, namespace: str) -> str:
    """The name that Datadog gets: a metric of the whole project keeps its own."""
    return metric if not namespace or metric.startswith(_KEPT_NAME) else f"{namespace}.{metric}"


def is_required(tag: str) -> bool:
    """Whether Datadog would read this tag as one that the daemon sets itself."""
    return normalize_tag_name(tag) in REQUIRED_TAGS


def tell_refused(tag: str) -> str:
    """What is said of a record's tag that names a required one."""
    return f"tag {tag!a} is set by the daemon; the record's own is left out"


def check_snapshot(
    body: bytes, name: str, now: datetime, max_bytes: int = content.MAX_BYTES, max_records: int = MAX_RECORDS
) -> tuple[list[Record | PrintedSample], list[PartialFailure]]:
    """The records of a snapshot that is to be published, and what a collector will leave out of them.

    Raises InvalidSnapshot where one is bad, and as ``read_records`` does.
    """
    records: list[Record | PrintedSample] = []
    bad: list[PartialFailure] = []
    remarks: list[PartialFailure] = []
    for position, record in enumerate(read_records(body, name, now, max_bytes, max_records), 1):
        part = f"record {position}"
        if isinstance(record, BadRecord):
            bad.append(PartialFailure(str(record), part))
            continue
        records.append(record)
        if isinstance(record, Record):
            remarks += (PartialFailure(tell_refused(tag), part) for tag in filter(is_required, record.tags or ()))
    if bad:
        raise InvalidSnapshot(name, bad, len(records) + len(bad))
    if not records:
        raise Rejected(f"{name} holds no record")
    return records, remarks[:MAX_FAILURES]


def snapshot_schema() -> Mapping[str, Any]:
    """JSON Schema 2020-12 of a snapshot. A new version comes only when a valid snapshot would become invalid."""
    _, components = msgspec.json.schema_components([Record, PrintedSample], ref_template="#/$defs/{name}")
    is_record = {"anyOf": [{"required": [name]} for name in _MARKS]}
    item = {"if": is_record, "then": {"$ref": "#/$defs/Record"}, "else": {"$ref": "#/$defs/PrintedSample"}}
    records = {"type": "array", "minItems": 1, "items": item}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:infra-health:schema:snapshot:{SCHEMA_VERSION}",
        "title": f"infra-health snapshot, version {SCHEMA_VERSION}: a list, an object with a list, or JSON lines",
        "oneOf": [records, {"type": "object", "required": ["records"], "properties": {"records": records}}],
        "$defs": components,
    }
