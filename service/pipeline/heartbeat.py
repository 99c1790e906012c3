"""The heartbeat: the checks' stable series again between runs, so boards have no holes and silence means death."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import anyio.to_thread
import structlog

from service.domain.checks import Check, to_samples
from service.domain.errors import Unavailable
from service.pipeline.clock import Clock
from service.pipeline.enrich import MANY_CHECKS, own_samples
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

    async def run(self) -> None:
        """Every ``interval``, until cancelled."""
        while True:
            await self._clock.sleep(self._interval)
            try:
                if not await self._store.runs.claim_turn("heartbeat", timedelta(seconds=self._interval)):
                    continue
                successes = await self._store.runs.last_successes()
                for job in [each for each in self._jobs().values() if each.enabled]:
                    await self._store_health(job, successes.get(job.name))
            except Unavailable as error:
                log.error("no heartbeat: the store is lost", reason=str(error))  # noqa: TRY400 - the reason says it all
            self._on_stored()

    async def _store_health(self, job: Job, last_success: datetime | None) -> None:
        """Stores what is known of the job and its checks, as of now."""
        now = self._clock.now()
        age = {SUCCESS_AGE: max(0.0, (now - last_success).total_seconds())} if last_success else {}
        samples = own_samples(job, age, now)
        checks = await self._store.runs.checks(job.name)
        if len(checks) > MANY_CHECKS:
            await put_check_series(job, checks, self._store, now)
        else:
            samples += to_samples(checks, now, job.max_age, job.check_tags)
        if samples:
            await self._store.outbox.put(job.name, samples)


async def put_check_series(job: Job, checks: Sequence[Check], store: Store, now: datetime) -> None:
    """Stores the stable series of many checks."""
    samples = await anyio.to_thread.run_sync(to_samples, checks, now, job.max_age, job.check_tags)
    await store.outbox.put(job.name, samples)
