"""The outbox: chunks of samples on their way to the intake, and what became of each."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain.delivery import Chunk, DeliveryStatus, Point, StoredSample
from service.domain.runs import Mode
from service.domain.samples import Kind, Sample
from service.store.chunks import DUE, insert_batch, pack, to_batch, unpack
from service.store.fallback import Failover
from service.store.tables import LOST, outbox, replicas

_PENDING, _SENDING = DeliveryStatus.PENDING, DeliveryStatus.SENDING
_CANDIDATES = 200  # chunks that a claim looks at
_STEP = 500  # chunks that one transaction empties
_PAGE = 20  # chunks that are read and unpacked at a time

_IS_DUE = outbox.c.status.in_(DUE)
_IS_OURS = outbox.c.owner == bindparam("me")
_IS_KEPT = sa.func.length(outbox.c.body) > 0
_CLAIMABLE = (
    sa.select(outbox.c.id, outbox.c.kind, outbox.c.mode, outbox.c.bytes, outbox.c.samples)
    .where(outbox.c.status == _PENDING, outbox.c.alone == bindparam("is_alone"), _IS_OURS)
    .where(outbox.c.retry_at.is_(None) | (outbox.c.retry_at <= bindparam("now")))
    .order_by(outbox.c.id)
    .limit(bindparam("most"))
)
# Whoever marks a chunk sends it: what is another's now is not returned.
_MARK = (
    outbox.update()
    .where(outbox.c.id.in_(bindparam("ids", expanding=True)), outbox.c.status == _PENDING, _IS_OURS)
    .values(status=_SENDING, retry_at=None)
    .returning(outbox)
)
_SUM_PENDING = sa.select(
    sa.func.sum(outbox.c.samples), sa.func.min(outbox.c.oldest), sa.func.min(outbox.c.retry_at)
).where(_IS_DUE, _IS_OURS)
_IS_WITHHELD = (outbox.c.status == DeliveryStatus.THROTTLED) & (outbox.c.mode == Mode.SHADOW)
_SUM_LOST = (
    sa.select(outbox.c.status, sa.func.sum(outbox.c.samples))
    .where(LOST, outbox.c.collector == bindparam("name"), outbox.c.settled_at >= bindparam("since"), ~_IS_WITHHELD)
    .group_by(outbox.c.status)
)
_FIND = sa.select(outbox).where(outbox.c.id == bindparam("chunk"))
_OF_RUN = (
    sa.select(outbox.c.id, outbox.c.samples)
    .where(outbox.c.run == bindparam("run"), _IS_KEPT)
    .order_by(outbox.c.first, outbox.c.id)
)


@dataclass(frozen=True, slots=True)
class Pending:
    """``oldest``: the time of the oldest pending sample. ``next_retry``: when the first of the chunks that wait for a
    time is due, None where none does."""

    samples: int
    oldest: datetime | None = None
    next_retry: datetime | None = None


class SeenSeries(NamedTuple):
    """A series that runs brought samples of."""

    collector: str
    metric: str
    kind: Kind
    tags: tuple[str, ...]


class Outbox:
    """A part of the Store. Chunks stay as the record of their run's samples once they are settled.

    A replica claims those that it collected or inherited. ``mode``: of samples of no run.
    """

    def __init__(self, database: Failover) -> None:
        self.mode = Mode.LIVE
        self._database = database

    async def put(self, collector: str, samples: Sequence[Sample]) -> None:
        """Keeps samples of no run; they leave once they are delivered."""
        facts = {"run": "", "collector": collector, "mode": self.mode.value, "owner": self._database.owner}
        batch = await self._database.compute(partial(to_batch, samples, facts))
        await self._database.write(lambda connection: insert_batch(connection, batch))

    async def claim(self, now: datetime, max_bytes: int, max_samples: int) -> list[Chunk]:
        """The oldest chunks that are due, of one endpoint (gauges with counts, or distributions) and one mode.

        At least one where any is due; more while they stay within ``max_bytes`` (of JSON) and ``max_samples``. Where no
        others are due, one of those that were refused, alone: a search for bad points must not hold up good ones. They
        are marked as being sent, so no other claim gives them again: give each back with ``release``, ``settle`` or
        ``refuse``.
        """

        def work(connection: sa.Connection) -> Sequence[Any]:
            facts = {"now": now, "me": self._database.owner}
            due = connection.execute(_CLAIMABLE, {**facts, "is_alone": False, "most": _CANDIDATES}).all()
            due = due or connection.execute(_CLAIMABLE, {**facts, "is_alone": True, "most": 1}).all()
            ids = _choose(due, max_bytes, max_samples)
            return connection.execute(_MARK, {"ids": ids, "me": facts["me"]}).all() if ids else []

        rows = await self._database.write(work)
        return await self._database.compute(lambda: [_to_chunk(row) for row in sorted(rows, key=lambda row: row.id)])

    async def release(self, chunks: Sequence[Chunk], retry_at: datetime | None = None) -> None:
        """Makes claimed chunks pending again, due at ``retry_at`` (None: now)."""
        await self._change(chunks, {"status": _PENDING, "retry_at": retry_at})

    async def recover(self) -> bool:
        """Makes chunks pending again that are marked though the answer of their ``claim`` was lost. Whether there were
        any. For the one that sends, while it has claimed nothing."""
        lost = outbox.update().where(outbox.c.status == _SENDING, _IS_OURS).values(status=_PENDING)
        me = {"me": self._database.owner}
        return await self._database.write(lambda connection: connection.execute(lost, me).rowcount > 0)

    async def settle(self, chunks: Sequence[Chunk], status: DeliveryStatus, reason: str = "") -> None:
        """Gives chunks their final status. One that is settled already stays so."""
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
        """Settles the points at ``places`` of a claimed chunk. Returns what is left to send, None where nothing is."""
        rest = [point for place, point in enumerate(chunk.points) if place not in places]
        gone = [point for place, point in enumerate(chunk.points) if place in places]
        if not rest:
            await self.settle([chunk], status, reason)
            return None
        if gone:
            await self._split(chunk, rest, gone, {}, self._settled(status, reason))
        return replace(chunk, points=rest, oldest=rest[0].at, newest=rest[-1].at)

    async def pending(self) -> Pending:
        samples, oldest, next_retry = (await self._database.fetch(_SUM_PENDING, {"me": self._database.owner}))[0]
        return Pending(samples or 0, None if oldest is None else datetime.fromtimestamp(oldest, UTC), next_retry)

    async def lost(self, collector: str, since: datetime) -> dict[DeliveryStatus, int]:
        """How many samples of the collector were lost since then, by the status that says how; those that shadow mode
        withheld are none."""
        rows = await self._database.fetch(_SUM_LOST, {"name": collector, "since": since})
        return {status: int(samples) for status, samples in rows}

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
        page: list[StoredSample] = []
        total = 0
        for id_, count in await self._database.fetch(_OF_RUN, {"run": run_id}):
            start, total = total, total + count
            if start < offset + limit and total > offset:
                page += (await self._read(id_))[max(0, offset - start) : offset + limit - start]
        return page, total

    async def read_samples(self, run_id: str, use: Callable[[Sequence[StoredSample]], None]) -> None:
        """Hands all samples of a run to ``use``, in a thread and a chunk at a time: there may be a hundred thousand."""
        for id_, _ in await self._database.fetch(_OF_RUN, {"run": run_id}):
            samples = await self._read(id_)
            await self._database.compute(partial(use, samples))

    async def _read(self, id_: int) -> list[StoredSample]:
        """Of one chunk."""
        rows = await self._database.fetch(_FIND, {"chunk": id_})

        def work() -> list[StoredSample]:
            return [StoredSample(point, row.kind, row.status, row.reason) for row in rows for point in unpack(row.body)]

        return await self._database.compute(work)

    async def series(self, since: datetime, collectors: Iterable[str]) -> list[SeenSeries]:
        """The series of which these collectors' runs brought samples of that time or later.

        It reads all their chunks: not for pages.
        """
        limit = int(since.timestamp())
        found: dict[SeenSeries, None] = {}

        def add(rows: Sequence[Any]) -> None:
            for row in rows:
                points = (point for point in unpack(row.body) if point.at >= limit)
                found.update((SeenSeries(row.collector, each.metric, row.kind, each.tags), None) for each in points)

        wanted = (outbox.c.run != "") & (outbox.c.newest >= limit) & outbox.c.collector.in_(collectors) & _IS_KEPT
        rows = sa.select(outbox).where(wanted).order_by(outbox.c.id).limit(_PAGE)
        last = 0
        while page := await self._database.fetch(rows.where(outbox.c.id > last)):
            await self._database.compute(partial(add, page))
            last = page[-1].id
        return list(found)

    def _settled(self, status: DeliveryStatus, reason: str) -> dict[str, Any]:
        return {"status": status, "reason": reason, "settled_at": self._database.clock(), "retry_at": None}

    def _is_nobody_elses(self) -> sa.ColumnElement[bool]:
        """Another replica may have inherited a chunk meanwhile and be sending it: then it must not become pending."""
        return outbox.c.owner.not_in(sa.select(replicas.c.id).where(replicas.c.id != self._database.owner))

    async def _change(self, chunks: Sequence[Chunk], values: dict[str, Any]) -> None:
        """Gives ``values`` to those of the chunks that are still due."""
        if not chunks:
            return

        def work(connection: sa.Connection) -> None:
            is_theirs = outbox.c.id.in_([chunk.id for chunk in chunks]) & _IS_DUE
            if values["status"] == DeliveryStatus.DELIVERED:
                connection.execute(outbox.delete().where(is_theirs, outbox.c.run == ""))
            change = outbox.update().where(is_theirs)
            if values["status"] is _PENDING:
                change = change.where(self._is_nobody_elses())
            connection.execute(change.values(values))

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
            is_whole = outbox.c.samples == len(chunk.points)  # else a repeat would move the others once more
            change = outbox.update().where(outbox.c.id == chunk.id, _IS_DUE, is_whole, self._is_nobody_elses())
            change = change.values(packed[0] | kept_values)
            for row in connection.execute(change.returning(outbox)).mappings().all():
                own = {"first": row["first"] + len(kept), **packed[1], **moved_values}
                copied = {name: value for name, value in row.items() if name != "id"}
                connection.execute(outbox.insert().values(copied | own))

        await self._database.write(work)


def empty_chunks(connection: sa.Connection, before: datetime) -> int:
    """Empties chunks that were settled before then, at most so many a call; of a run they stay as the count of what
    became of them."""
    is_old = (outbox.c.settled_at < before) & ~_IS_DUE
    connection.execute(outbox.delete().where(is_old, outbox.c.run == ""))
    old = sa.select(outbox.c.id).where(is_old, _IS_KEPT).limit(_STEP)
    return connection.execute(outbox.update().where(outbox.c.id.in_(old)).values(body=b"")).rowcount


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


def _to_chunk(row: Any) -> Chunk:
    facts = {name: getattr(row, name) for name in Chunk.__dataclass_fields__ if name != "points"}
    return Chunk(points=unpack(row.body), **facts)
