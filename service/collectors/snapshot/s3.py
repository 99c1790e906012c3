"""Snapshots in S3. Region, credentials and endpoint come from the usual AWS chain."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from service.collectors.snapshot.sources import Content, Entry, find_newest, nothing_there, refuse_status, too_large
from service.config.clients import aws_client, parse_http_date
from service.domain.errors import ConfigError, Rejected

_MAX_OBJECTS = 100_000  # that are listed


class S3Source:
    """An object, or the newest one below a prefix."""

    def __init__(self, address: str, max_bytes: int) -> None:
        self._address = address
        self._bucket, self._key = split_address(address)
        self._max_bytes = max_bytes

    async def read(self, http: httpx.AsyncClient, last: Content | None = None) -> Content:
        # The client's models take a tenth of a second to load, so all of it happens in a thread with its own loop.
        return await anyio.to_thread.run_sync(anyio.run, self._read, last, abandon_on_cancel=True)

    async def find(self) -> tuple[str, datetime]:
        """The object's address, and when it was published."""
        async with open_s3(self._address) as client:
            key = await self._find_key(client)
            found = await client.head_object(Bucket=self._bucket, Key=key)
            return f"s3://{self._bucket}/{key}", found["LastModified"]

    async def _read(self, last: Content | None) -> Content:
        async with open_s3(self._address) as client:
            key = await self._find_key(client)
            name = f"s3://{self._bucket}/{key}"
            condition = {"IfNoneMatch": last.validator} if last and last.name == name else {}
            try:
                answer = await client.get_object(Bucket=self._bucket, Key=key, **condition)
            except client.exceptions.ClientError as error:
                facts = error.response.get("ResponseMetadata", {})
                if last is None or facts.get("HTTPStatusCode") != httpx.codes.NOT_MODIFIED:
                    raise
                # The same content may have been published anew.
                published = parse_http_date(facts.get("HTTPHeaders", {}).get("last-modified", "")) or last.published
                return replace(last, published=published, version=f"{name} {published} {last.validator}")
            async with answer["Body"] as stream:
                if answer["ContentLength"] > self._max_bytes:
                    raise too_large(name, self._max_bytes)
                body = await stream.read()
        published, etag = answer["LastModified"], answer["ETag"]
        version = f"{name} {published} {etag}"  # the time has whole seconds
        return Content(name, body, version, published, validator=etag)

    async def _find_key(self, client: Any) -> str:
        if self._key and not self._key.endswith("/"):
            return self._key
        entries: list[Entry] = []
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key, Delimiter="/")
        async for page in pages:
            for each in page.get("Contents", ()):
                if name := each["Key"].removeprefix(self._key):  # empty: what consoles make of a "folder"
                    entries.append(Entry(name, each["LastModified"], each["Size"]))
            for each in page.get("CommonPrefixes", ()):
                entries.append(Entry(each["Prefix"].removeprefix(self._key), datetime.min.replace(tzinfo=UTC), 0))
            if len(entries) > _MAX_OBJECTS:
                raise Rejected(f"{self._address} holds more than {_MAX_OBJECTS:,} objects; name a prefix with fewer")
        return self._key + find_newest(entries, self._address).name


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key (or prefix, with a slash at its end). Raises ConfigError."""
    parts = urlsplit(address, allow_fragments=False)
    key = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    if not parts.netloc or (not key and not address.endswith("/")):
        raise ConfigError(f"{address}: write s3://BUCKET/KEY, or s3://BUCKET/PREFIX/ for its newest object")
    return parts.netloc, key


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
                raise nothing_there(address, f"nothing is there ({code})") from error
            is_passing = code in ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed")
            raise refuse_status(503 if is_passing else status, f"{address}: {code or status}") from error
