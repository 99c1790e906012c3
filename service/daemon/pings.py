"""Pings to a watcher outside, which gets each run's start and end and raises the alarm when it hears nothing.

URL/start, URL and URL/fail as healthchecks.io takes them (https://healthchecks.io/docs/http_api/), each with the run's
own rid, so that runs may overlap. No ping holds up or fails a run. Addresses do not wait for each other; the pings of
one arrive in their order, because a start after its success would look like a run that hangs.
"""

import uuid
from enum import StrEnum

import anyio
import httpx
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

log = structlog.get_logger(__name__)

_MAX_QUEUED = 100  # of one address
_MAX_AGE = 60.0  # seconds; an older ping would report of another time
_TRIES = 2
_TIMEOUT = 5.0  # seconds, of a try, however slowly it trickles
_PAUSE = 2.0
# A namespace of ours: the same run always gives the same rid.
_RUN_NAMESPACE = uuid.UUID("3b6d5d0a-7d0e-5a54-9a53-3f0a8c1b9b7e")


class PingKind(StrEnum):
    """The value is what follows the address."""

    START = "/start"
    SUCCESS = ""
    FAILURE = "/fail"


_Ping = tuple[PingKind, str, float]  # the run, and when it was queued


class Pings:
    """``tasks``: where they are sent. ``failures``: pings that did not get through."""

    def __init__(self, client: httpx.AsyncClient, tasks: TaskGroup) -> None:
        self.failures = 0
        self._client = client
        self._tasks = tasks
        self._queues: dict[str, MemoryObjectSendStream[_Ping]] = {}
        self._unreachable: set[str] = set()
        self._queued = 0
        self._idle = anyio.Event()

    def send(self, url: str, kind: PingKind, run: str) -> None:
        """Queues a ping; where too many wait already it is dropped."""
        if url not in self._queues:
            self._queues[url], receiver = anyio.create_memory_object_stream[_Ping](_MAX_QUEUED)
            self._tasks.start_soon(self._send_all, url, receiver)
        try:
            self._queues[url].send_nowait((kind, run, anyio.current_time()))
        except anyio.WouldBlock:
            self._count_failure(url, run, "too many pings wait")
        else:
            self._queued += 1

    async def flush(self, seconds: float) -> None:
        """Returns when nothing waits any more, or after ``seconds``."""
        with anyio.move_on_after(seconds):
            while self._queued:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def _send_all(self, url: str, receiver: MemoryObjectReceiveStream[_Ping]) -> None:
        async for kind, run, queued_at in receiver:
            if anyio.current_time() - queued_at > _MAX_AGE:
                self._count_failure(url, run, f"waited for more than {_MAX_AGE:g} s")
            elif reason := await self._try(f"{url}{kind.value}?rid={uuid.uuid5(_RUN_NAMESPACE, run)}"):
                self._count_failure(url, run, reason)
            elif url in self._unreachable:
                self._unreachable.discard(url)
                log.info("heartbeat_url answers again", run=run)
            self._queued -= 1
            if not self._queued:
                self._idle.set()

    async def _try(self, address: str) -> str:
        """Why the ping did not get through, empty when it did."""
        reason = ""
        for number in range(_TRIES):
            if number:
                await anyio.sleep(_PAUSE)
            try:
                with anyio.fail_after(_TIMEOUT):
                    async with self._client.stream("GET", address) as answer:
                        status = answer.status_code
            except TimeoutError:
                reason = f"no answer within {_TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__  # its text may hold the address, which is a secret
            else:
                reason = "" if 200 <= status < 300 else f"answered {status}"
                if status < 500 and status != 429:
                    break
        return reason

    def _count_failure(self, url: str, run: str, reason: str) -> None:
        self.failures += 1
        if url not in self._unreachable:
            log.warning("heartbeat_url was not reached; runs go on", reason=reason, run=run)
        self._unreachable.add(url)
