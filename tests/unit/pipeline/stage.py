"""What these tests stand on: a clock that moves when it is told to, the real store, collectors as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from service.clock import Clock
from service.config.settings import CollectorSettings, StoreSettings
from service.domain.errors import Unavailable
from service.domain.runs import Actor, CollectResult, Mode, Run
from service.domain.samples import Metric, Sample
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store, tables
from service.store.engine import open_memory
from service.store.fallback import Failover
from service.store.state_directory import take_over

START = datetime(2025, 1, 15, 10, 7, 30, tzinfo=UTC)
HERE = Actor("10.0.0.1", "ann", "looks odd")
METRIC = Metric("test.metric")
CHECK = {
    "source": "cron",
    "workflow_category": "ci",
    "workflow_name": "main",
    "task": "tests",
    "check": "passing",
    "condition": "> 0.5",
    "status": "pass",
}


@contextmanager
def without_threads() -> Iterator[None]:
    """What belongs into a worker thread is done at once: to wait for threads costs these tests more than the rest."""

    async def run_sync(work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        await checkpoint()
        return work(*arguments)

    with patch.object(anyio.to_thread, "run_sync", run_sync):
        yield


async def settle() -> None:
    """Lets every task run until it waits for the clock or the test."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(1_000):  # a scope whose cancellation somebody ignores calls back for ever
        if not ready:
            return
        await checkpoint()


class FakeClock:
    """A Clock. ``advance`` wakes the sleepers in order and lets everything run in between."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, anyio.Event]] = []
        self.stepped = anyio.Event()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await checkpoint()
            return
        sleeper = (self._elapsed + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        async def end() -> None:
            await self.sleep(seconds)
            either.cancel_scope.cancel()

        async with anyio.create_task_group() as either:
            either.start_soon(end)
            await event.wait()
            either.cancel_scope.cancel()

    async def advance(self, seconds: float) -> None:
        await settle()
        target = self._elapsed + seconds
        while due := [sleeper for sleeper in self._sleepers if sleeper[0] <= target]:
            sleeper = min(due, key=lambda each: each[0])
            self.move(sleeper[0] - self._elapsed)
            self._sleepers.remove(sleeper)
            sleeper[1].set()
            await settle()
        self.move(target - self._elapsed)
        self._wake()
        await settle()

    def step(self, seconds: float) -> None:
        """The wall clock is set; no time passes."""
        self._now += timedelta(seconds=seconds)
        self._wake()

    def move(self, seconds: float) -> None:
        """Time passes, and nobody wakes."""
        self._elapsed += seconds
        self._now += timedelta(seconds=seconds)

    def _wake(self) -> None:
        """The real timer looks at the clock every second; its stand-in after each step of the test."""
        self.stepped.set()
        self.stepped = anyio.Event()


class Scripted:
    """A collector that does each time what comes next: raise, hang, or bring samples; then it brings one sample."""

    metrics: tuple[Metric, ...] = (METRIC,)

    def __init__(self, *script: BaseException | CollectResult | float) -> None:
        self._script = list(script)
        self.calls = 0

    async def collect(self, now: datetime) -> CollectResult:
        self.calls += 1
        step = self._script.pop(0) if self._script else 0.0
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, CollectResult):
            return step
        await anyio.sleep(step)
        return CollectResult((Sample(METRIC, 1, now),))


class Gate:
    """A collector whose calls wait until the test lets them end. ``calls``: those that wait, the oldest first."""

    metrics: tuple[Metric, ...] = (METRIC,)

    def __init__(self) -> None:
        self.calls: list[anyio.Event] = []

    async def collect(self, now: datetime) -> CollectResult:
        call = anyio.Event()
        self.calls.append(call)
        try:
            await call.wait()
        finally:
            self.calls.remove(call)
        return CollectResult()

    async def open(self) -> None:
        for call in self.calls:
            call.set()
        await settle()


def make_job(
    collector: Any = None, *, name: str = "ci", schedule: str = "*/10 * * * *", state: Any = None, **options: Any
) -> Job:
    own = {"type": "scripted", "schedule": schedule, "service": "dashboard-collector", **options}
    settings = CollectorSettings.model_validate(own)
    return Job(name, collector or Scripted(), settings, env="production", version="1.2.3", state=state)


def lose_store(patch: pytest.MonkeyPatch, part: type, method: str, times: int = 1_000) -> None:
    """So many calls of the method find the store away."""
    original = getattr(part, method)
    left = iter(range(times))

    async def call(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is not None:
            raise Unavailable("away")
        return await original(*arguments, **options)

    patch.setattr(part, method, call)


# A store that survives its process, in memory, for it is not the file that these tests are about; and one for all of
# them: to make the tables and to compile the statements takes longer than a test.
_DATABASE = open_memory()


def empty_store() -> None:
    _DATABASE.write(lambda tx: [tx.execute(table.delete()) for table in tables.meta.sorted_tables])


def open_store(clock: Clock) -> Store:
    """The store as a new process finds it."""
    _DATABASE.write(partial(take_over, clock.now()))
    return Store(Failover(_DATABASE, clock.now), StoreSettings())


class Stage(NamedTuple):
    """``scheduler`` over the fake clock and a store; ``stored``: when there was something to send."""

    clock: FakeClock
    store: Store
    scheduler: Scheduler
    stored: list[datetime]
    ended: list[Run]
    logs: list[MutableMapping[str, Any]]

    async def runs(self, name: str = "ci") -> list[Run]:
        """All of them, oldest first."""
        return (await self.store.runs.list(name, limit=1000))[::-1]

    async def outcomes(self) -> list[str | None]:
        return [run.outcome for run in await self.runs()]

    async def starts(self, name: str = "ci") -> list[str]:
        """The slots of the runs so far, as HH:MM:SS; "-" for a run that nobody scheduled."""
        return [f"{run.slot:%H:%M:%S}" if run.slot else "-" for run in await self.runs(name)]

    async def samples(self, run: Run | None = None) -> list[tuple[str, float, dict[str, str]]]:
        """Metric, value and tags of what a run stored; of the last run, if none is named."""
        run = run or (await self.runs())[-1]
        found, total = await self.store.outbox.samples(run.id, 0, 100_000)
        assert total == len(found)
        return [(each.point.metric, each.point.value, each.tags) for each in found]

    async def values(self, run: Run | None = None) -> dict[str, float]:
        """By metric; of several the last one."""
        return {metric: value for metric, value, _ in await self.samples(run)}


@asynccontextmanager
async def staged(
    *jobs: Job, clock: FakeClock | None = None, retry: bool = True, mode: Mode = Mode.LIVE
) -> AsyncIterator[Stage]:
    """A running scheduler; leaving the block is a kill. ``clock``: of the process whose store it goes on with."""
    if clock is None:
        clock = FakeClock()
        empty_store()
    stored: list[datetime] = []
    ended: list[Run] = []
    with capture_logs() as logs, without_threads():
        async with anyio.create_task_group() as tasks:
            store = open_store(clock)
            store.outbox.mode = mode
            runner = Runner(
                store, clock, tasks, on_stored=lambda: stored.append(clock.now()), on_end=ended.append, retry=retry
            )
            scheduler = Scheduler(runner, store, clock, tasks)
            scheduler.mode = mode
            await scheduler.load()
            await scheduler.set_jobs(jobs)
            tasks.start_soon(_start_when_due, clock, scheduler)
            await settle()
            yield Stage(clock, store, scheduler, stored, ended, logs)
            tasks.cancel_scope.cancel()


async def _start_when_due(clock: FakeClock, scheduler: Scheduler) -> None:
    """Stands in for the timer, whose APScheduler reads the machine's own clock."""
    while True:
        first = await scheduler.start_due()
        await clock.wait(clock.stepped, (first - clock.now()).total_seconds() if first else 60.0)
