"""What the tests of snapshots stand on: a reader, S3 (moto's server), and a store for the collectors' state."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import aioboto3
import httpx
import pytest

from service.collectors.records import MAX_BYTES
from service.collectors.registry import CollectorState, Context
from service.collectors.snapshot import Snapshot, SnapshotSettings
from service.collectors.snapshot.sources import Content, parse_place, read_place
from service.config.settings import StoreSettings
from service.domain.runs import Cause, CollectResult, Outcome, Run, new_run_id
from service.store import Store
from tests.aws import moto, reach

Read = Callable[..., Awaitable[Content]]


class Collectors:
    """Makes collectors that share a store, as after restarts."""

    def __init__(self, http: httpx.AsyncClient, store: Store) -> None:
        self.store = store
        self._http = http

    def make(self, source: object = None, **more: Any) -> Snapshot:
        given = {"type": "snapshot", "schedule": "0 * * * *", "category": "evaluation", **more}
        given |= {"source": str(source)} if source else {}
        state = CollectorState(self.store.states, "nightly")
        context = Context("nightly", cast("Any", None), self._http, state)
        return Snapshot(SnapshotSettings.model_validate(given), context)

    async def run(self, collector: Snapshot, now: datetime) -> CollectResult:
        return await self.end(await collector.collect(now))

    async def end(self, result: CollectResult) -> CollectResult:
        """Stores what the end of a run does."""
        now = datetime.now(UTC)
        run = Run(new_run_id("nightly", now), "nightly", Cause.ONCE, now, outcome=Outcome.COMPLETE, ended=now)
        await self.store.runs.end(run, result.samples, None, result.state)
        return result


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, verify=False, trust_env=False) as client:
        yield client


@pytest.fixture
def read(http: httpx.AsyncClient) -> Read:
    return lambda source, max_bytes=MAX_BYTES: read_place(parse_place(str(source)), http, max_bytes)


@pytest.fixture
async def collectors(http: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Collectors]:
    store = await Store.open(tmp_path_factory.mktemp("state"), StoreSettings())
    yield Collectors(http, store)
    await store.close()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def s3(moto_server: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A client; the bucket ``health`` is there, and empty at first."""
    reach(moto_server, monkeypatch)
    await http.post(f"{moto_server}/moto-api/reset")
    async with aioboto3.Session().client("s3") as client:
        await client.create_bucket(Bucket="health", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client
