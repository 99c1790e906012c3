"""The state directory: its lock, its database file, damaged files set aside, and copies."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
import structlog

from service.domain.errors import ConfigError, Unavailable
from service.store.engine import GONE, Database, open_file, prepare
from service.store.tables import VERSION_TABLE

log = structlog.get_logger(__name__)

DATABASE, LOCK = "state.db", "lock"
_REMEDY = "make it writable for this user, or set state_dir (INFRA_HEALTH_STATE_DIR) to another directory"


class Lock:
    """The right to write to a state directory: one process at a time, given up by its death at the latest."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory (0700) where it is missing.

        Raises ConfigError: another process has it (which is named), or it can't be used.
        """
        with translate(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _try_lock(self._file, fcntl.LOCK_EX):
            holder = _read_holder(self._file)
            os.close(self._file)
            raise ConfigError(
                f"the state directory {directory} is in use by {holder}: stop it, or set state_dir to another directory"
            )
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        # The file stays: to remove it would race with a process that has just opened it.
        os.close(self._file)


def find_lock_holder(directory: Path) -> str | None:
    """Who writes to the state directory now, None where nobody does. Changes nothing. Raises ConfigError."""
    path = directory / LOCK
    if not path.exists():
        return None
    with translate(path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return None if _try_lock(file, fcntl.LOCK_SH) else _read_holder(file)
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(file: int) -> str:
    return f"process {os.pread(file, 100, 0).decode().strip() or 'unknown'}"


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
    if reason := find_damage(path) if damage in (None, GONE) else damage:
        _set_aside(path, reason, now)
        _create_file(path)
    return prepare(open_file(path))


def _create_file(path: Path) -> None:
    """An empty database (0600) where there is none; SQLite gives its -wal and -shm the same mode.

    Only for the holder of the lock: to close a file drops all locks that this process has on it, SQLite's included.
    """
    with translate(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def find_damage(path: Path) -> str | None:
    """Why the file can't be a store of any version, None when all is well. Raises Unavailable."""

    def check(connection: sa.Connection) -> str | None:
        verdict: str = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        names = sa.inspect(connection).get_table_names()
        if verdict == "ok" and names and VERSION_TABLE not in names:
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


def _set_aside(path: Path, reason: str, now: datetime) -> None:
    """Keeps a database that can't be used under another name, its write-ahead log with it."""
    kept = path.with_name(f"{path.name}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    # The log first: one left behind would be taken for the new file's.
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
    log.warning("the state database can't be used: set aside, a new one starts", file=str(kept), reason=reason)


def copy(path: Path, target: Path) -> None:
    """A consistent copy (0600) of a database in use; ``target`` is whole or untouched. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"there is no store in {path.parent}: nothing to back up")
    if target.exists() and target.samefile(path):
        raise ConfigError(f"{target} is the store itself: name another file")
    part = target.with_name(f"{target.name}.part")
    try:
        with translate(target, "name another file"):
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
                source.execute("VACUUM INTO ?", (str(part),))
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
