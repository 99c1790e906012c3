"""Runs of the cause webhook: started for deliveries and, where none can come, by collectors that watch their source."""

from collections.abc import Iterable
from datetime import timedelta

import anyio
import structlog

from service.clock import Clock
from service.collectors.github_ci.deliveries import Deliveries
from service.domain.errors import Unavailable
from service.domain.runs import ChangeCollector
from service.pipeline.job import Job
from service.pipeline.scheduler import Scheduler

log = structlog.get_logger(__name__)

_LONGEST_PAUSE = 600.0  # seconds


class WebhookRuns:
    """Starts runs of the cause webhook: for deliveries and, where none can come, for what watching collectors see."""

    def __init__(self, deliveries: Deliveries, scheduler: Scheduler, clock: Clock) -> None:
        self._deliveries = deliveries
        self._scheduler = scheduler
        self._clock = clock
        self._collectors: dict[str, ChangeCollector] = {}
        self._changed = anyio.Event()

    def set_jobs(self, jobs: Iterable[Job]) -> None:
        """The jobs from now on."""
        enabled = {job.name: job.collector for job in jobs if job.settings.enabled}
        self._collectors = {name: each for name, each in enabled.items() if isinstance(each, ChangeCollector)}
        self._deliveries.expect({name: each.repositories for name, each in self._collectors.items()})
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            while True:
                self._changed = anyio.Event()
                async with anyio.create_task_group() as watches:
                    for name, collector in self._collectors.items():
                        if collector.watch:
                            watches.start_soon(self._watch, name, collector, collector.watch)
                    await self._changed.wait()
                    watches.cancel_scope.cancel()

    async def _listen(self) -> None:
        while True:
            self._scheduler.start_changes(await self._deliveries.next_due())

    async def _watch(self, name: str, collector: ChangeCollector, interval: timedelta) -> None:
        """Looks every ``interval``, after an error more and more seldom. A paused collector looks for nothing."""
        usual = pause = interval.total_seconds()
        while True:
            await self._clock.sleep(pause)
            if name in self._scheduler.pauses:
                continue
            try:
                await collector.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the polls find what is not seen now
                tell = log.warning if pause == usual else log.debug
                wait = error.retry_after if isinstance(error, Unavailable) else None
                pause = min(max(2 * pause, wait or 0.0), _LONGEST_PAUSE)
                tell("the watch is held up; the polls go on", collector=name, reason=str(error), next_in_seconds=pause)
            else:
                if pause != usual:
                    log.info("the watch works again", collector=name)
                pause = usual
