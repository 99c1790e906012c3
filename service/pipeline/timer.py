"""The timer: APScheduler over Kubernetes' cron rules. It only says "now"; what starts is the scheduler's business."""

from collections.abc import Callable, Sequence
from datetime import datetime

import anyio.lowlevel
import structlog
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from service.pipeline.clock import Clock

log = structlog.get_logger(__name__)
NextStart = Callable[[str, datetime], datetime | None]

# Wall time is read anew at least this often: after a sleep of the machine or a step of its clock, a timer that was set
# before would go off too late.
_MAX_SLEEP = 60.0
_BEAT = 1.0  # seconds between two signs of life; a difference between wall and elapsed time beyond it is a step
_NAMES_A_TURN = 50  # names that are looked at before the rest of the loop has its turn


class SlotTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler ships no types
    """APScheduler's view of a schedule; its own crontab trigger counts weekdays and daylight saving otherwise."""

    def __init__(self, name: str, next_start: NextStart) -> None:
        self._name = name
        self._next_start = next_start

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        return self._next_start(self._name, max(previous_fire_time or now, now))


class Timer:
    """Calls ``tick(name)`` when a slot comes, and that of every name at least once a minute.

    ``next_start(name, after)``: when that is. ``beat``: monotonic time of the last sign of life.
    """

    def __init__(self, clock: Clock, tick: Callable[[str], None], next_start: NextStart) -> None:
        self.beat = clock.monotonic()
        self._clock = clock
        self._tick = tick
        self._next_start = next_start
        self._names: Sequence[str] = ()
        # The debug executor calls the function where the timer runs: a tick only hands the slot on. So no late slot is
        # dropped (misfire_grace_time) and none comes twice (coalesce).
        self._timer = AsyncIOScheduler(
            executors={"default": DebugExecutor()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )

    async def set_names(self, names: Sequence[str]) -> None:
        """The names from now on."""
        self._names = names
        self._timer.remove_all_jobs()
        for number, name in enumerate(names, 1):
            self._timer.add_job(self._tick, SlotTrigger(name, self._next_start), args=[name], id=name, name=name)
            if not number % _NAMES_A_TURN:
                await anyio.lowlevel.checkpoint()

    async def tick_all(self) -> None:
        for number, name in enumerate(self._names, 1):
            self._tick(name)
            if not number % _NAMES_A_TURN:
                await anyio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Until cancelled."""
        self._timer.start()
        try:
            wall, self.beat = self._clock.now(), self._clock.monotonic()
            looked = self.beat
            while True:
                await self._clock.sleep(_BEAT)
                wall, before = self._clock.now(), wall
                self.beat, elapsed = self._clock.monotonic(), self.beat
                if stepped := abs((wall - before).total_seconds() - (self.beat - elapsed)) > _BEAT:
                    log.warning("the clock stepped, or the machine slept", now=wall.isoformat())
                    self._timer.wakeup()
                if stepped or self.beat - looked >= _MAX_SLEEP:
                    looked = self.beat
                    await self.tick_all()
        finally:
            self._timer.shutdown(wait=False)
