"""What goes on beside the path while the daemon runs: store pruned and mended, secrets renewed, the loop watched."""

from collections import deque
from datetime import timedelta

import anyio
import structlog

from service.adapters.store import SqliteStore
from service.credentials import Credentials
from service.domain.errors import Unavailable
from service.pipeline.deliver import Delivery
from service.pipeline.faults import Faults, News
from service.pipeline.ports import Clock
from service.pipeline.reserve import Reserve
from service.scrape import LAG_EVERY

log = structlog.get_logger(__name__)

_PRUNE_EVERY = timedelta(minutes=10)
_REPAY_EVERY = 5.0
_SECRETS_EVERY = 60.0


class Upkeep:
    """``lags``: where the event loop's lateness is noted, in seconds."""

    def __init__(
        self,
        clock: Clock,
        store: SqliteStore,
        reserve: Reserve,
        delivery: Delivery,
        credentials: Credentials,
        lags: deque[float],
    ) -> None:
        self._clock = clock
        self._store = store
        self._reserve = reserve
        self._delivery = delivery
        self._credentials = credentials
        self._lags = lags

    async def run(self) -> None:
        """Until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            for each in (self._watch_lag, self._keep_secrets, self._prune, self._repay):
                tasks.start_soon(each)

    async def _watch_lag(self) -> None:
        """How late the event loop is: what a collector that blocks it would show."""
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(LAG_EVERY)
            self._lags.append(max(0.0, self._clock.monotonic() - before - LAG_EVERY))

    async def _repay(self) -> None:
        """Brings a damaged store back, and writes what was kept in memory once it is there."""
        while True:
            await self._clock.sleep(_REPAY_EVERY)
            if await self._store.mend(self._clock.now()):
                self._delivery.notify()
            if self._reserve.trouble:
                async with self._delivery.paused():
                    await self._reserve.repay()
                self._delivery.notify()

    async def _keep_secrets(self) -> None:
        """Reads the secrets at the start and again after their time, also those that are seldom asked for."""
        while True:
            for secret in self._credentials:
                if secret is not self._credentials.app_key:  # which no daemon needs
                    await secret.get()
            await self._clock.sleep(_SECRETS_EVERY)

    async def _prune(self) -> None:
        faults = Faults()
        while True:
            try:
                await self._store.prune(self._clock.now())
            except Unavailable as error:
                if faults.meet("prune", str(error), self._clock.now()) is not News.SAME:
                    log.error("the store can't be pruned", reason=str(error))  # noqa: TRY400 - the reason says it all
            else:
                if ended := faults.end("prune"):
                    log.info("the store is pruned again", reason=ended.reason, since=ended.since.isoformat())
            await self._clock.sleep(_PRUNE_EVERY.total_seconds())
