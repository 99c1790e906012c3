"""What goes on beside the path while the daemon runs: store pruned and recovered, secrets renewed."""

from datetime import timedelta

import anyio
import structlog

from service.config.secrets import Credentials
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.pipeline.clock import Clock
from service.pipeline.forwarder import Forwarder
from service.store import Store

log = structlog.get_logger(__name__)

_PRUNE_INTERVAL = timedelta(minutes=10)
_RECOVER_INTERVAL = 5.0
_SECRETS_INTERVAL = 60.0


class Maintenance:
    """``run`` owns the tasks."""

    def __init__(self, clock: Clock, store: Store, forwarder: Forwarder, credentials: Credentials) -> None:
        self._clock = clock
        self._store = store
        self._forwarder = forwarder
        self._credentials = credentials

    async def run(self) -> None:
        """Until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            for each in (self._refresh_secrets, self._prune_store, self._recover_store):
                tasks.start_soon(each)

    async def _recover_store(self) -> None:
        """Back from the fallback to the disk, once it can be written again."""
        while True:
            await self._clock.sleep(_RECOVER_INTERVAL)
            if await self._store.recover():
                self._forwarder.notify()

    async def _refresh_secrets(self) -> None:
        """Reads the secrets at the start and again after their time, also those that are seldom asked for."""
        while True:
            for secret in self._credentials:
                if secret is not self._credentials.app_key:  # which no daemon needs
                    await secret.get()
            await self._clock.sleep(_SECRETS_INTERVAL)

    async def _prune_store(self) -> None:
        reason = ""
        while True:
            try:
                given_up = await self._store.prune(self._clock.now())
                self._forwarder.count(DeliveryStatus.EXPIRED, given_up)
            except Unavailable as error:
                if not reason:
                    log.error("the store can't be pruned", reason=str(error))  # noqa: TRY400 - the reason says it all
                reason = str(error)
            else:
                if reason:
                    log.info("the store is pruned again", reason=reason)
                reason = ""
            await self._clock.sleep(_PRUNE_INTERVAL.total_seconds())
