"""Points as the bodies of Datadog's two submission endpoints.

``POST /api/v2/series`` takes gauges and counts, ``POST /api/v1/distribution_points`` takes distributions. Limits:
https://docs.datadoghq.com/api/latest/metrics/#submit-metrics; the number of points is the Datadog agent's.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import zstandard

from service.domain.delivery import Chunk, count_points
from service.domain.errors import TooLarge
from service.domain.samples import Kind

MAX_POINTS = 10_000
MAX_COMPRESSED = 512_000  # bytes
MAX_RAW = 5_242_880  # bytes

_TYPES = {Kind.COUNT: 1, Kind.GAUGE: 3}
_SPARE = 0.9  # of what should fit by proportion: the next chunk may compress worse than the last


class _Value(msgspec.Struct, frozen=True, gc=False):
    timestamp: int
    value: float


class _Series(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    metric: str
    type: int
    points: tuple[_Value, ...]
    tags: tuple[str, ...]
    interval: int = 0


class _Distribution(msgspec.Struct, frozen=True, gc=False):
    metric: str
    points: tuple[tuple[int, tuple[float, ...]], ...]
    tags: tuple[str, ...]
    type: str = "distribution"


@dataclass(frozen=True, slots=True)
class Payload:
    """One request. ``sent``: the chunks in ``body``; ``rest``: those that did not fit. ``kind``: of the first."""

    body: bytes
    kind: Kind
    sent: Sequence[Chunk]
    rest: Sequence[Chunk]


def encode(chunks: Sequence[Chunk], prefix: str = "") -> Payload:
    """As many of ``chunks``, all of one endpoint, as one request can hold; each metric's name gets ``prefix``.

    Takes up to 100 ms of CPU at 10,000 points: call it in a thread. Raises TooLarge when the first chunk alone is too
    large: a connection that the intake closes for its size would leave open what became of it.
    """
    taken = len(chunks)
    while True:
        sent = chunks[:taken]
        raw, body = _compress(sent, prefix)
        excess = max(len(raw) / MAX_RAW, len(body) / MAX_COMPRESSED, count_points(sent) / MAX_POINTS)
        if excess <= 1:
            return Payload(body, sent[0].kind, sent, chunks[taken:])
        if taken == 1:
            raise TooLarge(f"one chunk of {len(raw)} bytes, {len(body)} compressed, is more than a request may hold")
        taken = max(1, int(taken / excess * _SPARE))


def _compress(chunks: Sequence[Chunk], prefix: str) -> tuple[bytes, bytes]:
    """The JSON and the body."""
    if chunks[0].kind is Kind.DISTRIBUTION:
        raw = msgspec.json.encode({"series": _to_distributions(chunks, prefix)})
        return raw, zlib.compress(raw)  # the distribution endpoint knows no other encoding
    raw = msgspec.json.encode({"series": _to_series(chunks, prefix)})
    return raw, zstandard.ZstdCompressor().compress(raw)


def _to_series(chunks: Sequence[Chunk], prefix: str) -> list[_Series]:
    """An entry for each series. Of one second Datadog keeps one value: the last of a gauge, the sum of a count."""
    series: dict[tuple[str, Kind, int, tuple[str, ...]], dict[int, float]] = {}
    for chunk in chunks:
        is_count = chunk.kind is Kind.COUNT
        for point in chunk.points:
            values = series.setdefault((point.metric, chunk.kind, point.interval, point.tags), {})
            values[point.at] = values.get(point.at, 0.0) + point.value if is_count else point.value
    return [
        _Series(
            prefix + metric,
            _TYPES[kind],
            tuple([_Value(at, value) for at, value in values.items()]),
            tags,
            interval if kind is Kind.COUNT else 0,
        )
        for (metric, kind, interval, tags), values in series.items()
    ]


def _to_distributions(chunks: Sequence[Chunk], prefix: str) -> list[_Distribution]:
    """An entry for each series, with all values of a second: ``[[second, [values]]]``."""
    series: dict[tuple[str, tuple[str, ...]], dict[int, list[float]]] = {}
    for chunk in chunks:
        for point in chunk.points:
            series.setdefault((point.metric, point.tags), {}).setdefault(point.at, []).append(point.value)
    return [
        _Distribution(prefix + metric, tuple([(at, tuple(found)) for at, found in values.items()]), tags)
        for (metric, tags), values in series.items()
    ]
