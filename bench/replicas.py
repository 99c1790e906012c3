"""Three replicas with 2,000 collectors, each due every minute, on one PostgreSQL: how late runs begin, and the load."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from bench import Measured, delays, processes
from bench.schedule import Constant, scheduling
from service.clock import SystemClock
from service.config.settings import CollectorSettings, StoreSettings
from service.daemon.maintenance import follow_replicas
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Run
from service.pipeline.job import Job
from service.store import Store
from tests.postgres import Postgres, running_postgres

REPLICAS, COLLECTORS = 3, 2_000
SETTLE = 75.0  # seconds in which all first runs, which are due at once, end
SECONDS = 60.0


def run() -> Iterable[Measured]:
    with running_postgres(durable=True) as server, processes(REPLICAS) as pool:
        begin = (time.time() + SETTLE) // SECONDS * SECONDS + SECONDS
        replicas = [pool.submit(anyio.run, _live, server.url, f"replica-{n}", begin) for n in range(REPLICAS)]
        time.sleep(begin - time.time())
        before = _count_transactions(server)
        time.sleep(SECONDS)
        transactions = (_count_transactions(server) - before) / SECONDS
        late = [seconds for replica in replicas for seconds in replica.result()]
    yield Measured(f"runs begun in a minute, of {COLLECTORS:,} by {REPLICAS} replicas", len(late), "", COLLECTORS)
    yield from delays("a slot to its begun run, spread over the minute", late)
    yield Measured("transactions a second", transactions)


async def _live(url: str, name: str, begin: float) -> list[float]:
    """One replica's process. Seconds by which its runs of the measured minute began late."""
    clock, late = SystemClock(), list[float]()
    settings = CollectorSettings(type="bench", schedule="* * * * *", jitter=timedelta(seconds=SECONDS))
    jobs = {f"bench-{n}": Job(f"bench-{n}", Constant(), settings, env="bench") for n in range(COLLECTORS)}

    def note(run: Run) -> None:
        if run.slot and run.slot.timestamp() == begin:
            late.append((datetime.now(UTC) - run.slot - jobs[run.collector].offset).total_seconds())

    shared = StoreSettings.model_validate({"url": url})
    store = await Store.open(Path("/"), shared, clock.now, replica=(name, "bench"))
    assert store.replicas
    async with scheduling(store, on_begin=note) as (scheduler, tasks):
        tasks.start_soon(follow_replicas, clock, store.replicas, scheduler)
        tasks.start_soon(_deliver, store)
        await scheduler.set_jobs(jobs.values())
        tasks.start_soon(scheduler.run)
        await anyio.sleep(begin + SECONDS + 10 - time.time())
    return late


async def _deliver(store: Store) -> None:
    """The transactions of delivery, to an intake that costs nothing."""
    while True:
        while chunks := await store.outbox.claim(datetime.now(UTC), 4_000_000, 10_000):
            await store.outbox.settle(chunks, DeliveryStatus.DELIVERED)
        await anyio.sleep(1)


def _count_transactions(server: Postgres) -> int:
    ((count,),) = server.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database")
    return int(str(count))
