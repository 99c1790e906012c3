"""The heartbeat: the checks' stable series again between runs, so boards have no holes and silence means death."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread
import structlog

from service.clock import Clock
from service.domain.checks import Check, to_samples
from service.domain.errors import Unavailable
from service.domain.samples import Sample
from service.pipeline.enrich import own_samples
from service.pipeline.job import SUCCESS_AGE, Job
from service.store import Store

log = structlog.get_logger(__name__)


class Heartbeat:
    """``jobs``: gives the configured ones. ``on_stored``: there is something to send."""

    def __init__(
        self,
        jobs: Callable[[], Mapping[str, Job]],
        store: Store,
        clock: Clock,
        interval: timedelta,
        on_stored: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._interval = interval.total_seconds()
        self._on_stored = on_stored
        self._threads = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Every ``interval``, until cancelled."""
        while True:
            await self._clock.sleep(self._interval)
            try:
                if not await self._store.runs.claim_turn("heartbeat", timedelta(seconds=self._interval)):
                    continue
                successes, pauses = await self._store.runs.last_successes(), await self._store.runs.pauses()
                for job in [each for each in self._jobs().values() if each.settings.enabled]:
                    await self._store_health(job, successes.get(job.name), is_paused=job.name in pauses)
            except Unavailable as error:
                log.error("no heartbeat: the store is lost", reason=str(error))  # noqa: TRY400 - the reason says it all
            self._on_stored()

    async def _store_health(self, job: Job, last_success: datetime | None, *, is_paused: bool) -> None:
        """Stores what is known of the job and its checks, as of now. While it is paused, no age: monitors would wake
        somebody for what an operator wants."""
        now = self._clock.now()
        age = {SUCCESS_AGE: max(0.0, (now - last_success).total_seconds())} if last_success else {}
        checks = await self._store.checks.read(job.name)
        samples = own_samples(job, age, now) + await make_series(
            job, checks, now, self._threads, with_age=not is_paused
        )
        if samples:
            await self._store.outbox.put(job.name, samples)


async def make_series(
    job: Job, checks: Sequence[Check], now: datetime, threads: anyio.CapacityLimiter, *, with_age: bool = True
) -> list[Sample]:
    """The stable series of these checks, of which there may be many. ``threads``: no collector hangs in them."""
    work = partial(to_samples, checks, now, job.settings.max_age, job.check_tags, with_age=with_age)
    return await anyio.to_thread.run_sync(work, limiter=threads)
