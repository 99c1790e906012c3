"""From a snapshot's content to samples: which records are sent, and as of when. Pure; large files take CPU time.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import structlog

from service.collectors import snapshot_json
from service.collectors.snapshot_content import Limits, inflated
from service.collectors.snapshot_records import BadRecord, Parser, Record
from service.domain.errors import Rejected
from service.domain.points import AHEAD
from service.domain.runs import Collected, Fault
from service.domain.samples import Kind, Metric, Sample

log = structlog.get_logger(__name__)

# The outbox expires what is older than 55 minutes; a gauge that waits for its delivery needs some of them.
GAUGE_AGE = timedelta(minutes=45)
EVENT_AGE = timedelta(minutes=55)
FAULTS_SHOWN = 20

SENT = "sent"
DEFAULTS = Limits()
_REMEMBERED = struct.Struct(">16sI")  # an event's identity, and the second it is of
_REMEMBERED_MOST = 200_000


@dataclass(frozen=True, slots=True)
class Category:
    """What the records of a snapshot have in common: tags, and the namespace of their metrics."""

    name: str
    namespace: str
    source: str


@dataclass(slots=True)
class Faults:
    """The first of them, and how many there are."""

    first: list[Fault] = field(default_factory=list)
    count: int = 0

    def add(self, position: int, reason: str) -> None:
        self.count += 1
        if len(self.first) < FAULTS_SHOWN:
            self.first.append(Fault(reason, f"record {position}"))


@dataclass(frozen=True, slots=True)
class Publication:
    """One snapshot as it was published.

    ``name``: for messages. ``version`` tells one publication from another, for counts and distributions without a
    time. ``at``: when it was published, where the source says so. A record without a time was measured then, and is
    sent as of the run: it says that its value is still true.
    """

    body: bytes
    name: str
    version: str
    at: datetime | None = None


@dataclass(slots=True)
class Known:
    """What outlives one snapshot: the events that were ``sent`` (as ``Collected.remember`` keeps them), and the checks
    whose contradiction was ``warned`` about."""

    sent: bytes | None = None
    warned: set[tuple[str, ...]] = field(default_factory=set)


def to_collected(
    published: Publication,
    *,
    category: Category,
    now: datetime,
    max_age: timedelta,
    known: Known,
    limits: Limits = DEFAULTS,
) -> tuple[Collected, datetime | None]:
    """Samples of the usable records, and the time of the newest one (None: no record says).

    Raises Rejected when there are none or when it is no snapshot, Unfinished when it is not whole, TooLarge.
    """
    body = inflated(published.body, published.name, limits.size)

    def begin() -> _Selection:
        return _Selection(category, now, max_age, published, known.sent, limits)

    selection = snapshot_json.read(body, published.name, begin, limits)
    selection.samples = without_overtaken(selection.samples)
    _warn(selection.contradictions, published.name, known.warned)
    faults = selection.faults
    if not selection.usable:
        raise Rejected(nothing_usable(published.name, selection.position, faults))
    remembered = selection.remembered()
    collected = Collected(
        samples=tuple(selection.samples),
        faults=tuple(faults.first),
        unmeasured=tuple(selection.unmeasured),
        remember={SENT: _pack(remembered) or None} if remembered or known.sent else {},
        left_out=faults.count,
    )
    return collected, selection.newest


class _Selection:
    """Which records are sent. ``usable`` counts those that are, were or are followed by newer ones of their series."""

    def __init__(
        self,
        category: Category,
        now: datetime,
        max_age: timedelta,
        published: Publication,
        sent: bytes | None,
        limits: Limits,
    ) -> None:
        self.samples: list[Sample] = []
        self.unmeasured: list[dict[str, str]] = []
        self.contradictions: dict[tuple[str, ...], Record] = {}
        self.faults = Faults()
        self.position = 0
        self.usable = 0
        self.newest: datetime | None = None
        self._parser = Parser(category.namespace, limits.depth)
        self._origin = {"source": category.source, "workflow_category": category.name}
        self._now = now
        self._ahead = now + AHEAD
        self._old, self._oldest = now - GAUGE_AGE, now - max_age
        self._max_age = max_age
        self._version = published.version
        self._at = min(published.at, now) if published.at else now
        self._sent = _unpack(sent)
        self._here: dict[bytes, tuple[int, int]] = {}  # identity of an event of this file: its position and second
        self._metrics: dict[tuple[str, Kind], Metric] = {}

    def take(self, values: Sequence[Any]) -> None:
        """The records of these values, in order."""
        parse, add = self._parser.parse, self.faults.add
        for data in values:
            self.position += 1
            try:
                record = parse(data)
            except BadRecord as bad:
                add(self.position, str(bad))
                continue
            at = record.at
            if at is None:
                at = self._at
            elif self.newest is None or at > self.newest:
                if at > self._ahead:
                    add(self.position, ahead(at))
                    continue
                self.newest = at
            self._take(record, at)

    def _take(self, record: Record, at: datetime) -> None:
        if record.refused:
            for name in record.refused:
                self.faults.add(self.position, refused(name))
        if record.contradicts:
            self.contradictions.setdefault((record.metric, record.workflow_name, record.task, record.check), record)
        tags = {
            **self._origin,
            "workflow_name": record.workflow_name,
            "task": record.task,
            "check": record.check,
            "condition": record.condition,
            "status": record.status.value,
            **record.tags,
        }
        if record.kind is not Kind.GAUGE:
            self._take_event(record, at, tags)
        elif record.at and at >= self._old:
            self._send(record, tags, at)
        elif at >= self._oldest:
            self._send(record, tags, self._now, measured_at=at)
        else:
            age = self._now - at
            self.faults.add(self.position, f"it is {_text(age)} old, older than max_age ({_text(self._max_age)})")
            self.unmeasured.append(tags)

    def remembered(self) -> dict[bytes, int]:
        """The events that must not be sent again: those of this file, and younger ones that may come back."""
        oldest = int((self._now - self._max_age).timestamp())
        kept = {event: second for event, second in self._sent.items() if second >= oldest or event in self._here}
        if len(kept) > _REMEMBERED_MOST:
            kept = dict(sorted(kept.items(), key=lambda item: item[1])[-_REMEMBERED_MOST:])
        return kept

    def _take_event(self, record: Record, at: datetime, tags: dict[str, str]) -> None:
        event, age = _identity(record, tags, self._version), self._now - at
        if event in self._here:
            self.faults.add(self.position, f"metric, tags and timestamp are those of record {self._here[event][0]}")
            return
        self._here[event] = self.position, int(at.timestamp())
        if event in self._sent:
            self.usable += 1
        elif age > min(EVENT_AGE, self._max_age):
            what = "count" if record.kind is Kind.COUNT else "distribution"
            limit = min(EVENT_AGE, self._max_age)
            self.faults.add(self.position, f"it is {_text(age)} old, and a {what} can't be sent after {_text(limit)}")
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


def without_overtaken(samples: list[Sample]) -> list[Sample]:
    """``samples`` without gauges that would overwrite a newer value of their series by being sent as of now."""
    if len({sample.measured for sample in samples}) < 2 or not any(each.measured_at for each in samples):
        return samples
    newest: dict[object, datetime] = {}
    for sample in samples:
        key = series(sample)
        newest[key] = max(newest.get(key, sample.measured), sample.measured)
    kept = [each for each in samples if not each.measured_at or each.measured_at == newest[series(each)]]
    if len(kept) < len(samples):
        log.info("older values of the same series are not sent", count=len(samples) - len(kept))
    return kept


def ahead(at: datetime) -> str:
    """What is wrong with a record of that time."""
    return f"timestamp {at.isoformat()} is more than {_text(AHEAD)} in the future"


def refused(name: str) -> str:
    """What is said of a record's tag that names a required one."""
    return f"tag {name!a} is set by the daemon; the record's own is left out"


def _warn(contradictions: Mapping[tuple[str, ...], Record], name: str, warned: set[tuple[str, ...]]) -> None:
    new = [check for check in contradictions if check not in warned]
    if not new:
        return
    warned.update(new)
    shown = [
        f"{record.metric} ({record.workflow_name}, {record.task}, {record.check}): {record.value:g} is"
        f" {record.status.value}, the condition is {record.condition!r}"
        for record in (contradictions[check] for check in new[:FAULTS_SHOWN])
    ]
    log.warning(
        "statuses contradict their conditions; they are sent as they stand", snapshot=name, checks=len(new), first=shown
    )


def series(sample: Sample) -> object:
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


def nothing_usable(name: str, records: int, faults: Faults) -> str:
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
