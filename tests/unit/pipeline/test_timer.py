"""The timer: APScheduler says when, by our own schedule."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from service.pipeline.clock import SystemClock
from service.pipeline.timer import Timer
from tests.unit.pipeline.stage import START, make_job, staged


async def test_a_job_starts_next_at_kubernetes_instants(tmp_path: Path) -> None:
    """APScheduler's own crontab trigger takes weekday 1 for Tuesday."""
    async with staged(tmp_path, make_job(schedule="0 9 * * 1")) as it:
        first = it.scheduler.next_start("ci", START)
        assert first == datetime(2025, 1, 20, 9, tzinfo=UTC)  # a Monday
        assert it.scheduler.next_start("ci", first) == datetime(2025, 1, 27, 9, tzinfo=UTC)


class Steps(SystemClock):
    """The wall clock is ahead by ``ahead`` seconds."""

    ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead)

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        await super().wait(event, seconds / 100)


async def test_a_slot_is_told_when_it_comes_and_every_one_is_looked_at_after_a_step_of_the_clock() -> None:
    ticks: list[str] = []
    clock, changed = Steps(), anyio.Event()

    def tick(name: str) -> None:
        ticks.append(name)
        changed.set()

    soon = timedelta(milliseconds=20)
    timer = Timer(clock, tick, lambda name, after: after + (soon if name == "soon" else timedelta(days=1)))
    await timer.set_names(["soon", "far"])
    ticks.clear()
    changed = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer.run)
        with anyio.fail_after(10):
            await changed.wait()
            assert set(ticks) == {"soon"}
            beat = timer.beat
            clock.ahead = 3600
            while "far" not in ticks:
                changed = anyio.Event()
                await changed.wait()
        assert timer.beat > beat
        tasks.cancel_scope.cancel()
