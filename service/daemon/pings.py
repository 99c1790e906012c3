"""Pings to a watcher outside, which gets each run's start and end and raises the alarm when it hears nothing.

URL/start, URL and URL/fail as healthchecks.io takes them (https://healthchecks.io/docs/http_api/), each with the run's
own rid, so that runs may overlap. No ping holds up or fails a run: they wait in a bounded queue, each has two short
tries, and what does not get through is counted and logged once. Addresses do not wait for each other; the pings of one
arrive in their order, because a start after its success would look like a run that hangs.
"""

import uuid
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import anyio
import httpx
import structlog

log = structlog.get_logger(__name__)

_MAX_QUEUED = 1_000
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


@dataclass(frozen=True, slots=True)
class _Ping:
    url: str
    kind: PingKind
    run: str
    at: float


class Pings:
    """``send`` at any time; ``run`` is the task that does it. ``failures``: pings that did not get through."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.failures = 0
        self._client = client
        self._unreachable: set[str] = set()
        self._queues: dict[str, deque[_Ping]] = {}  # by address; an address has a task while it is here
        self._queued = 0
        self._idle = anyio.Event()
        self._sender, self._receiver = anyio.create_memory_object_stream[_Ping](_MAX_QUEUED)

    def send(self, url: str, kind: PingKind, run: str) -> None:
        """Queues a ping; where too many wait already it is dropped."""
        ping = _Ping(url, kind, run, anyio.current_time())
        if self._queued >= _MAX_QUEUED:
            self._count_failure(ping, "too many pings wait")
            return
        try:
            self._sender.send_nowait(ping)
        except anyio.BrokenResourceError:  # a run that ends after ``run`` did
            self._count_failure(ping, "the daemon ends")
        else:
            self._queued += 1

    async def run(self) -> None:
        """Until cancelled."""
        async with self._receiver, anyio.create_task_group() as tasks:
            async for ping in self._receiver:
                if ping.url in self._queues:
                    self._queues[ping.url].append(ping)
                else:
                    self._queues[ping.url] = deque([ping])
                    tasks.start_soon(self._send_queue, ping.url)

    async def flush(self, seconds: float) -> None:
        """Returns when nothing waits any more, or after ``seconds``."""
        with anyio.move_on_after(seconds):
            while self._queued:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def _send_queue(self, url: str) -> None:
        queue = self._queues[url]
        while queue:
            ping = queue.popleft()
            if anyio.current_time() - ping.at > _MAX_AGE:
                self._count_failure(ping, f"waited for more than {_MAX_AGE:g} s")
            else:
                await self._send(ping)
            self._queued -= 1
        del self._queues[url]
        if not self._queued:
            self._idle.set()

    async def _send(self, ping: _Ping) -> None:
        address = f"{ping.url}{ping.kind.value}?rid={uuid.uuid5(_RUN_NAMESPACE, ping.run)}"
        reason = ""
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                with anyio.fail_after(_TIMEOUT):
                    async with self._client.stream("GET", address) as answer:
                        status = answer.status_code
            except TimeoutError:
                reason = f"no answer within {_TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__  # its text may hold the address, which is a secret
            else:
                if 200 <= status < 300:
                    if ping.url in self._unreachable:
                        log.info("heartbeat_url answers again", run=ping.run)
                    self._unreachable.discard(ping.url)
                    return
                reason = f"answered {status}"
                if status < 500 and status != 429:
                    break
            if tries_left:
                await anyio.sleep(_PAUSE)
        self._count_failure(ping, reason)

    def _count_failure(self, ping: _Ping, reason: str) -> None:
        self.failures += 1
        if ping.url not in self._unreachable:
            log.warning("heartbeat_url was not reached; runs go on", reason=reason, run=ping.run)
        self._unreachable.add(ping.url)
