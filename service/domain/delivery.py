"""What the outbox holds: points, the chunks that they are cut into, and the status of a chunk's delivery."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from service.domain.runs import Mode
from service.domain.samples import Evidence, Kind, Sample, format_tag, normalize_metric_name

CHUNK_SAMPLES = 1_000


class DeliveryStatus(StrEnum):
    """Where a chunk is. The last four are losses that are counted; ``reason`` of the chunk says why."""

    PENDING = "pending"
    SENDING = "sending"  # a distribution that was handed to the intake: an answer is due
    DELIVERED = "delivered"
    UNKNOWN = "unknown"  # a distribution that was sent without an answer: sending it again could count it twice
    THROTTLED = "throttled"  # of series beyond the limit, or collected in shadow mode, in which nothing is sent
    REJECTED = "rejected"  # the intake refused it for good
    EXPIRED = "expired"  # too old for the intake, or the store was full


LOST = (DeliveryStatus.UNKNOWN, DeliveryStatus.THROTTLED, DeliveryStatus.REJECTED, DeliveryStatus.EXPIRED)


class Point(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One value as it is stored and sent. ``at`` and ``measured_at``: whole seconds since the epoch.

    ``tags``: "name:value" as the intake takes them. ``interval``: seconds that a count covers, else 0.
    """

    metric: str
    value: float
    at: int
    tags: tuple[str, ...]
    interval: int = 0
    measured_at: int | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """One row of the outbox: up to ``CHUNK_SAMPLES`` points of one run and kind, sorted by time and then series.

    ``run``: empty for the heartbeat's. ``bytes``: about the size of its JSON. ``oldest``, ``newest``: seconds since the
    epoch. ``attempts``: how often a request with it was refused. ``alone``: it must be sent without others.
    """

    id: int
    run: str
    collector: str
    mode: Mode
    kind: Kind
    points: Sequence[Point]
    bytes: int
    oldest: int
    newest: int
    attempts: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A point of a past run and what became of it; ``reason`` says why, where it was lost."""

    point: Point
    kind: Kind
    status: DeliveryStatus
    reason: str = ""

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.point.at, UTC)

    @property
    def tags(self) -> dict[str, str]:
        pairs = (tag.partition(":") for tag in self.point.tags)
        return {name: value for name, _, value in pairs}


def to_point(sample: Sample) -> Point:
    """``sample`` with the name and the tags that the intake takes. Its name has been checked (pipeline.enrich)."""
    tags = (format_tag(name, value) for name, value in sample.tags.items())
    return Point(
        normalize_metric_name(sample.metric.name) or "",
        float(sample.value),
        int(sample.at.timestamp()),
        tuple(filter(None, tags)),
        sample.interval or 0,
        int(sample.measured_at.timestamp()) if sample.measured_at else None,
        sample.evidence,
    )


def count_points(chunks: Iterable[Chunk]) -> int:
    """All points of ``chunks``."""
    return sum(len(chunk.points) for chunk in chunks)
