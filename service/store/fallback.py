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
from service.store.chunks import recover_sending, shrink_outbox
from service.store.engine import READERS, Database, open_memory, prepare
from service.store.tables import copy_rows, cycles, from_row, hours, outbox, runs, upsert

log = structlog.get_logger(__name__)

T = TypeVar("T")
Parameters = Mapping[str, Any] | None

MAX_SAMPLES = 50_000  # in memory
_MAX_ROWS = 50_000  # of a record; the newest go along

# Only added to, so the rows of both come together; the newest by these columns go along into memory. Audit and logs
# are written alone. All other tables go on in memory from where the disk was, and come back as a whole.
_RECORDS = {runs: runs.c.started, cycles: cycles.c.number, hours: hours.c.hour}
_WRITTEN_ONLY = (tables.audit, tables.run_logs)


class Failover:
    """The transactions of the store, in worker threads of its own: on ``disk`` or, while that is away, in memory.

    ``reopen``: opens the disk anew after this damage; None: there is no falling back. ``owner``: the replica that this
    process is, empty with a store of its own. ``is_prepared``: a shared database that has the tables of this version.
    """

    def __init__(
        self,
        disk: Database,
        clock: Callable[[], datetime],
        reopen: Callable[[str], Database] | None = None,
    ) -> None:
        self.trouble: str | None = None  # why runs go on in memory
        self.owner = ""
        self.where, self.is_shared = disk.where, disk.is_shared
        self.is_prepared = not disk.is_shared  # a server may be away when the daemon starts
        self.clock = clock
        self._disk = disk
        self._reopen = reopen
        self._memory: Database | None = None
        self._complete: set[sa.Table] = set()  # those of which all rows went along that concern memory
        self._writes = anyio.CapacityLimiter(READERS if disk.is_shared else 1)
        self._reads = anyio.CapacityLimiter(READERS)
        self._encodes = anyio.CapacityLimiter(1)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction; it may be called again in another one. Raises Unavailable."""
        return await anyio.to_thread.run_sync(self._write, work, limiter=self._writes)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction that only reads, and waits for no write. Raises Unavailable."""
        try:
            return await anyio.to_thread.run_sync(self._read, work, limiter=self._reads)
        except Unavailable:
            if self._reopen is None:
                raise
            return await self.write(work)  # which falls back

    async def fetch(self, query: sa.Select[Any], parameters: Parameters = None) -> Sequence[Any]:
        """The rows of ``query``. Raises Unavailable."""
        return await self.read(lambda connection: connection.execute(query, parameters).all())

    async def load(self, type: type[T], query: sa.Select[Any], parameters: Parameters = None) -> list[T]:
        """The same as values of a dataclass."""
        return await self.read(
            lambda connection: [from_row(type, row) for row in connection.execute(query, parameters)]
        )

    async def execute(self, statement: sa.Executable, parameters: Parameters = None) -> None:
        """Does one statement that writes. Raises Unavailable."""
        await self.write(lambda connection: connection.execute(statement, parameters))

    async def compute(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which takes CPU time and no transaction."""
        return await anyio.to_thread.run_sync(work, limiter=self._encodes)

    async def prepare(self) -> None:
        """Makes the tables of a shared database, or brings them to this version. Raises ConfigError or Unavailable."""
        await anyio.to_thread.run_sync(prepare, self._disk, limiter=self._writes)
        self.is_prepared = True

    async def recover(self) -> bool:
        """Goes back to the disk if it takes everything; whether it did."""
        if self._memory is None and not self._disk.damage:
            return False
        return await anyio.to_thread.run_sync(self._recover, limiter=self._writes)

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._disk.close, limiter=self._writes)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        database = self._pick()
        if database is self._disk:
            try:
                return database.write(work)
            except Unavailable as error:
                if self._reopen is None:
                    raise
                database = self._memory = self._fall_back(str(error))

        def bounded(connection: sa.Connection) -> T:
            result = work(connection)
            shrink_outbox(connection, outbox.c.samples, MAX_SAMPLES, self.clock())
            return result

        return database.write(bounded)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return self._pick().read(work)

    def _pick(self) -> Database:
        if not self.is_prepared:
            raise Unavailable(f"{self.where} has not answered yet")
        return self._memory or self._disk

    def _fall_back(self, reason: str) -> Database:
        """A database in memory with what the disk can still be asked for."""
        log.error("the store is lost, runs go on in memory", reason=reason)
        self.trouble, self._complete, memory = reason, set(), open_memory()
        for table in tables.meta.sorted_tables:
            if table not in _WRITTEN_ONLY:
                with suppress(Unavailable):
                    memory.write(partial(self._take_along, table))
                    self._complete.add(table)
        return memory

    def _take_along(self, table: sa.Table, memory: sa.Connection) -> None:
        self._disk.read(lambda disk: copy_rows(_select_needed(table), disk, upsert(table), memory))

    def _recover(self) -> bool:
        memory = self._memory = self._memory or self._fall_back(f"the state database is damaged: {self._disk.where}")
        try:
            if self._disk.damage and self._reopen:
                self._disk.close()
                self._disk = self._reopen(self._disk.damage)
            self._disk.write(lambda disk: memory.read(lambda connection: self._copy_back(connection, disk)))
        except HealthError as error:
            self.trouble = str(error)
            return False
        self._memory = self.trouble = None
        log.info("the store is back")
        return True

    def _copy_back(self, memory: sa.Connection, disk: sa.Connection) -> None:
        if outbox not in self._complete:
            # What was claimed did not go along, so its answers found no row.
            recover_sending(disk, self.clock(), "its answer came while the store was lost", sa.true())
        for table in tables.meta.sorted_tables:
            if table in self._complete and table not in (*_RECORDS, outbox):
                disk.execute(table.delete())  # nobody else has written to it meanwhile
            # An active run only once others have ended.
            query = sa.select(table).order_by(runs.c.outcome.desc()) if table is runs else sa.select(table)
            copy_rows(query, memory, upsert(table), disk)


def _select_needed(table: sa.Table) -> sa.Select[Any]:
    """What memory needs of a table."""
    query = sa.select(table)
    if table in _RECORDS:
        return query.order_by(_RECORDS[table].desc()).limit(_MAX_ROWS)
    if table is outbox:
        # What was claimed, and what may be sent twice: a distribution must be marked first, and durably.
        is_pending = (table.c.status == DeliveryStatus.PENDING) & (table.c.kind != Kind.DISTRIBUTION)
        query = query.where((table.c.status == DeliveryStatus.SENDING) | is_pending)
        return query.order_by(table.c.status.desc(), table.c.id).limit(MAX_SAMPLES // CHUNK_SAMPLES)
    return query
