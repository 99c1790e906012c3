"""The database below the store: in a file, in memory or on a server; its transactions, its tables, its errors."""

import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from service.domain.errors import ConfigError, Unavailable
from service.store import tables

log = structlog.get_logger(__name__)

T = TypeVar("T")

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
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """``where``: for messages, without a password. ``damage``: what is wrong with the file, once that was met.

    ``is_shared``: on a server; other processes write to it, too.
    """

    def __init__(self, engine: sa.Engine, where: str, file: Path | None = None) -> None:
        is_sqlite = engine.dialect.name == "sqlite"
        self.where = where
        self.damage: str | None = None
        self.is_shared = not is_sqlite
        self._engine = engine
        self._writer: sa.Engine = engine.execution_options(is_writer=True)
        self._reader: sa.Engine = engine.execution_options(postgresql_readonly=True)
        if is_sqlite:
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
        else:
            event.listen(engine, "handle_error", _leave_read_only)
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
            with engine.connect() as connection:
                watch = _cut_when_late(connection) if self.is_shared else nullcontext()
                with watch, connection.begin():
                    return work(connection)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            origin = getattr(error, "orig", None)
            cause = " ".join(str(origin or error).split())  # str(error) of the former has the statement and its values
            # https://sqlite.org/rescode.html, primary codes. A file that was emptied has no tables.
            code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
            if self.is_shared and _REFUSED.search(cause):
                # Without the statement.
                reason = getattr(getattr(origin, "diag", None), "message_primary", None) or cause
                raise LoginRefused(f"store.url: the server refuses: {reason}") from error
            if isinstance(error, (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError)):
                raise  # our own code is wrong, or counts on it
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such table" in cause:
                self.damage = cause
            raise Unavailable(f"the state database is unavailable: {self.where} ({cause})") from error


class OtherVersion(Unavailable):
    """The tables are of another version than this one works with."""


class LoginRefused(Unavailable):
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
    options: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}  # one transaction at a time
    database = Database(sa.create_engine("sqlite://", connect_args={"check_same_thread": False}, **options), "memory")
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
    if not is_served(database, database.read(read_revision)):
        database.write(lambda connection: upgrade(connection, database.where))
    return database


def is_served(database: Database, revision: str | None) -> bool:
    """Whether this version works with the tables as they are.

    What replicas share may be a version ahead, while they are renewed one after the other: migrations only add, and a
    version later they take away.
    """
    return revision == tables.REVISION or (
        database.is_shared and revision is not None and int(revision) == int(tables.REVISION) + 1
    )


def require_served(database: Database) -> Database:
    """Raises OtherVersion where this version does not work with the tables as they are."""
    if not is_served(database, revision := database.read(read_revision)):
        raise OtherVersion(
            f"{database.where} has tables of version {revision}, this infra-health those of {tables.REVISION}: "
            "its daemon upgrades older ones, newer ones need the version that wrote them"
        )
    return database


def create(connection: sa.Connection) -> None:
    """The tables of this version."""
    tables.meta.create_all(connection, checkfirst=False)
    tables.version.create(connection)
    connection.execute(tables.version.insert().values(version_num=tables.REVISION))
    if connection.dialect.name == "sqlite":
        # No two databases of a directory use the same ids: not the new file after a damaged one, of which a chunk may
        # be under way, nor the memory beside a full disk, to which its rows come back.
        first = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :id)")
        rising = [table.name for table in tables.meta.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]]
        connection.execute(first, [{"name": name, "id": time.time_ns() // 1_000_000} for name in rising])
    else:
        for table in ("outbox", "replicas"):  # small, and each row changes several times
            connection.execute(sa.text(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)"))


def upgrade(connection: sa.Connection, where: str) -> None:
    """Brings the tables to this version, or makes them. Raises ConfigError when they are of a newer one."""
    tables.lock(connection, _CREATE_LOCK)
    revision = read_revision(connection)
    if revision is None:
        create(connection)
    if revision in (None, tables.REVISION):  # the latter by another replica that starts at the same time
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if revision not in {version.revision for version in ScriptDirectory(MIGRATIONS).walk_revisions()}:
        raise ConfigError(
            f"{where} was written by a newer infra-health (schema {revision}, this one knows {tables.REVISION}): run "
            "that version again, or give this one a store of its own"
        )
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")


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


def _identify(path: Path | None) -> tuple[int, int] | None:
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino)
