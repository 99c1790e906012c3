"""The timer: APScheduler says when, by our own schedule."""

from datetime import UTC, datetime, timedelta

import anyio

from service.pipeline.clock import SystemClock
from service.pipeline.schedule import SlotTrigger, Timer
from tests.unit.pipeline.fakes import START, engine, job


async def test_apscheduler_is_given_kubernetes_instants() -> None:
    """APScheduler's own crontab trigger takes weekday 1 for Tuesday."""
    async with engine(job(schedule="0 9 * * 1")) as it:
        trigger = SlotTrigger("ci", it.dispatcher.next_start)
        first = trigger.get_next_fire_time(None, START)
        assert first == datetime(2025, 1, 20, 9, tzinfo=UTC)  # a Monday
        assert trigger.get_next_fire_time(first, START) == datetime(2025, 1, 27, 9, tzinfo=UTC)


async def test_a_slot_is_told_when_it_comes() -> None:
    ticks: list[str] = []
    told = anyio.Event()

    def tick(name: str) -> None:
        ticks.append(name)
        told.set()

    timer = Timer(SystemClock(), tick, lambda name, after: after + timedelta(milliseconds=20))
    timer.set_jobs([job()])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer.run)
        with anyio.fail_after(5):
            await told.wait()
        tasks.cancel_scope.cancel()
    assert ticks[0] == "ci"
