"""From CronJobs to the daemon and back, rehearsed on a simulated clock: no slot is missed, none is run twice.

The CronJob is the controller's rule in a few lines (https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/):
it runs the latest slot after its last one unless it is suspended, and catches up when it no longer is.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from service.domain.cron import parse
from service.domain.runs import Mode
from tests.unit.pipeline.stage import Disk, FakeClock, Stage, make_job, staged

UTC_ZONE = ZoneInfo("UTC")
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


class CronJob:
    """One CronJob in the cluster, looked at whenever time has passed."""

    def __init__(self, schedule: str, created: datetime) -> None:
        self.schedule = parse(schedule)
        self.last_schedule_time = created
        self.is_suspended = False
        self.ran: list[datetime] = []

    def sync(self, now: datetime) -> None:
        slot = self.schedule.latest(self.last_schedule_time, now, UTC_ZONE)
        if slot and not self.is_suspended:
            self.last_schedule_time = slot
            self.ran.append(slot)


class Cluster:
    """The CronJob and the daemon beside each other; a change of the daemon's environment ends its pod for a while."""

    def __init__(self, schedule: str, start: datetime) -> None:
        self.disk = Disk()
        self.clock = FakeClock(start)
        self.cronjob = CronJob(schedule, start)
        self._schedule = schedule
        self._pod = AsyncExitStack()
        self._stage: Stage | None = None

    async def deploy(self, mode: Mode, starts_after: datetime | None = None, down: float = 20) -> None:
        """``kubectl set env``: the old pod ends before the new one starts (Recreate)."""
        await self.stop()
        await self.pass_time(down)
        job = make_job(schedule=self._schedule, starts_after=starts_after)
        self._stage = await self._pod.enter_async_context(staged(job, clock=self.clock, disk=self.disk, mode=mode))

    async def stop(self) -> None:
        await self._pod.aclose()
        self._stage = None

    async def pass_time(self, seconds: float) -> None:
        """Ten seconds at a time, as often the controller looks at its CronJobs; each begins with a minute."""
        left = seconds
        while left > 0:
            step = min(left, 10 - self.clock.now().second % 10)
            await self.clock.advance(step)
            self.cronjob.sync(self.clock.now())
            left -= step

    async def live_slots(self) -> list[datetime]:
        """What the daemon has run that counts for Datadog."""
        assert self._stage
        return [run.slot for run in await self._stage.runs() if run.slot and run.mode is Mode.LIVE]

    def expected(self, start: datetime) -> Iterator[datetime]:
        slot = self.cronjob.schedule.next(start, UTC_ZONE)
        while slot and slot <= self.clock.now():
            yield slot
            slot = self.cronjob.schedule.next(slot, UTC_ZONE)


@pytest.mark.parametrize("second", [0, 59])
@pytest.mark.parametrize("slow", [0, 30])
async def test_no_slot_is_missed_or_run_twice_there_and_back(second: int, slow: int) -> None:
    """``second``: of the minute in which the change begins. ``slow``: from the CronJob's change to the pod's end."""
    start = NOON - timedelta(seconds=10)
    cluster = Cluster("*/1 * * * *", start)
    await cluster.deploy(Mode.SHADOW, down=0)
    await cluster.pass_time(130 + second)
    assert not await cluster.live_slots(), "the shadow does not count"
    # There: suspend, read what the CronJob ran last, go live.
    cluster.cronjob.is_suspended = True
    await cluster.pass_time(slow)
    await cluster.deploy(Mode.LIVE, cluster.cronjob.last_schedule_time)
    await cluster.pass_time(120 + second)
    assert await cluster.live_slots(), "the daemon took over"
    # A restart changes nothing, though starts_after still stands there.
    await cluster.deploy(Mode.LIVE, cluster.cronjob.last_schedule_time)
    await cluster.pass_time(60)
    # And back: the shadow first, then the CronJob goes on after the daemon's last slot.
    await cluster.deploy(Mode.SHADOW, down=slow)
    cluster.cronjob.last_schedule_time = (await cluster.live_slots())[-1]
    cluster.cronjob.is_suspended = False
    await cluster.pass_time(120)
    ran = sorted([*cluster.cronjob.ran, *await cluster.live_slots()])
    await cluster.stop()
    assert len(ran) == len(set(ran)), "a slot was run twice"
    assert ran == list(cluster.expected(start))
