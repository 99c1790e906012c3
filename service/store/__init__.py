"""The store: runs, outbox, checks and state, in one SQLite file or in a PostgreSQL that replicas share."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import sqlalchemy as sa
import structlog

from service.domain.errors import ConfigError, HealthError, Unavailable
from service.store import engine, state_directory, tables
from service.store.checks import Checks
from service.store.chunks import shrink_outbox
from service.store.fallback import Failover
from service.store.outbox import Outbox, empty_chunks
from service.store.replicas import Beat, Replica, Replicas
from service.store.runs import Busy, Claim, HistoryLimits, Runs, delete_runs
from service.store.states import States

if TYPE_CHECKING:
    from service.config.settings import StoreSettings

__all__ = ["Beat", "Busy", "Claim", "Replica", "Replicas", "Store"]

log = structlog.get_logger(__name__)

_MAX_AUDIT = 10_000
_COUNTS_KEPT = timedelta(hours=2)
_now = partial(datetime.now, UTC)


class Store:
    """Open one with ``open`` (one process a directory) or ``open_reading``; ``close`` it.

    ``history_limits``: of collectors with limits of their own, (failed, successful) runs that are kept, None where the
    general one holds.
    Every method raises Unavailable when neither the disk nor the memory beside it can do it.
    """

    def __init__(
        self,
        database: Failover,
        limits: "StoreSettings | None" = None,
        *,
        lock: FileIO | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        self.history_limits: HistoryLimits = {}
        self.replicas = replicas
        self.outbox = Outbox(database)
        self.runs = Runs(database)
        self.checks = Checks(database)
        self.states = States(database)
        self._database = database
        self._limits = limits
        self._lock = lock
        self._refusal: str | None = None  # what was told last of a server that answered late, and with no

    @classmethod
    def empty(cls) -> "Store":
        """One in memory, for who keeps nothing."""
        return cls(Failover(engine.open_memory(), _now))

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        limits: "StoreSettings",
        clock: Callable[[], datetime] = _now,
        *,
        replica: tuple[str, str] | None = None,
    ) -> "Store":
        """The store of ``state_dir``, taken from its last holder as it was left, or the PostgreSQL of ``limits.url``.

        A server that is away is asked again by ``recover``; until then all methods raise Unavailable. ``replica``: the
        name and the version of this process among those that share the server.

        Runs that were active end as Interrupted, distributions that were being sent become unknown. A damaged file, or
        one of an unknown layout, is set aside and a new one starts.
        Raises ConfigError (in use by another process, not usable, of a newer version) or Unavailable.
        """
        if server := _open_server(limits):
            database = Failover(server, clock)
            replicas = Replicas(database, *replica, dead_after=limits.dead_after) if replica else None
            shared = cls(database, limits, replicas=replicas)
            try:
                await shared._join()
            except engine.LoginRefused as error:
                raise ConfigError(str(error)) from error
            except Unavailable as error:
                log.error("the store is away, asked again every few seconds", reason=str(error))  # noqa: TRY400
            return shared

        def work() -> Store:
            reopen = partial(state_directory.open_database, state_dir / state_directory.DATABASE, clock)
            lock = state_directory.lock_directory(state_dir)
            try:
                disk = reopen()
                disk.write(partial(state_directory.take_over, clock()))
            except BaseException:
                lock.close()
                raise
            return cls(Failover(disk, clock, reopen), limits, lock=lock)

        return await anyio.to_thread.run_sync(work)

    @classmethod
    async def open_reading(cls, state_dir: Path, limits: "StoreSettings | None" = None) -> "Store":
        """The same to read from, beside a daemon or without one; a missing store is an empty one.

        Raises ConfigError (the directory can't be read) or Unavailable (so is the file, or it is of another version).
        """

        def work() -> Store:
            if disk := _open_server(limits):
                disk = engine.require_served(disk) if disk.read(engine.read_revision) else engine.open_memory()
            else:
                disk = state_directory.open_reading(state_dir / state_directory.DATABASE)
            database = Failover(disk, _now)
            database.is_prepared = True
            return cls(database)

        return await anyio.to_thread.run_sync(work)

    @property
    def is_prepared(self) -> bool:
        """Whether it was open once: a shared one may be away when the daemon starts."""
        return self._database.is_prepared and bool(self.owner or not self.replicas)

    @property
    def where(self) -> str:
        """The file, or host and database of the server."""
        return self._database.where

    @property
    def owner(self) -> str:
        """The replica that this process is, empty with a store of its own."""
        return self._database.owner

    @property
    def trouble(self) -> str | None:
        """Why runs go on in memory, None while the disk takes everything."""
        return self._database.trouble

    async def check(self) -> None:
        """Returns when the store can be read and, as far as is known, written. Raises Unavailable."""
        if self.trouble:
            raise Unavailable(self.trouble)
        await self._database.fetch(sa.select(sa.func.count()).select_from(tables.pauses))

    async def is_unused(self) -> bool:
        """Whether nothing was ever run with it."""
        is_used = sa.exists(sa.select(tables.slots)) | sa.exists(sa.select(tables.runs))
        return not (await self._database.fetch(sa.select(is_used)))[0][0]

    async def recover(self) -> bool:
        """Where runs go on in memory, takes them to the disk if that works again; a damaged file is set aside.

        Whether it did: there may be more to deliver then. To be called every few seconds; it raises nothing.
        """
        if self.is_prepared:
            return await self._database.recover()
        try:
            await self._join()
        except HealthError as error:
            is_mended_by_time = not isinstance(error, (ConfigError, engine.LoginRefused))
            tell = log.debug if is_mended_by_time or str(error) == self._refusal else log.error
            tell("the store is still away", reason=str(error))
            self._refusal = None if is_mended_by_time else str(error)
            return False
        log.info("the store answers")
        return True

    async def prune(self, now: datetime) -> int:
        """Removes what has had its time and keeps within ``limits``; how many pending samples had to go for it."""
        limits, own, write = self._limits, self.history_limits, self._database.write
        if limits is None:
            return 0
        before = now - limits.retention
        while await write(lambda tx: delete_runs(tx, limits.keep_failed, limits.keep_ended, own)):
            pass
        while await write(lambda tx: empty_chunks(tx, before)):
            pass
        await write(lambda tx: _delete_old_rows(tx, now, before))
        size = sa.func.length(tables.outbox.c.body)
        if expired := await write(lambda tx: shrink_outbox(tx, size, limits.max_bytes, now)):
            log.warning("the store was full: the oldest samples that waited had to go", samples=expired)
        return expired

    async def _join(self) -> None:
        await self._database.prepare()
        if self.replicas:
            await self.replicas.join()

    async def close(self) -> None:
        """Lets the next process open it; what waits in a shared one is the other replicas'."""
        if self.replicas and self.owner:
            with suppress(Unavailable):
                await self.replicas.leave()
        await self._database.close()
        if self._lock:
            self._lock.close()


def _open_server(limits: "StoreSettings | None") -> engine.Database | None:
    if limits is None or limits.url is None:
        return None
    return engine.open_server(limits.url.get_secret_value(), is_pooled=limits.pooled)


def _delete_old_rows(connection: sa.Connection, now: datetime, before: datetime) -> None:
    """Of the audit log, the history of checks, and the seconds of counts."""
    kept = sa.select(sa.func.max(tables.audit.c.id) - _MAX_AUDIT).scalar_subquery()
    for is_old in (
        tables.audit.c.id <= kept,
        tables.hours.c.hour < int(before.timestamp()) // 3600,
        tables.cycles.c.number < tables.to_micros(before),  # its number is the instant of its end
        tables.count_seconds.c.second < int((now - _COUNTS_KEPT).timestamp()),
    ):
        connection.execute(is_old.left.table.delete().where(is_old))
