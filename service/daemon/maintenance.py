"""What goes on beside the path while the daemon runs: store pruned and recovered, replicas followed, secrets renewed, a
watcher outside pinged."""

import uuid
from collections import defaultdict
from datetime import timedelta
from typing import Literal

import anyio
import httpx
import structlog
from anyio.abc import TaskGroup

from service.clock import Clock
from service.config.secrets import Credentials
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.pipeline.forwarder import Forwarder
from service.pipeline.scheduler import Scheduler
from service.store import Replicas, Store

log = structlog.get_logger(__name__)

_PRUNE_INTERVAL = 600.0  # seconds, as all of these
_RECOVER_INTERVAL = 5.0
_SECRETS_INTERVAL = 60.0
_AWAY_INTERVAL = 0.5

# Of a ping's address: a run begins, has succeeded, has failed (https://healthchecks.io/docs/http_api/).
Ending = Literal["/start", "", "/fail"]

_PING_TRIES, _PING_PAUSE = 2, 2.0
_PING_TIMEOUT = 5.0  # of a try, however slowly it trickles
_PING_MAX_AGE = 60.0  # an older one would report of another time
# A namespace of ours: the same run always gives the same rid.
_RUN_NAMESPACE = uuid.UUID("3b6d5d0a-7d0e-5a54-9a53-3f0a8c1b9b7e")


async def recover_store(clock: Clock, store: Store, forwarder: Forwarder) -> None:
    """Back from the fallback to the disk, once it can be written again."""
    while True:
        await clock.sleep(_RECOVER_INTERVAL)
        if await store.recover():
            forwarder.notify()


async def refresh_secrets(clock: Clock, credentials: Credentials) -> None:
    """Reads the secrets at the start and again after their time, also those that are seldom asked for."""
    while True:
        for secret in credentials:
            if secret is not credentials.app_key:  # which no daemon needs
                await secret.get()
        await clock.sleep(_SECRETS_INTERVAL)


async def prune_store(clock: Clock, store: Store, forwarder: Forwarder) -> None:
    """Ends what has had its time, and what no longer fits."""
    while True:
        try:
            if await store.runs.claim_turn("prune", timedelta(seconds=_PRUNE_INTERVAL)):
                forwarder.count(DeliveryStatus.EXPIRED, await store.prune(clock.now()))
        except Unavailable as error:
            log.error("the store can't be pruned", reason=str(error))  # noqa: TRY400 - the reason says it all
        await clock.sleep(_PRUNE_INTERVAL)


async def follow_replicas(clock: Clock, replicas: Replicas, scheduler: Scheduler) -> None:
    """Shows every few seconds that this replica of a shared store lives, and follows what the others decided."""
    is_away = False
    lost = frozenset[str]()
    while True:
        try:
            lost = scheduler.follow(await replicas.beat(scheduler.may_repeat, lost))
        except Unavailable as error:
            if not is_away:
                log.error("the store is away: no slot is claimed until it is back", reason=str(error))  # noqa: TRY400
            is_away = True
            await clock.sleep(_AWAY_INTERVAL)
        else:
            if is_away:
                log.info("the store is back")
            is_away = False
            await clock.sleep(replicas.interval)


class Pings:
    """Pings to a watcher outside, which gets each run's start and end and raises the alarm when it hears nothing.

    Each has the run's rid, so that runs may overlap. No ping holds up or fails a run. Addresses do not wait for each
    other; the pings of one arrive in their order, because a start after its success would look like a run that hangs.
    """

    def __init__(self, client: httpx.AsyncClient, tasks: TaskGroup) -> None:
        self._client = client
        self._tasks = tasks
        self._turns: dict[str, anyio.Lock] = defaultdict(anyio.Lock)  # whoever waits first is served first
        self._unreachable: set[str] = set()
        self._under_way = 0
        self._idle = anyio.Event()

    def send(self, url: str, ending: Ending, run: str) -> None:
        """Sends a ping soon."""
        self._under_way += 1
        self._tasks.start_soon(self._send, url, ending, run, anyio.current_time() + _PING_MAX_AGE)

    async def flush(self, seconds: float) -> None:
        """Returns when none is under way any more, or after ``seconds``."""
        with anyio.move_on_after(seconds):
            while self._under_way:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def _send(self, url: str, ending: Ending, run: str, deadline: float) -> None:
        async with self._turns[url]:
            reason = f"waited for more than {_PING_MAX_AGE:g} s"
            if anyio.current_time() < deadline:
                reason = await self._try(f"{url}{ending}?rid={uuid.uuid5(_RUN_NAMESPACE, run)}")
            if reason and url not in self._unreachable:
                log.warning("heartbeat_url was not reached; runs go on", reason=reason, run=run)
                self._unreachable.add(url)
            elif not reason and url in self._unreachable:
                log.info("heartbeat_url answers again", run=run)
                self._unreachable.discard(url)
        self._under_way -= 1
        self._idle.set()

    async def _try(self, address: str) -> str:
        """Why the ping did not get through, empty when it did."""
        reason = ""
        for number in range(_PING_TRIES):
            if number:
                await anyio.sleep(_PING_PAUSE)
            try:
                with anyio.fail_after(_PING_TIMEOUT):
                    async with self._client.stream("GET", address) as answer:
                        status = answer.status_code
            except TimeoutError:
                reason = f"no answer within {_PING_TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__  # its text may hold the address, which is a secret
            else:
                reason = "" if 200 <= status < 300 else f"answered {status}"
                if status < 500 and status != 429:
                    break
        return reason
