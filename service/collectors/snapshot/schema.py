"""What may be published: who publishes can mend a bad record, so none is left out here as a collector does."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from service.collectors import records
from service.collectors.records import MARKS, MAX_FAILURES, BadRecord, Item, PrintedSample, Record
from service.collectors.selection import find_refused_tags
from service.domain.errors import Rejected
from service.domain.runs import PartialFailure

SCHEMA_VERSION = 1


class InvalidSnapshot(Rejected):
    """Some records are bad. ``failures``: the first of them; ``count``: how many; ``summary``: without the list."""

    def __init__(self, name: str, failures: Sequence[PartialFailure], records: int) -> None:
        self.failures, self.count = failures[:MAX_FAILURES], len(failures)
        self.summary = f"{name}: {self.count:,} of {records:,} records are bad"
        more = f"\n  and {self.count - MAX_FAILURES:,} more" if self.count > MAX_FAILURES else ""
        super().__init__(f"{self.summary}:" + "".join(f"\n  {failure}" for failure in self.failures) + more)


def check_snapshot(
    body: bytes,
    name: str,
    now: datetime,
    max_bytes: int = records.MAX_BYTES,
    max_records: int = records.MAX_RECORDS,
) -> tuple[list[Item], list[PartialFailure]]:
    """The records of a snapshot that is to be published, and what a collector will leave out of them.

    Raises InvalidSnapshot where one is bad, and as ``read_records`` does.
    """
    found = list(enumerate(records.read_records(body, name, now, max_bytes, max_records), 1))
    bad = [PartialFailure(str(item), f"record {position}") for position, item in found if isinstance(item, BadRecord)]
    if bad:
        raise InvalidSnapshot(name, bad, len(found))
    if not found:
        raise Rejected(f"{name} holds no record")
    items = [item for _, item in found if not isinstance(item, BadRecord)]
    remarks = [remark for position, item in enumerate(items, 1) for remark in find_refused_tags(item, position)]
    return items, remarks[:MAX_FAILURES]


def snapshot_schema() -> Mapping[str, Any]:
    """JSON Schema 2020-12 of a snapshot. A new version comes only when a valid snapshot would become invalid.

    How a condition is written, and what goes with ``baseline`` and ``for``, is for ``check_snapshot`` alone to say.
    """
    _, components = msgspec.json.schema_components([Record, PrintedSample], ref_template="#/$defs/{name}")
    is_record = {"anyOf": [{"required": [name]} for name in MARKS]}
    item = {"if": is_record, "then": {"$ref": "#/$defs/Record"}, "else": {"$ref": "#/$defs/PrintedSample"}}
    listed = {"type": "array", "minItems": 1, "items": item}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:infra-health:schema:snapshot:{SCHEMA_VERSION}",
        "title": f"infra-health snapshot, version {SCHEMA_VERSION}: a list, an object with a list, or JSON lines",
        "oneOf": [listed, {"type": "object", "required": ["records"], "properties": {"records": listed}}],
        "$defs": components,
    }
