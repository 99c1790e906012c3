"""The daemon as the web sees and changes it, and what is made for one caller and serves all who ask within a second."""

import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from service.clock import Clock
from service.collectors.github_ci.deliveries import Deliveries
from service.config.logging import LogBuffer
from service.config.secrets import Secret
from service.config.settings import Settings
from service.datadog.intake import Intake
from service.domain.runs import Cause, Run
from service.github.client import Github
from service.pipeline.forwarder import Forwarder
from service.pipeline.job import Job
from service.pipeline.scheduler import Scheduler
from service.store import Store
from service.web.prometheus import Telemetry
from service.web.schemas import Info

if TYPE_CHECKING:
    from service.web.overview import CurrentCheck

T = TypeVar("T")

OVERVIEW = "overview"  # its key in the cache
_MOST_RENDERINGS = 32  # that are kept, packed to about a tenth
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


class Renderings:
    """The last pages that were rendered, by what they hold, packed: what is sent, and what an open page has."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def keep(self, page: bytes) -> tuple[str, bytes]:
        """Its entity tag, by which ``compare`` knows it, and the page packed. CPU work."""
        tag = f'W/"{blake2b(page, digest_size=9).hexdigest()}"'
        self._kept[tag] = self._kept.pop(tag, b"") or gzip.compress(page, 1)
        for old in list(self._kept)[:-_MOST_RENDERINGS]:
            del self._kept[old]
        return tag, self._kept[tag]

    def compare(self, tag: str, page: bytes) -> bytes | None:
        """A JSON list that makes ``page`` of the one with this tag: new lines, and ``[first, count]`` for lines that
        it has already. None where that one is not kept any more. CPU work."""
        if (packed := self._kept.get(tag)) is None:
            return None
        old = gzip.decompress(packed).decode().split("\n")
        return json.dumps(compare_lines(old, page.decode().split("\n")), separators=(",", ":")).encode()


def compare_lines(old: Sequence[str], new: Sequence[str]) -> list[str | list[int]]:
    """As few steps as a look at each line finds."""
    places = {line: place for place, line in enumerate(old)}
    steps: list[str | list[int]] = []
    for line in new:
        last = steps[-1] if steps else ""
        if isinstance(last, list) and sum(last) < len(old) and old[sum(last)] == line:
            last[1] += 1
        elif (place := places.get(line)) is not None and len(line) > 8:
            steps.append([place, 1])
        else:
            steps.append(line)
    return steps


@dataclass(frozen=True, slots=True)
class KnownChecks:
    """A collector's checks as they were after its last cycle and so many ``changes`` since, and ``until`` when they say
    what is true."""

    job: Job
    cycle: int | None
    changes: int
    until: datetime
    checks: list["CurrentCheck"]


@dataclass
class AppContext:
    """The daemon as the web sees and changes it. A reload replaces ``settings`` (and ``reload_error``) in place, and
    calls ``cache.forget``.

    ``token``, ``read_token``: of the write and the read calls; they may be set to nothing, and may change.
    ``webhook_secret``: what GitHub signs with what ``deliveries`` gets; so may this.
    ``secrets``: all whose trouble /readyz warns of. ``in_cluster``: KUBERNETES_SERVICE_HOST is set.
    ``reload_error``: why the last reload was refused, None when it was not.
    ``telemetry``: the counters of /metrics; the daemon feeds them (``run_ended``, ``telemetry.points``).
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
        self.checks: dict[str, KnownChecks] = {}
        # By collector: when it starts next, as long as this is its job and its last slot.
        self.next_runs: dict[str, tuple[Job, datetime | None, datetime | None]] = {}
        self.columns: dict[str, dict[int, int]] = {}  # by collector and the number of the cycle
        self.renderings = Renderings()
        self.changes: Counter[str] = Counter()  # runs by webhook, which are no cycles, by collector
        # One at a time: threads that compute take the loop's turns.
        self.threads = anyio.CapacityLimiter(1)
        # Callers that wait for a run hold a connection, pushes take the memory of a large snapshot.
        self.waiting, self.pushing = anyio.Semaphore(16), anyio.Semaphore(2)

    def run_ended(self, run: Run) -> None:
        """A run was stored."""
        self.telemetry.run_ended(run)
        self.changes[run.collector] += run.cause is Cause.WEBHOOK

    def changed(self) -> None:
        """An operator changed something: who asks next sees it."""
        self.cache.forget(OVERVIEW)
