"""What the tests of snapshots stand on: a client, S3 (moto's server), and a collector's state as the store keeps it."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, cast

import aioboto3
import httpx
import pytest

from service.collectors.registry import CollectorState, Context
from service.collectors.snapshot import Snapshot, SnapshotSettings
from service.domain.errors import Unavailable
from service.domain.runs import CollectResult
from service.store.states import READ_PUSH, Push
from tests.aws import moto, reach


class States:
    """Of one collector, by the rules of ``service.store.states``; ``is_lost``: the store can't be reached."""

    def __init__(self) -> None:
        self.is_lost = False
        self._values: dict[str, bytes] = {}
        self._pushes: list[Push] = []

    def end(self, result: CollectResult) -> CollectResult:
        """Keeps what the end of a run would."""
        for key, value in result.state.items():
            if value is not None:
                self._values[key] = value
        return result

    async def read(self, collector: str, key: str) -> tuple[bytes | None, int]:
        if self.is_lost:
            raise Unavailable("the store is away")
        return self._values.get(key), 1

    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> Push:
        if known := next((push for push in self._pushes if push.key == key), None):
            return known
        self._pushes.append(Push(len(self._pushes) + 1, key, at, body, is_read=False))
        return self._pushes[-1]

    async def pushes(self, collector: str) -> list[Push]:
        if self.is_lost:
            raise Unavailable("the store is away")
        read = int(self._values.get(READ_PUSH, b"0"))
        kept = [Push(push.id, push.key, push.at, push.body, push.id <= read) for push in self._pushes]
        return [push for push in kept if not push.is_read or push is kept[-1]]


class Collectors:
    """Makes collectors that share a state, as after restarts."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.states = States()
        self._http = http

    def make(self, source: str | None, **more: Any) -> Snapshot:
        given = {"type": "snapshot", "schedule": "0 * * * *", "category": "evaluation", "source": source, **more}
        context = Context("nightly", cast("Any", None), self._http, CollectorState(self.states, "nightly"))
        return Snapshot(SnapshotSettings.model_validate(given), context)

    async def run(self, collector: Snapshot, now: datetime) -> CollectResult:
        """A run to its end."""
        return self.states.end(await collector.collect(now))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture
def collectors(http: httpx.AsyncClient) -> Collectors:
    return Collectors(http)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def s3(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A client; the bucket ``health`` is there, and empty at first."""
    reach(moto_server, monkeypatch)
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.post(f"{moto_server}/moto-api/reset")
    async with aioboto3.Session().client("s3") as client:
        await client.create_bucket(Bucket="health", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client
