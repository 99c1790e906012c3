"""Records: what a pipeline says of one check, one JSON object each; what is wrong with one that is none.

The same reading serves the collectors and who publishes: a collector leaves bad records out and reports them, a
publisher is refused, since it can mend them.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
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
MAX_NAME = 170  # characters of a metric; with any namespace at most 200
MAX_FAILURES = 20  # that are shown; all are counted
SCHEMA_VERSION = 1

_NAME = r"^[A-Za-z0-9_.]+$"  # https://docs.datadoghq.com/metrics/custom_metrics/#naming-custom-metrics
_KEPT_NAME = "metta."
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NOT_BLANK = {"pattern": r"\S"}
_FINITE = {"minimum": -float.fromhex("0x1.fffffffffffffp+1023"), "maximum": float.fromhex("0x1.fffffffffffffp+1023")}


class Record(msgspec.Struct, frozen=True, gc=False):
    """What was measured of one check. Optional fields may be null; unknown fields are ignored."""

    metric: Annotated[
        str,
        Meta(
            max_length=MAX_NAME,
            description="The metric's name; the collector's namespace comes before it unless it begins with metta.",
            extra_json_schema={"pattern": rf"{_NAME[:-1]}(?!\n)$"},  # in some dialects $ matches before a line feed
        ),
    ]
    workflow_name: Annotated[str, Meta(description="The workflow that was measured.", extra_json_schema=_NOT_BLANK)]
    task: Annotated[str, Meta(description="What the workflow was to do.", extra_json_schema=_NOT_BLANK)]
    check: Annotated[
        str,
        Meta(
            description="What was looked at. Category, workflow_name, task and check together name one check.",
            extra_json_schema=_NOT_BLANK,
        ),
    ]
    condition: Annotated[
        str,
        Meta(
            description="When it passes, such as '> 0.5' or 'in [1, 2]'; other text says nothing that can be judged.",
            extra_json_schema=_NOT_BLANK,
        ),
    ]
    value: Annotated[float, Meta(description="What was measured: a finite number.", extra_json_schema=_FINITE)]
    status: Annotated[
        Status | None, Meta(description="Without one it follows from value and condition, where they can tell.")
    ] = None
    metric_kind: Annotated[
        Kind | None, Meta(description="gauge where it is absent. Each count and distribution is sent once.")
    ] = None
    timestamp: Annotated[
        str | None,
        Meta(
            description="When it was measured: ISO 8601, in UTC where it names no zone, at most 10 minutes ahead;"
            " the time of publication where it is absent.",
            examples=["2025-01-14T15:00:00Z"],
        ),
    ] = None
    tags: Annotated[
        dict[str, str] | None,
        Meta(description=f"Further tags. These are set by the daemon: {', '.join(REQUIRED_TAGS)}."),
    ] = None

    @property
    def at(self) -> datetime | None:
        """When it was measured, aware; None where it does not say."""
        return parse_time(self.timestamp) if self.timestamp is not None else None


_RECORD = msgspec.json.Decoder(Record)


class BadRecord(ValueError):
    """Why a record is left out."""


@dataclass(slots=True)
class Failures:
    """The first of the records or parts of them that were left out, and how many there are."""

    first: list[PartialFailure] = field(default_factory=list)
    count: int = 0

    def add(self, part: str, reason: str) -> None:
        self.count += 1
        if len(self.first) < MAX_FAILURES:
            self.first.append(PartialFailure(reason, part))

    def extend(self, others: "Failures") -> None:
        self.first = (self.first + others.first)[:MAX_FAILURES]
        self.count += others.count


class InvalidSnapshot(Rejected):
    """Some records are bad. ``failures``: the first of them; ``count``: how many; ``summary``: without the list."""

    def __init__(self, name: str, failures: Failures, records: int) -> None:
        shown = "".join(f"\n  {failure}" for failure in failures.first)
        more = f"\n  and {failures.count - len(failures.first):,} more" if failures.count > MAX_FAILURES else ""
        self.summary = f"{name}: {failures.count:,} of {records:,} records are bad"
        super().__init__(f"{self.summary}:{shown}{more}")
        self.failures: Sequence[PartialFailure] = tuple(failures.first)
        self.count = failures.count


def read_records(
    body: bytes, name: str, now: datetime, max_bytes: int = content.MAX_BYTES, max_records: int = MAX_RECORDS
) -> Iterator[Record | BadRecord]:
    """The records of a snapshot in order; in place of a bad one why it is bad.

    Raises Unfinished where it is not whole, Rejected where it is no snapshot, TooLarge.
    """
    newest = now + MAX_POINT_AHEAD
    for position, text in enumerate(content.split(content.inflate(body, name, max_bytes), name), 1):
        if position > max_records:
            raise TooLarge(f"{name} holds more than {max_records:,} records; publish fewer, or in several snapshots")
        try:
            record = decode(text)
            if record.at and record.at > newest:
                ahead = MAX_POINT_AHEAD // timedelta(minutes=1)
                raise BadRecord(f"timestamp {record.at.isoformat()} is more than {ahead} min in the future")
            yield record
        except BadRecord as bad:
            yield bad


def decode(text: content.Text) -> Record:
    """The record that a JSON text describes. Raises BadRecord."""
    try:
        record = _RECORD.decode(text)
    except msgspec.ValidationError as error:
        raise BadRecord(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = _decode_odd(bytes(text))
    _check(record)
    return record


def _decode_odd(text: bytes) -> Record:
    """What msgspec takes for no JSON: it may be so only in a field that nobody reads."""
    try:
        record = msgspec.convert(content.decode_odd(text), Record)
    except RecursionError as error:
        raise BadRecord("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadRecord("it is no valid JSON") from error
    except msgspec.ValidationError as error:
        raise BadRecord(str(error)) from error
    tags = {f"tag {name!a}": f"{name}{value}" for name, value in (record.tags or {}).items()}
    for name, value in (msgspec.structs.asdict(record) | tags).items():
        if isinstance(value, str) and _SURROGATE.search(value):
            raise BadRecord(f"{name} holds half a surrogate pair, or bytes that are not UTF-8")
    return record


def _check(record: Record) -> None:
    """What the types of the fields don't say."""
    if not re.fullmatch(_NAME[1:-1], record.metric):
        shown = ascii(record.metric[:60])
        raise BadRecord(f"metric is {shown}; a metric's name has ASCII letters, digits, _ and . only")
    for name in ("workflow_name", "task", "check", "condition"):
        if not getattr(record, name).strip():
            raise BadRecord(f"{name} is empty")
    if not math.isfinite(record.value):
        raise BadRecord("value is not a finite number")
    if record.timestamp is not None:
        parse_time(record.timestamp)


@lru_cache(maxsize=4096)
def parse_time(text: str) -> datetime:
    """ISO 8601, in UTC where it names no zone. Raises BadRecord."""
    try:
        at = datetime.fromisoformat(text.strip().upper())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        shown = ascii(text[:60])
        raise BadRecord(f"timestamp is {shown}; it must be ISO 8601, such as 2025-01-14T15:00:00Z") from error


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
) -> tuple[list[Record], Sequence[PartialFailure]]:
    """The records of a snapshot that is to be published, and what a collector will leave out of them.

    Raises InvalidSnapshot where one is bad, and as ``read_records`` does.
    """
    records: list[Record] = []
    bad, remarks = Failures(), Failures()
    for position, record in enumerate(read_records(body, name, now, max_bytes, max_records), 1):
        if isinstance(record, BadRecord):
            bad.add(f"record {position}", str(record))
            continue
        records.append(record)
        for tag in filter(is_required, record.tags or ()):
            remarks.add(f"record {position}", tell_refused(tag))
    if bad.count:
        raise InvalidSnapshot(name, bad, len(records) + bad.count)
    if not records:
        raise Rejected(f"{name} holds no record")
    return records, tuple(remarks.first)


def schema() -> Mapping[str, Any]:
    """JSON Schema 2020-12 of a snapshot. A new version comes only when a valid snapshot would become invalid."""
    _, components = msgspec.json.schema_components([Record], ref_template="#/$defs/{name}")
    records = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Record"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:infra-health:schema:snapshot:{SCHEMA_VERSION}",
        "title": f"infra-health snapshot, version {SCHEMA_VERSION}",
        "description": (
            "Records of training or evaluation health: a JSON list, an object with a list `records`, or JSON lines (one"
            " record a line; this schema's $defs/Record); plain or gzip."
        ),
        "oneOf": [records, {"type": "object", "required": ["records"], "properties": {"records": records}}],
        "$defs": components,
    }
