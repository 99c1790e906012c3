"""Pings to a watcher outside: it is told of each run's start and end, and says so itself when it hears nothing.

Addresses as healthchecks.io takes them (https://healthchecks.io/docs/http_api/): URL/start, URL and URL/fail, each with
the run's own rid, so that runs may overlap. Nothing here can hold up or fail a run: pings wait in a short queue, each
has two short tries, and what does not get through is counted and said once.
"""

import uuid
from dataclasses import dataclass
from enum import StrEnum

import anyio
import httpx
import structlog

from service import __version__

log = structlog.get_logger(__name__)

_WAITING = 32
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


class Pings:
    """``tell`` at any time; ``run`` is the task that sends.

    ``failures``: pings that did not get through.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._is_lost = False
        self._sender, self._receiver = anyio.create_memory_object_stream[_Ping](_WAITING)

    def tell(self, url: str, event: Event, run: str) -> None:
        """Queues a ping; where too many wait already it is dropped."""
        try:
            self._sender.send_nowait(_Ping(url, event, run))
        except anyio.WouldBlock:
            self._failed("too many pings wait")

    async def run(self) -> None:
        """Until cancelled."""
        # An address that redirects is not the one that the operator gave: nothing is followed.
        agent = {"User-Agent": f"infra-health/{__version__}"}
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, headers=agent) as http, self._receiver:
            async for ping in self._receiver:
                await self._send(http, ping)

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
                    if self._is_lost:
                        log.info("heartbeat_url answers again")
                    self._is_lost = False
                    return
                reason = f"answered {status}"
                if status < 500 and status != 429:
                    break
            if left:
                await anyio.sleep(_PAUSE)
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        self.failures += 1
        if not self._is_lost:
            log.warning("heartbeat_url was not reached; runs go on", reason=reason)
        self._is_lost = True
