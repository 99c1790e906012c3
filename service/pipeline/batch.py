"""Batches: points cut into requests that the intake can take, by exact sizes and before anything is sent."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from service.domain.errors import Rejected
from service.domain.points import Payload, Point
from service.domain.samples import Kind

_in_order = attrgetter("metric", "kind", "interval", "tags", "at", "id")
_instant = attrgetter("metric", "kind", "interval", "tags", "at")


@dataclass(frozen=True, slots=True)
class Unsendable:
    """Points that fit into no request, however small."""

    points: Sequence[Point]
    reason: str


def pack(points: Sequence[Point], encode: Callable[[Sequence[Point]], Payload]) -> Iterator[Payload | Unsendable]:
    """The requests that carry ``points``, one endpoint each: series first, then distributions.

    Each step is one ``encode`` (CPU work: take each in a thread); what it refuses as too large is halved.
    """
    for distributions in (False, True):
        if chosen := [point for point in points if (point.kind is Kind.DISTRIBUTION) is distributions]:
            yield from _fit(chosen, encode)


def halve(points: Sequence[Point]) -> tuple[Sequence[Point], Sequence[Point]] | None:
    """``points`` of one endpoint in two parts, None when they can't be parted.

    Values of one series and second stay together: only in one request are they merged, in two the later one would
    replace the earlier. Values of a distribution add up wherever they arrive, so they may part.
    """
    ordered = sorted(points, key=_in_order)
    middle = len(ordered) // 2
    for offset in range(middle + 1):
        for cut in (middle - offset, middle + offset):
            if 0 < cut < len(ordered) and _may_part(ordered[cut - 1], ordered[cut]):
                return ordered[:cut], ordered[cut:]
    return None


def _fit(points: Sequence[Point], encode: Callable[[Sequence[Point]], Payload]) -> Iterator[Payload | Unsendable]:
    try:
        fitting: Payload | Unsendable = encode(points)
    except Rejected as refusal:
        parts = halve(points)
        if parts:
            for part in parts:
                yield from _fit(part, encode)
            return
        fitting = Unsendable(points, str(refusal))
    yield fitting


def _may_part(one: Point, next_one: Point) -> bool:
    return one.kind is Kind.DISTRIBUTION or _instant(one) != _instant(next_one)
