"""The store: outbox, runs, checks, memory and the record of actions, in one SQLite file.

A state directory holds ``state.db`` and the lock of the one process that writes. Every write is one durable
transaction in a worker thread; reads have a connection of their own, so they wait for no write and nothing waits on the
event loop. Every method raises Unavailable when the store is lost.
"""

import io
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Concatenate, ParamSpec, Self, TypeVar

import anyio
import structlog

from service.adapters import store_file as files
from service.adapters import store_logs as logs
from service.adapters import store_open as opening
from service.adapters import store_reads as reads
from service.adapters import store_writes as writes
from service.adapters.store_changes import StoredChanges
from service.adapters.store_file import DATABASE, LOCK, Lock, StoreLocked
from service.adapters.store_lane import Lane
from service.adapters.store_prune import Limits, Pruning
from service.adapters.store_reading import StoreReading
from service.adapters.store_series import RecentSeries
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.errors import ConfigError, Unavailable
from service.domain.logged import Logged
from service.domain.points import Fate
from service.domain.runs import Run
from service.domain.samples import Sample

__all__ = ["SqliteStore", "StoreLocked"]

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULTS = Limits()
_MOST_TOLD = 1_000  # causes in the log; a collector that makes up names must not flood it


class SqliteStore(StoreReading):
    """Open one with ``open`` (to write, one process a directory) or ``open_reading``; ``close`` it.

    ``observe`` is told of points that are lost in here: refused as they came, or discarded by a full store.
    ``uncertain``: points that the process before was sending when it died.
    ``is_shadow``: slots are claimed apart from those of live mode (domain.takeover).
    """

    def __init__(
        self,
        path: Path,
        reader: Lane,
        *,
        writer: Lane | None = None,
        lock: Lock | None = None,
        limits: Limits = _DEFAULTS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(reader, RecentSeries())
        self.is_shadow = False
        self._path = path
        self._writer = writer
        self._lock = lock
        self._limits = limits
        self._clock = clock
        self._told: set[str] = set()
        if writer:
            writer.undone = self._recent.forget
        self.uncertain = 0
        self.observe: Callable[[Fate, int], object] = lambda fate, points: None

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        now: datetime,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        retention: timedelta = _DEFAULTS.retention,
        keep_failed: int = _DEFAULTS.keep_failed,
        keep_ended: int = _DEFAULTS.keep_ended,
        max_bytes: int = _DEFAULTS.max_bytes,
    ) -> Self:
        """The store of ``directory``, made where it is missing, taken from its last holder as it was left.

        Runs that were active end as INTERRUPTED, points that were being sent become UNCERTAIN. A damaged file is set
        aside and a new one starts. ``clock`` gives the time at which points are lost.
        Raises StoreLocked, ConfigError (the directory can't be used, the file is of a newer version) or Unavailable.
        """
        limits = Limits(retention, keep_failed, keep_ended, max_bytes)
        lock, writing, reading, uncertain = await anyio.to_thread.run_sync(opening.to_write, directory, now)
        path = directory / DATABASE
        writer, reader = Lane(writing, path, "IMMEDIATE"), Lane(reading, path, "DEFERRED")
        store = cls(path, reader, writer=writer, lock=lock, limits=limits, clock=clock)
        store.uncertain = uncertain
        return store

    @classmethod
    async def open_reading(cls, directory: Path) -> Self:
        """The store of ``directory`` to read from, beside a daemon or without one; a missing store is an empty one.

        Raises ConfigError (the file is of a newer version) or Unavailable.
        """
        path = directory / DATABASE
        connection, on_disk = await anyio.to_thread.run_sync(opening.to_read, path)
        return cls(path, Lane(connection, path if on_disk else None, "DEFERRED"))

    async def close(self) -> None:
        """Moves the write-ahead log into the file and lets the next process write."""
        with anyio.CancelScope(shield=True):
            await self._reader.close()
            if self._writer:
                await self._writer.close(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
            if self._lock:
                self._lock.release()
                self._lock = None

    async def check(self) -> None:
        """Returns when the store can be read and, as far as is known, written. Raises Unavailable."""
        if self._writer and self._writer.trouble:
            await self._writer.run(writes.probe)
        await self._reader.run(reads.touch)

    async def mend(self, now: datetime) -> bool:
        """Where the file turned out to be damaged, removed or replaced, goes on with a whole one; whether it did.

        Where the new one can't be made yet (the disk is full) the store stays away.
        """
        if self._writer is None or not (self._writer.damage or self._reader.damage):
            return False
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._mend, self._writer, now)
        except (Unavailable, ConfigError) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                log.error("the damaged store can't be replaced yet", reason=str(error))  # noqa: TRY400 - it says all
            return False
        return True

    async def backup(self, target: Path) -> None:
        """Copies the store while it is in use; ``target`` is whole or untouched. Raises ConfigError or Unavailable."""
        await anyio.to_thread.run_sync(opening.backup, self._path, target)

    # The outbox

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        """Moves those of the points that are still due to ``fate``; what is lost is counted."""
        await self._write(writes.settle, list(ids), fate, reason, self._clock())

    async def expire(self, before: datetime, historical: Sequence[str] = ()) -> int:
        """Moves waiting points older than ``before`` to EXPIRED; how many.

        Gauges and counts whose name begins with one of ``historical`` wait on: the intake takes them at any age.
        """
        return await self._write(writes.expire, before, historical, self._clock())

    # Runs

    async def set_paused(self, job: str, paused: bool) -> None:
        await self._write(writes.set_paused, job, paused)

    async def begin(self, run: Run) -> None:
        """Keeps an active run and claims its slot; a job's last slot only rises."""
        await self._write(writes.begin, run, shadow=self.is_shadow)

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample],
        checks: Sequence[Check],
        remember: Mapping[str, bytes | None],
        fates: Mapping[int, Fate] = MappingProxyType({}),
    ) -> None:
        """Keeps an ended run with its samples, the job's checks and memory. To repeat it changes nothing.

        ``fates``: of samples that were settled before they could be kept, by their place among ``samples``.
        """
        end, shadow = writes.end, self.is_shadow
        remarks = await self._write(
            end, run, samples, checks, remember, self._clock(), fates, self._recent, shadow=shadow
        )
        self._tell(remarks, fates)

    async def keep_log(self, run_id: str, lines: Sequence[Logged]) -> None:
        """Keeps the log lines of a stored run, in place of those before; of more than 32 KB the middle is left out."""
        await self._write(logs.write, run_id, lines)

    async def put(self, job: str, samples: Sequence[Sample]) -> None:
        """Keeps samples of no run; they leave once they are settled."""
        self._tell(await self._write(writes.put, job, samples, self._clock(), self._recent), {})

    async def remember(self, job: str, remember: Mapping[str, bytes | None]) -> None:
        """Keeps what the job's collector is to recall; None forgets."""
        await self._write(writes.remember_for, job, remember)

    # The record

    @property
    def changes(self) -> StoredChanges:
        """The changes of check states that are told as events."""
        return StoredChanges(self._writing, self._reader)

    async def act(self, action: Action) -> None:
        await self._write(writes.act, action)

    def limit_history(self, own: Mapping[str, tuple[int | None, int | None]]) -> None:
        """Jobs that keep so many failed and so many successful runs, whatever the others keep."""
        self._limits = replace(self._limits, own=own)

    async def prune(self, now: datetime) -> None:
        """Removes what has had its time (see ``store_prune``), in small transactions between which others write."""
        discarded = await Pruning(self._writing, self._reader, self._limits, now, self._recent).run()
        if discarded:
            self.observe(Fate.DISCARDED, discarded)

    def _mend(self, writer: Lane, now: datetime) -> None:
        """In a thread. What runs meanwhile finds no store, as while the disk is full."""
        reason = f"the state database is damaged: {self._path} ({writer.damage or self._reader.damage})"
        with self._reader.held(), writer.held(), files.usable(self._path):
            if self._lock and not (self._path.parent / LOCK).exists():
                removed, self._lock = self._lock, Lock(self._path.parent)  # makes the directory as well
                removed.release()
            try:
                self._reader.let_go(reason)
                writer.let_go(reason, self._bring_back)
                self._recent.forget()
                writing, reading = opening.mended(self._path, now)
            except sqlite3.Error as error:
                raise files.translated(error, self._path) from error
            writer.take(writing)
            self._reader.take(reading)

    def _bring_back(self, connection: sqlite3.Connection) -> None:
        """A file that was removed is whole as long as it is open."""
        if not self._path.exists():
            with suppress(sqlite3.Error, Unavailable, ConfigError):
                files.copy(connection, self._path)
                log.warning("the state database was removed: it is back as it was", file=str(self._path))

    def _tell(self, remarks: writes.Remarks, known: Mapping[int, Fate]) -> None:
        """Says each cause once, and how many points were refused here (``known`` were counted elsewhere)."""
        for cause in sorted(remarks.causes - self._told):
            if len(self._told) < _MOST_TOLD:
                self._told.add(cause)
                log.warning("a sample is not as Datadog takes it", what=cause)
        if refused := remarks.fates[Fate.REJECTED] - sum(fate is Fate.REJECTED for fate in known.values()):
            self.observe(Fate.REJECTED, refused)

    async def _write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._writing.run(work, *args, **kwargs)

    @property
    def _writing(self) -> Lane:
        if self._writer is None:
            raise io.UnsupportedOperation("this store was opened to read")
        return self._writer
