"""The timer: APScheduler wakes it when the next start is due. What starts then is the scheduler's business."""

from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heapify, heappop, heapreplace

import anyio
import anyio.lowlevel
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from service.pipeline.clock import Clock

_MAX_SLEEP = 60.0  # seconds until every name is looked at again: the clock may have stepped back
_BEAT = 1.0  # seconds between two signs of life; what is due by then starts, though the machine slept over its alarm
_NAMES_A_TURN = 50  # names that are looked at before the rest of the loop has its turn


class Timer:
    """Calls ``tick(name)`` when a start is due, and that of every name at least once a minute.

    ``next_start(name, after)``: when that is. ``beat``: monotonic time of the last sign of life.
    """

    def __init__(
        self, clock: Clock, tick: Callable[[str], None], next_start: Callable[[str, datetime], datetime | None]
    ) -> None:
        self.beat = clock.monotonic()
        self._clock = clock
        self._tick = tick
        self._next_start = next_start
        self._names: Sequence[str] = ()
        self._starts: list[tuple[datetime, str]] = []  # a heap
        self._due = anyio.Event()
        # One alarm, for the earliest start: with a job for each name a thousand of them stop the loop for 100 ms.
        # The debug executor calls where APScheduler runs; without a grace time no alarm is dropped for being late.
        self._alarm = AsyncIOScheduler(
            executors={"default": DebugExecutor()}, job_defaults={"misfire_grace_time": None}, timezone="UTC"
        )

    async def set_names(self, names: Sequence[str]) -> None:
        """The names from now on, all of which are looked at at once."""
        self._names = names
        starts = []
        for number, name in enumerate(names, 1):
            self._tick(name)
            if start := self._next_start(name, self._clock.now()):
                starts.append((start, name))
            if not number % _NAMES_A_TURN:
                await anyio.lowlevel.checkpoint()
        if names is self._names:  # or others have come meanwhile
            self._starts = starts
            heapify(self._starts)
            self._set_alarm()

    async def run(self) -> None:
        """Until cancelled."""
        self._alarm.start()
        try:
            looked = self._clock.monotonic()
            self._set_alarm()
            while True:
                await self._clock.wait(self._due, _BEAT)
                self._due = anyio.Event()
                self.beat = self._clock.monotonic()
                if self.beat - looked >= _MAX_SLEEP:
                    looked = self.beat
                    await self.set_names(self._names)
                else:
                    await self._tick_due(self._clock.now())
        finally:
            self._alarm.shutdown(wait=False)

    async def _tick_due(self, now: datetime) -> None:
        number = 0
        while self._starts and self._starts[0][0] <= now:
            name = self._starts[0][1]
            start = self._next_start(name, now)
            heapreplace(self._starts, (start, name)) if start else heappop(self._starts)
            self._tick(name)
            number += 1
            if not number % _NAMES_A_TURN:
                await anyio.lowlevel.checkpoint()
        if number:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._starts and self._alarm.running:
            run_date = self._starts[0][0]
            self._alarm.add_job(lambda: self._due.set(), "date", run_date=run_date, id="next", replace_existing=True)
