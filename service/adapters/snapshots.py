"""Where snapshots are read from: files, HTTP and S3. The content is given as it is; what it means is not known here."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
import httpx

from service.config_values import shown
from service.domain.errors import ConfigError, HealthError, Rejected, TooLarge, Unauthorized, Unavailable

LONGEST = 64 * 1024 * 1024  # bytes
FORMS = "a path, file:///PATH, s3://BUCKET/KEY, http://... or https://..."

_REDIRECTS = 5
_NOT_THERE = "nothing is there; publish the snapshot to this place, or change the source"


@dataclass(frozen=True, slots=True)
class Content:
    """What a source holds.

    ``name``: for messages, without secrets. ``version``: changes when the content is published anew.
    """

    name: str
    body: bytes
    version: str


async def read(source: str, http: httpx.AsyncClient, *, longest: int = LONGEST) -> Content:
    """The content of ``source`` (one of ``FORMS``). Raises Unavailable, Rejected or ConfigError.

    The last two are not worth another try soon: nothing there, no access, more than ``longest`` bytes, no such form.
    """
    scheme, separator, _ = source.partition("://")
    match scheme.lower() if separator else "":
        case "" | "file":
            path = _path(source)
            # A file system that hangs (NFS, EFS) holds its thread, not the run beyond its deadline.
            return await anyio.to_thread.run_sync(_read_file, path, longest, abandon_on_cancel=True)
        case "http" | "https":
            return await _read_http(source, http, longest)
        case "s3":
            # The client's models take a tenth of a second to load, so all of it happens in a thread with its own loop.
            return await anyio.to_thread.run_sync(anyio.run, _read_s3, source, longest, abandon_on_cancel=True)
        case _:
            raise ConfigError(f"source {shown(source)}: {scheme}:// is not supported; it may be {FORMS}")


def _too_large(name: str, longest: int) -> TooLarge:
    return TooLarge(f"{name} holds more than {longest:,} bytes; publish less, or in several snapshots")


# Files


def _path(source: str) -> Path:
    if "://" not in source:
        return Path(source).expanduser()
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"source {source}: a file address names no host; write file:///PATH")
    return Path(unquote(parts.path))


def _read_file(path: Path, longest: int) -> Content:
    try:
        # A pipe or a device would keep the reader waiting.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"source {path} is not a file")
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            body = file.read(longest + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Rejected(f"{path}: {_NOT_THERE}") from error
    except PermissionError as error:
        raise ConfigError(f"source {path}: the daemon's user may not read it") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise Unavailable(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(body) > longest:
        raise _too_large(str(path), longest)
    return Content(str(path), body, f"{facts.st_mtime_ns}")


# HTTP


async def _read_http(source: str, http: httpx.AsyncClient, longest: int) -> Content:
    name = shown(source)
    try:
        url = httpx.URL(source)
        for _ in range(_REDIRECTS + 1):
            async with http.stream(
                "GET",
                url,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                follow_redirects=False,
            ) as answer:
                if not answer.has_redirect_location:
                    return await _content(answer, name, longest)
                url = _redirected(answer, name)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"source {name} is no valid address") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{name}: no answer ({type(error).__name__})") from error
    raise Rejected(f"{name} redirects more than {_REDIRECTS} times")


async def _content(answer: httpx.Response, name: str, longest: int) -> Content:
    if answer.status_code != httpx.codes.OK:
        raise _refusal(answer, name)
    chunks, size = [], 0
    async for chunk in answer.aiter_bytes():
        size += len(chunk)
        if size > longest:
            raise _too_large(name, longest)
        chunks.append(chunk)
    body = b"".join(chunks)
    version = answer.headers.get("Last-Modified") or answer.headers.get("ETag") or blake2b(body).hexdigest()
    return Content(name, body, version)


def _redirected(answer: httpx.Response, name: str) -> httpx.URL:
    """Where to ask next: only on the same host, since the address comes from an answer."""
    here, there = answer.url, answer.url.join(answer.headers["Location"])
    same_port = here.port == there.port
    if there.host != here.host or not same_port or (here.scheme, there.scheme) == ("https", "http"):
        raise Rejected(f"{name} redirects to another host ({there.host}); set the source to where it leads")
    return there


def _refusal(answer: httpx.Response, name: str) -> HealthError:
    status = answer.status_code
    if status in (401, 403):
        return Unauthorized(f"{name}: access refused ({status})")
    if status in (404, 410):
        return Rejected(f"{name}: {_NOT_THERE} ({status})")
    if status in (408, 429) or status >= 500:
        return Unavailable(f"{name}: answered {status}", retry_after=_retry_after(answer))
    return Rejected(f"{name}: answered {status}")


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds; the header gives seconds or a date (RFC 9110, 10.2.3)."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        asked, now = parsedate_to_datetime(text), parsedate_to_datetime(answer.headers.get("Date", ""))
        return max(0.0, (asked - now).total_seconds())
    except (ValueError, TypeError):
        return None


# S3


async def _read_s3(source: str, longest: int) -> Content:
    """Runs in a thread. Region, credentials and endpoint come from the usual AWS chain."""
    parts = urlsplit(source, allow_fragments=False)
    bucket, key = parts.netloc, parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    if not bucket or not key or key.endswith("/"):
        raise ConfigError(f"source {source}: write s3://BUCKET/KEY, the address of one object")
    # Most of a second to import, so only who needs it pays.
    import aioboto3
    from botocore import exceptions

    try:
        async with aioboto3.Session().client("s3", config=_s3_config(os.environ)) as client:
            answer = await client.get_object(Bucket=bucket, Key=key)
            if answer["ContentLength"] > longest:
                raise _too_large(source, longest)
            async with answer["Body"] as stream:
                body = await stream.read()
    except exceptions.ClientError as error:
        raise _s3_refusal(error.response, source) from error
    except (exceptions.NoCredentialsError, exceptions.NoRegionError, exceptions.ParamValidationError) as error:
        raise ConfigError(f"source {source}: {str(error).splitlines()[0]}") from error
    except (exceptions.BotoCoreError, OSError) as error:
        raise Unavailable(f"{source}: no answer ({type(error).__name__})") from error
    return Content(source, body, answer["LastModified"].isoformat())


def _s3_config(environ: Mapping[str, str]) -> Any:
    from aiobotocore.config import AioConfig

    # Stand-ins for S3 seldom have a host name for each bucket.
    elsewhere = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    s3 = {"addressing_style": "path"} if elsewhere else None
    return AioConfig(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}, s3=s3)


def _s3_refusal(answer: Mapping[str, Any], source: str) -> HealthError:
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ("NoSuchKey", "NoSuchBucket") or status == 404:
        return Rejected(f"{source}: {_NOT_THERE} ({code})")
    if code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed") or status in (408, 429) or status >= 500:
        return Unavailable(f"{source}: {code or status}")
    if status in (401, 403):
        return Unauthorized(f"{source}: access refused ({code})")
    return Rejected(f"{source}: {code or status}")
