"""200 collectors on ``* * * * *``: how late they start, against bare APScheduler; and what an idle minute costs."""

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import anyio
import structlog
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from bench import Measured
from service.clock import SystemClock
from service.config.settings import CollectorSettings, StoreSettings
from service.domain.runs import CollectResult
from service.domain.samples import Metric, Sample
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store

COLLECTORS = 200
_NEVER = "0 0 29 2 *"  # not within this bench


def run() -> Iterable[Measured]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    bare = anyio.run(_bare)
    asked, ended, idle = anyio.run(_ours)
    for share, name in ((98, "99th percentile"), (49, "median")):
        ours, baseline = (quantiles(late, n=100)[share] * 1000 for late in (asked, bare))
        yield Measured(f"a slot to its collector's call, {COLLECTORS:,} at once, {name}", ours, "ms", baseline)
    yield Measured("the same to the last run's end, stored", ended, "s")
    yield Measured(f"CPU of an idle minute with {COLLECTORS:,} collectors", idle, "s")


class Constant:
    """A collector of one sample, that notes when it is called."""

    metrics = (Metric("metta.infra.bench.value"),)

    def __init__(self) -> None:
        self.called: list[datetime] = []

    async def collect(self, now: datetime) -> CollectResult:
        self.called.append(datetime.now(UTC))
        return CollectResult((Sample(self.metrics[0], 1, now),))


async def _ours() -> tuple[list[float], float, float]:
    """Seconds from the slot to each call, to the last stored end, and CPU seconds of a minute without a slot."""
    clock = SystemClock()
    collector = Constant()
    called = collector.called
    settings = CollectorSettings(type="bench", schedule="* * * * *")
    jobs = [Job(f"bench-{number}", collector, settings, env="bench") for number in range(COLLECTORS)]
    with tempfile.TemporaryDirectory() as folder:
        store = await Store.open(Path(folder), StoreSettings(), clock.now)
        async with anyio.create_task_group() as tasks:
            runner = Runner(store, clock, tasks, on_stored=lambda: None)
            scheduler = Scheduler(runner, store, clock, tasks)
            await scheduler.load()
            await _until_shortly_before_the_minute()
            await scheduler.set_jobs(jobs)
            await _until(lambda: not scheduler.active.runs())  # the first runs of an empty store
            called.clear()
            tasks.start_soon(scheduler.run)
            await _until(lambda: len(called) >= COLLECTORS)
            await _until(lambda: not scheduler.active.runs())
            ended = _seconds_of_the_minute(datetime.now(UTC))
            late = [_seconds_of_the_minute(at) for at in called]
            quiet = [replace(job, settings=CollectorSettings(type="bench", schedule=_NEVER)) for job in jobs]
            await scheduler.set_jobs(quiet)
            began = time.process_time()
            await anyio.sleep(60)
            idle = time.process_time() - began
            tasks.cancel_scope.cancel()
        await store.close()
    return late, ended, idle


async def _bare() -> list[float]:
    """Seconds from the slot to each call by APScheduler alone."""
    called: list[datetime] = []

    async def call() -> None:
        called.append(datetime.now(UTC))

    await _until_shortly_before_the_minute()
    scheduler = AsyncIOScheduler(executors={"default": AsyncIOExecutor()}, timezone="UTC")
    for number in range(COLLECTORS):
        scheduler.add_job(call, CronTrigger.from_crontab("* * * * *", "UTC"), id=str(number), misfire_grace_time=None)
    scheduler.start()
    await _until(lambda: len(called) >= COLLECTORS)
    scheduler.shutdown(wait=False)
    return [_seconds_of_the_minute(at) for at in called]


async def _until_shortly_before_the_minute() -> None:
    """20 seconds before it: the start has its own work, which must be over by then."""
    await anyio.sleep((40 - _seconds_of_the_minute(datetime.now(UTC))) % 60)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.05)


def _seconds_of_the_minute(at: datetime) -> float:
    return at.second + at.microsecond / 1e6
