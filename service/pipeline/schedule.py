"""The timer: APScheduler over Kubernetes' cron rules. It only says "now"; what starts is decided in ``dispatch``."""

from collections.abc import Callable, Iterable
from datetime import datetime

import structlog
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from service.pipeline.job import Job
from service.pipeline.ports import Clock

log = structlog.get_logger(__name__)
Upcoming = Callable[[str, datetime], datetime | None]

# Wall time is read anew at least this often: after a sleep of the machine or a step of its clock, a timer that was
# set before would go off too late.
_LONGEST_SLEEP = 60.0
_BEAT = 1.0  # seconds between two proofs of life; a difference between wall and elapsed time beyond it is a step


class SlotTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler ships no types
    """APScheduler's view of a job's schedule; its own crontab trigger counts weekdays and daylight saving otherwise."""

    def __init__(self, name: str, upcoming: Upcoming) -> None:
        self._name = name
        self._upcoming = upcoming

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        return self._upcoming(self._name, max(previous_fire_time, now) if previous_fire_time else now)


class Timer:
    """Calls ``tick(name)`` when a job's slot comes, and ``tick`` of every job at least once a minute."""

    def __init__(self, clock: Clock, tick: Callable[[str], None], upcoming: Upcoming) -> None:
        """``upcoming(name, after)``: when the job starts next."""
        self._clock = clock
        self._tick = tick
        self._upcoming = upcoming
        self._jobs: tuple[Job, ...] = ()
        self.beat = clock.monotonic()
        # The debug executor calls the function where the scheduler runs: our tick only hands the slot on. The job
        # store never sees a late job dropped (misfire_grace_time) or run twice (coalesce).
        self._scheduler = AsyncIOScheduler(
            executors={"default": DebugExecutor()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )

    def set_jobs(self, jobs: Iterable[Job]) -> None:
        """The jobs from now on."""
        self._jobs = tuple(job for job in jobs if job.enabled)
        self._scheduler.remove_all_jobs()
        for job in self._jobs:
            self._scheduler.add_job(
                self._tick, SlotTrigger(job.name, self._upcoming), args=[job.name], id=job.name, name=job.name
            )

    async def run(self) -> None:
        """Until cancelled."""
        self._scheduler.start()
        try:
            wall, self.beat = self._clock.now(), self._clock.monotonic()
            looked = self.beat
            while True:
                await self._clock.sleep(_BEAT)
                wall, before = self._clock.now(), wall
                self.beat, elapsed = self._clock.monotonic(), self.beat
                stepped = abs((wall - before).total_seconds() - (self.beat - elapsed)) > _BEAT
                if stepped:
                    log.warning("the clock stepped, or the machine slept", now=wall.isoformat())
                    self.set_jobs(self._jobs)
                if stepped or self.beat - looked >= _LONGEST_SLEEP:
                    looked = self.beat
                    for job in self._jobs:
                        self._tick(job.name)
        finally:
            self._scheduler.shutdown(wait=False)
