"""The web in front of a real scheduler, store and forwarder; only the collectors do what the test says."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx

from service.clock import SystemClock
from service.collectors.github_ci.deliveries import Deliveries
from service.config.logging import buffer
from service.config.secrets import Secret
from service.config.settings import CollectorSettings, Settings
from service.datadog.intake import Intake
from service.domain.errors import Rejected
from service.domain.runs import Actor, Cause, CollectResult, NoData, PartialFailure, Run
from service.domain.samples import Evidence, Metric, Sample
from service.github.client import Github
from service.pipeline.forwarder import Forwarder
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.app import create_app
from service.web.context import AppContext
from service.web.schemas import Info
from service.web.server import serve

START = datetime(2026, 3, 4, 5, 0, 0, tzinfo=UTC)
HOTFIX = Metric("ci.hotfix.count", help="Merged pull requests with a hotfix label")


class StageClock(SystemClock):
    """Stands at START but for ``ahead``; its monotonic time is as far before the machine's."""

    ahead = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def a_check(
    value: float = 12.0, status: str = "fail", condition: str = "< 10", evidence: Sequence[Evidence] = (), **tags: str
) -> Sample:
    named = {"source": "cron", "workflow_category": "ci", "workflow_name": "main", "task": "hotfix", "check": "n"}
    tags = {**named, "status": status, "condition": condition, **tags}
    return Sample(HOTFIX, value, START, tags, evidence=tuple(evidence))


@dataclass
class Scripted:
    """A collector that brings what the test says, when it says so."""

    samples: Sequence[Sample] = (a_check(),)
    failures: Sequence[PartialFailure] = ()
    no_data: Sequence[NoData] = ()
    error: Exception | None = None
    gate: anyio.Event | None = None
    asked: anyio.Event = field(default_factory=anyio.Event)
    note: str | None = None
    waits_for: str | None = None
    pushed: list[tuple[bytes, str]] = field(default_factory=list)
    metrics = (HOTFIX,)

    async def collect(self, now: datetime) -> CollectResult:
        self.asked.set()
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return CollectResult(tuple(self.samples), tuple(self.failures), tuple(self.no_data))


class Pushed(Scripted):
    """One that takes snapshots."""

    async def accept(self, body: bytes, key: str, now: datetime) -> None:
        if self.error or not body:
            raise self.error or Rejected("the snapshot is empty")
        self.pushed.append((body, key))


@dataclass
class Stage:
    context: AppContext
    client: httpx.AsyncClient
    port: int
    clock: StageClock
    collectors: dict[str, Scripted]
    stop: Callable[[], None]

    async def run(self, name: str = "ci", cause: Cause = Cause.HTTP) -> Run:
        """A whole run; what pages show of it is not from before."""
        return await self.end(await self.context.scheduler.trigger(name, cause, Actor("127.0.0.1")))

    async def hold(self, name: str = "ci") -> Run:
        """A run that is active until its collector's gate is opened."""
        collector = self.collectors[name]
        collector.gate = anyio.Event()
        run = await self.context.scheduler.trigger(name, Cause.HTTP, Actor("127.0.0.1"))
        await collector.asked.wait()
        return run

    async def end(self, run: Run) -> Run:
        if gate := self.collectors[run.collector].gate:
            gate.set()
        ended = await self.context.scheduler.active.wait(run.id, 10)
        assert ended
        self.clock.ahead += 5
        return ended

    async def json(self, address: str) -> Any:
        answer = await self.client.get(address)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def connect(self, sent: bytes = b"") -> anyio.abc.SocketStream:
        """A connection on which these very bytes are sent."""
        stream = await anyio.connect_tcp("127.0.0.1", self.port)
        await stream.send(sent)
        return stream


async def received(stream: anyio.abc.SocketStream) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    with suppress(anyio.BrokenResourceError):
        async for part in stream:
            parts.append(part)
    await stream.aclose()
    return b"".join(parts)


async def in_chunks(body: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """A body of which no Content-Length tells how long it is."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


def secret(value: str | None) -> Secret:
    return Secret("token", "set it", value)


@asynccontextmanager
async def served(folder: Path, collectors: Sequence[str] = ("ci", "training"), **changes: Any) -> AsyncIterator[Stage]:
    """The collector ``training`` takes snapshots. ``changes``: of the web's context."""
    clock, settings = StageClock(), Settings(collectors={})
    info = Info(name="infra-health", version="1.2.3", commit="abc1234", started=START, env="test", service="watch")
    store = await Store.open(folder, settings.store, clock.now)
    scripted: dict[str, Scripted] = {name: Pushed() if name == "training" else Scripted() for name in collectors}
    async with httpx.AsyncClient(timeout=30, verify=False) as client, anyio.create_task_group() as tasks:
        intake = Intake("http://127.0.0.1:9", secret("key"), client)
        runner = Runner(
            store, clock, tasks, on_stored=lambda: None, on_end=lambda run: context.telemetry.run_ended(run)
        )
        context = AppContext(
            info=info,
            settings=settings,
            clock=clock,
            store=store,
            scheduler=Scheduler(runner, store, clock, tasks),
            forwarder=Forwarder(store.outbox, intake, clock),
            intake=intake,
            github=Github("https://api.github.com", secret(None), client, clock),
            log=buffer,
            token=secret(None),
            read_token=secret(None),
            webhook_secret=secret(None),
            deliveries=Deliveries(clock),
        )
        context = replace(context, **changes)
        context.telemetry.expect(collectors)
        context.deliveries.expect({"ci": ["octo/hello"]})
        own = CollectorSettings(type="scripted", schedule="*/10 * * * *", service="svc")
        await context.scheduler.set_jobs(Job(name, each, own, "test") for name, each in scripted.items())
        port: int = await tasks.start(serve, create_app(context), "127.0.0.1", 0)
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        yield Stage(context, client, port, clock, scripted, tasks.cancel_scope.cancel)
        tasks.cancel_scope.cancel()
    await store.close()


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that ``response`` must be: RFC 9457, with every member that we promise."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= body.keys()
    return body
