"""Which records become samples, and as of when. Pure; large snapshots take CPU time.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b

from service.collectors.content import MAX_BYTES
from service.collectors.records import (
    MAX_RECORDS,
    BadRecord,
    Failures,
    Record,
    full_name,
    is_required,
    read_records,
    tell_refused,
)
from service.domain.errors import Rejected
from service.domain.samples import MAX_POINT_AGE, Kind, Metric, Sample

# The outbox expires what is older than MAX_POINT_AGE; a gauge that waits for its delivery needs some of it.
MAX_GAUGE_AGE = timedelta(minutes=45)
MAX_SENT = 200_000  # events that are remembered


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of a collector have in common: tags, and the namespace of their metrics."""

    category: str
    namespace: str
    source: str


@dataclass(frozen=True, slots=True)
class Publication:
    """One snapshot as it was published ``at``.

    ``name``: for messages. ``version`` tells one publication from another, for counts and distributions without a time.
    A gauge without a time was measured at ``at``, and is sent as of the run: it says that its value is still true.
    """

    body: bytes
    name: str
    version: str
    at: datetime


@dataclass(slots=True)
class Selected:
    """What is sent of a snapshot. ``usable`` records are sent, were sent or have a newer one in their series.

    ``no_data``: tags of checks whose value is too old. ``events``: identity and second of the counts and distributions
    that are in it and were sent, now or earlier.
    """

    samples: list[Sample] = field(default_factory=list)
    no_data: list[dict[str, str]] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    events: dict[bytes, int] = field(default_factory=dict)
    usable: int = 0

    def add(self, later: "Selected") -> None:
        """Adds what was selected of a later snapshot."""
        self.samples = drop_overtaken(self.samples + later.samples) if self.samples else later.samples
        self.no_data += later.no_data
        self.failures.extend(later.failures)
        self.events |= later.events
        self.usable += later.usable


def select(
    published: Publication,
    origin: Origin,
    now: datetime,
    max_age: timedelta,
    sent: Mapping[bytes, int],
    max_bytes: int = MAX_BYTES,
    max_records: int = MAX_RECORDS,
) -> Selected:
    """What of a snapshot is sent. ``sent``: the events that were (``Selected.events`` of earlier runs).

    Raises Rejected when no record is usable or it is no snapshot, Unfinished when it is not whole, TooLarge.
    """
    selector = _Selector(published, origin, now, max_age, sent)
    for record in read_records(published.body, published.name, now, max_bytes, max_records):
        selector.take(record)
    selected = selector.selected
    if not selected.usable:
        raise Rejected(_tell_unusable(published.name, selector.position, selected.failures))
    selected.samples = drop_overtaken(selected.samples)
    return selected


class _Selector:
    def __init__(
        self, published: Publication, origin: Origin, now: datetime, max_age: timedelta, sent: Mapping[bytes, int]
    ) -> None:
        self.selected = Selected()
        self.position = 0
        self._published = published
        self._at = min(published.at, now)
        self._origin = origin
        self._now = now
        self._max_age = max_age
        self._sent = sent
        self._positions: dict[bytes, int] = {}  # of the events of this snapshot
        self._metrics: dict[tuple[str, Kind], Metric] = {}

    def take(self, record: Record | BadRecord) -> None:
        self.position += 1
        if isinstance(record, BadRecord):
            self._fail(str(record))
            return
        tags = {
            "source": self._origin.source,
            "workflow_category": self._origin.category,
            "workflow_name": record.workflow_name,
            "task": record.task,
            "check": record.check,
            "condition": record.condition,
        }
        if record.status:
            tags["status"] = record.status.value
        for name, value in (record.tags or {}).items():
            if is_required(name):
                self._fail(tell_refused(name))
            else:
                tags[name] = value
        kind = record.metric_kind or Kind.GAUGE
        if kind is Kind.GAUGE:
            self._take_gauge(record, tags)
        else:
            self._take_event(record, kind, tags)

    def _take_gauge(self, record: Record, tags: dict[str, str]) -> None:
        at = record.at
        if at and self._now - at <= MAX_GAUGE_AGE:
            self._send(record, Kind.GAUGE, tags, at)
        elif self._now - (at or self._at) <= self._max_age:
            self._send(record, Kind.GAUGE, tags, self._now, at or self._at)
        else:
            age = _tell_span(self._now - (at or self._at))
            self._fail(f"it is {age} old, older than max_age ({_tell_span(self._max_age)})")
            self.selected.no_data.append(tags)

    def _take_event(self, record: Record, kind: Kind, tags: dict[str, str]) -> None:
        at = record.at or self._at
        event = _identify(record, tags, self._published.version)
        if event in self._positions:
            self._fail(f"metric, tags and timestamp are those of record {self._positions[event]}")
            return
        self._positions[event] = self.position
        limit = min(MAX_POINT_AGE, self._max_age)
        if event in self._sent:
            self.selected.usable += 1
        elif self._now - at <= limit:
            self._send(record, kind, tags, at)
        else:
            age = _tell_span(self._now - at)
            self._fail(f"it is {age} old, and a {kind.value} can't be sent after {_tell_span(limit)}")
            return
        self.selected.events[event] = int(at.timestamp())

    def _send(
        self, record: Record, kind: Kind, tags: dict[str, str], at: datetime, measured_at: datetime | None = None
    ) -> None:
        name = full_name(record.metric, self._origin.namespace)
        metric = self._metrics.get((name, kind)) or self._metrics.setdefault((name, kind), Metric(name, kind))
        self.selected.samples.append(Sample(metric, record.value, at, tags, measured_at))
        self.selected.usable += 1

    def _fail(self, reason: str) -> None:
        self.selected.failures.add(f"record {self.position}", reason)


def drop_overtaken(samples: list[Sample]) -> list[Sample]:
    """``samples`` without gauges that would overwrite a newer value of their series by being sent as of now."""
    if len({sample.measured for sample in samples}) < 2 or not any(sample.measured_at for sample in samples):
        return samples
    series = [
        (sample.metric, frozenset(item for item in sample.tags.items() if item[0] not in ("status", "condition")))
        for sample in samples
    ]
    newest: dict[object, datetime] = {}
    for key, sample in zip(series, samples, strict=True):
        newest[key] = max(newest.get(key, sample.measured), sample.measured)
    pairs = zip(series, samples, strict=True)
    return [sample for key, sample in pairs if not sample.measured_at or sample.measured_at == newest[key]]


def keep_events(sent: Mapping[bytes, int], events: Mapping[bytes, int], oldest: datetime) -> dict[bytes, int]:
    """The events that the next run must know: those of the snapshot, and younger ones, which may come again."""
    kept = {event: second for event, second in sent.items() if second >= oldest.timestamp()} | dict(events)
    if len(kept) > MAX_SENT:
        kept = dict(sorted(kept.items(), key=lambda item: item[1])[-MAX_SENT:])
    return kept


def _identify(record: Record, tags: Mapping[str, str], version: str) -> bytes:
    time = record.at.isoformat() if record.at else f"published {version}"
    parts = [record.metric, time, *(part for item in sorted(tags.items()) for part in item)]
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _tell_unusable(name: str, records: int, failures: Failures) -> str:
    if not records:
        return f"{name} holds no record"
    shown = "; ".join(str(failure) for failure in failures.first[:3])
    more = f"; and {failures.count - 3:,} more" if failures.count > 3 else ""
    return f"{name}: no usable record among {records:,}: {shown}{more}"


def _tell_span(span: timedelta) -> str:
    """As 45 min, 3.5 h, 12 days."""
    minutes = span.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.3g} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"
