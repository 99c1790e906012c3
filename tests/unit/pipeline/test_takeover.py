"""From CronJobs to the daemon and back, rehearsed on a simulated clock: no slot is missed, none is run twice.

The CronJob is the controller's rule in a few lines (https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/):
it runs the latest slot after its last one unless it is suspended, and catches up when it no longer is.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.cron import parse
from service.domain.takeover import last_slot
from service.pipeline.job import Job
from tests.unit.pipeline.fakes import FakeClock, MemoryRuns, Scripted, engine, job

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
        slot, _ = self.schedule.latest(self.last_schedule_time, now, UTC_ZONE)
        if slot and not self.is_suspended:
            self.last_schedule_time = slot
            self.ran.append(slot)


class Cluster:
    """The CronJob and the daemon beside each other; a change of the daemon's environment ends its pod for a while."""

    def __init__(self, schedule: str, start: datetime) -> None:
        self.clock = FakeClock(start)
        self.store = MemoryRuns()
        self.cronjob = CronJob(schedule, start)
        self.job = job(Scripted(), schedule=schedule)
        self.live: list[datetime] = []
        self._pod: AsyncExitStack | None = None
        self._known = 0

    async def deploy(self, mode: str, starts_after: datetime | None = None, down: float = 20) -> None:
        """``kubectl set env``: the old pod ends before the new one starts (Recreate)."""
        await self.stop()
        await self.pass_time(down)
        self.store.is_shadow = mode == "shadow"
        changed: Job = replace(self.job, starts_after=starts_after)
        self._pod = AsyncExitStack()
        await self._pod.enter_async_context(
            engine(changed, clock=self.clock, store=self.store, is_shadow=self.store.is_shadow)
        )
        self._take_note()

    async def stop(self) -> None:
        if self._pod:
            await self._pod.aclose()
            self._pod = None

    async def pass_time(self, seconds: float) -> None:
        """A second at a time: the controller looks at its CronJobs as often."""
        for _ in range(int(seconds)):
            await self.clock.advance(1)
            self.cronjob.sync(self.clock.now())
            self._take_note()

    def _take_note(self) -> None:
        """What the daemon has run since the last look, if it counts for Datadog."""
        runs = list(self.store.runs.values())
        slots = [run.slot.scheduled_at for run in runs[self._known :]]
        if not self.store.is_shadow:
            self.live += [slot for slot in slots if slot]
        self._known = len(runs)

    def expected(self, start: datetime) -> Iterator[datetime]:
        slot = self.cronjob.schedule.next(start, UTC_ZONE)
        while slot and slot <= self.clock.now():
            yield slot
            slot = self.cronjob.schedule.next(slot, UTC_ZONE)


@pytest.mark.parametrize("schedule", ["*/1 * * * *", "*/2 * * * *"])
@pytest.mark.parametrize("second", [0, 1, 25, 50, 58, 59])
@pytest.mark.parametrize("slow", [0, 15, 30])
async def test_no_slot_is_missed_or_run_twice_there_and_back(schedule: str, second: int, slow: int) -> None:
    """``second``: of the minute in which the change begins. ``slow``: from the CronJob's change to the pod's end."""
    start = NOON - timedelta(seconds=10)
    cluster = Cluster(schedule, start)
    await cluster.deploy("shadow", down=0)
    await cluster.pass_time(310 + second)
    assert not cluster.live, "the shadow does not count"
    # There: suspend, read what the CronJob ran last, go live.
    cluster.cronjob.is_suspended = True
    await cluster.pass_time(slow)
    await cluster.deploy("live", cluster.cronjob.last_schedule_time)
    await cluster.pass_time(300 + second)
    assert cluster.live, "the daemon took over"
    # A restart changes nothing, though starts_after still stands there.
    await cluster.deploy("live", cluster.cronjob.last_schedule_time)
    await cluster.pass_time(120)
    # And back: the shadow first, then the CronJob goes on after the daemon's last slot.
    await cluster.deploy("shadow", down=slow)
    cluster.cronjob.last_schedule_time = cluster.store.slots["ci"]
    cluster.cronjob.is_suspended = False
    await cluster.pass_time(300)
    await cluster.stop()
    ran = sorted([*cluster.cronjob.ran, *cluster.live])
    assert len(ran) == len(set(ran)), "a slot was run twice"
    assert ran == list(cluster.expected(start))


async def test_a_second_takeover_is_not_misled_by_what_the_first_one_left() -> None:
    store = MemoryRuns()
    store.slots["ci"] = NOON
    store.shadowed["ci"] = NOON + timedelta(hours=2)
    changed = replace(job(), starts_after=NOON - timedelta(minutes=10))
    clock = FakeClock(NOON + timedelta(hours=2, minutes=3))
    async with engine(changed, clock=clock, store=store) as it:
        assert it.starts() == [], "the slot of 14:00 was run by the CronJob and in shadow"
        await clock.advance(8 * 60)
        assert it.starts() == ["14:10:00"]


async def test_without_starts_after_a_slot_that_the_shadow_ran_is_not_run_again() -> None:
    store = MemoryRuns()
    store.is_shadow = True
    async with engine(job(), store=store, is_shadow=True) as it:
        assert it.starts() == ["10:00:00"]
    store.is_shadow = False
    async with engine(job(), store=store, clock=it.clock) as again:
        assert again.starts() == ["10:00:00"]
        await again.clock.advance(3 * 60)
        assert again.starts() == ["10:00:00", "10:10:00"]


instants = st.none() | st.integers(0, 100).map(lambda minutes: NOON + timedelta(minutes=minutes))


@given(instants, instants, instants)
def test_a_shadow_goes_on_from_whatever_was_run_last(
    live: datetime | None, shadow: datetime | None, starts_after: datetime | None
) -> None:
    found = last_slot(live, shadow, starts_after, is_shadow=True)
    assert found == max(filter(None, [live, shadow]), default=None)


@given(instants, instants, instants)
def test_a_live_daemon_never_goes_back_behind_its_own_last_slot(
    live: datetime | None, shadow: datetime | None, starts_after: datetime | None
) -> None:
    found = last_slot(live, shadow, starts_after, is_shadow=False)
    assert live is None or (found is not None and found >= live)
    assert starts_after is None or (found is not None and found >= starts_after)
