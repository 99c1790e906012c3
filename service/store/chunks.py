"""Samples as rows of the outbox and back: sorted, cut into chunks, packed. It takes CPU time and no database."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from hashlib import blake2b
from itertools import chain, starmap
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import zstandard

from service.domain.delivery import CHUNK_SAMPLES, Chunk, DeliveryStatus, Point
from service.domain.samples import Kind, Sample, format_tag, normalize_metric_name

_MAX_MOVE = 60  # seconds that a count may be moved on to a second of its own
_POINT_BYTES = 110  # that a point's JSON is longer than its msgpack
_BY_TIME_AND_SERIES = attrgetter("at", "metric", "tags")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Point]).decode

SeriesSecond = tuple[int, int]  # a hash of metric and tags; seconds since the epoch


class Batch(NamedTuple):
    """Samples as rows of the outbox; ``seconds``: those that its counts take."""

    rows: list[dict[str, Any]]
    seconds: list[SeriesSecond]


def to_batch(samples: Iterable[Sample], facts: dict[str, str], taken: AbstractSet[SeriesSecond]) -> Batch:
    """Pending rows with these ``facts`` (run, collector, mode, owner).

    The intake keeps one count of a series and second, the one that came last. So each gets a second of its own beside
    those that are ``taken``: the next one that is free or, where that is too far, counts are summed.
    """
    points = _to_points(samples)
    points[Kind.COUNT], seconds = _assign_seconds(points[Kind.COUNT], taken)
    rows: list[dict[str, Any]] = []
    first = 0
    for kind, of_kind in points.items():
        for start in range(0, len(of_kind), CHUNK_SAMPLES):
            packed = pack(of_kind[start : start + CHUNK_SAMPLES])
            row = {**facts, "kind": kind, "first": first, "status": DeliveryStatus.PENDING, "reason": ""}
            rows.append({**row, "alone": False, "attempts": 0, "retry_at": None, "settled_at": None, **packed})
            first += packed["samples"]
    return Batch(rows, seconds)


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


def to_chunk(row: Any) -> Chunk:
    """A row of the outbox as what is sent."""
    return Chunk(
        row.id,
        row.run,
        row.collector,
        row.mode,
        row.kind,
        unpack(row.body),
        row.bytes,
        row.oldest,
        row.newest,
        row.attempts,
        row.alone,
    )


def _to_points(samples: Iterable[Sample]) -> dict[Kind, list[Point]]:
    """By kind, sorted. As domain.delivery.to_point, but each tag is formatted once: they repeat all the time."""
    points: dict[Kind, list[Point]] = {kind: [] for kind in Kind}
    name, tag = cache(normalize_metric_name), cache(format_tag)
    for sample in samples:
        points[sample.metric.kind].append(
            Point(
                name(sample.metric.name) or "",
                float(sample.value),
                int(sample.at.timestamp()),
                tuple(filter(None, starmap(tag, sample.tags.items()))),
                sample.interval or 0,
                int(sample.measured_at.timestamp()) if sample.measured_at else None,
                sample.evidence,
            )
        )
    for of_kind in points.values():
        of_kind.sort(key=_BY_TIME_AND_SERIES)
    return points


def _assign_seconds(
    points: Sequence[Point], taken: AbstractSet[SeriesSecond]
) -> tuple[list[Point], list[SeriesSecond]]:
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


def _hash_series(point: Point) -> int:
    text = "\0".join(chain((point.metric,), point.tags))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
