"""The database below the store: its file or server, its transactions, and what its errors mean for us."""

import fcntl
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from service.domain.errors import ConfigError, Unavailable
from service.store import tables

log = structlog.get_logger(__name__)

T = TypeVar("T")

DATABASE, LOCK = "state.db", "lock"  # the files of a state directory
GONE = "it was removed or replaced"
READERS = 3  # connections beside the one that writes
_BUSY_SECONDS = 5.0
_LOG_BYTES = 16 * 2**20  # after a burst the write-ahead log shrinks to this again
_CREATE_LOCK = 0x1F4EA17  # several replicas may start on an empty database at once
_PATIENCE = 10.0  # seconds of one transaction on a server: one that is frozen would hold its thread for ever
# Of a PostgreSQL that refuses who asks (a login, a database that is not there), whatever one waits for.
_REFUSED = re.compile(
    "authentication failed|no password supplied|no pg_hba.conf entry|server does not support SSL|not permitted"
    '|(database|role) ".*" does not exist|permission denied|no schema has been selected'
    r"|invalid connection option|invalid \w+ value: "
)
_READ_ONLY = "25006"  # what was the primary is a standby now
_REMEDY = "make it writable for this user, or set state_dir (INFRA_HEALTH_STATE_DIR) to another directory"


class Database:
    """``where``: for messages, without a password. ``damage``: what is wrong with the file, once that was met.

    ``writers``: how many transactions may write at a time. ``is_shared``: other processes write to it, too.
    """

    def __init__(self, engine: sa.Engine, where: str, file: Path | None = None) -> None:
        is_sqlite = engine.dialect.name == "sqlite"
        self.where = where
        self.damage: str | None = None
        self.is_shared = not is_sqlite
        self.writers = 1 if is_sqlite else READERS
        self._engine = engine
        self._writer: sa.Engine = engine.execution_options(is_writer=True)
        self._reader: sa.Engine = engine.execution_options(postgresql_readonly=True)
        if is_sqlite:
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
        else:
            event.listen(engine, "handle_error", _leave_read_only)
        # The one connection of a database in memory serves one transaction at a time.
        self._turn = threading.Lock() if isinstance(engine.pool, StaticPool) else nullcontext()
        self._file, self._identity = file, _identify(file)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction that is durable then. Raises Unavailable."""
        # SQLite would go on writing to a file that was deleted or replaced, and everything would be lost with it.
        if _identify(self._file) != self._identity:
            self.damage = GONE
            raise Unavailable(f"the state database is gone: {self.where} was removed or replaced")
        return self._run(self._writer, work)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """The result of ``work`` in a transaction that only reads. Raises Unavailable."""
        return self._run(self._reader, work)

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._turn, engine.connect() as connection, self._watch(connection), connection.begin():
                return work(connection)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            origin = getattr(error, "orig", None)
            cause = str(origin or error).strip()  # str(error) of the former has the statement and its values
            # https://sqlite.org/rescode.html, primary codes. A file that was emptied has no tables.
            code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
            if self.is_shared and _REFUSED.search(cause):
                told = getattr(getattr(origin, "diag", None), "message_primary", None) or cause  # without the statement
                raise Refused(f"store.url: the server refuses: {' '.join(told.split())}") from error
            if isinstance(error, (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError)):
                raise  # our own code is wrong, or counts on it
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such table" in cause:
                self.damage = cause
            cause = " ".join(cause.split())
            raise Unavailable(f"the state database is unavailable: {self.where} ({cause})") from error

    def _watch(self, connection: sa.Connection) -> AbstractContextManager[None]:
        return _cut_when_late(connection) if self.is_shared else nullcontext()


class Refused(Unavailable):
    """The server answers but lets this user or this database not in: at the start a wrong configuration."""


def open_file(path: Path, *, read_only: bool = False) -> Database:
    """A database in a file, to write and to read or, beside the process that writes it, only to read."""
    file = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=file, query={"uri": "true"}),
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=1 + READERS,
        max_overflow=0,
    )
    if not read_only:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode = WAL"))
    return Database(engine, str(path), None if read_only else path)


def open_memory() -> Database:
    """A new store of this process."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    database = Database(engine, "memory")
    database.write(create)
    return database


def open_server(url: str, *, is_pooled: bool = False) -> Database:
    """A PostgreSQL; nothing is asked of it yet. ``is_pooled``: by pgbouncer, a transaction at a time.

    Raises ConfigError where the address can't be one or the driver is missing.
    """
    try:
        address = sa.make_url(url)
        if address.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ConfigError(f"store.url: {address.drivername} is no PostgreSQL: postgresql://USER@HOST/DATABASE")
        address = address.set(drivername="postgresql+psycopg")
        connect: dict[str, Any] = {"connect_timeout": 3, "target_session_attrs": "read-write"}
        if is_pooled:
            connect["prepare_threshold"] = None  # what one connection prepared the next one does not know
        engine = sa.create_engine(address, connect_args=connect, pool_size=2 * READERS, max_overflow=0)
    except ModuleNotFoundError as error:
        raise ConfigError("store.url: PostgreSQL needs a driver: pip install 'infra-health[postgres]'") from error
    except (sa.exc.ArgumentError, ValueError) as error:  # the latter: of a port that is no number
        raise ConfigError("store.url is no address of a PostgreSQL: postgresql://USER@HOST/DATABASE") from error
    return Database(engine, f"{address.host or 'localhost'}/{address.database or ''}")


def prepare(database: Database) -> Database:
    """Makes the tables where there are none, or brings them to this version. Raises ConfigError or Unavailable."""
    revision = database.read(read_revision)
    if revision is None:
        database.write(create)
    elif not is_served(database, revision):
        from service.store import migrations

        database.write(lambda connection: migrations.upgrade(connection, revision, database.where))
    return database


def is_served(database: Database, revision: str | None) -> bool:
    """Whether this version works with the tables as they are.

    What replicas share may be a version ahead, while they are renewed one after the other: migrations only add, and a
    version later they take away.
    """
    return revision == tables.REVISION or (
        database.is_shared and revision is not None and int(revision) == int(tables.REVISION) + 1
    )


def create(connection: sa.Connection) -> None:
    """The tables of this version, where there are none."""
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATE_LOCK)))
        if sa.inspect(connection).has_table(tables.VERSION_TABLE):
            return
    tables.meta.create_all(connection, checkfirst=False)
    if not is_sqlite:
        for table in ("outbox", "replicas"):  # small, and each row changes several times
            connection.execute(sa.text(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)"))
    tables.version.create(connection)
    connection.execute(tables.version.insert().values(version_num=tables.REVISION))
    if is_sqlite:
        # No two databases of a directory use the same ids: not the new file after a damaged one, of which a chunk may
        # be under way, nor the memory beside a full disk, to which its rows come back.
        first = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :id)")
        rising = [table.name for table in tables.meta.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]]
        connection.execute(first, [{"name": name, "id": time.time_ns() // 1_000_000} for name in rising])


def read_revision(connection: sa.Connection) -> str | None:
    """None: there are no tables yet."""
    if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
        return None
    return connection.execute(sa.select(tables.version.c.version_num)).scalar()


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # SQLAlchemy says BEGIN, not the driver
    # NORMAL would survive kill -9, but a power cut could undo a claimed slot or a point that its run reported.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    connection.execute("PRAGMA temp_store = MEMORY")


def _begin(connection: sa.Connection) -> None:
    is_writer = connection.get_execution_options().get("is_writer", False)
    connection.exec_driver_sql(f"PRAGMA query_only = {not is_writer}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


@contextmanager
def _cut_when_late(connection: sa.Connection) -> Iterator[None]:
    """Cuts the connection of a transaction that takes too long: its kernel goes on to answer for a frozen server."""
    wire = socket.socket(fileno=os.dup(connection.connection.dbapi_connection.fileno()))  # type: ignore[union-attr]

    def cut() -> None:
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_PATIENCE, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        wire.close()


def _leave_read_only(context: sa.engine.ExceptionContext) -> None:
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


# The state directory


def lock_directory(directory: Path) -> int:
    """The right to write to a state directory until the returned file is closed, by death at the latest.

    Makes the directory (0700) where it is missing. Raises ConfigError: another process has it, or it can't be used.
    """
    with translate(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if holder := _try_lock(file, fcntl.LOCK_EX):
        os.close(file)
        raise ConfigError(
            f"the state directory {directory} is in use by {holder}: stop it, or set state_dir to another directory"
        )
    os.ftruncate(file, 0)
    os.pwrite(file, b"%d\n" % os.getpid(), 0)
    return file


def find_lock_holder(directory: Path) -> str | None:
    """Who writes to the state directory now, None where nobody does. Changes nothing. Raises ConfigError."""
    path = directory / LOCK
    if not path.exists():
        return None
    with translate(path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _try_lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> str | None:
    """Who has the lock, None where it is taken now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"process {os.pread(file, 100, 0).decode().strip() or 'unknown'}"
    return None


@contextmanager
def translate(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raises what the operating system and SQLite say of ``path`` as ConfigError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path} can't be used ({getattr(error, 'strerror', None) or error}): {remedy}") from error


def open_database(path: Path, now: datetime, damage: str | None = None) -> Database:
    """The database of ``path``, to write; one that can't be used is set aside. For the holder of the lock.

    ``damage``: what is wrong with it, as far as that is known. Raises ConfigError or Unavailable.
    """
    _create_file(path)
    if reason := _find_damage(path) if damage in (None, GONE) else damage:
        kept = path.with_name(f"{path.name}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
        for suffix in ("-wal", "-shm", ""):  # the log first: one left behind would be taken for the new file's
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
        log.warning("the state database can't be used: set aside, a new one starts", file=str(kept), reason=reason)
        _create_file(path)
    return prepare(open_file(path))


def _create_file(path: Path) -> None:
    """An empty database (0600) where there is none; SQLite gives its -wal and -shm the same mode.

    Only for the holder of the lock: to close a file drops all locks that this process has on it, SQLite's included.
    """
    with translate(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _identify(path: Path | None) -> tuple[int, int] | None:
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino)


def _find_damage(path: Path) -> str | None:
    """Why the file can't be a store of any version, None when all is well. Raises Unavailable."""

    def check(connection: sa.Connection) -> str | None:
        verdict: str = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        names = sa.inspect(connection).get_table_names()
        if verdict == "ok" and names and (tables.VERSION_TABLE not in names or "cells" in names):
            return "it has the tables of another program or of an early version"
        return None if verdict == "ok" else verdict

    database = open_file(path)
    try:
        return database.read(check)
    except Unavailable:
        if not database.damage:
            raise
        return database.damage
    finally:
        database.close()
