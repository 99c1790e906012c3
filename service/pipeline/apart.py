"""What waits apart: points that requests were refused for, so that those behind them need not wait as well."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.domain.points import Point


@dataclass(frozen=True, slots=True)
class Chunk:
    """Points of one endpoint that wait for their turn.

    ``reason``: what the intake answered each time, empty where it refused a part and the search is not done.
    ``accepted``: how many points the intake had taken when these were tried last.
    ``works``: whether it takes others, so that these are to blame.
    """

    points: Sequence[Point]
    reason: str = ""
    accepted: int = 0
    works: bool = False


class Apart:
    """Chunks in the order in which they came."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._chunks: list[Chunk] = []

    def __bool__(self) -> bool:
        return bool(self._chunks)

    @property
    def trouble(self) -> str | None:
        """What the intake answers to these points and only to these, None where it does not."""
        chunks = [chunk for chunk in self._chunks if chunk.works]
        count = sum(len(chunk.points) for chunk in chunks)
        return f"{chunks[0].reason}; {count} points wait apart" if chunks else None

    def points(self) -> Iterator[Point]:
        for chunk in self._chunks:
            yield from chunk.points

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self.ids.update(point.id for point in chunk.points)

    def take(self) -> Sequence[Chunk]:
        """All chunks; they are here no more."""
        chunks, self._chunks, self.ids = self._chunks, [], set()
        return chunks

    def forget(self, before: float, spared: Callable[[Point], bool]) -> None:
        """Forgets points older than ``before`` (seconds since the epoch) that are not ``spared``."""
        for chunk in self.take():
            if points := [point for point in chunk.points if point.at >= before or spared(point)]:
                self.add(Chunk(points, chunk.reason, chunk.accepted, chunk.works))
