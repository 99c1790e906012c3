"""The outbox: chunks of samples on their way to the intake, and what became of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.domain.delivery import Chunk, DeliveryStatus, StoredSample
from service.domain.samples import Kind, Sample


@dataclass(frozen=True, slots=True)
class Pending:
    """``oldest``: the time of the oldest pending sample. ``next_retry``: when the next chunk is due, None: now or
    never."""

    samples: int
    oldest: datetime | None = None
    next_retry: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeenSeries:
    """A series that runs brought samples of. ``last``: the time of the newest."""

    collector: str
    metric: str
    kind: Kind
    tags: tuple[str, ...]
    last: datetime


class Outbox:
    """A part of the Store. Chunks stay as the record of their run's samples once they are settled."""

    async def put(self, collector: str, samples: Sequence[Sample]) -> None:
        """Keeps samples of no run; they leave once they are delivered."""
        raise NotImplementedError

    async def claim(
        self, now: datetime, max_bytes: int, max_samples: int, *, historical: Sequence[str] = ()
    ) -> list[Chunk]:
        """The oldest chunks that are due, of one endpoint (gauges with counts, or distributions) and one mode.

        At least one where any is due; more while they stay within ``max_bytes`` (of JSON) and ``max_samples``; a chunk
        that was refused comes alone. Distributions are marked as being sent: give each back with ``release``,
        ``settle`` or ``refuse``. Until then no claim gives it again; so it is with gauges and counts in this process.
        """
        raise NotImplementedError

    async def release(self, chunks: Sequence[Chunk], retry_at: datetime | None = None) -> None:
        """Makes claimed chunks pending again, due at ``retry_at`` (None: now)."""
        raise NotImplementedError

    async def settle(self, chunks: Sequence[Chunk], status: DeliveryStatus, reason: str = "") -> None:
        """Ends the way of chunks. One that is settled already stays so."""
        raise NotImplementedError

    async def refuse(self, chunks: Sequence[Chunk], reason: str) -> int:
        """The intake refused a request of these: of several each comes alone next, one becomes two halves, and a
        single sample is rejected for ``reason``. How many samples were rejected."""
        raise NotImplementedError

    async def throttle(self, chunk: Chunk, places: Sequence[int], reason: str) -> Chunk | None:
        """Takes the points at ``places`` out of a claimed chunk; they are throttled. The rest, None where none is."""
        raise NotImplementedError

    async def expire(self, before: datetime, historical: Sequence[str] = ()) -> int:
        """Ends pending samples that are older than ``before``; how many. The later part of a chunk stays pending.

        Gauges and counts whose name begins with one of ``historical`` wait on: the intake takes them at any age.
        """
        raise NotImplementedError

    async def pending(self) -> Pending:
        raise NotImplementedError

    async def counts(self, run_ids: Iterable[str]) -> dict[str, dict[DeliveryStatus, int]]:
        """What became of the samples of these runs."""
        raise NotImplementedError

    async def totals(self) -> dict[DeliveryStatus, int]:
        """The same of all samples on record."""
        raise NotImplementedError

    async def samples(self, run_id: str, offset: int = 0, limit: int = 100) -> tuple[list[StoredSample], int]:
        """A page of a run's samples, sorted by kind, time and series, and how many are on record in all."""
        raise NotImplementedError

    async def series(self, since: datetime, collectors: Iterable[str] | None = None) -> list[SeenSeries]:
        """The series of which runs brought samples of that time or later. It reads all their chunks: not for pages."""
        raise NotImplementedError
