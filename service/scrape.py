"""What /metrics reads of the parts at scrape time, in turns with everything else that the loop has to do."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import anyio.lowlevel

from service.adapters.store import SqliteStore
from service.domain.errors import Unavailable
from service.parts import Edges
from service.pipeline.deliver import Delivery
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.web.metrics import CollectorState, Quota, Snapshot

LAG_EVERY = 0.5  # seconds between two looks at how late the loop is
LAGS = round(60 / LAG_EVERY)  # of the last minute
_TURN = 25

Item = TypeVar("Item")


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """``items``, with a turn for the rest of the loop after each few: a thousand collectors take it 100 ms."""
    for number, item in enumerate(list(items), 1):
        yield item
        if number % _TURN == 0:
            await anyio.lowlevel.checkpoint()


async def scraped(
    clock: Clock,
    store: SqliteStore,
    dispatcher: Dispatcher,
    delivery: Delivery,
    edges: Edges,
    lags: Sequence[float],
) -> Snapshot:
    """``lags``: how late the loop was lately, in seconds, newest last. What can't be known is left out."""
    try:
        successes: Mapping[str, datetime] = await store.last_successes()
    except Unavailable:
        successes = {}

    def state(job: Job) -> CollectorState:
        return CollectorState(
            paused=dispatcher.is_paused(job.name),
            last_success=successes.get(job.name),
            next_run=dispatcher.next_run(job.name),
            interval=job.schedule.interval(clock.now(), job.zone),
        )

    # A reload may take a collector away between two turns.
    states = {job.name: state(job) async for job in in_turns(dispatcher.jobs.values()) if job.name in dispatcher.jobs}
    return Snapshot(
        active_runs=len(dispatcher.all_active()),
        waiting=delivery.state.waiting,
        lag=lags[-1] if lags else None,
        longest_lag=max(lags, default=None),
        requests={"github": dict(edges.github.requests), "datadog": dict(edges.intake.requests)},
        quota={name: Quota(each.remaining, each.limit) for name, each in edges.github.quota.items()},
        collectors=states,
    )
