"""Three replicas with 2,000 collectors, each due every minute, on one PostgreSQL: how late runs begin, and the load."""

import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles

import anyio
import structlog

from bench import Measured
from bench.schedule import Constant
from service.clock import SystemClock
from service.config.settings import CollectorSettings, StoreSettings
from service.daemon.maintenance import follow_replicas
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Run
from service.pipeline.job import Job
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store
from tests.postgres import Postgres, running_postgres

REPLICAS, COLLECTORS = 3, 2_000
SETTLE = 75.0  # seconds in which all first runs, which are due at once, end
SECONDS = 60.0


def run() -> Iterable[Measured]:
    with running_postgres(durable=True) as server:
        begin = (time.time() + SETTLE) // SECONDS * SECONDS + SECONDS
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(REPLICAS, spawn) as pool:
            replicas = [pool.submit(_carry_out, server.url, f"replica-{place}", begin) for place in range(REPLICAS)]
            time.sleep(begin - time.time())
            before = _count_transactions(server)
            time.sleep(SECONDS)
            transactions = (_count_transactions(server) - before) / SECONDS
            late = [seconds for replica in replicas for seconds in replica.result()]
    yield Measured(f"runs begun in a minute, of {COLLECTORS:,} by {REPLICAS} replicas", len(late), "", COLLECTORS)
    cuts = quantiles(late, n=100)
    yield Measured("a slot to its begun run, spread over the minute, median", cuts[49] * 1000, "ms")
    yield Measured("the same, 99th percentile", cuts[98] * 1000, "ms")
    yield Measured("transactions a second", transactions, "")


def _carry_out(url: str, name: str, begin: float) -> list[float]:
    """One replica's process. Seconds by which its runs of the measured minute began late."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    return anyio.run(_live, url, name, begin)


async def _live(url: str, name: str, begin: float) -> list[float]:
    clock, late = SystemClock(), list[float]()
    settings = CollectorSettings(type="bench", schedule="* * * * *", jitter=timedelta(seconds=SECONDS))
    names = [f"bench-{number}" for number in range(COLLECTORS)]
    jobs = {name: Job(name, Constant(), settings, env="bench") for name in names}

    def note(run: Run) -> None:
        if run.slot and run.slot.timestamp() == begin:
            late.append((datetime.now(UTC) - run.slot - jobs[run.collector].offset).total_seconds())

    shared = StoreSettings.model_validate({"url": url})
    store = await Store.open(Path("/"), shared, clock.now, replica=(name, "bench"))
    assert store.replicas
    async with anyio.create_task_group() as tasks:
        runner = Runner(store, clock, tasks, on_stored=lambda: None, on_begin=note)
        scheduler = Scheduler(runner, store, clock, tasks)
        await scheduler.load()
        tasks.start_soon(follow_replicas, clock, store.replicas, scheduler)
        tasks.start_soon(_deliver, store, clock.now)
        await scheduler.set_jobs(jobs.values())
        tasks.start_soon(scheduler.run)
        await anyio.sleep(begin + SECONDS + 10 - time.time())
        tasks.cancel_scope.cancel()
    await store.close()
    return late


async def _deliver(store: Store, now: Callable[[], datetime]) -> None:
    """The transactions of delivery, to an intake that costs nothing."""
    while True:
        while chunks := await store.outbox.claim(now(), 4_000_000, 10_000):
            await store.outbox.settle(chunks, DeliveryStatus.DELIVERED)
        await anyio.sleep(1)


def _count_transactions(server: Postgres) -> int:
    ((count,),) = server.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database")
    return int(str(count))
