"""The store's files: the directory and its lock, connections and transactions, and what SQLite's errors mean."""

import errno
import fcntl
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from service.domain.errors import ConfigError, Unavailable

log = structlog.get_logger(__name__)

DATABASE = "state.db"
LOCK = "lock"

_BUSY_SECONDS = 5.0
# After a burst the write-ahead log shrinks to this again.
_LOG_BYTES = 16 * 2**20

# https://sqlite.org/rescode.html, primary codes
_MEANINGS = {
    sqlite3.SQLITE_FULL: "the state directory's disk is full",
    sqlite3.SQLITE_IOERR: "the state directory's disk fails",
    sqlite3.SQLITE_BUSY: "the state database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the state database is locked",
    sqlite3.SQLITE_CORRUPT: "the state database is damaged",
    sqlite3.SQLITE_NOTADB: "the state database is damaged",
    sqlite3.SQLITE_CANTOPEN: "the state database can't be opened",
    sqlite3.SQLITE_READONLY: "the state database can't be written",
    sqlite3.SQLITE_PERM: "the state database can't be written",
}
_REMEDY = "make it writable for this user, or set state_dir to another directory"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FORBIDDEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


class StoreLocked(ConfigError):
    """Another process writes to this state directory."""


class Lock:
    """The right to write to a state directory: one process at a time, given up by its death at the latest."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory (0700) where it is missing.

        Raises StoreLocked, which names the holder, or ConfigError when the directory can't be used.
        """
        with usable(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / LOCK
        with usable(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with usable(path):
                _take(self._file, directory)
                os.ftruncate(self._file, 0)
                command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
                os.pwrite(self._file, f"{os.getpid()} {command[:200]}\n".encode(errors="replace"), 0)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        # The file stays: to remove it would race with a process that has just opened it.
        os.close(self._file)


def _take(file: int, directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise StoreLocked(
            f"the state directory {directory} is in use by {_holder(file)}: stop it, "
            "or set state_dir to another directory"
        ) from error


def holder(directory: Path) -> str | None:
    """Who writes to the state directory now, None where nobody does. Changes nothing. Raises ConfigError."""
    path = directory / LOCK
    if not path.exists():
        return None
    with usable(path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with usable(path):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ConfigError:
        return _holder(file)
    finally:
        os.close(file)
    return None


def _holder(file: int) -> str:
    pid, _, command = os.pread(file, 1000, 0).decode(errors="replace").strip().partition(" ")
    return f"process {pid} ({command})" if pid else "another process"


def create(path: Path) -> None:
    """An empty database (0600) where there is none. Raises ConfigError.

    Only for the holder of the lock: to close a file drops all locks that this process has on it, SQLite's included.
    """
    with usable(path):
        # SQLite gives its -wal and -shm the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Translates what the operating system says."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"{_MEANINGS[sqlite3.SQLITE_FULL]}: {path.parent}") from error
        raise ConfigError(f"{path} can't be used ({error.strerror}): {_REMEDY}") from error


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode that any thread may use, one at a time."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            return connection
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # works on a file without tables only
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL would survive kill -9, but a power cut could undo a claimed slot or a point that its run reported.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_beside(path: Path) -> sqlite3.Connection:
    """A connection that only reads and needs no right to write, beside a running daemon or without one."""
    connection = _connect_by_uri(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException as error:
        connection.close()
        forbidden = isinstance(error, sqlite3.Error) and _is(error, _FORBIDDEN)
        if not forbidden or path.with_name(f"{path.name}-wal").exists():
            raise
        # Without a log, and without the right to start one: nobody writes, so the file stands still.
        return _connect_by_uri(path, "immutable=1")
    return connection


def _connect_by_uri(path: Path, option: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{option}"
    return sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(connection: sqlite3.Connection, mode: str) -> Iterator[None]:
    """``mode``: IMMEDIATE to write, DEFERRED for reads that must agree with each other."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk) SQLite has rolled back by itself.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def damage(path: Path) -> str | None:
    """What is wrong with the database's structure, None when all is well. Leaves a damaged file as it is."""
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if not _is(error, _DAMAGED):
            raise
        return str(error)
    return None if verdict == "ok" else verdict


def set_aside(path: Path, fresh: Path, reason: str, now: datetime, kept_rows: Mapping[str, int]) -> None:
    """Keeps a damaged database under another name, its write-ahead log with it, and puts ``fresh`` in its place.

    Where the file system has links, there is a database at ``path`` at any instant.
    ``kept_rows``: how many rows of it go on in the new one, by table, for the log.
    Raises ConfigError or Unavailable.
    """
    kept = path.with_name(f"{path.name}.corrupt-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    with usable(path):
        if kept.exists():
            kept.unlink()  # of an attempt in the same second
        try:
            os.link(path, kept)
        except OSError:
            path.replace(kept)  # a file system without links
        # A log left behind would be taken for the new file's.
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}-wal").replace(kept.with_name(f"{kept.name}-wal"))
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    log.warning(
        "state database is damaged: set aside, a new one starts with what could be read",
        file=str(kept),
        reason=reason,
        rows=dict(kept_rows),
    )


def copy(source: sqlite3.Connection, target: Path) -> None:
    """A consistent copy (0600) of a database in use, whole or not at all. Raises ConfigError or sqlite3.Error."""
    part = target.with_name(f"{target.name}.part")
    try:
        with _writable(target):
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        destination = sqlite3.connect(part, isolation_level=None)
        try:
            source.backup(destination)
            destination.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        finally:
            destination.close()
        with _writable(target):
            part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def _writable(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{target} can't be written: {error.strerror}") from error


def translated(error: sqlite3.Error, path: Path, *, opening: bool = False) -> Exception:
    """``error`` as one of ours, or itself where it says that our own code is wrong."""
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError)):
        return error
    if opening and _is(error, _FORBIDDEN):
        return ConfigError(f"{path} can't be used ({error}): {_REMEDY}")
    meaning = _MEANINGS.get(_code(error), "the state database fails")
    return Unavailable(f"{meaning}: {path} ({error})")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it says that the file itself is damaged; one that was emptied has no tables."""
    return _is(error, _DAMAGED) or "no such table" in str(error)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is(error: sqlite3.Error, codes: tuple[int, ...]) -> bool:
    return _code(error) in codes
