"""The heartbeat fills the holes between runs."""

from datetime import timedelta

import anyio

from service.domain.checks import CHECK_AGE, CHECK_STATE
from service.domain.runs import Collected
from service.domain.samples import Sample
from service.pipeline.heartbeat import keep_beating
from service.pipeline.job import SUCCESS_AGE
from tests.unit.pipeline.fakes import METRIC, START, Scripted, engine, job
from tests.unit.pipeline.test_run import CHECK


async def test_checks_are_sent_again_every_five_minutes_with_their_growing_age() -> None:
    hourly = job(Scripted([Collected((Sample(METRIC, 1, START, CHECK),))]), schedule="0 * * * *")
    told = []
    async with engine(hourly) as it:
        async with anyio.create_task_group() as tasks:
            interval = timedelta(minutes=5)
            tasks.start_soon(keep_beating, lambda: [hourly], it.store, it.clock, interval, lambda: told.append(1))
            await it.clock.advance(15 * 60)
            tasks.cancel_scope.cancel()
        values = [(each.metric, each.value) for each in it.store.beats]
    assert [value for metric, value in values if metric == CHECK_STATE] == [0, 0, 0]
    assert [value for metric, value in values if metric == CHECK_AGE] == [300, 600, 900]
    assert [value for metric, value in values if metric == SUCCESS_AGE] == [300, 600, 900]
    assert told == [1, 1, 1]


async def test_a_value_older_than_max_age_turns_unknown_between_runs() -> None:
    weekly = job(Scripted([Collected((Sample(METRIC, 1, START, CHECK),))]), schedule="0 0 * * 0")
    async with engine(weekly) as it:
        async with anyio.create_task_group() as tasks:
            interval = timedelta(hours=13)
            tasks.start_soon(keep_beating, lambda: [weekly], it.store, it.clock, interval, lambda: None)
            await it.clock.advance(26 * 3600)
            tasks.cancel_scope.cancel()
        assert [each.value for each in it.store.beats if each.metric == CHECK_STATE] == [0, 2]
