"""Snapshots in S3 (moto's server): one object or the newest below a prefix, asked for by ETag, put with a hash."""

import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aioboto3
import anyio.to_thread
import httpx
import pytest

from service.adapters import snapshots
from service.domain.errors import Rejected
from service.publish import InvalidSnapshot, publish
from tests.integration.aws import moto, reach

RECORD = {"metric": "hearts", "workflow_name": "a", "task": "t", "check": "c", "condition": "> 0.5", "value": 0.9}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A client; the bucket ``health`` is there, and empty at first."""
    reach(server, monkeypatch)
    async with httpx.AsyncClient() as http:
        await http.post(f"{server}/moto-api/reset")
    async with aioboto3.Session().client("s3") as client:
        await client.create_bucket(Bucket="health", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def reader(source: str, http: httpx.AsyncClient) -> snapshots.Reader:
    return snapshots.Reader(source, http, longest=1_000_000, token=None)


async def test_the_newest_object_below_a_prefix_is_read(s3: Any, http: httpx.AsyncClient) -> None:
    read = reader("s3://health/runs/", http)
    with pytest.raises(Rejected, match=r"s3://health/runs/: no object is there; publish a snapshot"):
        await read.read()
    await s3.put_object(Bucket="health", Key="runs/", Body=b"")  # a folder, as a console makes it
    await s3.put_object(Bucket="health", Key="runs/b.json", Body=b"[1]")
    first = await read.read()
    assert (first.name, first.body) == ("s3://health/runs/b.json", b"[1]")
    await anyio.sleep(1.1)  # S3 keeps whole seconds
    await s3.put_object(Bucket="health", Key="runs/a.json", Body=b"[2]")
    await s3.put_object(Bucket="health", Key="other/c.json", Body=b"[3]")
    second = await read.read()
    assert (second.name, second.body) == ("s3://health/runs/a.json", b"[2]")
    assert first.published
    assert second.published
    assert second.published > first.published
    assert second.version != first.version


@pytest.mark.parametrize("source", ["s3://health/t.json", "s3://health/"])
async def test_what_has_not_changed_is_not_transferred_again(source: str, s3: Any, http: httpx.AsyncClient) -> None:
    await s3.put_object(Bucket="health", Key="t.json", Body=b"[1]")
    read = reader(source, http)
    first = await read.read()
    assert await snapshots.read(source, http, unless=first.validator) is None
    assert await read.read() == first
    await s3.put_object(Bucket="health", Key="t.json", Body=b"[2]")
    second = await read.read()
    assert second.body == b"[2]"
    assert second.version != first.version  # within one second as well


async def test_a_snapshot_is_put_with_its_hash(s3: Any, http: httpx.AsyncClient) -> None:
    def put() -> None:
        publish([RECORD], "s3://health/runs/")
        publish([RECORD], "s3://health/t.json.gz")
        with pytest.raises(InvalidSnapshot, match="record 1: value is missing"):
            publish([RECORD | {"value": None}], "s3://health/bad.json")
        with pytest.raises(Rejected, match="there is no such bucket"):
            publish([RECORD], "s3://none/t.json")

    await anyio.to_thread.run_sync(put)
    found = await snapshots.read("s3://health/runs/", http)
    assert found
    assert json.loads(found.body) == [RECORD]
    packed = await s3.get_object(Bucket="health", Key="t.json.gz")
    assert json.loads(gzip.decompress(await packed["Body"].read())) == [RECORD]
    assert len(packed["Metadata"]["sha256"]) == 64
    listed = await s3.list_objects_v2(Bucket="health")
    assert "bad.json" not in [each["Key"] for each in listed["Contents"]]
