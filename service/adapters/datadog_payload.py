"""Points as the bodies of Datadog's two submission endpoints.

``POST /api/v2/series`` takes gauges and counts, ``POST /api/v1/distribution_points`` takes distributions. The tags of a
stored point are JSON already, so bodies are joined from text; dicts would be as quick, but ten thousand of them set off
the garbage collector, which stalls the loop from whatever thread it runs in (docs/decisions/0002). Limits:
https://docs.datadoghq.com/api/latest/metrics/#submit-metrics; the number of points is the Datadog agent's.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

import zstandard

from service.domain.errors import Rejected, TooLarge
from service.domain.points import Payload, Point
from service.domain.samples import Kind

MAX_POINTS = 10_000
MAX_WIRE = 512_000  # bytes, compressed
MAX_BODY = 5_242_880  # bytes, decompressed

_Head = tuple[str, Kind, int]  # metric, kind, interval
_Alike = Iterable[tuple[str, Point | list[Point]]]  # tags, and the points that have them
_when = attrgetter("at", "id")


def encode(points: Sequence[Point]) -> Payload:
    """One body for ``points`` of one endpoint, sorted by series: neighbours compress two to three times better.

    Raises TooLarge beyond one of the limits, Rejected for a value or text that JSON can't hold.
    """
    if unfit := next((point for point in points if not math.isfinite(point.value)), None):
        raise Rejected(f"{unfit.metric}: {unfit.value} is not a finite number")
    grouped = _by_series(points)
    kind = points[0].kind
    is_distribution = kind is Kind.DISTRIBUTION
    count, parts = _distributions(grouped) if is_distribution else _series(grouped)
    if count > MAX_POINTS:
        raise TooLarge(f"{count} points are more than the {MAX_POINTS} of one request")
    try:
        text = ('{"series":[' + ",".join(parts) + "]}").encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise Rejected(f"no valid text: {error.reason}") from error
    if len(text) > MAX_BODY:
        raise TooLarge(f"{len(text)} bytes are more than the {MAX_BODY} of one request")
    # The distribution endpoint knows no other encoding than deflate.
    body = zlib.compress(text) if is_distribution else zstandard.ZstdCompressor().compress(text)
    if len(body) > MAX_WIRE:
        raise TooLarge(f"{len(body)} bytes compressed are more than the {MAX_WIRE} of one request")
    return Payload(points, kind, body, len(text))


def _by_series(points: Sequence[Point]) -> Iterator[tuple[_Head, _Alike]]:
    """The points by metric, kind and interval, then by tags, in order of these; of one series in that of their ids."""
    heads: dict[_Head, dict[str, Point | list[Point]]] = {}
    for point in points:
        alike = heads.setdefault((point.metric, point.kind, point.interval), {})
        # A series with one point, the common case, costs no list: thousands set off the garbage collector.
        first = alike.setdefault(point.tags, point)
        if isinstance(first, list):
            first.append(point)
        elif first is not point:
            alike[point.tags] = [first, point]
    for head in sorted(heads):
        alike = heads[head]
        yield head, ((tags, alike[tags]) for tags in sorted(alike))


def _in_time(points: Point | list[Point]) -> list[Point]:
    return sorted(points, key=_when) if isinstance(points, list) else [points]


def _series(grouped: Iterable[tuple[_Head, _Alike]]) -> tuple[int, list[str]]:
    """How many points and the JSON of each series; of one second Datadog keeps one value, so one is sent."""
    count, parts = 0, []
    for (metric, kind, interval), alike in grouped:
        adds_up = kind is Kind.COUNT  # events of one second; of gauges the last one holds
        every = f'"interval":{interval},' if adds_up and interval else ""
        head = f'{{"metric":{json.dumps(metric)},"type":{1 if adds_up else 3},{every}"tags":'
        for tags, points in alike:
            if isinstance(points, Point):
                count += 1
                parts.append(f'{head}{tags},"points":[{{"timestamp":{points.at},"value":{points.value!r}}}]}}')
                continue
            values: dict[int, float] = {}
            for point in _in_time(points):
                values[point.at] = values.get(point.at, 0) + point.value if adds_up else point.value
            count += len(values)
            listed = ",".join([f'{{"timestamp":{at},"value":{value!r}}}' for at, value in values.items()])
            parts.append(f'{head}{tags},"points":[{listed}]}}')
    return count, parts


def _distributions(grouped: Iterable[tuple[_Head, _Alike]]) -> tuple[int, list[str]]:
    """How many values and the JSON of each series: ``[[second, [values]]]``."""
    count, parts = 0, []
    for (metric, _, _), alike in grouped:
        head = f'{{"metric":{json.dumps(metric)},"type":"distribution","tags":'
        for tags, points in alike:
            values: dict[int, list[float]] = {}
            for point in _in_time(points):
                values.setdefault(point.at, []).append(point.value)
                count += 1
            listed = ",".join([f"[{at},[{','.join(map(repr, found))}]]" for at, found in values.items()])
            parts.append(f'{head}{tags},"points":[{listed}]}}')
    return count, parts
