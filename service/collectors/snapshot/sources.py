"""Where snapshots are read from: files, HTTP and S3. What the content means is not known here."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
import httpx
import structlog

from service.collectors.content import too_large
from service.config.clients import parse_http_date, retry_after
from service.config.masking import mask_address
from service.config.secrets import Secret
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable, Unfinished

log = structlog.get_logger(__name__)

FORMS = (
    "a path, a directory (its newest file), file:///PATH, s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (its newest object), "
    "http://... or https://..."
)
_MAX_REDIRECTS = 5
# A server that dates its answer so makes it anew for each request: it says nothing about the content's age.
_JUST_NOW = timedelta(seconds=5)

_UNFINISHED = re.compile(r"(\.(tmp|temp|part|partial|swp|crdownload|filepart|incomplete|inprogress|lock)|~)$", re.I)
# Checksums, signatures, and whatever else stands beside a snapshot under its name with another ending.
_BESIDE = re.compile(
    r"\.(md5|sha\d+|crc\w*|asc|sig|etag|done|ok|bak)$|\.(json|jsonl|ndjson)(\.gz)?\.(?!gz$)[a-z]\w*$", re.I
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a source holds.

    ``name``: for messages, without secrets. ``version`` tells one publication from another.
    ``published``: when it was, None where the source does not say; ``is_hashed``: ``version`` is a hash of the body,
    because the source's own times prove nothing. ``validator``: by which the source is asked whether it has changed,
    empty where it can't be.
    """

    name: str
    body: bytes
    version: str
    published: datetime | None = None
    is_hashed: bool = False
    validator: str = ""


class Source(Protocol):
    """A place that holds snapshots."""

    async def read(self, last: Content | None = None) -> Content:
        """The newest snapshot; ``last`` itself where its validator still holds.

        Raises Unavailable, Unfinished (it changed while it was read), Rejected or ConfigError.
        """
        ...


def open_source(address: str, http: httpx.AsyncClient, max_bytes: int, token: Secret | None) -> Source:
    """The source at ``address``. Raises ConfigError."""
    match check_address(address):
        case "http":
            return HttpSource(address, http, max_bytes, token)
        case "s3":
            from service.collectors.snapshot.s3 import S3Source  # it stands on this module

            return S3Source(address, max_bytes)
        case _:
            return FileSource(path_of(address), max_bytes)


def check_address(address: str) -> str:
    """Which kind of place ``address`` names: file, http or s3. Raises ConfigError where it is none of ``FORMS``."""
    scheme = address.partition("://")[0].lower() if "://" in address else "file"
    match scheme:
        case "file":
            path_of(address)
        case "http" | "https":
            try:
                url = httpx.URL(address)
                is_valid = bool(url.host) and (url.port is None or 0 < url.port < 65536)
            except (httpx.InvalidURL, UnicodeError):
                is_valid = False
            if not is_valid:
                raise ConfigError(f"source {mask_address(address)} is no valid address")
        case "s3":
            split_s3(address)
        case _:
            raise ConfigError(f"source {mask_address(address)}: {scheme}:// is not supported; it may be {FORMS}")
    return scheme.removesuffix("s") if scheme == "https" else scheme


def path_of(address: str) -> Path:
    """The path that ``address`` (a path or file://) names. Raises ConfigError."""
    if "://" not in address:
        return Path(os.path.expanduser(address))  # noqa: PTH111 - pathlib's raises where there is no home
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"source {address}: a file address names no host; write file:///PATH")
    return Path(unquote(parts.path))


def split_s3(address: str) -> tuple[str, str]:
    """Bucket and key (or prefix, with a slash at its end). Raises ConfigError."""
    parts = urlsplit(address, allow_fragments=False)
    key = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    if not parts.netloc or (not key and not address.endswith("/")):
        raise ConfigError(f"source {address}: write s3://BUCKET/KEY, or s3://BUCKET/PREFIX/ for its newest object")
    return parts.netloc, key


# The newest


@dataclass(frozen=True, slots=True)
class Entry:
    """What a directory or a prefix lists. ``name``: below it; with a slash it is of a deeper level."""

    name: str
    published: datetime
    size: int


def find_newest(entries: Iterable[Entry], place: str) -> Entry:
    """The entry that was published last. What is no snapshot is skipped, which -v shows. Raises Rejected."""
    newest: Entry | None = None
    skipped: list[str] = []
    for entry in entries:
        if reason := _why_skipped(entry):
            log.debug("skipped: no snapshot", place=place, name=entry.name, reason=reason)
            skipped.append(f"{entry.name} ({reason})")
        elif newest is None or (entry.published, entry.name) > (newest.published, newest.name):
            newest = entry
    if newest is None:
        shown = f"; skipped: {', '.join(skipped[:3])}{', ...' if len(skipped) > 3 else ''}" if skipped else ""
        raise nothing_there(place, f"no snapshot is there{shown}")
    return newest


def _why_skipped(entry: Entry) -> str:
    """Why an entry is no snapshot, empty where it may be one."""
    if "/" in entry.name:
        return "of a deeper level"
    if entry.name.startswith(("_", "#")) or entry.name.endswith("_$folder$"):
        return "a marker"
    if entry.name.startswith("."):
        return "hidden"
    if _UNFINISHED.search(entry.name):
        return "unfinished"
    if _BESIDE.search(entry.name):
        return "beside a snapshot"
    return "" if entry.size else "empty"


def nothing_there(address: str, what: str = "nothing is there") -> Rejected:
    """The error of a source that holds no snapshot: it says what to publish where."""
    name = mask_address(address)
    remedy = f"publish a snapshot to this place (infra-health publish FILE --to {name}), or change the source"
    return Rejected(f"{name}: {what}; {remedy}")


def refuse_status(status: int, told: str, retry_after: float | None = None) -> HealthError:
    """The error that an HTTP status stands for. ``told``: what happened."""
    if status in (401, 403):
        return Unauthorized(told)
    if status in (408, 429) or status >= 500:
        return Unavailable(told, retry_after=retry_after)
    return Rejected(told)


# Files


class FileSource:
    """A file, or the newest one of a directory."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes

    async def read(self, last: Content | None = None) -> Content:
        # A file system that hangs (NFS, EFS) holds its thread, not the run beyond its deadline.
        return await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> Content:
        path = self._path
        try:
            if path.is_dir():
                path /= find_newest(_list_directory(path), str(path)).name
            # A pipe or a device would keep the reader waiting.
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"source {path} is neither a file nor a directory")
            return self._read_file(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if path == self._path:
                raise nothing_there(str(path)) from error
            raise Unavailable(f"{path} was taken away before it could be read") from error
        except PermissionError as error:
            raise ConfigError(f"source {path}: the daemon's user may not read it") from error
        except ValueError as error:
            raise ConfigError(f"source {path} is no path: {error}") from error
        except OSError as error:
            raise Unavailable(f"{path} can't be read: {error.strerror or error}") from error

    def _read_file(self, path: Path) -> Content:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            body = file.read(self._max_bytes + 1)
            after = os.fstat(file.fileno())
        if len(body) > self._max_bytes:
            raise too_large(str(path), self._max_bytes)
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(body) != after.st_size:
            raise Unfinished(f"{path} is written while it is read (byte {len(body)}); publish by a rename")
        return Content(str(path), body, f"{after.st_mtime_ns}", _modified(after))


def _list_directory(directory: Path) -> Iterator[Entry]:
    with os.scandir(directory) as found:
        for each in found:
            try:
                facts = each.stat()
            except OSError:
                continue  # gone, or a link to nowhere
            if stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode):
                name = f"{each.name}/" if stat.S_ISDIR(facts.st_mode) else each.name
                yield Entry(name, _modified(facts), facts.st_size)


def _modified(facts: os.stat_result) -> datetime:
    return datetime.fromtimestamp(facts.st_mtime_ns // 1000 / 1e6, UTC)


# HTTP


class HttpSource:
    """An address, asked conditionally."""

    def __init__(self, address: str, http: httpx.AsyncClient, max_bytes: int, token: Secret | None) -> None:
        self._address = address
        self._name = mask_address(address)
        self._http = http
        self._max_bytes = max_bytes
        self._token = token

    async def read(self, last: Content | None = None) -> Content:
        try:
            return await self._get(last)
        except Unauthorized:
            # The token may have been replaced: then once more with the new one.
            if self._token is None or not await self._token.ask_again():
                raise
            return await self._get(last)

    async def _get(self, last: Content | None) -> Content:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **await authorize(self._token)}
        if last and last.validator:
            # ETag before date, because the date has seconds only (RFC 9110, 13.1).
            is_date = last.validator.endswith("GMT")
            headers["If-Modified-Since" if is_date else "If-None-Match"] = last.validator
        try:
            url = httpx.URL(self._address)
            for _ in range(_MAX_REDIRECTS + 1):
                async with self._http.stream("GET", url, headers=headers, follow_redirects=False) as answer:
                    if answer.status_code == httpx.codes.NOT_MODIFIED and last:
                        return replace(last, published=_find_date(answer.headers) or last.published)
                    if not answer.has_redirect_location:
                        return await self._read_answer(answer)
                    url = self._follow(answer)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigError(f"source {self._name} is no valid address") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._name}: no answer ({type(error).__name__})") from error
        raise Rejected(f"{self._name} redirects more than {_MAX_REDIRECTS} times")

    def _follow(self, answer: httpx.Response) -> httpx.URL:
        """Where to ask next: only on the same host, since the address comes from an answer."""
        here, there = answer.url, answer.url.join(answer.headers["Location"])
        if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
            raise Rejected(f"{self._name} redirects to another host ({there.host}); set the source to where it leads")
        return there

    async def _read_answer(self, answer: httpx.Response) -> Content:
        status, headers = answer.status_code, answer.headers
        if status in (404, 410):
            raise nothing_there(self._address, f"nothing is there ({status})")
        if status != httpx.codes.OK:
            hint = "; does it need a token_env?" if status in (401, 403) else ""
            wait = retry_after(headers, datetime.now(UTC))
            raise refuse_status(status, f"{self._name}: answered {status}{hint}", wait)
        body = bytearray()
        async for chunk in answer.aiter_raw():  # gzip is told by the content, where the bounds are
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large(self._name, self._max_bytes)
        date, published = headers.get("Last-Modified", ""), _find_date(headers)
        version = blake2b(body, digest_size=16).hexdigest()
        # A date has whole seconds: soon after it the content can still change under it (RFC 9110, 8.8.2.2).
        validator = headers.get("ETag", "") or (date if published else "")
        return Content(self._name, bytes(body), version, published, is_hashed=True, validator=validator)


def _find_date(headers: Mapping[str, str]) -> datetime | None:
    """When the content was published, None where the answer does not say or was dated as it was made."""
    published = parse_http_date(headers.get("Last-Modified", ""))
    asked = parse_http_date(headers.get("Date", "")) or datetime.now(UTC)
    return published if published and published < asked - _JUST_NOW else None


async def authorize(token: Secret | None) -> dict[str, str]:
    """The header that carries the token. Raises Unauthorized when there is none that could be sent."""
    if token is None:
        return {}
    value = await token.get()
    if not value:
        raise Unauthorized(token.missing)
    if not (value.isascii() and value.isprintable()):
        raise Unauthorized(f"the {token.title} holds characters that no token has")
    return {"Authorization": f"Bearer {value}"}
