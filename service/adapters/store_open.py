"""How a store is opened, to write or to read beside its writer, and how it is copied."""

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import structlog

from service.adapters import store_file as files
from service.adapters import store_writes as writes
from service.adapters.store_file import DATABASE, Lock
from service.adapters.store_salvage import renew
from service.adapters.store_schema import STEPS, migrate, refuse_newer, version_of
from service.domain.errors import ConfigError

log = structlog.get_logger(__name__)


def to_write(directory: Path, now: datetime) -> tuple[Lock, sqlite3.Connection, sqlite3.Connection, int]:
    """The lock, a connection that writes and one that reads, and how many points were being sent by the one before."""
    path = directory / DATABASE
    lock = Lock(directory)
    try:
        writing, reading = mended(path, now)
        try:
            with files.transaction(writing, "IMMEDIATE"):
                runs, points = writes.recover(writing, now)
        except BaseException:
            reading.close()
            writing.close()
            raise
    except sqlite3.Error as error:
        lock.release()
        raise files.translated(error, path, opening=True) from error
    except BaseException:
        lock.release()
        raise
    if runs or points:
        log.warning("the daemon before ended without a drain", interrupted_runs=runs, uncertain_points=points)
    return lock, writing, reading, points


def mended(path: Path, now: datetime) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection that writes and one that reads, to a database that is whole: a damaged one is replaced.

    Nobody may have it open. Raises sqlite3.Error, ConfigError or Unavailable.
    """
    files.create(path)
    if reason := files.damage(path):
        renew(path, reason, now)
    writing = files.connect(path)
    try:
        migrate(writing, path)
        writes.prepare(writing)
        return writing, files.connect(path, read_only=True)
    except BaseException:
        writing.close()
        raise


def to_read(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The connection, and whether it reads the file itself: of an older version it reads a copy, migrated in memory."""
    with files.usable(path):
        exists = path.exists()
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        if exists:
            connection = files.connect_beside(path)
            version = version_of(connection)
            if version == len(STEPS):
                memory.close()
                return connection, True
            with closing(connection):
                refuse_newer(version, path)
                connection.backup(memory)
        migrate(memory, path, backup=False)
    except BaseException as error:
        memory.close()
        if isinstance(error, sqlite3.Error):
            raise files.translated(error, path, opening=True) from error
        raise
    return memory, False


def backup(path: Path, target: Path) -> None:
    """Copies the database at ``path``; ``target`` is whole or untouched."""
    if not path.exists():
        raise ConfigError(f"there is no store in {path.parent}: nothing to back up")
    if target.exists() and target.samefile(path):
        raise ConfigError(f"{target} is the store itself: name another file")
    try:
        with closing(files.connect_beside(path)) as source:
            files.copy(source, target)
    except sqlite3.Error as error:
        raise files.translated(error, target) from error
