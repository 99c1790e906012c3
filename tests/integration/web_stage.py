"""An honest daemon in memory (it stands where ``app`` stands) behind the real server on a loopback socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
from starlette.routing import Route

from service.adapters.secrets import Secret
from service.domain import checks
from service.domain.errors import Unavailable
from service.domain.points import Fate
from service.domain.runs import Cause, Fault, Outcome, Run, Slot
from service.web.check_views import CheckView, is_meant
from service.web.metrics import CollectorState, Quota, Snapshot, Telemetry
from service.web.operations import AlreadyRunning, Draining, Origin, UnknownCollector
from service.web.server import bind, build_app, serve
from service.web.views import (
    Check,
    CollectorView,
    DeliveryView,
    EvidenceView,
    Health,
    Info,
    LastError,
    LogLine,
    Lost,
    RunView,
    SampleView,
    Triggered,
)
from tests.integration.board_stage import StageBoard

START = datetime(2026, 3, 4, 5, 0, 0, tzinfo=UTC)
TOKEN = "open sesame"
BEARER = {"authorization": f"Bearer {TOKEN}"}


BEHIND = (EvidenceView(title="Fix <it>", url="https://github.com/o/r/actions/runs/1", conclusion="cancelled"),)


@dataclass
class Daemon:
    """Meets ``Operations``: collectors that run until the test says how they ended."""

    collector_names: list[str] = field(default_factory=lambda: ["ci", "training"])
    history: list[Run] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, Origin]] = field(default_factory=list)
    store_open: bool = True
    warning: str = ""
    beats: bool = True
    draining: bool = False
    bug: str | None = None
    samples_each: int = 3
    known_checks: list[checks.Check] = field(default_factory=list)
    trouble: str | None = None
    ended: dict[str, anyio.Event] = field(default_factory=dict)
    waited_for: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)
    read: anyio.Event = field(default_factory=anyio.Event)
    board: StageBoard = field(init=False)

    def __post_init__(self) -> None:
        self.board = StageBoard(self, self.history, self.known_checks, START)

    @property
    def info(self) -> Info:
        return Info(name="infra-health", version="1.2.3", commit="abc1234", started=START, env="test", service="watch")

    def live(self) -> Health:
        return Health(ok=self.beats, checks=(Check(name="scheduler", status="ok" if self.beats else "fail"),))

    async def ready(self) -> Health:
        checks = (
            Check(name="store", status="ok" if self.store_open else "fail"),
            Check(name="datadog", status="warn" if self.warning else "ok", detail=self.warning),
        )
        return Health(ok=self.store_open, checks=checks)

    async def collectors(self) -> list[CollectorView]:
        self._need_store()
        return [await self.collector(name) for name in self.collector_names]

    async def collector(self, name: str) -> CollectorView:
        self._need(name)
        runs = [run for run in self.history if run.job == name]
        failed = [run for run in runs if run.outcome and not run.outcome.succeeded]
        succeeded = [run.ended for run in runs if run.outcome and run.outcome.succeeded]
        return CollectorView(
            name=name,
            type="github_ci",
            schedule="*/10 * * * *",
            schedule_in_words="every 10 minutes",
            time_zone="UTC",
            service="dashboard-collector",
            enabled=True,
            paused=name in self.paused,
            running=self._active(name),
            next_run=None if name in self.paused else START + timedelta(minutes=10),
            last_run=self._view(runs[0]) if runs else None,
            last_success=next(iter(succeeded), None),
            last_error=LastError(run=failed[0].id, at=failed[0].ended or START, errors=(failed[0].error or "",))
            if failed
            else None,
            samples=runs[0].samples if runs else 0,
        )

    async def trigger(self, name: str, origin: Origin) -> Triggered:
        self._need(name)
        if self.draining:
            raise Draining
        if active := self._active(name):
            raise AlreadyRunning(active)
        self.asked.append(("trigger", name, origin))
        return Triggered(id=self.begin(name), collector=name)

    async def push(self, name: str, body: bytes, key: str, origin: Origin) -> Triggered:
        self._need(name)
        self.asked.append(("push", name, origin))
        return Triggered(id=self.begin(name), collector=name)

    async def trigger_all(self, origin: Origin) -> list[Triggered]:
        triggered = []
        for name in self.collector_names:
            try:
                triggered.append(await self.trigger(name, origin))
            except AlreadyRunning as error:
                triggered.append(Triggered(id=error.run_id, collector=name, started=False))
        return triggered

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        self.waited_for.set()
        try:
            with anyio.move_on_after(seconds):
                await self.ended[run_id].wait()
                return await self.run(run_id)
        except asyncio.CancelledError:
            self.left.set()
            raise
        return None

    async def runs(self, collector: str | None = None, limit: int = 50, before: str | None = None) -> list[RunView]:
        if collector is not None:
            self._need(collector)
        older = self.history
        if before:
            older = [run for i, run in enumerate(older) if before in [newer.id for newer in older[:i]]]
        return [self._view(run) for run in older if collector in (None, run.job)][:limit]

    async def run(self, run_id: str) -> RunView | None:
        return next((self._view(run) for run in self.history if run.id == run_id), None)

    async def samples(self, run_id: str, offset: int, limit: int) -> tuple[list[SampleView], int] | None:
        run = next((run for run in self.history if run.id == run_id), None)
        if run is None:
            return None
        self.read.set()
        samples = [
            SampleView(
                metric="ci.workflow.cancelled",
                value=float(i),
                tags={"task": "jobs_cancelled", "status": "pass", "condition": "< 10"},
                kind="gauge",
                timestamp=run.started,
                delivery="delivered",
                evidence=BEHIND[:i],
            )
            for i in range(run.samples)
        ]
        return samples[offset : offset + limit], run.samples

    async def checks(self, name: str, metric: str | None = None) -> list[CheckView]:
        self._need(name)
        return [
            CheckView.of(name, check, None, START, timedelta(hours=24))
            for check in self.known_checks
            if metric is None or is_meant(check, metric)
        ]

    async def run_log(self, run_id: str) -> list[LogLine]:
        return [LogLine(time=START, level="info", message="run started", fields={"cause": "http"})]

    def recent_log(self, limit: int) -> list[LogLine]:
        return [LogLine(time=START, level="info", message=f"line {i}") for i in range(3)][-limit:]

    async def pause(self, name: str, origin: Origin) -> None:
        self._need(name)
        self.asked.append(("pause", name, origin))
        self.paused.add(name)

    async def resume(self, name: str, origin: Origin) -> None:
        self._need(name)
        self.asked.append(("resume", name, origin))
        self.paused.discard(name)

    def delivery(self) -> DeliveryView:
        return DeliveryView(
            state="trouble" if self.trouble else "ok",
            last_accepted=START,
            waiting=7,
            lost=Lost.of({Fate.EXPIRED: 4}),
            trouble=self.trouble,
        )

    async def metrics_snapshot(self) -> Snapshot:
        return Snapshot(
            active_runs=sum(not run.ended for run in self.history),
            waiting=7,
            lag=0.002,
            requests={"github": {"304": 1}},
            quota={"core": Quota(4990, 5000)},
            collectors={name: CollectorState(name in self.paused, START) for name in self.collector_names},
        )

    def begin(self, name: str) -> str:
        """A run that is active until ``end``."""
        run = Run(f"{name}-{len(self.history)}", Slot(name, None, Cause.HTTP, "127.0.0.1"), START)
        self.history.insert(0, run)
        self.ended[run.id] = anyio.Event()
        return run.id

    def end(self, run_id: str, outcome: Outcome = Outcome.COMPLETE, fault: str = "") -> None:
        at = next(i for i, run in enumerate(self.history) if run.id == run_id)
        self.history[at] = replace(
            self.history[at],
            ended=START + timedelta(seconds=4.4),
            attempts=1,
            outcome=outcome,
            faults=(Fault(fault),) if fault else (),
            samples=self.samples_each,
        )
        self.ended[run_id].set()

    def _view(self, run: Run) -> RunView:
        return RunView.of(run, {Fate.DELIVERED: run.samples})

    def _active(self, name: str) -> str | None:
        return next((run.id for run in self.history if run.job == name and not run.ended), None)

    def _need(self, name: str) -> None:
        self._need_store()
        if name not in self.collector_names:
            raise UnknownCollector(name, self.collector_names)

    def _need_store(self) -> None:
        if self.bug:
            raise RuntimeError(self.bug)
        if not self.store_open:
            raise Unavailable("the store is closed")


@dataclass(frozen=True)
class Stage:
    client: httpx.AsyncClient
    port: int
    telemetry: Telemetry
    stop: Callable[[], None]
    routes: list[Route]

    async def raw(self, sent: bytes) -> bytes:
        """What comes back for these very bytes until the server closes."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
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


@asynccontextmanager
async def served(
    daemon: Daemon,
    *,
    token: str | None = None,
    read_token: Secret | str | None = None,
    in_cluster: bool = False,
    allowed_hosts: tuple[str, ...] = (),
) -> AsyncIterator[Stage]:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    telemetry = Telemetry(version="1.2.3", commit="abc1234", collectors=daemon.collector_names)
    app = build_app(
        daemon,
        token=token,
        read_token=read_token,
        in_cluster=in_cluster,
        allowed_hosts=allowed_hosts,
        telemetry=telemetry,
    )
    routes = [route for route in app.routes if isinstance(route, Route)]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, app, listener)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield Stage(client, port, telemetry, tasks.cancel_scope.cancel, routes)
            tasks.cancel_scope.cancel()


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that ``response`` must be: RFC 9457, with every member that we promise."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= body.keys()
    return body
