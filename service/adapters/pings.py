"""Pings to a watcher outside: it is told of each run's start and end, and says so itself when it hears nothing.

Addresses as healthchecks.io takes them (https://healthchecks.io/docs/http_api/): URL/start, URL and URL/fail, each with
the run's own rid, so that runs may overlap. Nothing here can hold up or fail a run: pings wait in a bounded queue, each
has two short tries, and what does not get through is counted and said once. Addresses do not wait for each other, and
the pings of one arrive in their order: a start that came after its success would be taken for a run that hangs.
"""

import uuid
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import anyio
import httpx
import structlog

from service import __version__

log = structlog.get_logger(__name__)

_WAITING = 1_000
_FRESH = 60.0  # seconds; a ping that is older would tell of another time
_TRIES = 2
_TIMEOUT = 5.0  # seconds, of a try, however slowly it trickles
_PAUSE = 2.0
# A namespace of ours: the same run always gives the same rid.
_RUNS = uuid.UUID("3b6d5d0a-7d0e-5a54-9a53-3f0a8c1b9b7e")


class Event(StrEnum):
    """What a ping tells; the value is what follows the address."""

    START = "/start"
    SUCCESS = ""
    FAILURE = "/fail"


@dataclass(frozen=True, slots=True)
class _Ping:
    url: str
    event: Event
    run: str
    at: float


class Pings:
    """``tell`` at any time; ``run`` is the task that sends.

    ``failures``: pings that did not get through.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._lost: set[str] = set()
        self._waiting: dict[str, deque[_Ping]] = {}  # by address; an address has a task while it is here
        self._count = 0
        self._is_idle = anyio.Event()
        self._sender, self._receiver = anyio.create_memory_object_stream[_Ping](_WAITING)

    def tell(self, url: str, event: Event, run: str) -> None:
        """Queues a ping; where too many wait already it is dropped."""
        ping = _Ping(url, event, run, anyio.current_time())
        if self._count >= _WAITING:
            self._failed(ping, "too many pings wait")
            return
        try:
            self._sender.send_nowait(ping)
        except anyio.BrokenResourceError:  # a run that ends after ``run`` did
            self._failed(ping, "the daemon ends")
        else:
            self._count += 1

    async def run(self) -> None:
        """Until cancelled."""
        # An address that redirects is not the one that the operator gave: nothing is followed.
        agent = {"User-Agent": f"infra-health/{__version__}"}
        client = httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, headers=agent)
        async with client as http, self._receiver, anyio.create_task_group() as tasks:
            async for ping in self._receiver:
                if ping.url in self._waiting:
                    self._waiting[ping.url].append(ping)
                else:
                    self._waiting[ping.url] = deque([ping])
                    tasks.start_soon(self._send_all, http, ping.url)

    async def flush(self, seconds: float) -> None:
        """Returns when nothing waits any more, or after ``seconds``."""
        with anyio.move_on_after(seconds):
            while self._count:
                self._is_idle = anyio.Event()
                await self._is_idle.wait()

    async def _send_all(self, http: httpx.AsyncClient, url: str) -> None:
        waiting = self._waiting[url]
        while waiting:
            ping = waiting.popleft()
            if anyio.current_time() - ping.at > _FRESH:
                self._failed(ping, f"waited for more than {_FRESH:g} s")
            else:
                await self._send(http, ping)
            self._count -= 1
        del self._waiting[url]
        if not self._count:
            self._is_idle.set()

    async def _send(self, http: httpx.AsyncClient, ping: _Ping) -> None:
        address = f"{ping.url}{ping.event.value}?rid={uuid.uuid5(_RUNS, ping.run)}"
        reason = ""
        for left in range(_TRIES - 1, -1, -1):
            try:
                with anyio.fail_after(_TIMEOUT):
                    async with http.stream("GET", address) as answer:
                        status = answer.status_code
            except TimeoutError:
                reason = f"no answer within {_TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__  # its text may hold the address, which is a secret
            else:
                if 200 <= status < 300:
                    if ping.url in self._lost:
                        log.info("heartbeat_url answers again", run=ping.run)
                    self._lost.discard(ping.url)
                    return
                reason = f"answered {status}"
                if status < 500 and status != 429:
                    break
            if left:
                await anyio.sleep(_PAUSE)
        self._failed(ping, reason)

    def _failed(self, ping: _Ping, reason: str) -> None:
        self.failures += 1
        if ping.url not in self._lost:
            log.warning("heartbeat_url was not reached; runs go on", reason=reason, run=ping.run)
        self._lost.add(ping.url)
