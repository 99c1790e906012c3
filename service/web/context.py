"""``AppContext``: the daemon as the web sees and changes it. ``Cache``: one answer for all who ask within a second."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import anyio

from service.clock import Clock
from service.collectors.github_ci.deliveries import Deliveries
from service.config.logging import LogBuffer
from service.config.secrets import Secret
from service.config.settings import Settings
from service.datadog.intake import Intake
from service.github.client import Github
from service.pipeline.forwarder import Forwarder
from service.pipeline.job import Job
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.prometheus import Telemetry
from service.web.schemas import Info

T = TypeVar("T")

OVERVIEW = "overview"  # its key in the cache
_LIFE = 1.0  # seconds for which what was made is shown to whoever asks


class Cache:
    """What is made for one caller serves all who ask within a second after it; what nobody asks for is not made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    async def get(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        """What ``make`` returned for this key a second ago at most, or returns now."""
        entry = self._entries.setdefault(key, _Entry())
        async with entry.lock:
            if self._is_old(entry):
                entry.value = await make()
                entry.made_at = self._clock.monotonic()
            value: T = entry.value
        for old in [key for key, each in self._entries.items() if self._is_old(each) and not each.lock.locked()]:
            del self._entries[old]  # addresses are without number
        return value

    def forget(self, *keys: str) -> None:
        """So something has changed that these show (all, where none is named): they are made anew for the next caller.

        One that is being made shows how it was before, and serves only those that wait for it already.
        """
        for key in keys or list(self._entries):
            self._entries.pop(key, None)

    def _is_old(self, entry: "_Entry") -> bool:
        return self._clock.monotonic() - entry.made_at >= _LIFE


@dataclass
class _Entry:
    value: Any = None
    made_at: float = float("-inf")
    lock: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass
class AppContext:
    """The daemon as the web sees and changes it. A reload replaces ``settings`` (and ``reload_error``) in place, and
    calls ``cache.forget``.

    ``token``, ``read_token``: of the write and the read calls; they may be set to nothing, and may change.
    ``webhook_secret``: what GitHub signs with what ``deliveries`` gets; so may this.
    ``secrets``: all whose trouble /readyz warns of. ``in_cluster``: KUBERNETES_SERVICE_HOST is set.
    ``reload_error``: why the last reload was refused, None when it was not.
    ``telemetry``: the counters of /metrics; the daemon feeds them.
    """

    info: Info
    settings: Settings
    clock: Clock
    store: Store
    scheduler: Scheduler
    forwarder: Forwarder
    intake: Intake
    github: Github
    log: LogBuffer
    token: Secret
    read_token: Secret
    webhook_secret: Secret
    deliveries: Deliveries
    secrets: Sequence[Secret] = ()
    in_cluster: bool = False
    reload_error: str | None = None

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.info.version, self.info.commit)
        self.cache = Cache(self.clock)
        # By collector: when it starts next, as long as this is its job and its last slot.
        self.next_runs: dict[str, tuple[Job, datetime | None, datetime | None]] = {}
        # One at a time: threads that compute take the loop's turns.
        self.threads = anyio.CapacityLimiter(1)
        # Callers that wait for a run hold a connection, pushes take the memory of a large snapshot.
        self.waiting, self.pushing = anyio.Semaphore(16), anyio.Semaphore(2)

    def changed(self) -> None:
        """An operator changed something: who asks next sees it."""
        self.cache.forget(OVERVIEW)
