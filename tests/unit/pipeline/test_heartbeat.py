"""The heartbeat fills the holes between runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio

from service.domain.checks import CHECK_AGE, CHECK_STATE
from service.domain.runs import Actor, CollectResult
from service.domain.samples import Sample
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.job import SUCCESS_AGE
from service.store import Store
from tests.unit.pipeline.stage import CHECK, METRIC, START, Scripted, Stage, make_job, staged


@asynccontextmanager
async def beating(max_age: timedelta) -> AsyncIterator[Stage]:
    """A collector that measured once, and nothing of that left in the outbox."""
    weekly = make_job(
        Scripted([CollectResult((Sample(METRIC, 1, START, CHECK),))]), schedule="0 0 * * 0", max_age=max_age
    )
    async with staged(weekly) as it, anyio.create_task_group() as tasks:
        await sent(it.store)
        heartbeat = Heartbeat(
            lambda: it.scheduler.jobs,
            it.store,
            it.clock,
            timedelta(minutes=5),
            lambda: it.stored.append(it.clock.now()),
        )
        tasks.start_soon(heartbeat.run)
        yield it
        tasks.cancel_scope.cancel()


async def sent(store: Store) -> list[tuple[str, float]]:
    """Metrics and values in the outbox; they are claimed."""
    chunks = await store.outbox.claim(START + timedelta(days=9), 10**9, 10**6)
    return [(point.metric, point.value) for chunk in chunks for point in chunk.points]


async def test_checks_are_sent_again_every_five_minutes_with_their_growing_age_until_they_are_unknown() -> None:
    async with beating(max_age=timedelta(minutes=12)) as it:
        await it.clock.advance(15 * 60)
        values = await sent(it.store)
    assert [value for metric, value in values if metric == CHECK_STATE.name] == [0, 0, 2]
    assert [value for metric, value in values if metric == CHECK_AGE.name] == [300, 600, 900]
    assert [value for metric, value in values if metric == SUCCESS_AGE.name] == [300, 600, 900]
    assert len(it.stored) == 4


async def test_while_a_collector_is_paused_nobody_is_woken_by_the_age_of_its_checks() -> None:
    async with beating(max_age=timedelta(hours=1)) as it:
        await it.scheduler.pause("ci", Actor("here"))
        await it.clock.advance(5 * 60)
        names = [metric for metric, _ in await sent(it.store)]
    assert CHECK_STATE.name in names
    assert CHECK_AGE.name not in names
