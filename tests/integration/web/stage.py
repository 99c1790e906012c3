"""The web in front of a real scheduler, store and forwarder; only the collectors do what the test says."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
from fastapi import FastAPI

from service.clock import SystemClock
from service.collectors.github_ci.deliveries import Deliveries
from service.config.logging import buffer
from service.config.secrets import Secret
from service.config.settings import CollectorSettings, HttpSettings, Settings
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
TOKEN = "open sesame"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HOTFIX = Metric("ci.hotfix.count", help="Merged pull requests with a hotfix label")


class StageClock(SystemClock):
    """Stands at ``at``; ``ahead`` is how far its monotonic time is before the machine's."""

    def __init__(self) -> None:
        self.at = START
        self.ahead = 0.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def pass_time(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.ahead += seconds


def a_check(
    value: float = 12.0, status: str = "fail", condition: str = "< 10", evidence: Sequence[Evidence] = (), **tags: str
) -> Sample:
    named = {"source": "cron", "workflow_category": "ci", "workflow_name": "main", "task": "hotfix", "check": "n"}
    return Sample(
        HOTFIX, value, START, {**named, "status": status, "condition": condition, **tags}, evidence=tuple(evidence)
    )


class Scripted:
    """A collector that brings what the test says, when it says so."""

    metrics = (HOTFIX,)

    def __init__(self) -> None:
        self.samples: Sequence[Sample] = (a_check(),)
        self.failures: Sequence[PartialFailure] = ()
        self.no_data: Sequence[NoData] = ()
        self.error: Exception | None = None
        self.gate: anyio.Event | None = None
        self.asked = anyio.Event()
        self.note: str | None = None
        self.waits_for: str | None = None
        self.pushed: list[tuple[bytes, str]] = []

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
    app: FastAPI
    client: httpx.AsyncClient
    port: int
    clock: StageClock
    collectors: dict[str, Scripted]
    stop: Callable[[], None]

    async def run(self, name: str = "ci") -> Run:
        """A whole run; what pages show of it is not from before."""
        started = await self.begin(name)
        ended = await self.context.scheduler.active.wait(started.id, 10)
        assert ended
        self.clock.pass_time(5)
        return ended

    async def begin(self, name: str = "ci") -> Run:
        return await self.context.scheduler.trigger(name, Cause.HTTP, Actor("127.0.0.1"))

    async def hold(self, name: str = "ci") -> Run:
        """A run that is active until ``release``."""
        collector = self.collectors[name]
        collector.gate = anyio.Event()
        run = await self.begin(name)
        await collector.asked.wait()
        return run

    async def release(self, run: Run) -> None:
        gate, self.collectors[run.collector].gate = self.collectors[run.collector].gate, None
        assert gate
        gate.set()
        assert await self.context.scheduler.active.wait(run.id, 10)
        self.clock.pass_time(5)

    async def json(self, address: str) -> Any:
        answer = await self.client.get(address)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def raw(self, sent: bytes) -> bytes:
        """What comes back for these very bytes until the server closes."""
        async with await self.connect() as stream:
            await stream.send(sent)
            return await received(stream)

    async def connect(self) -> anyio.abc.SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)


async def received(stream: anyio.abc.SocketStream) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    try:
        while True:
            parts.append(await stream.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return b"".join(parts)


def secret(value: str | None) -> Secret:
    return Secret("token", "set it", value)


@asynccontextmanager
async def served(
    folder: Path,
    *,
    collectors: Sequence[str] = ("ci", "training"),
    token: Secret | str | None = None,
    read_token: Secret | str | None = None,
    in_cluster: bool = False,
    webhook_secret: Secret | str | None = None,
    deliveries: Deliveries | None = None,
    allowed_hosts: tuple[str, ...] = (),
    seconds: float = 60,
    is_beating: bool = False,
) -> AsyncIterator[Stage]:
    """The collector ``training`` takes snapshots. ``seconds``: how long a test may take.

    ``is_beating``: whether the scheduler's timer seems to run: by this clock, which stands, a real one never rests.
    """
    clock = StageClock()
    settings = Settings(
        collectors={name: CollectorSettings(type="scripted", schedule="@daily", service="svc") for name in collectors},
        http=HttpSettings(allowed_hosts=allowed_hosts),
    )
    store = await Store.open(folder, settings.store, clock.now)
    scripted: dict[str, Scripted] = {name: Pushed() if name == "training" else Scripted() for name in collectors}
    with anyio.fail_after(seconds):
        async with httpx.AsyncClient(verify=False) as outside, anyio.create_task_group() as tasks:
            intake = Intake("http://127.0.0.1:9", secret("key"), outside)
            forwarder = Forwarder(store.outbox, intake, clock)
            runner = Runner(
                store, clock, tasks, on_stored=lambda: None, on_end=lambda run: context.telemetry.run_ended(run)
            )
            context = AppContext(
                info=Info(
                    name="infra-health", version="1.2.3", commit="abc1234", started=START, env="test", service="watch"
                ),
                settings=settings,
                clock=clock,
                store=store,
                scheduler=Scheduler(runner, store, clock, tasks),
                forwarder=forwarder,
                intake=intake,
                github=Github("https://api.github.com", secret(None), outside, clock),
                log=buffer,
                token=token if isinstance(token, Secret) else secret(token),
                read_token=read_token if isinstance(read_token, Secret) else secret(read_token),
                webhook_secret=webhook_secret if isinstance(webhook_secret, Secret) else secret(webhook_secret),
                deliveries=deliveries or Deliveries(clock),
                in_cluster=in_cluster,
            )
            context.telemetry.expect(collectors)
            own = CollectorSettings(type="scripted", schedule="*/10 * * * *", service="svc", backoff_limit=0)
            await context.scheduler.set_jobs(Job(name, scripted[name], own, "test") for name in collectors)
            if is_beating:
                tasks.start_soon(_beat, context.scheduler, clock)
            app = create_app(context)
            port: int = await tasks.start(serve, app, "127.0.0.1", 0)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
                yield Stage(context, app, client, port, clock, scripted, tasks.cancel_scope.cancel)
            tasks.cancel_scope.cancel()
    await store.close()


async def _beat(scheduler: Scheduler, clock: StageClock) -> None:
    while True:
        scheduler.beat = clock.monotonic()
        await anyio.sleep(1)


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that ``response`` must be: RFC 9457, with every member that we promise."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= body.keys()
    return body
