"""Goes on in memory while the disk is full or broken, and takes everything to the disk once it works again."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import anyio
import sqlalchemy as sa
import structlog

from service.domain.delivery import CHUNK_SAMPLES, DeliveryStatus
from service.domain.errors import HealthError, Unavailable
from service.domain.samples import Kind
from service.store import tables
from service.store.engine import READERS, Database, open_memory
from service.store.tables import outbox

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_SAMPLES = 50_000  # in memory
_DUE = (DeliveryStatus.PENDING.value, DeliveryStatus.SENDING.value)
_MEMORY_IDS, _IDS = 2**62, 2**40  # first id, and how many, of chunks made in memory; the disk gives them others
_MAX_ROWS = 20_000  # of one table that go along

# What goes on in memory from where the disk was: nobody else writes to it meanwhile, so it comes back as a whole.
_WHOLE = (
    *(tables.slots, tables.pauses, tables.checks, tables.state, tables.pushes, tables.count_seconds),
    *(tables.notified, tables.events, tables.sent_events),
)
# Only added to.
_RECORD = (tables.runs, tables.cycles, tables.cells, tables.hours, tables.run_logs)

# Where the disk has a row that did not go along, which of the two holds.
_NEWER: Mapping[sa.Table, Callable[[Any], Any]] = {
    tables.slots: lambda new: new.at > tables.slots.c.at,
    tables.checks: lambda new: new.measured_at > tables.checks.c.measured_at,
    tables.state: lambda new: new.revision > tables.state.c.revision,
    tables.runs: lambda new: tables.runs.c.outcome.is_(None),
}


class Failover:
    """The transactions of the store, in worker threads of its own: on ``disk`` or, while that is away, in memory.

    ``reopen``: opens the disk anew after this damage; None: there is no falling back.
    """

    def __init__(
        self, disk: Database, clock: Callable[[], datetime], reopen: Callable[[str], Database] | None = None
    ) -> None:
        self.trouble: str | None = None
        self._clock = clock
        self._disk = disk
        self._reopen = reopen
        self._memory: Database | None = None
        self._complete: set[str] = set()  # the tables of _WHOLE that went along
        self._moved: dict[int, int] = {}  # chunks that were made in memory, and their ids on the disk
        self._next_ids = _MEMORY_IDS
        self._writes = anyio.CapacityLimiter(disk.writers)
        self._reads = anyio.CapacityLimiter(READERS)
        self._encodes = anyio.CapacityLimiter(1)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction; it may be called again in another one. Raises Unavailable."""
        return await anyio.to_thread.run_sync(self._write, work, limiter=self._writes)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction that only reads, and waits for no write. Raises Unavailable."""
        return await anyio.to_thread.run_sync(self._read, work, limiter=self._reads)

    async def fetch(self, query: sa.Select[Any]) -> Sequence[Any]:
        """The rows of ``query``. Raises Unavailable."""
        return await self.read(lambda connection: connection.execute(query).all())

    async def execute(self, statement: sa.Executable) -> None:
        """Does one statement that writes. Raises Unavailable."""
        await self.write(lambda connection: connection.execute(statement))

    async def compute(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which takes CPU time and no transaction."""
        return await anyio.to_thread.run_sync(work, limiter=self._encodes)

    async def recover(self) -> bool:
        """Goes back to the disk if it takes everything; whether it did."""
        if self._memory is None and not self._disk.damage:
            return False
        return await anyio.to_thread.run_sync(self._recover, limiter=self._writes)

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=self._writes)

    def locate(self, chunk_id: int) -> int:
        """The id that the chunk with this one has now."""
        return self._moved.get(chunk_id, chunk_id)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        if self._memory is None:
            try:
                return self._disk.write(work)
            except Unavailable as error:
                if self._reopen is None:
                    raise
                self._memory = self._fall_back(str(error))

        def bounded(connection: sa.Connection) -> T:
            result = work(connection)
            shrink_outbox(connection, outbox.c.samples, MAX_SAMPLES, self._clock())
            return result

        return self._memory.write(bounded)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return (self._memory or self._disk).read(work)

    def _fall_back(self, reason: str) -> Database:
        """A database in memory with what the disk can still be asked for."""
        log.error("the store is lost, runs go on in memory", reason=reason)
        memory = open_memory()
        self._complete = set()
        for table in (*_WHOLE, *_RECORD, outbox):
            with suppress(Unavailable):
                rows = self._disk.read(partial(_read_rows, _to_take_along(table)))
                memory.write(partial(tables.upsert, table, rows))
                if len(rows) < _MAX_ROWS:
                    self._complete.add(table.name)
        self._next_ids += _IDS  # never the same: a chunk of the last time may still be under way
        first = sa.text("UPDATE sqlite_sequence SET seq = :id WHERE name = 'outbox'").bindparams(id=self._next_ids)
        memory.write(lambda connection: connection.execute(first))
        self.trouble = reason
        return memory

    def _recover(self) -> bool:
        memory = self._memory or self._fall_back(f"the state database is damaged: {self._disk.where}")
        self._memory = memory
        try:
            if self._disk.damage and self._reopen:
                self._disk.close()
                self._disk = self._reopen(self._disk.damage)
            moved = self._disk.write(lambda connection: memory.read(lambda source: self._take_back(source, connection)))
        except HealthError as error:
            self.trouble = str(error)
            return False
        self._moved.update(moved)
        self._memory = self.trouble = None
        memory.close()
        log.info("the store is back", chunks=len(moved))
        return True

    def _take_back(self, memory: sa.Connection, disk: sa.Connection) -> dict[int, int]:
        """Writes what memory has; the new ids of the chunks that were made there."""
        for table in (*_WHOLE, *_RECORD):
            rows = _read_rows(sa.select(table), memory)
            if table in _WHOLE and table.name in self._complete:
                disk.execute(table.delete())
            if table is tables.runs:
                rows = sorted(rows, key=lambda row: row["outcome"] is None)  # an active one only once others ended
            tables.upsert(table, rows, disk, where=_NEWER.get(table))
        for row in _read_rows(sa.select(tables.audit).order_by(tables.audit.c.id), memory):
            disk.execute(tables.audit.insert().values({**row, "id": None}))
        chunks = _read_rows(sa.select(outbox).order_by(outbox.c.id), memory)
        tables.upsert(outbox, [chunk for chunk in chunks if chunk["id"] < _MEMORY_IDS], disk)
        if outbox.name not in self._complete:
            # What was claimed did not go along, so its answers found no row.
            recover_sending(disk, self._clock(), "its answer came while the store was lost")
        moved = {}
        for chunk in chunks:
            if (before := chunk.pop("id")) >= _MEMORY_IDS:
                key = disk.execute(outbox.insert().values(chunk)).inserted_primary_key
                moved[before] = key[0] if key else before
        return moved

    def _close(self) -> None:
        if self._memory:
            log.error("what was kept in memory is lost: the store is still away", reason=self.trouble)
            self._memory.close()
        self._disk.close()


def _to_take_along(table: sa.Table) -> sa.Select[Any]:
    query = sa.select(table).limit(_MAX_ROWS)
    if table is outbox:
        # What was claimed, and what may be sent twice: a distribution must be marked first, and durably.
        is_harmless = (table.c.status == "pending") & (table.c.kind != "distribution")
        query = query.where((table.c.status == "sending") | is_harmless)
        return query.order_by(table.c.status.desc(), table.c.id).limit(MAX_SAMPLES // CHUNK_SAMPLES)
    if table is tables.runs:
        return query.order_by(table.c.started.desc())
    if table is tables.run_logs:
        return query.limit(0)
    if table in _RECORD:
        return query.order_by(*(column.desc() for column in table.primary_key))
    return query


def _read_rows(query: sa.Select[Any], connection: sa.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def shrink_outbox(connection: sa.Connection, size: sa.ColumnElement[int], limit: int, now: datetime) -> int:
    """Empties chunks until the sum of ``size`` is within ``limit``: settled ones first, then the oldest that wait.

    How many pending samples had to go.
    """
    is_kept = sa.func.length(outbox.c.body) > 0
    excess = (connection.execute(sa.select(sa.func.sum(size)).where(is_kept)).scalar() or 0) - limit
    expired = 0
    lost = {"status": DeliveryStatus.EXPIRED.value, "reason": "the store was full", "settled_at": now, "retry_at": None}
    for wanted, values in ((outbox.c.status.not_in(_DUE), {}), (outbox.c.status == "pending", lost)):
        last = 0
        if excess > 0:
            oldest = sa.select(outbox.c.id, outbox.c.samples, size).where(wanted, is_kept).order_by(outbox.c.id)
            for last, samples, row_size in connection.execute(oldest):  # noqa: B007 - read below
                expired += samples if values else 0
                excess -= row_size
                if excess <= 0:
                    break
            gone = outbox.update().where(wanted, is_kept, outbox.c.id <= last)
            connection.execute(gone.values(body=b"", **values))
    return expired


def recover_sending(connection: sa.Connection, now: datetime, reason: str) -> int:
    """What was being sent when the answer got lost: gauges and counts are sent again, distributions would count twice.

    How many samples became unknown.
    """
    is_sending = outbox.c.status == DeliveryStatus.SENDING.value
    is_once = is_sending & (outbox.c.kind == Kind.DISTRIBUTION.value)
    samples = connection.execute(sa.select(sa.func.sum(outbox.c.samples)).where(is_once)).scalar()
    lost = {"status": DeliveryStatus.UNKNOWN.value, "reason": reason, "settled_at": now}
    connection.execute(outbox.update().where(is_once).values(lost))
    connection.execute(outbox.update().where(is_sending).values(status=DeliveryStatus.PENDING.value))
    return samples or 0
