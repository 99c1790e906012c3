"""The state directory: its lock, its database file, damaged files set aside, and copies."""

import errno
import fcntl
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from service.domain.errors import ConfigError, Unavailable
from service.store.engine import error_code, explain, is_damage
from service.store.tables import VERSION_TABLE

log = structlog.get_logger(__name__)

DATABASE, LOCK = "state.db", "lock"
_REMEDY = "make it writable for this user, or set state_dir (INFRA_HEALTH_STATE_DIR) to another directory"
_FORBIDDEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


class Lock:
    """The right to write to a state directory: one process at a time, given up by its death at the latest."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory (0700) where it is missing.

        Raises ConfigError: another process has it (which is named), or it can't be used.
        """
        path = directory / LOCK
        with translate(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with translate(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _read_holder(self._file)
                os.close(self._file)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                remedy = "stop it, or set state_dir to another directory"
                raise ConfigError(f"the state directory {directory} is in use by {holder}: {remedy}") from error
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()} {command[:200]}\n".encode(errors="replace"), 0)

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
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(file)
        finally:
            os.close(file)
    return None


def _read_holder(file: int) -> str:
    pid, _, command = os.pread(file, 1000, 0).decode(errors="replace").strip().partition(" ")
    return f"process {pid} ({command})" if pid else "another process"


@contextmanager
def translate(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raises what the operating system and SQLite say at the opening of ``path`` as ConfigError or Unavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"the disk of {path.parent} is full") from error
        raise ConfigError(f"{path} can't be used ({error.strerror}): {remedy}") from error
    except sqlite3.Error as error:
        if error_code(error) in _FORBIDDEN:
            raise ConfigError(f"{path} can't be used ({error}): {remedy}") from error
        raise Unavailable(f"{explain(error)}: {path} ({error})") from error


def create(path: Path) -> None:
    """An empty database (0600) where there is none; SQLite gives its -wal and -shm the same mode.

    Only for the holder of the lock: to close a file drops all locks that this process has on it, SQLite's included.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def find_damage(path: Path) -> str | None:
    """Why the file can't be a store of any version, None when all is well. Leaves it as it is."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return str(error)
    if verdict == "ok" and names and VERSION_TABLE not in names:
        return "it has the tables of another program or of an early version"
    return None if verdict == "ok" else str(verdict)


def set_aside(path: Path, reason: str, now: datetime) -> None:
    """Keeps a database that can't be used under another name, its write-ahead log with it."""
    kept = path.with_name(f"{path.name}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    # The log first: one left behind would be taken for the new file's.
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
    log.warning("the state database can't be used: set aside, a new one starts", file=str(kept), reason=reason)


def copy(path: Path, target: Path) -> None:
    """A consistent copy (0600) of a database in use; ``target`` is whole or untouched.

    Raises ConfigError or Unavailable.
    """
    if not path.exists():
        raise ConfigError(f"there is no store in {path.parent}: nothing to back up")
    if target.exists() and target.samefile(path):
        raise ConfigError(f"{target} is the store itself: name another file")
    part = target.with_name(f"{target.name}.part")
    try:
        with translate(target, "name another file"):
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with (
                closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(part, isolation_level=None)) as destination,
            ):
                source.backup(destination)
                destination.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
