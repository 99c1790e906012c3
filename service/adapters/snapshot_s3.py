"""Snapshots in S3. Everything here runs in a thread with a loop of its own; the client is imported when it is used.

Region, credentials and endpoint come from the usual AWS chain.
"""

import os
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from service.adapters.snapshot_source import Content, nothing_there, too_large
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable

_LOOKS = 3
_PAGES = 100  # of a thousand objects each


async def read(source: str, longest: int, unless: str = "") -> Content | None:
    """The object, or the newest one below a prefix; None while it still has the validator ``unless``."""
    bucket, key = place_of(source)
    async with _client(source) as client:
        if key and not key.endswith("/"):
            return await _object(client, bucket, key, longest, unless)
        for _ in range(_LOOKS):
            newest = await _newest(client, bucket, key, source)
            if unless and unless == _validator(newest["Key"], newest["ETag"]):
                return None
            try:
                return await _object(client, bucket, newest["Key"], longest, unless)
            except client.exceptions.NoSuchKey:
                continue  # it was taken away before it could be read: there may be another one
    raise Unavailable(f"{source}: its newest object is taken away again and again")


async def newest(source: str) -> tuple[str, datetime]:
    """The object that ``read`` would read, by its address, and when it was published. Transfers none of it."""
    bucket, key = place_of(source)
    async with _client(source) as client:
        if key and not key.endswith("/"):
            found = await client.head_object(Bucket=bucket, Key=key)
        else:
            found = await _newest(client, bucket, key, source)
            key = found["Key"]
        return f"s3://{bucket}/{key}", found["LastModified"]


async def write(source: str, body: bytes, kind: str) -> None:
    """Puts ``body`` as the object at ``source``; S3 refuses it when it arrives with another hash than it left with."""
    bucket, key = place_of(source)
    digest = sha256(body)
    async with _client(source) as client:
        await client.put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            ContentType=kind,
            ChecksumSHA256=b64encode(digest.digest()).decode(),
            Metadata={"sha256": digest.hexdigest()},
        )


def place_of(source: str) -> tuple[str, str]:
    """Bucket and key (or prefix, with a slash at its end). Raises ConfigError."""
    parts = urlsplit(source, allow_fragments=False)
    key = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    if not parts.netloc or (not key and not source.endswith("/")) or source == "s3://":
        raise ConfigError(f"source {source}: write s3://BUCKET/KEY, or s3://BUCKET/PREFIX/ for its newest object")
    return parts.netloc, key


async def _object(client: Any, bucket: str, key: str, longest: int, unless: str) -> Content | None:
    known, _, etag = unless.partition("\n")
    condition = {"IfNoneMatch": etag} if etag and known == key else {}
    try:
        answer = await client.get_object(Bucket=bucket, Key=key, **condition)
    except client.exceptions.ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 304:
            return None
        raise
    name = f"s3://{bucket}/{key}"
    async with answer["Body"] as stream:
        if answer["ContentLength"] > longest:
            raise too_large(name, longest)
        body = await stream.read()
    published: datetime = answer["LastModified"]
    version = f"{key} {published.isoformat()} {answer['ETag']}"  # the time has whole seconds
    return Content(name, body, version, published, _validator(key, answer["ETag"]))


async def _newest(client: Any, bucket: str, prefix: str, source: str) -> Mapping[str, Any]:
    newest: Mapping[str, Any] | None = None
    pages = 0
    async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", ()):
            if each["Key"].endswith("/"):
                continue  # what consoles make of a "folder"
            if newest is None or (each["LastModified"], each["Key"]) > (newest["LastModified"], newest["Key"]):
                newest = each
        pages += 1
        if pages == _PAGES:
            raise Rejected(f"{source} holds more than {_PAGES * 1000:,} objects; name a prefix with fewer")
    if newest is None:
        raise nothing_there(source, "no object is there")
    return newest


def _validator(key: str, etag: str) -> str:
    return f"{key}\n{etag}"


@asynccontextmanager
async def _client(source: str) -> AsyncIterator[Any]:
    """A client of S3 whose errors are told as ours."""
    # Most of a second to import, so only who needs it pays.
    import aioboto3
    from aiobotocore.config import AioConfig
    from aiohttp import ClientError as TransferError
    from botocore import exceptions

    # Stand-ins for S3 seldom have a host name for each bucket.
    elsewhere = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    s3 = {"addressing_style": "path"} if elsewhere else None
    config = AioConfig(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}, s3=s3)
    try:
        async with aioboto3.Session().client("s3", config=config) as client:
            yield client
    except exceptions.ClientError as error:
        raise _refusal(error.response, source) from error
    except (exceptions.NoCredentialsError, exceptions.NoRegionError, exceptions.ParamValidationError) as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from error
    except (exceptions.BotoCoreError, TransferError, OSError) as error:
        raise Unavailable(f"{source}: no answer ({type(error).__name__})") from error


def _refusal(answer: Mapping[str, Any], source: str) -> HealthError:
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return Rejected(f"{source}: there is no such bucket; create it, or change the address")
    if code == "NoSuchKey" or status == 404:
        return nothing_there(source, reason=code)
    if code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed") or status in (408, 429) or status >= 500:
        return Unavailable(f"{source}: {code or status}")
    if status in (401, 403):
        return Unauthorized(f"{source}: access refused ({code})")
    return Rejected(f"{source}: {code or status}")
