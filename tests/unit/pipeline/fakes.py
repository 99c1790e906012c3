"""A clock that only moves when it is told to, a store in memory, and collectors that do as the test says."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import anyio
from anyio.lowlevel import checkpoint

from service.domain import cron
from service.domain.checks import Check
from service.domain.logged import Logged
from service.domain.points import Fate
from service.domain.runs import Collected, Fault, Outcome, Run
from service.domain.samples import Metric, Sample
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job, Origin
from service.pipeline.run import Runner

START = datetime(2025, 1, 15, 10, 7, 30, tzinfo=UTC)
METRIC = Metric("test.metric")


async def settle() -> None:
    """Lets every task run until it waits (for the clock or the test): nothing here does real I/O."""
    for _ in range(100):
        await checkpoint()


async def first_of(event: anyio.Event, other: Callable[[], Awaitable[None]]) -> None:
    """Until the event is set or ``other`` has ended."""

    async def end() -> None:
        await other()
        either.cancel_scope.cancel()

    async with anyio.create_task_group() as either:
        either.start_soon(end)
        await event.wait()
        either.cancel_scope.cancel()


class FakeClock:
    """Meets ``Clock``. ``advance`` wakes the sleepers in order and lets everything run in between."""

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
        await first_of(event, lambda: self.sleep(seconds))

    async def advance(self, seconds: float) -> None:
        await settle()
        target = self._elapsed + seconds
        while due := [sleeper for sleeper in self._sleepers if sleeper[0] <= target]:
            sleeper = min(due, key=lambda each: each[0])
            self._move(sleeper[0] - self._elapsed)
            self._sleepers.remove(sleeper)
            sleeper[1].set()
            await settle()
        self._move(target - self._elapsed)

    def step(self, seconds: float) -> None:
        """The wall clock is set; no time passes."""
        self._now += timedelta(seconds=seconds)
        self.stepped.set()
        self.stepped = anyio.Event()

    def _move(self, seconds: float) -> None:
        self._elapsed += seconds
        self._now += timedelta(seconds=seconds)


class MemoryRuns:
    """Meets ``Runs`` in memory; what it holds survives a Dispatcher, as a file survives a process."""

    def __init__(self) -> None:
        self.slots: dict[str, datetime] = {}
        self.shadowed: dict[str, datetime] = {}
        self.is_shadow = False
        self.pauses: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.samples: dict[str, list[Sample]] = {}
        self.known: dict[str, list[Check]] = {}
        self.memory: dict[tuple[str, str], bytes] = {}
        self.beats: list[Sample] = []
        self.logs: dict[str, list[Logged]] = {}

    async def last_slots(self) -> Mapping[str, datetime]:
        return dict(self.slots)

    async def shadow_slots(self) -> Mapping[str, datetime]:
        return dict(self.shadowed)

    async def paused(self) -> frozenset[str]:
        return frozenset(self.pauses)

    async def begin(self, run: Run) -> None:
        self.runs[run.id] = run
        if run.slot.scheduled_at:
            (self.shadowed if self.is_shadow else self.slots)[run.job] = run.slot.scheduled_at

    async def end(
        self, run: Run, samples: Sequence[Sample], checks: Sequence[Check], remember: Mapping[str, bytes | None]
    ) -> None:
        self.runs[run.id] = run
        self.samples[run.id] = list(samples)
        self.known[run.job] = list(checks)
        for key, value in remember.items():
            if value is not None:
                self.memory[run.job, key] = value

    async def checks(self, job: str) -> list[Check]:
        return self.known.get(job, [])

    async def last_success(self, job: str) -> datetime | None:
        ends = [run.ended for run in self.ended(job) if run.outcome and run.outcome.succeeded and run.ended]
        return max(ends, default=None)

    async def lost(self, job: str, since: datetime) -> Mapping[Fate, int]:
        return {}

    async def keep_log(self, run_id: str, lines: Sequence[Logged]) -> None:
        self.logs[run_id] = list(lines)

    async def put(self, job: str, samples: Sequence[Sample]) -> None:
        self.beats.extend(samples)

    def ended(self, job: str) -> list[Run]:
        return [run for run in self.runs.values() if run.job == job and run.ended]


@dataclass
class Scripted:
    """A collector that does each time what comes next: raise, hang, or bring samples; then it brings one sample."""

    script: list[Exception | Collected | float] = field(default_factory=list)
    calls: int = 0
    metrics: tuple[Metric, ...] = (METRIC,)

    async def collect(self, now: datetime) -> Collected:
        self.calls += 1
        step = self.script.pop(0) if self.script else Collected((Sample(METRIC, 1, now),))
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Collected):
            return step
        await anyio.sleep(step)
        return Collected((Sample(METRIC, 1, now),))


class Gate:
    """A collector that waits until the test lets it go."""

    metrics = (METRIC,)

    def __init__(self) -> None:
        self.open = anyio.Event()

    async def collect(self, now: datetime) -> Collected:
        await self.open.wait()
        return Collected((Sample(METRIC, 1, now),))

    def let_go(self) -> None:
        self.open.set()
        self.open = anyio.Event()


def job(collector: Scripted | Gate | None = None, *, name: str = "ci", schedule: str = "*/10 * * * *") -> Job:
    return Job(
        name=name,
        type="scripted",
        collector=collector or Scripted(),
        schedule=cron.parse(schedule),
        origin=Origin("production", "1.2.3"),
        service="dashboard-collector",
        zone=ZoneInfo("UTC"),
    )


@dataclass
class Engine:
    """Dispatcher, runner and timer over the fake clock; ``restart`` is a crash and a new process on the same store."""

    clock: FakeClock
    store: MemoryRuns
    dispatcher: Dispatcher
    stored: list[datetime]

    def starts(self, name: str = "ci") -> list[str]:
        """The slots of the runs so far, as HH:MM:SS; "-" for a run that nobody scheduled."""
        slots = [run.slot.scheduled_at for run in self.store.runs.values() if run.job == name]
        return [f"{slot:%H:%M:%S}" if slot else "-" for slot in slots]


@asynccontextmanager
async def engine(
    *jobs: Job,
    clock: FakeClock | None = None,
    store: MemoryRuns | None = None,
    retry: bool = True,
    is_shadow: bool = False,
) -> AsyncIterator[Engine]:
    """A running engine; leaving the block is a kill: nothing drains."""
    clock, store = clock or FakeClock(), store or MemoryRuns()
    for run in store.runs.values():
        if run.outcome is None:
            store.runs[run.id] = replace(run, outcome=Outcome.INTERRUPTED, ended=clock.now(), faults=(Fault("killed"),))
    stored: list[datetime] = []
    async with anyio.create_task_group() as tasks:
        runner = Runner(store, clock, tasks, stored=lambda: stored.append(clock.now()), retry=retry)
        dispatcher = Dispatcher(runner, store, clock, tasks)
        dispatcher.is_shadow = is_shadow
        await dispatcher.load()
        dispatcher.set_jobs(jobs)
        for each in jobs:
            dispatcher.tick(each.name)
        tasks.start_soon(_tick_when_due, clock, dispatcher)
        await settle()
        yield Engine(clock, store, dispatcher, stored)
        tasks.cancel_scope.cancel()


async def _tick_when_due(clock: FakeClock, dispatcher: Dispatcher) -> None:
    """Stands in for the timer, whose APScheduler reads the machine's own clock. It sees a step of the clock at once."""
    while True:
        now = clock.now()
        starts = [start for name in dispatcher.jobs if (start := dispatcher.next_start(name, now))]
        pause = min([60.0, *((start - now).total_seconds() for start in starts)])
        await clock.wait(clock.stepped, pause)
        for name in dispatcher.jobs:
            dispatcher.tick(name)
