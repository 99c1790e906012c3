"""From CronJobs to the daemon and back, rehearsed on a simulated clock: no slot is missed, none is run twice.

The CronJob is the controller's rule in a few lines (https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/):
it runs the latest slot after its last one unless it is suspended, and catches up when it no longer is.
"""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from service.domain.cron import parse
from service.domain.runs import Mode
from tests.unit.pipeline.stage import FakeClock, empty_store, make_job, staged

START = datetime(2025, 1, 15, 11, 59, 50, tzinfo=UTC)
SCHEDULE = "*/1 * * * *"


class Cluster:
    """The CronJob and the daemon beside each other; a change of the daemon's environment ends its pod for a while."""

    def __init__(self) -> None:
        empty_store()
        self.clock = FakeClock(START)
        self.last_schedule_time = START
        self.is_suspended = False
        self.ran: list[datetime] = []
        self.pod = AsyncExitStack()

    async def deploy(self, mode: Mode, starts_after: datetime | None = None, down: float = 20) -> None:
        """``kubectl set env``: the old pod ends before the new one starts (Recreate)."""
        await self.pod.aclose()
        await self.pass_time(down)
        job = make_job(schedule=SCHEDULE, starts_after=starts_after)
        self._stage = await self.pod.enter_async_context(staged(job, clock=self.clock, mode=mode))

    async def pass_time(self, seconds: float) -> None:
        """Ten seconds at a time, as often the controller looks at its CronJobs; each begins with a minute."""
        end = self.clock.now() + timedelta(seconds=seconds)
        while (now := self.clock.now()) < end:
            await self.clock.advance(min((end - now).total_seconds(), 10 - now.second % 10))
            now = self.clock.now()
            slot = parse(SCHEDULE).latest(self.last_schedule_time, now, ZoneInfo("UTC"))
            if slot and not self.is_suspended:
                self.last_schedule_time = slot
                self.ran.append(slot)

    async def live_slots(self) -> list[datetime]:
        """What the daemon has run that counts for Datadog."""
        return [run.slot for run in await self._stage.runs() if run.slot and run.mode is Mode.LIVE]


@pytest.mark.parametrize("second", [0, 59])
@pytest.mark.parametrize("slow", [0, 30])
async def test_no_slot_is_missed_or_run_twice_there_and_back(second: int, slow: int) -> None:
    """``second``: of the minute in which the change begins. ``slow``: from the CronJob's change to the pod's end."""
    cluster = Cluster()
    async with cluster.pod:
        await cluster.deploy(Mode.SHADOW, down=0)
        await cluster.pass_time(130 + second)
        assert not await cluster.live_slots(), "the shadow does not count"
        # There: suspend, read what the CronJob ran last, go live.
        cluster.is_suspended = True
        await cluster.pass_time(slow)
        await cluster.deploy(Mode.LIVE, cluster.last_schedule_time)
        await cluster.pass_time(120 + second)
        assert await cluster.live_slots(), "the daemon took over"
        # A restart changes nothing, though starts_after still stands there.
        await cluster.deploy(Mode.LIVE, cluster.last_schedule_time)
        await cluster.pass_time(60)
        # And back: the shadow first, then the CronJob goes on after the daemon's last slot.
        await cluster.deploy(Mode.SHADOW, down=slow)
        cluster.last_schedule_time = (await cluster.live_slots())[-1]
        cluster.is_suspended = False
        await cluster.pass_time(120)
        ran = sorted([*cluster.ran, *await cluster.live_slots()])
        first, minute = START + timedelta(seconds=10), timedelta(minutes=1)
        count = (cluster.clock.now() - first) // minute + 1
        assert ran == [first + number * minute for number in range(count)], "a slot was missed or run twice"
