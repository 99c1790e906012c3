"""The store as its users see it: one object, whatever becomes of the disk below it."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import sqlalchemy as sa
import structlog

from service.domain.errors import ConfigError, HealthError, Unavailable
from service.domain.runs import Mode
from service.store import engine, tables
from service.store.chunks import recover_sending, shrink_outbox
from service.store.fallback import Failover
from service.store.history import History
from service.store.outbox import Outbox, empty_chunks
from service.store.replicas import Replicas
from service.store.runs import HistoryLimits, Runs, delete_runs, interrupt_active
from service.store.states import States

if TYPE_CHECKING:
    from service.config.settings import StoreSettings

log = structlog.get_logger(__name__)

_MAX_AUDIT = 10_000
_COUNTS_KEPT = timedelta(hours=2)


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """Open one with ``open`` (one process a directory) or ``open_reading``; ``close`` it.

    ``mode``: the mode of heartbeat samples; a run has its own. ``history_limits``: of collectors with limits of their
    own, (failed, successful) runs that are kept, None where the general one holds. ``is_empty``: nothing was ever run
    with it before it was opened.
    Every method raises Unavailable when neither the disk nor the memory beside it can do it.
    """

    def __init__(
        self,
        database: Failover,
        clock: Callable[[], datetime] = _now,
        limits: "StoreSettings | None" = None,
        *,
        path: Path | None = None,
        lock: int | None = None,
        is_empty: bool = True,
        replica: tuple[str, str] = ("", ""),
    ) -> None:
        self.mode = Mode.LIVE
        self.history_limits: HistoryLimits = {}
        self.is_empty = is_empty
        self._refusal: str | None = None  # what was told last of a server that answered late, and with no
        self.replicas: Replicas | None = None
        if limits and database.is_shared:
            self.replicas = Replicas(database, clock, *replica, dead_after=limits.dead_after)
        self.outbox = Outbox(database, clock, lambda: self.mode, lambda: self.owner)
        self.runs = Runs(database)
        self.history = History(database)
        self.states = States(database, lambda: self.owner)
        self._database = database
        self._limits = limits
        self._path = path
        self._lock = lock

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
        replica: tuple[str, str] = ("", ""),
    ) -> "Store":
        """The store of ``state_dir``, taken from its last holder as it was left, or the PostgreSQL of ``limits.url``.

        A server that is away is asked again by ``recover``; until then all methods raise Unavailable. ``replica``: the
        name and the version of this process among those that share the server.

        Runs that were active end as Interrupted, distributions that were being sent become unknown. A damaged file, or
        one of an unknown layout, is set aside and a new one starts.
        Raises ConfigError (in use by another process, not usable, of a newer version) or Unavailable.
        """
        if server := _open_server(limits):
            shared = cls(Failover(server, clock), clock, limits, replica=replica)
            try:
                await shared._join()
            except engine.Refused as error:
                raise ConfigError(str(error)) from error
            except Unavailable as error:
                log.error("the store is away, asked again every few seconds", reason=str(error))  # noqa: TRY400
            return shared

        def work() -> Store:
            path = state_dir / engine.DATABASE
            lock = engine.lock_directory(state_dir)
            try:
                database = engine.open_database(path, clock())
                is_empty = database.read(is_unused)
                database.write(partial(take_over, clock()))
            except BaseException:
                os.close(lock)
                raise
            failover = Failover(database, clock, lambda damage: engine.open_database(path, clock(), damage))
            return cls(failover, clock, limits, path=path, lock=lock, is_empty=is_empty)

        return await anyio.to_thread.run_sync(work)

    @classmethod
    async def open_reading(cls, state_dir: Path, limits: "StoreSettings | None" = None) -> "Store":
        """The same to read from, beside a daemon or without one; a missing store is an empty one.

        Raises ConfigError (the directory can't be read) or Unavailable (so is the file, or it is of another version).
        """

        def work() -> Store:
            path = None if limits and limits.url else state_dir / engine.DATABASE
            database = _open_reading(path, limits)
            if not engine.is_served(database, revision := database.read(engine.read_revision)):
                raise Unavailable(
                    f"{database.where} is of another version ({revision or 'unknown'}, not {tables.REVISION})"
                )
            failover = Failover(database, _now, is_prepared=True)
            return cls(failover, path=path, is_empty=database.read(is_unused))

        return await anyio.to_thread.run_sync(work)

    @property
    def is_prepared(self) -> bool:
        """Whether it was open once: a shared one may be away when the daemon starts."""
        return self._database.is_prepared and bool(self.replicas is None or self.owner or not self.replicas.name)

    @property
    def where(self) -> str:
        """The file, or host and database of the server."""
        return self._database.where

    @property
    def owner(self) -> str:
        """The replica that this process is, empty with a store of its own."""
        return self.replicas.id if self.replicas else ""

    @property
    def trouble(self) -> str | None:
        """Why runs go on in memory, None while the disk takes everything."""
        return self._database.trouble

    async def check(self) -> None:
        """Returns when the store can be read and, as far as is known, written. Raises Unavailable."""
        if self.trouble:
            raise Unavailable(self.trouble)
        await self._database.fetch(sa.select(sa.func.count()).select_from(tables.pauses))

    async def recover(self) -> bool:
        """Where runs go on in memory, takes them to the disk if that works again; a damaged file is set aside.

        Whether it did: there may be more to deliver then. To be called every few seconds; it raises nothing.
        """
        if self.is_prepared:
            return await self._database.recover()
        try:
            await self._join()
        except HealthError as error:
            is_mended_by_time = not isinstance(error, (ConfigError, engine.Refused))
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

    async def backup(self, target: Path) -> None:
        """Copies the store while it is in use; ``target`` is whole or untouched. Raises ConfigError or Unavailable."""
        if self._path is None:
            raise Unavailable("this store is no file")
        await anyio.to_thread.run_sync(_back_up, self._path, target)

    async def _join(self) -> None:
        await self._database.prepare()
        self.is_empty = await self._database.read(is_unused)
        if self.replicas and self.replicas.name:
            await self.replicas.join()

    async def close(self) -> None:
        """Lets the next process open it; what waits in a shared one is the other replicas'."""
        if self.replicas and self.owner:
            with suppress(Unavailable):
                await self.replicas.leave()
        await self._database.close()
        if self._lock:
            os.close(self._lock)
            self._lock = None


def _open_server(limits: "StoreSettings") -> engine.Database | None:
    return engine.open_server(limits.url.get_secret_value(), is_pooled=limits.pooled) if limits.url else None


def _open_reading(path: Path | None, limits: "StoreSettings | None") -> engine.Database:
    """The file at ``path``, else the server; an empty database where there is no store in it yet."""
    if path is None:
        server = limits and _open_server(limits)
        return server if server and server.read(engine.read_revision) else engine.open_memory()
    with engine.translate(path):
        exists = path.exists() and path.stat().st_size > 0
    return engine.open_file(path, read_only=True) if exists else engine.open_memory()


def take_over(now: datetime, connection: sa.Connection) -> None:
    runs = interrupt_active(connection, now, sa.true(), "the daemon ended before the run did")
    samples = recover_sending(connection, now, "the daemon ended before the intake answered")
    if runs or samples:
        log.warning("the daemon before ended without a drain", interrupted_runs=len(runs), unknown_samples=samples)


def is_unused(connection: sa.Connection) -> bool:
    return not connection.execute(
        sa.select(sa.exists(sa.select(tables.slots)) | sa.exists(sa.select(tables.runs)))
    ).scalar()


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


def _back_up(path: Path, target: Path) -> None:
    """A consistent copy (0600) of a database in use; ``target`` is whole or untouched. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"there is no store in {path.parent}: nothing to back up")
    if target.exists() and target.samefile(path):
        raise ConfigError(f"{target} is the store itself: name another file")
    part = target.with_name(f"{target.name}.part")
    try:
        with engine.translate(target, "name another file"):
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
                source.execute("VACUUM INTO ?", (str(part),))
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
