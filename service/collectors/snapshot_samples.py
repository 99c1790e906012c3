"""From a snapshot's content to samples: which records are sent, and as of when. Pure; large files take CPU time.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import structlog

from service.collectors import snapshot_json
from service.collectors.snapshot_records import BadRecord, Record, parse
from service.domain.errors import Rejected
from service.domain.runs import Collected, Fault
from service.domain.samples import Kind, Metric, Sample

log = structlog.get_logger(__name__)

# The outbox expires what is older than 55 minutes; a gauge that waits for its delivery needs some of them.
GAUGE_AGE = timedelta(minutes=45)
EVENT_AGE = timedelta(minutes=55)
AHEAD = timedelta(minutes=10)
FAULTS_SHOWN = 20

_SENT = "sent"
_REMEMBERED = struct.Struct(">16sI")  # an event's identity, and the second it is of
_REMEMBERED_MOST = 200_000


@dataclass(frozen=True, slots=True)
class Category:
    """What the records of a snapshot have in common: tags, and the namespace of their metrics."""

    name: str
    namespace: str
    source: str

    def tags(self, record: Record) -> dict[str, str]:
        """In the order in which they are written."""
        return {
            "source": self.source,
            "workflow_category": self.name,
            "workflow_name": record.workflow_name,
            "task": record.task,
            "check": record.check,
            "condition": record.condition,
            "status": record.status.value,
            **record.tags,
        }


@dataclass(slots=True)
class _Faults:
    """The first of them, and how many there are."""

    first: list[Fault] = field(default_factory=list)
    count: int = 0

    def add(self, position: int, reason: str) -> None:
        self.count += 1
        if len(self.first) < FAULTS_SHOWN:
            self.first.append(Fault(reason, f"record {position}"))


def to_collected(
    body: bytes,
    *,
    name: str,
    version: str,
    category: Category,
    now: datetime,
    max_age: timedelta,
    sent: bytes | None = None,
) -> Collected:
    """Samples of the usable records of ``body``.

    Raises Rejected with ``name`` when there are none or when it is no snapshot.
    ``version`` tells one publication from another, for counts and distributions without a time.
    ``sent``: what an earlier call gave back under ``remember["sent"]``.
    """

    def convert(data: Any) -> Record | str:
        """The record, or what is wrong with it."""
        try:
            record = parse(data, category.namespace)
        except BadRecord as bad:
            return str(bad)
        if record.at and record.at - now > AHEAD:
            return f"timestamp {record.at.isoformat()} is more than {_text(AHEAD)} in the future"
        return record

    records = snapshot_json.read(body, name, convert)
    faults = _Faults()
    selection = _Selection(category, now, max_age, version, _unpack(sent), faults)
    for position, record in enumerate(records, 1):
        if isinstance(record, str):
            faults.add(position, record)
        else:
            selection.take(position, record)
    selection.keep_newest()
    if not selection.usable:
        raise Rejected(_nothing_usable(name, len(records), faults))
    remembered = selection.remembered()
    return Collected(
        samples=tuple(selection.samples),
        faults=tuple(faults.first),
        unmeasured=tuple(selection.unmeasured),
        remember={_SENT: _pack(remembered) or None} if remembered or sent else {},
        left_out=faults.count,
    )


class _Selection:
    """Which records are sent. ``usable`` counts those that are, were or are followed by newer ones of their series."""

    def __init__(
        self,
        category: Category,
        now: datetime,
        max_age: timedelta,
        version: str,
        sent: dict[bytes, int],
        faults: _Faults,
    ) -> None:
        self.samples: list[Sample] = []
        self.unmeasured: list[dict[str, str]] = []
        self.usable = 0
        self._category = category
        self._now = now
        self._max_age = max_age
        self._version = version
        self._sent = sent
        self._here: dict[bytes, tuple[int, int]] = {}  # identity of an event of this file: its position and second
        self._faults = faults
        self._metrics: dict[tuple[str, Kind], Metric] = {}

    def take(self, position: int, record: Record) -> None:
        for name in record.refused:
            self._faults.add(position, f"tag {name!a} is set by the daemon; the record's own is left out")
        tags = self._category.tags(record)
        if record.kind is Kind.GAUGE:
            self._take_gauge(position, record, tags)
        else:
            self._take_event(position, record, tags)

    def keep_newest(self) -> None:
        """Leaves out gauges that would overwrite a newer value of their series by being sent as of now."""
        if not any(sample.measured_at for sample in self.samples):
            return
        newest: dict[object, datetime] = {}
        for sample in self.samples:
            key = _series(sample)
            newest[key] = max(newest.get(key, sample.measured), sample.measured)
        kept = [each for each in self.samples if not each.measured_at or each.measured_at == newest[_series(each)]]
        if len(kept) < len(self.samples):
            log.info("older values of the same series are not sent", count=len(self.samples) - len(kept))
        self.samples = kept

    def remembered(self) -> dict[bytes, int]:
        """The events that must not be sent again: those of this file, and younger ones that may come back."""
        oldest = int((self._now - self._max_age).timestamp())
        kept = {event: second for event, second in self._sent.items() if second >= oldest or event in self._here}
        if len(kept) > _REMEMBERED_MOST:
            kept = dict(sorted(kept.items(), key=lambda item: item[1])[-_REMEMBERED_MOST:])
        return kept

    def _take_gauge(self, position: int, record: Record, tags: dict[str, str]) -> None:
        age = self._now - (record.at or self._now)
        if age > self._max_age:
            self._faults.add(position, f"it is {_text(age)} old, older than max_age ({_text(self._max_age)})")
            self.unmeasured.append(tags)
        elif age > GAUGE_AGE:
            self._send(record, tags, self._now, measured_at=record.at)
        else:
            self._send(record, tags, record.at or self._now)

    def _take_event(self, position: int, record: Record, tags: dict[str, str]) -> None:
        at = record.at or self._now
        event, age = _identity(record, tags, self._version), self._now - at
        if event in self._here:
            self._faults.add(position, f"metric, tags and timestamp are those of record {self._here[event][0]}")
            return
        self._here[event] = position, int(at.timestamp())
        if event in self._sent:
            self.usable += 1
        elif age > min(EVENT_AGE, self._max_age):
            what = "count" if record.kind is Kind.COUNT else "distribution"
            limit = min(EVENT_AGE, self._max_age)
            self._faults.add(position, f"it is {_text(age)} old, and a {what} can't be sent after {_text(limit)}")
            if age > self._max_age and record.kind is Kind.COUNT:
                self.unmeasured.append(tags)
        else:
            self._sent[event] = self._here[event][1]
            self._send(record, tags, at)

    def _send(self, record: Record, tags: dict[str, str], at: datetime, measured_at: datetime | None = None) -> None:
        metric = self._metrics.get((record.metric, record.kind))
        if metric is None:
            metric = self._metrics[record.metric, record.kind] = Metric(record.metric, record.kind)
        self.samples.append(Sample(metric, record.value, at, tags, measured_at))
        self.usable += 1


def _series(sample: Sample) -> object:
    """What stays the same when a check's status or condition changes."""
    return sample.metric, frozenset(item for item in sample.tags.items() if item[0] not in ("status", "condition"))


def _identity(record: Record, tags: Mapping[str, str], version: str) -> bytes:
    time = record.at.isoformat() if record.at else f"published {version}"
    parts = [record.metric, time, *(part for item in sorted(tags.items()) for part in item)]
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _pack(events: Mapping[bytes, int]) -> bytes:
    return b"".join(_REMEMBERED.pack(event, second) for event, second in events.items())


def _unpack(stored: bytes | None) -> dict[bytes, int]:
    whole = len(stored or b"") // _REMEMBERED.size * _REMEMBERED.size
    pairs: Iterator[tuple[bytes, int]] = _REMEMBERED.iter_unpack((stored or b"")[:whole])
    return dict(pairs)


def _nothing_usable(name: str, records: int, faults: _Faults) -> str:
    if not records:
        return f"{name} holds no record"
    shown = "; ".join(str(fault) for fault in faults.first[:3])
    more = f"; and {faults.count - 3:,} more" if faults.count > 3 else ""
    return f"{name}: no usable record among {records:,}: {shown}{more}"


def _text(span: timedelta) -> str:
    """As 45 min, 3.5 h, 12 days."""
    minutes = span.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.3g} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"
