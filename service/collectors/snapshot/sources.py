"""Where snapshots are read from: files, HTTP and S3. What the content means is not known here."""

import os
import re
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
import httpx
import structlog

from service.config.clients import aws_client, describe_error, parse_http_date, refuse_answer, refuse_status
from service.config.masking import mask_address
from service.config.secrets import Secret
from service.domain.errors import ConfigError, Rejected, TooLarge, Unauthorized, Unavailable, Unfinished
from service.domain.samples import MAX_POINT_AHEAD

log = structlog.get_logger(__name__)

FORMS = (
    "a path, a directory (its newest file), file:///PATH, s3://BUCKET/KEY, s3://BUCKET/PREFIX/ (its newest object), "
    "http://... or https://..."
)
_JUST_NOW = timedelta(seconds=5)
_MAX_OBJECTS = 100_000  # that are listed

# Why an entry of a directory or of a prefix is no snapshot. By their endings these are none: what is unfinished (.tmp,
# .part), what stands beside a snapshot (.sha256, .done), and other formats (.csv, .log).
_SKIPPED = {
    "of a deeper level": re.compile(r"/"),
    "a marker": re.compile(r"^[_#]|_\$folder\$$"),
    "hidden": re.compile(r"^(\.|~\$)"),
    "not .json, .jsonl, .ndjson or .txt": re.compile(
        r"~$|\.(?!((json|jsonl|ndjson|txt)(\.gz)?|gz)$)[a-z]\w*(\.gz)?$", re.I
    ),
}


@dataclass(frozen=True, slots=True)
class Content:
    """What a source holds.

    ``name``: for messages, without secrets. ``version`` tells one publication from another.
    ``published``: when it was, None where the source does not say; ``is_hashed``: ``version`` is a hash of the body,
    because the source's own times prove nothing.
    """

    name: str
    body: bytes
    version: str
    published: datetime | None = None
    is_hashed: bool = False


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object, or with a key that is empty or ends with a slash all those right below it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


Place = Path | httpx.URL | S3Object


def parse_place(address: str) -> Place:
    """What ``address`` names. Raises ConfigError where it is none of ``FORMS``."""
    scheme, separator, _ = address.partition("://")
    if not separator and not re.match(r"(s3|https?|file):", address, re.I):  # s3:/BUCKET is a slip, no path
        return Path(os.path.expanduser(address))  # noqa: PTH111 - pathlib's raises where there is no home
    try:
        parts = urlsplit(address, allow_fragments=False)
        match scheme.lower():
            # httpx finds out what is no port only when it connects.
            case "http" | "https" if (url := httpx.URL(address)).host and 0 < (url.port or 80) < 65536:
                return url
            case "file" if parts.netloc in ("", "localhost"):
                return Path(unquote(parts.path))
            case "s3" if parts.netloc and (parts.path or parts.query):
                return S3Object(parts.netloc, parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else ""))
    except (httpx.InvalidURL, ValueError):
        pass  # as below
    raise ConfigError(f"{mask_address(address)} is no valid address of a snapshot; it may be {FORMS}")


async def read_place(place: Place, http: httpx.AsyncClient, max_bytes: int, token: Secret | None = None) -> Content:
    """The newest snapshot. ``token``: for HTTP.

    Raises Unavailable, Unfinished (it is written while it is read), Rejected, TooLarge or ConfigError.
    """
    # A file system that hangs (NFS, EFS) holds its thread, not the run beyond its deadline. The models of the client
    # for S3 take a tenth of a second to load, so all of it happens in a thread with its own loop.
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    match place:
        case Path():
            return await in_thread(_read_file, place, max_bytes)
        case S3Object():
            return await in_thread(anyio.run, _read_object, place, max_bytes)
    try:
        return await _read_url(place, http, max_bytes, token)
    except Unauthorized:
        # The token may have been replaced: then once more with the new one.
        if token is None or not await token.ask_again():
            raise
        return await _read_url(place, http, max_bytes, token)


class Entry(NamedTuple):
    """What a directory or a prefix lists. ``name``: below it; with a slash it is of a deeper level."""

    name: str
    published: datetime
    size: int


def find_newest(entries: Iterable[Entry], place: str) -> Entry:
    """The entry that was published last. What is no snapshot is skipped, which -v shows. Raises Rejected."""
    found, skipped = [], []
    for entry in entries:
        reason = next((reason for reason, pattern in _SKIPPED.items() if pattern.search(entry.name)), "")
        if reason := reason or ("" if entry.size else "empty"):
            log.debug("skipped: no snapshot", place=place, name=entry.name, reason=reason)
            skipped.append(f"{entry.name} ({reason})")
        else:
            found.append(entry)
    if not found:
        raise _nothing_there(place, f"no snapshot is there{'; skipped: ' if skipped else ''}{', '.join(skipped[:3])}")
    soon = datetime.now(UTC) + MAX_POINT_AHEAD
    # One from the future would hide all that come until then.
    return max(found, key=lambda entry: (entry.published <= soon, entry.published, entry.name))


def _nothing_there(address: str, what: str = "nothing is there") -> Rejected:
    name = mask_address(address)
    remedy = f"publish a snapshot to this place (infra-health publish FILE --to {name}), or change the source"
    return Rejected(f"{name}: {what}; {remedy}")


def _hash(body: bytes | bytearray) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _too_large(name: str, max_bytes: int) -> TooLarge:
    return TooLarge(f"{name} holds more than {max_bytes:,} bytes; publish less, or in several snapshots")


# Files


def _read_file(path: Path, max_bytes: int) -> Content:
    try:
        if not path.exists():
            raise _nothing_there(str(path))
        if path.is_dir():
            path /= find_newest(_list_directory(path), str(path)).name
        # A pipe or a device would keep the reader waiting.
        if not path.is_file():
            raise ConfigError(f"source {path} is neither a file nor a directory")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            body = file.read(max_bytes + 1)
            after = os.fstat(file.fileno())
    except PermissionError as error:
        raise ConfigError(f"source {path}: the daemon's user may not read it") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(body) > max_bytes:
        raise _too_large(str(path), max_bytes)
    if before.st_mtime_ns != after.st_mtime_ns or len(body) != after.st_size:
        raise Unfinished(f"{path} is written while it is read (byte {len(body)}); publish by a rename")
    if _modified(after) > datetime.now(UTC) + MAX_POINT_AHEAD:  # of a clock that was ahead: it would never grow old
        return Content(str(path), body, _hash(body), is_hashed=True)
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


async def _read_url(url: httpx.URL, http: httpx.AsyncClient, max_bytes: int, token: Secret | None) -> Content:
    """A redirect is not followed: it comes from an answer, and would take the token along."""
    name, body = mask_address(str(url)), bytearray()
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **await authorize(token)}
    try:
        async with http.stream("GET", url, headers=headers, follow_redirects=False) as answer:
            if answer.status_code == httpx.codes.OK:
                async for chunk in answer.aiter_raw():  # gzip is told by the content, where the bounds are
                    body += chunk
                    if len(body) > max_bytes:
                        raise _too_large(name, max_bytes)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{name}: {describe_error(error)}") from error
    status = answer.status_code
    if answer.has_redirect_location:
        raise Rejected(
            f"{name} redirects to {mask_address(answer.headers['Location'])}; set the source to where it leads"
        )
    if status in (404, 410):
        raise _nothing_there(name, f"nothing is there ({status})")
    if status != httpx.codes.OK:
        hint = "; does it need a token_env?" if status in (401, 403) else ""
        raise refuse_answer(answer, f"{name}: answered {status}{hint}")
    # A server that dates its answer as it makes it says nothing about the content's age.
    published = parse_http_date(answer.headers.get("Last-Modified", ""))
    now = parse_http_date(answer.headers.get("Date", "")) or datetime.now(UTC)
    if published and published >= now - _JUST_NOW:
        published = None
    return Content(name, bytes(body), _hash(body), published, is_hashed=True)


async def authorize(token: Secret | None) -> dict[str, str]:
    """The header that carries the token. Raises Unauthorized when there is none that could be sent."""
    value = await token.get() if token else None
    if token and not value:
        raise Unauthorized(token.missing)
    if token and value and not (value.isascii() and value.isprintable()):
        raise Unauthorized(f"the {token.title} holds characters that no token has")
    return {"Authorization": f"Bearer {value}"} if value else {}


# S3; region, credentials and endpoint come from the usual AWS chain


async def _read_object(place: S3Object, max_bytes: int) -> Content:
    async with open_s3(str(place)) as client:
        found = S3Object(place.bucket, await _find_key(client, place))
        answer = await client.get_object(Bucket=found.bucket, Key=found.key)
        async with answer["Body"] as stream:
            if answer["ContentLength"] > max_bytes:
                raise _too_large(str(found), max_bytes)
            body = await stream.read()
    published = answer["LastModified"]
    # The time has whole seconds only.
    return Content(str(found), body, f"{found} {published} {answer['ETag']}", published)


async def _find_key(client: Any, place: S3Object) -> str:
    prefix = place.key
    if prefix and not prefix.endswith("/"):
        return prefix
    entries: list[Entry] = []
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix, Delimiter="/")
    async for page in pages:
        for each in page.get("Contents", ()):
            if name := each["Key"].removeprefix(prefix):  # empty: what consoles make of a "folder"
                entries.append(Entry(name, each["LastModified"], each["Size"]))
        for each in page.get("CommonPrefixes", ()):
            entries.append(Entry(each["Prefix"].removeprefix(prefix), datetime.min.replace(tzinfo=UTC), 0))
        if len(entries) > _MAX_OBJECTS:
            raise Rejected(f"{place} holds more than {_MAX_OBJECTS:,} objects; name a prefix with fewer")
    return prefix + find_newest(entries, str(place)).name


@asynccontextmanager
async def open_s3(address: str) -> AsyncIterator[Any]:
    """A client whose refusals are told as ours."""
    async with aws_client("s3", address) as client:
        try:
            yield client
        except client.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "NoSuchBucket":
                raise Rejected(f"{address}: there is no such bucket; create it, or change the address") from error
            if status == httpx.codes.NOT_FOUND:
                raise _nothing_there(address, f"nothing is there ({code})") from error
            is_passing = code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed")
            raise refuse_status(503 if is_passing else status, f"{address}: {code or status}") from error
