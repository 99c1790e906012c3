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

from service.config.clients import parse_http_date, retry_after
from service.config.masking import mask_address
from service.config.secrets import Secret
from service.domain.errors import ConfigError, HealthError, Rejected, TooLarge, Unauthorized, Unavailable, Unfinished

log = structlog.get_logger(__name__)

FORMS = (
    "a path, a directory (its newest file), file:///PATH, s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (its newest object), "
    "http://... or https://..."
)
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

    async def read(self, http: httpx.AsyncClient, last: Content | None = None) -> Content:
        """The newest snapshot; that of ``last`` where its validator still holds.

        Raises Unavailable, Unfinished (it changed while it was read), Rejected or ConfigError.
        """
        ...


def open_source(address: str, max_bytes: int, token: Secret | None = None) -> Source:
    """The source at ``address``. Raises ConfigError where it is none of ``FORMS``."""
    scheme = address.partition("://")[0].lower() if "://" in address else "file"
    match scheme:
        case "file":
            return FileSource(path_of(address), max_bytes)
        case "http" | "https":
            return HttpSource(address, max_bytes, token)
        case "s3":
            from service.collectors.snapshot.s3 import S3Source  # it stands on this module

            return S3Source(address, max_bytes)
    raise ConfigError(f"source {mask_address(address)}: {scheme}:// is not supported; it may be {FORMS}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a directory or a prefix lists. ``name``: below it; with a slash it is of a deeper level."""

    name: str
    published: datetime
    size: int


def find_newest(entries: Iterable[Entry], place: str) -> Entry:
    """The entry that was published last. What is no snapshot is skipped, which -v shows. Raises Rejected."""
    found, skipped = [], []
    for entry in entries:
        if reason := _why_skipped(entry):
            log.debug("skipped: no snapshot", place=place, name=entry.name, reason=reason)
            skipped.append(f"{entry.name} ({reason})")
        else:
            found.append(entry)
    if not found:
        raise nothing_there(place, f"no snapshot is there{'; skipped: ' if skipped else ''}{', '.join(skipped[:3])}")
    return max(found, key=lambda entry: (entry.published, entry.name))


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


def too_large(name: str, max_bytes: int) -> TooLarge:
    return TooLarge(f"{name} holds more than {max_bytes:,} bytes; publish less, or in several snapshots")


def refuse_status(status: int, told: str, wait: float | None = None) -> HealthError:
    """The error that an HTTP status stands for. ``told``: what happened; ``wait``: seconds that the server asks for."""
    if status in (401, 403):
        return Unauthorized(told)
    if status in (408, 429) or status >= 500:
        return Unavailable(told, retry_after=wait)
    return Rejected(told)


def path_of(address: str) -> Path:
    """The path that ``address`` (a path or file://) names. Raises ConfigError."""
    if "://" not in address:
        return Path(os.path.expanduser(address))  # noqa: PTH111 - pathlib's raises where there is no home
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"source {address}: a file address names no host; write file:///PATH")
    return Path(unquote(parts.path))


class FileSource:
    """A file, or the newest one of a directory."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes

    async def read(self, http: httpx.AsyncClient, last: Content | None = None) -> Content:
        # A file system that hangs (NFS, EFS) holds its thread, not the run beyond its deadline.
        return await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> Content:
        path = self._path
        try:
            if not path.exists():
                raise nothing_there(str(path))
            if path.is_dir():
                path /= find_newest(_list_directory(path), str(path)).name
            # A pipe or a device would keep the reader waiting.
            if not path.is_file():
                raise ConfigError(f"source {path} is neither a file nor a directory")
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                body = file.read(self._max_bytes + 1)
                after = os.fstat(file.fileno())
        except PermissionError as error:
            raise ConfigError(f"source {path}: the daemon's user may not read it") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
        if len(body) > self._max_bytes:
            raise too_large(str(path), self._max_bytes)
        if before.st_mtime_ns != after.st_mtime_ns or len(body) != after.st_size:
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


class HttpSource:
    """An address, asked conditionally. Redirects are followed on the same host, since they come from an answer."""

    def __init__(self, address: str, max_bytes: int, token: Secret | None) -> None:
        self._name = mask_address(address)
        self._url = parse_url(address)
        self._max_bytes = max_bytes
        self._token = token

    async def read(self, http: httpx.AsyncClient, last: Content | None = None) -> Content:
        try:
            return await self._get(http, last)
        except Unauthorized:
            # The token may have been replaced: then once more with the new one.
            if self._token is None or not await self._token.ask_again():
                raise
            return await self._get(http, last)

    async def _get(self, http: httpx.AsyncClient, last: Content | None) -> Content:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **await authorize(self._token)}
        if last and last.validator:
            # ETag before date, because the date has seconds only (RFC 9110, 13.1).
            is_date = last.validator.endswith("GMT")
            headers["If-Modified-Since" if is_date else "If-None-Match"] = last.validator
        url = self._url
        try:
            for _ in range(5):
                async with http.stream("GET", url, headers=headers, follow_redirects=False) as answer:
                    if answer.status_code == httpx.codes.NOT_MODIFIED and last:
                        return replace(last, published=_find_date(answer.headers) or last.published)
                    if not answer.has_redirect_location:
                        return await self._read_answer(answer)
                    url = answer.url.join(answer.headers["Location"])
                if (url.scheme, url.host, url.port) != (self._url.scheme, self._url.host, self._url.port):
                    there = "set the source to where it leads"
                    raise Rejected(f"{self._name} redirects to another host ({url.host}); {there}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{self._name}: no answer ({type(error).__name__})") from error
        raise Rejected(f"{self._name} redirects again and again")

    async def _read_answer(self, answer: httpx.Response) -> Content:
        status, headers = answer.status_code, answer.headers
        if status in (404, 410):
            raise nothing_there(self._name, f"nothing is there ({status})")
        if status != httpx.codes.OK:
            hint = "; does it need a token_env?" if status in (401, 403) else ""
            raise refuse_status(
                status, f"{self._name}: answered {status}{hint}", retry_after(headers, datetime.now(UTC))
            )
        body = bytearray()
        async for chunk in answer.aiter_raw():  # gzip is told by the content, where the bounds are
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large(self._name, self._max_bytes)
        published = _find_date(headers)
        version = blake2b(body, digest_size=16).hexdigest()
        # A date has whole seconds: soon after it the content can still change under it (RFC 9110, 8.8.2.2).
        validator = headers.get("ETag", "") or (headers["Last-Modified"] if published else "")
        return Content(self._name, bytes(body), version, published, is_hashed=True, validator=validator)


def _find_date(headers: Mapping[str, str]) -> datetime | None:
    """When the content was published, None where the answer does not say or was dated as it was made."""
    published = parse_http_date(headers.get("Last-Modified", ""))
    asked = parse_http_date(headers.get("Date", "")) or datetime.now(UTC)
    return published if published and published < asked - _JUST_NOW else None


def parse_url(address: str) -> httpx.URL:
    """Raises ConfigError, also for what httpx finds out only when it connects."""
    try:
        url = httpx.URL(address)
        is_valid = bool(url.host) and (url.port is None or 0 < url.port < 65536)
    except (httpx.InvalidURL, UnicodeError):
        is_valid = False
    if not is_valid:
        raise ConfigError(f"{mask_address(address)} is no valid address")
    return url


async def authorize(token: Secret | None) -> dict[str, str]:
    """The header that carries the token. Raises Unauthorized when there is none that could be sent."""
    value = await token.get() if token else None
    if token and not value:
        raise Unauthorized(token.missing)
    if token and value and not (value.isascii() and value.isprintable()):
        raise Unauthorized(f"the {token.title} holds characters that no token has")
    return {"Authorization": f"Bearer {value}"} if value else {}


async def find_object(address: str) -> tuple[str, datetime]:
    """The object that an s3:// source would read, and when it was published; nothing of it is transferred."""
    from service.collectors.snapshot.s3 import S3Source

    return await anyio.to_thread.run_sync(anyio.run, S3Source(address, 0).find, abandon_on_cancel=True)
