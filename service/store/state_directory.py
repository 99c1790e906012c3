"""The state directory: who may write to it, its database file, a backup of it, and its way into a shared database."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import sqlalchemy as sa
import structlog

from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError, Unavailable
from service.store import engine, tables
from service.store.chunks import recover_sending
from service.store.engine import Database
from service.store.runs import interrupt_active

log = structlog.get_logger(__name__)

DATABASE, LOCK = "state.db", "lock"
_REMEDY = "make it writable for this user, or set state_dir (INFRA_HEALTH_STATE_DIR) to another directory"
# What the next process needs to go on where this one ended, and what boards draw: runs and their logs stay.
_COPIED = (
    tables.slots,
    tables.pauses,
    tables.state,
    tables.checks,
    tables.pushes,
    tables.count_seconds,
    tables.hours,
    tables.events,
    tables.outbox,
)


def lock_directory(directory: Path) -> FileIO:
    """The right to write to a state directory until the returned file is closed, by death at the latest.

    Makes the directory (0700) where it is missing. Raises ConfigError: another process has it, or it can't be used.
    """
    with translate(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = FileIO(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    if holder := _try_lock(file, fcntl.LOCK_EX):
        file.close()
        raise ConfigError(
            f"the state directory {directory} is in use by {holder}: stop it, or set state_dir to another directory"
        )
    file.truncate(0)
    file.write(b"%d\n" % os.getpid())
    return file


def find_lock_holder(directory: Path) -> str | None:
    """Who writes to the state directory now, None where nobody does. Changes nothing. Raises ConfigError."""
    path = directory / LOCK
    if not path.exists():
        return None
    with translate(path), FileIO(path) as file:
        return _try_lock(file, fcntl.LOCK_SH)


def _try_lock(file: FileIO, kind: int) -> str | None:
    """Who has the lock, None where it is taken now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"process {file.read(100).decode().strip() or 'unknown'}"
    return None


@contextmanager
def translate(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raises what the operating system and SQLite say of ``path`` as ConfigError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path} can't be used ({getattr(error, 'strerror', None) or error}): {remedy}") from error


def open_database(path: Path, clock: Callable[[], datetime], damage: str | None = None) -> Database:
    """The database of ``path``, to write; one that can't be used is set aside. For the holder of the lock.

    ``damage``: what is wrong with it, as far as that is known. Raises ConfigError or Unavailable.
    """
    _create_file(path)
    if reason := _find_damage(path) if damage in (None, engine.GONE) else damage:
        kept = path.with_name(f"{path.name}.damaged-{clock().astimezone(UTC):%Y%m%dT%H%M%SZ}")
        for suffix in ("-wal", "-shm", ""):  # the log first: one left behind would be taken for the new file's
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
        log.warning("the state database can't be used: set aside, a new one starts", file=str(kept), reason=reason)
        _create_file(path)
    return engine.prepare(engine.open_file(path))


def _create_file(path: Path) -> None:
    """An empty database (0600) where there is none; SQLite gives its -wal and -shm the same mode.

    Only for the holder of the lock: to close a file drops all locks that this process has on it, SQLite's included.
    """
    with translate(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _find_damage(path: Path) -> str | None:
    """Why the file can't be a store of any version, None when all is well. Raises Unavailable."""

    def check(connection: sa.Connection) -> str | None:
        verdict: str = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        names = sa.inspect(connection).get_table_names()
        if verdict == "ok" and names and tables.VERSION_TABLE not in names:
            return "it has the tables of another program"
        return None if verdict == "ok" else verdict

    with closing(engine.open_file(path)) as database:
        try:
            return database.read(check)
        except Unavailable:
            if not database.damage:
                raise
            return database.damage


def open_reading(path: Path) -> Database:
    """The database of ``path`` beside the process that writes it; an empty one where there is none.

    Raises ConfigError (the directory can't be read) or Unavailable (so is the file, or it is of another version).
    """
    with translate(path):
        exists = path.exists() and path.stat().st_size > 0
    return engine.require_served(engine.open_file(path, read_only=True)) if exists else engine.open_memory()


def take_over(now: datetime, connection: sa.Connection) -> None:
    """Ends what the process before left: its runs are interrupted, distributions that were being sent are unknown."""
    runs = interrupt_active(connection, now, sa.true(), "the daemon ended before the run did")
    samples = recover_sending(connection, now, "the daemon ended before the intake answered", sa.true())
    if runs or samples:
        log.warning("the daemon before ended without a drain", interrupted_runs=len(runs), unknown_samples=samples)


def back_up(directory: Path, target: Path) -> None:
    """Copies the database while it is in use (0600); ``target``, an earlier copy for instance, is whole or untouched.

    Raises ConfigError, or Unavailable where the database can't be read or is of another version.
    """
    path = directory / DATABASE
    if not path.exists():
        raise ConfigError(f"there is no store in {directory}: nothing to back up")
    if target.exists() and (target.samefile(path) or not target.is_file()):
        raise ConfigError(f"{target} is the store itself, or no file: name another one")
    open_reading(path).close()
    part = target.with_name(f"{target.name}.part")
    try:
        with translate(target, "name another file"):
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
                try:
                    source.execute("VACUUM INTO ?", (str(part),))
                except sqlite3.OperationalError:  # of the target, such as a full disk
                    raise
                except sqlite3.DatabaseError as error:
                    raise Unavailable(f"the state database is unavailable: {path} ({error})") from error
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def copy_store(directory: Path, url: str, *, is_pooled: bool = False) -> Mapping[str, int]:
    """Copies slots, pauses, state, checks and their hours, pushes and what waits to be sent into a PostgreSQL.

    All or nothing; rows by table. Raises ConfigError (a daemon uses the directory, there is no store, the target is not
    empty, it refuses) or Unavailable.
    """
    path = directory / DATABASE
    if not path.exists():
        raise ConfigError(f"there is no store in {directory}: nothing to copy")
    with (
        lock_directory(directory),
        closing(engine.open_file(path)) as source,
        closing(engine.open_server(url, is_pooled=is_pooled)) as target,
    ):
        if (revision := source.read(engine.read_revision)) != tables.REVISION:
            raise ConfigError(f"{path} is of another version ({revision}): let this one's daemon open it first")
        try:
            engine.prepare(target)
            source.write(lambda connection: take_over(datetime.now(UTC), connection))
            return target.write(lambda writing: source.read(lambda reading: _copy_rows(reading, writing, target.where)))
        except engine.LoginRefused as error:
            raise ConfigError(str(error)) from error


def _copy_rows(reading: sa.Connection, writing: sa.Connection, where: str) -> Mapping[str, int]:
    for table in (tables.runs, *_COPIED):  # a second copy would send what waits twice
        if writing.execute(sa.select(sa.exists(sa.select(table)))).scalar():
            raise ConfigError(f"store.url: {where} is in use already: only an empty store can be copied to")
    counts = {}
    for table in _COPIED:
        query = sa.select(*(column for column in table.c if column.name != "id")).order_by(*table.primary_key)
        if table is tables.outbox:
            query = query.where(table.c.status == DeliveryStatus.PENDING)
        counts[table.name] = tables.copy_rows(query, reading, table.insert(), writing)
    return counts
