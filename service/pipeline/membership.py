"""Several replicas share one store: this one shows that it lives, and does what the others' signs say."""

import zlib
from collections.abc import Sequence

import structlog

from service.domain.errors import Unavailable
from service.domain.runs import Run
from service.pipeline.clock import Clock
from service.pipeline.scheduler import Scheduler
from service.store.replicas import Replicas

log = structlog.get_logger(__name__)

_RETRY = 1.0  # seconds until the next try while the database is away


class Membership:
    """``replicas``: of the shared store."""

    def __init__(self, replicas: Replicas, scheduler: Scheduler, clock: Clock) -> None:
        self._replicas = replicas
        self._scheduler = scheduler
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        is_away = False
        while True:
            try:
                beat = await self._replicas.beat(self._may_repeat)
            except Unavailable as error:
                if not is_away:
                    log.error("the store is away: no slot is claimed, no beat is shown", reason=str(error))  # noqa: TRY400
                is_away = True
                await self._clock.sleep(_RETRY)
                continue
            if is_away:
                log.info("the store is back")
            is_away = False
            self._scheduler.follow(beat)
            await self._clock.sleep(self._replicas.interval)

    def _may_repeat(self, run: Run) -> bool:
        job, now = self._scheduler.jobs.get(run.collector), self._clock.now()
        if job is None or not job.enabled or run.slot is None or run.mode is not self._scheduler.mode:
            return False
        return job.starting_deadline is None or now - run.slot <= job.starting_deadline


def is_first(replica: str, replicas: Sequence[str], affinity: str) -> bool:
    """Whether ``replica`` tries first where the others wait a moment: the highest hash of both names wins.

    It spreads the load and keeps what belongs together with one process; it never decides who may.
    """
    return replica == max(replicas, key=lambda each: zlib.crc32(f"{each}:{affinity}".encode()), default=replica)
