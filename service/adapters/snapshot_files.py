"""Snapshots in files: read whole, written so that no reader ever sees half of one."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.adapters.snapshot_source import Content, nothing_there, too_large
from service.domain.errors import ConfigError, Unavailable, Unfinished

# What other programs call a file that they have not finished; hidden files are none of ours either.
_UNFINISHED = (".tmp", ".temp", ".part", ".partial", "~")
_LOOKS = 3


def path_of(source: str) -> Path:
    """The path that ``source`` (a path or file://) names. Raises ConfigError."""
    if "://" not in source:
        try:
            return Path(source).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"source {source}: there is no such home directory") from error
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"source {source}: a file address names no host; write file:///PATH")
    return Path(unquote(parts.path))


def read(path: Path, longest: int) -> Content:
    """The file, or the newest one of a directory.

    Raises Rejected (nothing there), TooLarge, ConfigError, Unavailable, or Unfinished when it is written meanwhile.
    """
    for _ in range(_LOOKS):
        chosen = path
        try:
            if path.is_dir():
                chosen = _newest(path)
            return _read_file(chosen, longest)
        except (FileNotFoundError, NotADirectoryError) as error:
            if chosen == path:
                raise nothing_there(str(path)) from error
            # The newest file was taken away before it could be opened: there may be another one.
        except PermissionError as error:
            raise ConfigError(f"source {chosen}: the daemon's user may not read it") from error
        except ValueError as error:
            raise ConfigError(f"source {chosen} is no path: {error}") from error
        except OSError as error:
            told = f"{chosen} can't be read: {error.strerror or error}"
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise ConfigError(f"source {told}") from error
            raise Unavailable(told) from error
    raise Unavailable(f"{path}: its newest file is taken away again and again")


def _newest(directory: Path) -> Path:
    newest: tuple[int, str] | None = None
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                continue
            try:
                if entry.is_file():
                    newest = max(newest or (0, ""), (entry.stat().st_mtime_ns, entry.name))
            except OSError:
                continue  # gone, or a link to nowhere
    if newest is None:
        raise nothing_there(str(directory), "the directory holds no file")
    return directory / newest[1]


def _read_file(path: Path, longest: int) -> Content:
    # A pipe or a device would keep the reader waiting.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigError(f"source {path} is neither a file nor a directory")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > longest:
            raise too_large(str(path), longest)
        body = file.read(longest + 1)
        after = os.fstat(file.fileno())
    if len(body) > longest:
        raise too_large(str(path), longest)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(body) != after.st_size:
        raise Unfinished(f"{path} is written while it is read (byte {len(body)}); publish by a rename")
    published = datetime.fromtimestamp(after.st_mtime_ns // 1000 / 1e6, UTC)
    return Content(str(path), body, f"{after.st_mtime_ns}", published)


def write(path: Path, body: bytes) -> None:
    """Writes ``path`` whole or not at all: a temporary file beside it takes its place once it is on the disk.

    Raises ConfigError when it can't be written.
    """
    target = Path(os.path.realpath(path))  # where a link leads: the link itself stays
    draft = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            # Not tempfile: its files are readable by their owner alone, and the daemon may be somebody else.
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                with suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error
