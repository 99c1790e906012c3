"""Rows of the outbox: samples sorted, cut into chunks and packed; seconds of counts; what leaves for want of room."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa
import zstandard

from service.domain.delivery import CHUNK_SAMPLES, DeliveryStatus, Point, to_point
from service.domain.samples import Kind, Sample, normalize_tag
from service.store.tables import count_seconds, lock, outbox

DUE = (DeliveryStatus.PENDING, DeliveryStatus.SENDING)

_MAX_MOVE = 60  # seconds that a count may be moved on to a second of its own
_POINT_BYTES = 110  # that a point's JSON is longer than its msgpack
_COUNTS_LOCK = 0x1F4EA18  # replicas give counts their seconds one after the other
_BY_TIME_AND_SERIES = attrgetter("at", "metric", "tags")
_SECONDS_SINCE = sa.select(count_seconds).where(count_seconds.c.second >= sa.bindparam("first"))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Point]).decode

SeriesSecond = tuple[int, int]  # a hash of metric and tags; seconds since the epoch


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples on their way into the outbox: ``rows``, and ``counts``, which get their seconds in the transaction.

    ``facts``: what all of them have in common (run, collector, mode, owner).
    """

    rows: list[dict[str, Any]]
    counts: list[Point]
    facts: dict[str, str]


def to_batch(samples: Iterable[Sample], facts: dict[str, str]) -> Batch:
    """It takes CPU time and no database."""
    points: dict[Kind, list[Point]] = {kind: [] for kind in Kind}
    for sample in samples:
        points[sample.metric.kind].append(to_point(sample))
    for of_kind in points.values():
        of_kind.sort(key=_BY_TIME_AND_SERIES)
    counts = points.pop(Kind.COUNT)
    rows: list[dict[str, Any]] = []
    for kind, of_kind in points.items():
        rows += _to_rows(kind, of_kind, sum(row["samples"] for row in rows), facts)
    return Batch(rows, counts, facts)


def insert_batch(connection: sa.Connection, batch: Batch) -> None:
    """Pending rows. The intake keeps one count of a series and second, the one that came last; so each gets a second of
    its own, the next that is free or, where that is too far, counts are summed."""
    rows = batch.rows
    if batch.counts:
        lock(connection, _COUNTS_LOCK)
        taken = {(row.series, row.second) for row in connection.execute(_SECONDS_SINCE, {"first": batch.counts[0].at})}
        counts, seconds = assign_seconds(batch.counts, taken)
        connection.execute(count_seconds.insert(), [{"series": series, "second": at} for series, at in seconds])
        rows = [*rows, *_to_rows(Kind.COUNT, counts, sum(row["samples"] for row in rows), batch.facts)]
    if rows:
        connection.execute(outbox.insert(), rows)


def assign_seconds(points: Sequence[Point], taken: AbstractSet[SeriesSecond]) -> tuple[list[Point], list[SeriesSecond]]:
    """Counts with a second of their own beside those that are ``taken``, and these seconds."""
    used: dict[SeriesSecond, None] = {}
    counts: list[Point] = []
    places: dict[int, int] = {}  # of the last count of a series
    for point in points:
        series = _hash_series(point)
        at = point.at
        place = places.get(series)
        while (series, at) in used or (series, at) in taken:
            at += 1
            if at > point.at + _MAX_MOVE and place is not None:
                counts[place] = msgspec.structs.replace(counts[place], value=counts[place].value + point.value)
                break
        else:
            used[series, at] = None
            places[series] = len(counts)
            counts.append(point if at == point.at else msgspec.structs.replace(point, at=at))
    counts.sort(key=_BY_TIME_AND_SERIES)
    return counts, list(used)


def pack(points: Sequence[Point]) -> dict[str, Any]:
    """The columns of a chunk that depend on its points."""
    try:
        body = _encode(points)
    except UnicodeEncodeError:  # half of a surrogate pair, in the evidence
        points = [msgspec.structs.replace(point, evidence=()) for point in points]
        body = _encode(points)
    evidence = b"".join(_encode(point.evidence) for point in points if point.evidence)
    return {
        "samples": len(points),
        "bytes": len(body) + _POINT_BYTES * len(points) - len(evidence),
        "oldest": points[0].at,
        "newest": points[-1].at,
        "body": zstandard.ZstdCompressor(level=3).compress(body),
    }


def unpack(body: bytes) -> list[Point]:
    return _decode(zstandard.ZstdDecompressor().decompress(body)) if body else []


def shrink_outbox(connection: sa.Connection, size: sa.ColumnElement[int], limit: int, now: datetime) -> int:
    """Empties chunks until the sum of ``size`` is within ``limit``: settled ones first, then the oldest that wait.

    How many pending samples had to go.
    """
    is_kept = sa.func.length(outbox.c.body) > 0
    if (connection.execute(sa.select(sa.func.sum(size)).where(is_kept)).scalar() or 0) <= limit:
        return 0
    # Summed up in the order in which they are kept: what waits before what is settled, the newest first.
    is_settled = sa.case((outbox.c.status.in_(DUE), 0), else_=1)
    total = sa.func.sum(size).over(order_by=(is_settled, outbox.c.id.desc())).label("total")
    kept = sa.select(outbox.c.id, total).where(is_kept).subquery()
    is_over = outbox.c.id.in_(sa.select(kept.c.id).where(kept.c.total > limit))
    connection.execute(outbox.update().where(is_over, outbox.c.status.not_in(DUE)).values(body=b""))
    lost = {"status": DeliveryStatus.EXPIRED, "reason": "the store was full", "settled_at": now, "retry_at": None}
    expire = outbox.update().where(is_over, outbox.c.status == DeliveryStatus.PENDING).values(body=b"", **lost)
    return sum(connection.scalars(expire.returning(outbox.c.samples)))


def recover_sending(connection: sa.Connection, now: datetime, reason: str, abandoned: sa.ColumnElement[bool]) -> int:
    """What was being sent when the answer got lost: gauges and counts are sent again, distributions would count twice.

    ``abandoned``: the chunks that are meant. How many samples became unknown.
    """
    is_sending = (outbox.c.status == DeliveryStatus.SENDING) & abandoned
    # Told apart in each statement: one that still takes itself for alive may mark a chunk between them.
    is_distribution = outbox.c.kind == Kind.DISTRIBUTION
    lost = {"status": DeliveryStatus.UNKNOWN, "reason": reason, "settled_at": now}
    end = outbox.update().where(is_sending, is_distribution).values(lost)
    unknown: int = sum(connection.scalars(end.returning(outbox.c.samples)))
    connection.execute(outbox.update().where(is_sending, ~is_distribution).values(status=DeliveryStatus.PENDING))
    return unknown


def _to_rows(kind: Kind, points: Sequence[Point], first: int, facts: dict[str, str]) -> Iterable[dict[str, Any]]:
    """``first``: the place of the first point among those of its run."""
    new = {"status": DeliveryStatus.PENDING, "reason": "", "alone": False, "attempts": 0}
    for start in range(0, len(points), CHUNK_SAMPLES):
        packed = pack(points[start : start + CHUNK_SAMPLES])
        yield {**facts, **new, **packed, "kind": kind, "first": first + start, "retry_at": None, "settled_at": None}


@lru_cache(maxsize=4096)
def _stored_tag(tag: str) -> str:
    """Tags that differ in what the intake makes of them alone are one series there."""
    name, _, value = tag.partition(":")
    return normalize_tag(name, value)


def _hash_series(point: Point) -> int:
    text = "\0".join((point.metric, *sorted(map(_stored_tag, point.tags))))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
