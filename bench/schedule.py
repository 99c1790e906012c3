"""200 collectors on ``* * * * *``: how late they start, against bare APScheduler; and what an idle minute costs."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from bench import Measured, delays
from service.clock import SystemClock
from service.config.settings import CollectorSettings, StoreSettings
from service.domain.runs import CollectResult
from service.domain.samples import Metric, Sample
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store

COLLECTORS = 200
_MINUTELY = CollectorSettings(type="bench", schedule="* * * * *")
_NEVER = CollectorSettings(type="bench", schedule="0 0 29 2 *")  # not within this bench


def run() -> Iterable[Measured]:
    bare = anyio.run(_start_bare)
    late, ended, idle = anyio.run(_start)
    yield from delays(f"a slot to its collector's call, {COLLECTORS:,} at once", late, bare)
    yield Measured("the same to the last run's end, stored", ended, "s")
    yield Measured(f"CPU of an idle minute with {COLLECTORS:,} collectors", idle, "s")


class Constant:
    """A collector of one sample, that notes how many seconds after a minute's begin it is called."""

    metrics = (Metric("metta.infra.bench.value"),)

    def __init__(self) -> None:
        self.called: list[float] = []

    async def collect(self, now: datetime) -> CollectResult:
        self.called.append(_seconds_of_the_minute())
        return CollectResult((Sample(self.metrics[0], 1, now),))


@asynccontextmanager
async def scheduling(store: Store, **options: Any) -> AsyncIterator[tuple[Scheduler, TaskGroup]]:
    """A scheduler over the store, which is closed at the end, and its tasks. ``options``: the runner's."""
    clock = SystemClock()
    async with anyio.create_task_group() as tasks:
        scheduler = Scheduler(Runner(store, clock, tasks, on_stored=lambda: None, **options), store, clock, tasks)
        await scheduler.load()
        yield scheduler, tasks
        tasks.cancel_scope.cancel()
    await store.close()


async def _start() -> tuple[list[float], float, float]:
    """Seconds from the slot to each call, to the last stored end, and CPU seconds of a minute without a slot."""
    collector = Constant()
    jobs = [Job(f"bench-{number}", collector, _MINUTELY, env="bench") for number in range(COLLECTORS)]
    with tempfile.TemporaryDirectory() as folder:
        store = await Store.open(Path(folder), StoreSettings(), SystemClock().now)
        async with scheduling(store) as (scheduler, tasks):
            await _until_shortly_before_the_minute()
            await scheduler.set_jobs(jobs)
            await _until(lambda: not scheduler.active.runs())  # the first runs of an empty store
            collector.called.clear()
            tasks.start_soon(scheduler.run)
            await _until(lambda: len(collector.called) >= COLLECTORS)
            await _until(lambda: not scheduler.active.runs())
            ended = _seconds_of_the_minute()
            await scheduler.set_jobs([replace(job, settings=_NEVER) for job in jobs])
            began = time.process_time()
            await anyio.sleep(60)
            return collector.called, ended, time.process_time() - began


async def _start_bare() -> list[float]:
    """Seconds from the slot to each call by APScheduler alone."""
    called: list[float] = []

    async def call() -> None:
        called.append(_seconds_of_the_minute())

    await _until_shortly_before_the_minute()
    scheduler = AsyncIOScheduler(executors={"default": AsyncIOExecutor()}, timezone="UTC")
    for number in range(COLLECTORS):
        scheduler.add_job(call, CronTrigger.from_crontab("* * * * *", "UTC"), id=str(number), misfire_grace_time=None)
    scheduler.start()
    await _until(lambda: len(called) >= COLLECTORS)
    scheduler.shutdown(wait=False)
    return called


async def _until_shortly_before_the_minute() -> None:
    """20 seconds before it: the start has its own work, which must be over by then."""
    await anyio.sleep((40 - _seconds_of_the_minute()) % 60)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.05)


def _seconds_of_the_minute() -> float:
    return time.time() % 60
