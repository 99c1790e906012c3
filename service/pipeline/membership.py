"""Several replicas share one store: this one shows that it lives, and follows what the others decided."""

import structlog

from service.domain.errors import Unavailable
from service.pipeline.clock import Clock
from service.pipeline.scheduler import Scheduler
from service.store import Replicas

log = structlog.get_logger(__name__)

_RETRY = 0.5  # seconds until the next try while the database is away


class Membership:
    """``replicas``: those of the shared store."""

    def __init__(self, replicas: Replicas, scheduler: Scheduler, clock: Clock) -> None:
        self._replicas = replicas
        self._scheduler = scheduler
        self._clock = clock

    async def run(self) -> None:
        """Beats until cancelled."""
        is_away = False
        lost = frozenset[str]()
        while True:
            try:
                lost = self._scheduler.follow(await self._replicas.beat(self._scheduler.may_repeat, lost))
            except Unavailable as error:
                if not is_away:
                    log.error("the store is away: no slot is claimed until it is back", reason=str(error))  # noqa: TRY400
                is_away = True
                await self._clock.sleep(_RETRY)
            else:
                if is_away:
                    log.info("the store is back")
                is_away = False
                await self._clock.sleep(self._replicas.interval)
