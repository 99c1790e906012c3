"""The outbox: chunks of samples on their way to the intake, and what became of each."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa

from service.domain.delivery import Chunk, DeliveryStatus, Point, StoredSample
from service.domain.runs import Mode
from service.domain.samples import Kind, Sample
from service.store.chunks import Batch, SeriesSecond, pack, to_batch, to_chunk, unpack
from service.store.fallback import Failover
from service.store.tables import count_seconds, insert, outbox

_PENDING, _SENDING = DeliveryStatus.PENDING, DeliveryStatus.SENDING
_DUE = (_PENDING, _SENDING)
_CANDIDATES = 200  # chunks that a claim looks at
_PAGE = 20  # chunks that are read and unpacked at a time


@dataclass(frozen=True, slots=True)
class Pending:
    """``oldest``: the time of the oldest pending sample. ``next_retry``: when the first of the chunks that wait for a
    time is due, None where none does."""

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


class SecondsTaken(Exception):
    """A count of the same series and second is there already: the batch has to be made anew."""


class Outbox:
    """A part of the Store. Chunks stay as the record of their run's samples once they are settled."""

    def __init__(self, database: Failover, clock: Callable[[], datetime], mode: Callable[[], Mode]) -> None:
        self._database = database
        self._clock = clock
        self._mode = mode

    async def put(self, collector: str, samples: Sequence[Sample]) -> None:
        """Keeps samples of no run; they leave once they are delivered."""
        facts = {"run": "", "collector": collector, "mode": self._mode().value, "owner": ""}
        await self.put_with(samples, facts, insert_batch)

    async def put_with(
        self, samples: Sequence[Sample], facts: dict[str, str], work: Callable[[Batch, sa.Connection], None]
    ) -> None:
        """Does ``work`` with ``samples`` as rows, which have these ``facts``, in one transaction."""
        taken: frozenset[SeriesSecond] = frozenset()
        while True:
            batch = await self._database.compute(partial(to_batch, samples, facts, taken))
            try:
                return await self._database.write(partial(work, batch))
            except SecondsTaken:
                oldest = min(second for _, second in batch.seconds)
                rows = await self._database.fetch(sa.select(count_seconds).where(count_seconds.c.second >= oldest))
                taken = frozenset((row.series, row.second) for row in rows)

    async def claim(self, now: datetime, max_bytes: int, max_samples: int) -> list[Chunk]:
        """The oldest chunks that are due, of one endpoint (gauges with counts, or distributions) and one mode.

        At least one where any is due; more while they stay within ``max_bytes`` (of JSON) and ``max_samples``. Where no
        others are due, one of those that were refused, alone. They are marked as being sent, so no other claim gives
        them again: give each back with ``release``, ``settle`` or ``refuse``.
        """
        is_due = outbox.c.retry_at.is_(None) | (outbox.c.retry_at <= now)
        facts = (outbox.c.id, outbox.c.kind, outbox.c.mode, outbox.c.bytes, outbox.c.samples)
        due = sa.select(*facts).where(outbox.c.status == _PENDING, is_due).order_by(outbox.c.id)
        # A search for bad points must not hold up good ones.
        rows = await self._database.fetch(due.where(~outbox.c.alone).limit(_CANDIDATES))
        ids = _choose(rows or await self._database.fetch(due.limit(1)), max_bytes, max_samples)
        if not ids:
            return []

        def mark(connection: sa.Connection) -> Sequence[Any]:
            is_ours = outbox.c.id.in_(ids) & (outbox.c.status == _PENDING)
            # Whoever marks a chunk sends it: what another one has marked is not returned.
            return connection.execute(outbox.update().where(is_ours).values(status=_SENDING).returning(outbox)).all()

        rows = await self._database.write(mark)
        return await self._database.compute(lambda: [to_chunk(row) for row in sorted(rows, key=lambda row: row.id)])

    async def release(self, chunks: Sequence[Chunk], retry_at: datetime | None = None) -> None:
        """Makes claimed chunks pending again, due at ``retry_at`` (None: now)."""
        await self._change(chunks, {"status": _PENDING, "retry_at": retry_at})

    async def settle(self, chunks: Sequence[Chunk], status: DeliveryStatus, reason: str = "") -> None:
        """Ends the way of chunks. One that is settled already stays so."""
        await self._change(chunks, self._settled(status, reason))

    async def refuse(self, chunks: Sequence[Chunk]) -> None:
        """The intake refused a request of these: of several each comes alone next, one becomes two halves."""
        values = {"status": _PENDING, "retry_at": None, "alone": True, "attempts": outbox.c.attempts + 1}
        if len(chunks) > 1:
            await self._change(chunks, values)
        else:
            points = chunks[0].points
            half = len(points) // 2
            await self._split(chunks[0], points[:half], points[half:], values, {})

    async def drop(self, chunk: Chunk, places: Collection[int], status: DeliveryStatus, reason: str) -> Chunk | None:
        """Ends the way of the points at ``places`` of a claimed chunk. What is left to send, None where nothing is."""
        rest = [point for place, point in enumerate(chunk.points) if place not in places]
        gone = [point for place, point in enumerate(chunk.points) if place in places]
        if not rest:
            await self.settle([chunk], status, reason)
            return None
        if gone:
            await self._split(chunk, rest, gone, {}, self._settled(status, reason))
        return replace(chunk, points=rest, oldest=rest[0].at, newest=rest[-1].at)

    async def pending(self) -> Pending:
        facts = sa.func.sum(outbox.c.samples), sa.func.min(outbox.c.oldest), sa.func.min(outbox.c.retry_at)
        rows = await self._database.fetch(sa.select(*facts).where(outbox.c.status.in_(_DUE)))
        samples, oldest, next_retry = rows[0]
        return Pending(samples or 0, None if oldest is None else datetime.fromtimestamp(oldest, UTC), next_retry)

    async def counts(self, run_ids: Iterable[str]) -> dict[str, dict[DeliveryStatus, int]]:
        """What became of the samples of these runs."""
        found: dict[str, dict[DeliveryStatus, int]] = {run_id: {} for run_id in run_ids}
        query = sa.select(outbox.c.run, outbox.c.status, sa.func.sum(outbox.c.samples))
        query = query.where(outbox.c.run.in_(found), outbox.c.run != "").group_by(outbox.c.run, outbox.c.status)
        for run_id, status, samples in await self._database.fetch(query):
            found[run_id][status] = int(samples)
        return found

    async def samples(self, run_id: str, offset: int = 0, limit: int = 100) -> tuple[list[StoredSample], int]:
        """A page of a run's samples, sorted by kind, time and series, and how many are on record in all."""
        is_kept = (outbox.c.run == run_id) & (sa.func.length(outbox.c.body) > 0)
        end = sa.func.sum(outbox.c.samples).over(order_by=(outbox.c.first, outbox.c.id)).label("end")
        placed = sa.select(outbox.c.id, end).where(is_kept).subquery()
        start = placed.c.end - outbox.c.samples
        query = sa.select(outbox, start.label("start")).join(placed, placed.c.id == outbox.c.id)
        rows = await self._database.fetch(
            query.where(placed.c.end > offset, start < offset + limit).order_by(placed.c.end)
        )
        (total,) = await self._database.fetch(sa.select(sa.func.sum(outbox.c.samples)).where(is_kept))
        return await self._database.compute(lambda: _page(rows, offset, offset + limit)), int(total[0] or 0)

    async def series(self, since: datetime, collectors: Iterable[str] | None = None) -> list[SeenSeries]:
        """The series of which runs brought samples of that time or later. It reads all their chunks: not for pages."""
        limit = int(since.timestamp())
        wanted = [outbox.c.run != "", outbox.c.newest >= limit, sa.func.length(outbox.c.body) > 0]
        if collectors is not None:
            wanted.append(outbox.c.collector.in_(list(collectors)))
        found: dict[tuple[str, Kind, str, tuple[str, ...]], int] = {}

        def add(rows: Sequence[Any]) -> None:
            for row in rows:
                for point in unpack(row.body):
                    if point.at >= limit:
                        key = row.collector, row.kind, point.metric, point.tags
                        found[key] = max(found.get(key, 0), point.at)

        rows = sa.select(outbox).where(*wanted).order_by(outbox.c.id).limit(_PAGE)
        last = 0
        while page := await self._database.fetch(rows.where(outbox.c.id > last)):
            await self._database.compute(partial(add, page))
            last = page[-1].id
        return [
            SeenSeries(collector, metric, kind, tags, datetime.fromtimestamp(at, UTC))
            for (collector, kind, metric, tags), at in found.items()
        ]

    def _settled(self, status: DeliveryStatus, reason: str) -> dict[str, Any]:
        return {"status": status, "reason": reason, "settled_at": self._clock(), "retry_at": None}

    async def _change(self, chunks: Sequence[Chunk], values: dict[str, Any]) -> None:
        """Gives ``values`` to those of the chunks that are still due."""
        if not chunks:
            return

        def work(connection: sa.Connection) -> None:
            is_due = outbox.c.id.in_([chunk.id for chunk in chunks]) & outbox.c.status.in_(_DUE)
            if values["status"] == DeliveryStatus.DELIVERED:
                connection.execute(outbox.delete().where(is_due, outbox.c.run == ""))
            connection.execute(outbox.update().where(is_due).values(values))

        await self._database.write(work)

    async def _split(
        self,
        chunk: Chunk,
        kept: Sequence[Point],
        moved: Sequence[Point],
        kept_values: dict[str, Any],
        moved_values: dict[str, Any],
    ) -> None:
        """Leaves ``kept`` in a chunk that is still due and moves the others to a row of their own."""
        packed = await self._database.compute(lambda: (pack(kept), pack(moved)))

        def work(connection: sa.Connection) -> None:
            is_due = (outbox.c.id == chunk.id) & outbox.c.status.in_(_DUE)
            change = outbox.update().where(is_due).values(packed[0] | kept_values).returning(outbox)
            for row in connection.execute(change).mappings().all():
                own = {"first": row["first"] + len(kept), **packed[1], **moved_values}
                copied = {name: value for name, value in row.items() if name != "id"}
                connection.execute(outbox.insert().values(copied | own))

        await self._database.write(work)


def insert_batch(batch: Batch, connection: sa.Connection) -> None:
    """Raises SecondsTaken."""
    if batch.seconds:
        # Sorted, or two transactions could wait for each other.
        rows = [{"series": series, "second": second} for series, second in sorted(batch.seconds)]
        added = insert(connection, count_seconds).on_conflict_do_nothing()
        result = connection.execute(added, rows, execution_options={"preserve_rowcount": True})
        if result.rowcount < len(rows):
            raise SecondsTaken
    if batch.rows:
        connection.execute(outbox.insert(), batch.rows)


def _choose(candidates: Sequence[Any], max_bytes: int, max_samples: int) -> list[int]:
    """The ids of those that go together, the oldest first."""
    chosen: list[Any] = []
    for row in candidates:
        oldest = chosen[0] if chosen else row
        if row.mode != oldest.mode or (row.kind == Kind.DISTRIBUTION) != (oldest.kind == Kind.DISTRIBUTION):
            continue
        max_bytes -= row.bytes
        max_samples -= row.samples
        if chosen and (max_bytes < 0 or max_samples < 0):
            break
        chosen.append(row)
    return [row.id for row in chosen]


def _page(rows: Iterable[Any], start: int, end: int) -> list[StoredSample]:
    return [
        StoredSample(point, row.kind, row.status, row.reason)
        for row in rows
        for point in unpack(row.body)[max(0, start - row.start) : end - row.start]
    ]
