"""One database: its connections, its transactions, and what its errors mean for us."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from service.domain.errors import ConfigError, Unavailable
from service.store import tables

T = TypeVar("T")

GONE = "it was removed or replaced"
READERS = 3  # connections beside the one that writes
_BUSY_SECONDS = 5.0
_LOG_BYTES = 16 * 2**20  # after a burst the write-ahead log shrinks to this again
_CREATE_LOCK = 0x1F4EA17  # several replicas may start on an empty database at once


class Database:
    """``where``: for messages, without a password. ``damage``: what is wrong with the file, once that was met."""

    def __init__(self, engine: sa.Engine, where: str, file: Path | None = None) -> None:
        self.where = where
        self.damage: str | None = None
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer: sa.Engine = engine.execution_options(is_writer=True)
        self._reader: sa.Engine = engine.execution_options(postgresql_readonly=True)
        if self._is_sqlite:
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
        # The one connection of a database in memory serves one transaction at a time.
        self._turn = threading.Lock() if isinstance(engine.pool, StaticPool) else nullcontext()
        self._file = file
        self._identity = _identify(file)

    @property
    def writers(self) -> int:
        """How many transactions may write at a time."""
        return 1 if self._is_sqlite else READERS

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
            with self._turn, engine.begin() as connection:
                return work(connection)
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError):
            raise  # our own code is wrong, or counts on it
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            # str(error) has the statement and its values.
            cause = str(getattr(error, "orig", None) or error).strip()
            # https://sqlite.org/rescode.html, primary codes. A file that was emptied has no tables.
            code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such table" in cause:
                self.damage = cause
            raise Unavailable(f"the state database is unavailable: {self.where} ({cause})") from error


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


def open_server(url: str) -> Database:
    """A PostgreSQL. Raises ConfigError where the address can't be one or the driver is missing."""
    try:
        address = sa.make_url(url)
        if address.drivername in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
        connect = {"connect_timeout": 3, "target_session_attrs": "read-write"}
        engine = sa.create_engine(address, connect_args=connect, pool_size=2 * READERS, max_overflow=0)
    except ModuleNotFoundError as error:
        raise ConfigError("store.url: PostgreSQL needs a driver: pip install 'infra-health[postgres]'") from error
    except sa.exc.ArgumentError as error:
        raise ConfigError("store.url is no address of a PostgreSQL: postgresql://USER@HOST/DATABASE") from error
    return Database(engine, f"{address.host}/{address.database}")


def prepare(database: Database) -> Database:
    """Makes the tables where there are none, or brings them to this version. Raises ConfigError or Unavailable."""
    revision = database.read(read_revision)
    if revision is None:
        database.write(create)
    elif revision != tables.REVISION:
        from service.store import migrations

        database.write(lambda connection: migrations.upgrade(connection, revision, database.where))
    return database


def create(connection: sa.Connection) -> None:
    """The tables of this version, where there are none."""
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATE_LOCK)))
        if sa.inspect(connection).has_table(tables.VERSION_TABLE):
            return
    tables.meta.create_all(connection, checkfirst=False)
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


def _identify(path: Path | None) -> tuple[int, int] | None:
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino)
