"""Which records become samples, and as of when. Pure; large snapshots take CPU time.

Datadog drops points older than an hour in silence, so an older gauge is sent as of now while it is true enough to show
(``max_age``); a count or a distribution would be counted again with every run, so each one is sent once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

from service.collectors.content import MAX_BYTES
from service.collectors.records import (
    MAX_RECORDS,
    BadRecord,
    PrintedSample,
    Record,
    full_name,
    is_required,
    read_records,
    tell_refused,
)
from service.domain.errors import Rejected
from service.domain.runs import PartialFailure
from service.domain.samples import CHECK_TAGS, MAX_POINT_AGE, Kind, Metric, Sample

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

    ``name``: for messages. ``version`` tells one publication from another, for counts and distributions without a time;
    empty where none comes twice.
    A gauge without a time was measured at ``at``, and is sent as of the run: it says that its value is still true.
    """

    body: bytes
    name: str
    version: str
    at: datetime


class Selection:
    """Takes snapshots, the oldest first. ``sent``: identity and second of the counts and distributions of earlier runs.

    ``no_data``: tags of checks whose value is too old. ``usable`` records are sent, were sent, or have a newer one in
    their series. ``events``: as ``sent``, of these snapshots.
    """

    def __init__(self, origin: Origin, now: datetime, max_age: timedelta, sent: Mapping[bytes, int]) -> None:
        self.samples: list[Sample] = []
        self.no_data: list[dict[str, str]] = []
        self.failures: list[PartialFailure] = []
        self.events: dict[bytes, int] = {}
        self.usable = 0
        self._origin, self._now, self._max_age, self._sent = origin, now, max_age, sent
        self._metrics: dict[tuple[str, Kind], Metric] = {}

    def add(self, snapshot: Publication, max_bytes: int = MAX_BYTES, max_records: int = MAX_RECORDS) -> None:
        """Raises Rejected when no record is usable or it is no snapshot, Unfinished when it is not whole, TooLarge."""
        # All of them first: what is not whole is not taken in part.
        self.add_records(list(read_records(snapshot.body, snapshot.name, self._now, max_bytes, max_records)), snapshot)

    def add_records(self, records: Sequence[Record | PrintedSample | BadRecord], snapshot: Publication) -> None:
        """Those that were read of ``snapshot``. Raises Rejected when no record is usable."""
        usable, failed = self.usable, len(self.failures)
        here: dict[bytes, int] = {}  # the positions of its events
        for position, record in enumerate(records, 1):
            if reason := self._take(record, position, snapshot, here):
                self.failures.append(PartialFailure(reason, f"record {position}"))
        if self.usable == usable:
            failures, self.failures = self.failures[failed:], self.failures[:failed]
            raise Rejected(_tell_unusable(snapshot.name, len(records), failures))
        self.samples = drop_overtaken(self.samples)

    def _take(
        self, record: Record | PrintedSample | BadRecord, position: int, snapshot: Publication, here: dict[bytes, int]
    ) -> str:
        """Adds the sample of a record; returns why there is none, empty where there is one or it was sent before."""
        if isinstance(record, BadRecord):
            return str(record)
        if isinstance(record, PrintedSample):
            kind, tags = record.kind or Kind.GAUGE, self._tags_of_sample(record)
        else:
            kind, tags = record.metric_kind or Kind.GAUGE, self._tags_of_record(record, position)
        at = record.at or min(snapshot.at, self._now)
        age = self._now - at
        if kind is Kind.GAUGE:
            if age > self._max_age:
                self.no_data.append(tags)
                return f"it is {_tell_span(age)} old, older than max_age ({_tell_span(self._max_age)})"
            is_carried = record.at is None or age > MAX_GAUGE_AGE
            self._send(record, kind, tags, self._now if is_carried else at, at if is_carried else None)
            return ""
        event, limit = _identify(record, tags, snapshot.version), min(MAX_POINT_AGE, self._max_age)
        if event in here:
            return f"metric, tags and timestamp are those of record {here[event]}"
        here[event] = position
        if event in self._sent or event in self.events:
            self.usable += 1
        elif age > limit:
            return f"it is {_tell_span(age)} old, and a {kind.value} can't be sent after {_tell_span(limit)}"
        else:
            self._send(record, kind, tags, at)
        if record.at or snapshot.version:
            self.events[event] = int(at.timestamp())
        return ""

    def _tags_of_record(self, record: Record, position: int) -> dict[str, str]:
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
                self.failures.append(PartialFailure(tell_refused(name), f"record {position}"))
            else:
                tags[name] = value
        return tags

    def _tags_of_sample(self, sample: PrintedSample) -> dict[str, str]:
        """Its own, and where it comes from; only what measures a check has a category."""
        own = sample.tags or {}
        is_check = all(name in own for name in CHECK_TAGS[1:])
        category = {"workflow_category": self._origin.category} if is_check else {}
        return {"source": self._origin.source, **category, **own}

    def _send(
        self,
        record: Record | PrintedSample,
        kind: Kind,
        tags: dict[str, str],
        at: datetime,
        measured_at: datetime | None = None,
    ) -> None:
        name = full_name(record.metric, self._origin.namespace)
        metric = self._metrics.get((name, kind)) or self._metrics.setdefault((name, kind), Metric(name, kind))
        self.samples.append(Sample(metric, record.value, at, tags, measured_at))
        self.usable += 1

    def all_sent(self) -> dict[bytes, int]:
        """The events that the next run must know: those of these snapshots, and younger ones, which may come again."""
        oldest = (self._now - self._max_age).timestamp()
        kept = {event: second for event, second in self._sent.items() if second >= oldest} | self.events
        return dict(sorted(kept.items(), key=lambda item: item[1])[-MAX_SENT:]) if len(kept) > MAX_SENT else kept


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


def _identify(record: Record | PrintedSample, tags: Mapping[str, str], version: str) -> bytes:
    time = record.at.isoformat() if record.at else f"published {version}"
    parts = [record.metric, time, *(part for item in sorted(tags.items()) for part in item)]
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _tell_unusable(name: str, records: int, failures: list[PartialFailure]) -> str:
    if not records:
        return f"{name} holds no record"
    shown = "; ".join(map(str, failures[:3]))
    more = f"; and {len(failures) - 3:,} more" if len(failures) > 3 else ""
    return f"{name}: no usable record among {records:,}: {shown}{more}"


def _tell_span(span: timedelta) -> str:
    """As 45 min, 3.5 h, 12 days."""
    minutes = span.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.3g} h" if minutes < 72 * 60 else f"{minutes / 1440:,.0f} days"
