"""What a forwarder stands on in tests: a clock that jumps, the real store, the simulated intake over real HTTP."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from service.config.secrets import Secret
from service.config.settings import StoreSettings
from service.datadog.intake import Intake
from service.demo.stage import serve
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Cause, Mode, Outcome, Run, new_run_id
from service.domain.samples import Kind, Metric, Sample
from service.pipeline.forwarder import Forwarder
from service.store import Store
from tests.datadog import Received, Reply, ScriptedDatadog, refusal

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SOON = 10_000.0  # monotonic seconds: later than any test's clock comes
DOWN = refusal(503, "Down for maintenance")
FORBIDDEN = refusal(403, "Forbidden")


class JumpingClock:
    """A Clock. Sleep takes no time but moves the clock; ``slept`` are the seconds asked for.

    ``on_sleep`` is called with them before the clock moves.
    """

    def __init__(self, now: datetime = START) -> None:
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] = lambda seconds: None
        self._start = self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    def jump(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep(seconds)
        self.jump(seconds)
        await checkpoint()

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        if not event.is_set():
            await self.sleep(seconds)


@dataclass
class Here:
    """``bodies``: the metrics of each request that came, ``forwarder`` with the longest pauses that jitter allows."""

    clock: JumpingClock
    store: Store
    datadog: ScriptedDatadog
    forwarder: Forwarder
    logs: Sequence[Any]
    bodies: list[list[str]] = field(default_factory=list)

    async def add(self, *samples: Sample, mode: Mode = Mode.LIVE) -> Run:
        """A run that brought these samples."""
        now = self.clock.now()
        run = Run(new_run_id("ci", now), "ci", Cause.ONCE, now, mode=mode, ended=now, outcome=Outcome.COMPLETE)
        await self.store.runs.end(run, samples)
        return run

    async def statuses(self) -> dict[DeliveryStatus, int]:
        runs = [run.id for run in await self.store.runs.list(limit=1000)]
        total: Counter[DeliveryStatus] = Counter()
        for counts in (await self.store.outbox.counts(runs)).values():
            total.update(counts)
        return total

    def answer(self, script: Callable[[list[str]], Reply | None]) -> None:
        """``script`` gives the reply to a request with these metrics."""

        def intercept(received: Received) -> Reply | None:
            metrics = [series["metric"] for series in received.json["series"]]
            self.bodies.append(metrics)
            return script(metrics)

        self.datadog.intercept = intercept

    def events(self, *names: str) -> list[str]:
        return [line["event"] for line in self.logs if line["event"] in names]


@asynccontextmanager
async def forwarding(
    folder: Path, *, clock: JumpingClock | None = None, key: Secret | None = None, **options: Any
) -> AsyncIterator[Here]:
    clock = clock or JumpingClock()
    datadog = ScriptedDatadog(api_keys={"good"}, now=lambda: clock.now().timestamp())
    store = await Store.open(folder, StoreSettings(), clock.now)
    try:
        with serve(datadog) as (url,), capture_logs() as logs:
            async with httpx.AsyncClient(verify=False, trust_env=False) as client:
                intake = Intake(url, key or Secret("Datadog API key", "set DD_API_KEY", "good"), client, clock.now)
                options = {"jitter": lambda low, high: high, **options}
                here = Here(clock, store, datadog, Forwarder(store.outbox, intake, clock, **options), logs)
                here.answer(lambda metrics: None)
                yield here
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


@asynccontextmanager
async def running(forwarder: Forwarder) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forwarder.run)
        yield
        tasks.cancel_scope.cancel()


class Settled:
    """Waits until so many points came to a status."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._changed = anyio.Event()
        forwarder.on_settled = lambda status, points: self._changed.set()

    async def reached(self, status: DeliveryStatus, points: int) -> None:
        with anyio.fail_after(30):
            while self._forwarder.state.counts.get(status, 0) < points:
                self._changed = anyio.Event()
                await self._changed.wait()


def samples(
    count: int, kind: Kind = Kind.GAUGE, at: datetime = START, name: str = "metta.m{:05}", value: float = 1.0
) -> list[Sample]:
    """``count`` series with one sample each; a number goes into ``name``."""
    interval = 60 if kind is Kind.COUNT else None
    tags = {"env": "test", "condition": "< 5.0", "status": "pass"}
    return [Sample(Metric(name.format(number), kind), value, at, tags, interval=interval) for number in range(count)]
