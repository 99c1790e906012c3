"""What the path needs of its surroundings, as small protocols; the adapters and the tests' fakes meet them alike."""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Protocol, runtime_checkable

import anyio

from service.domain.checks import Check
from service.domain.logged import Logged
from service.domain.points import Fate, Payload, Point
from service.domain.runs import Collected, Run
from service.domain.samples import Metric, Sample


class Clock(Protocol):
    """Wall time, elapsed time and sleep: the only place where time comes from."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        """Until ``event``, at most ``seconds``."""
        ...


class Collector(Protocol):
    """Reads one source. ``metrics`` is the catalogue of what it may emit."""

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    async def collect(self, now: datetime) -> Collected:
        """Samples as of ``now``. Raises Unavailable, Rejected or ConfigError when there is nothing to send."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A collector that has values of its own health, sent beside ``up`` and ``duration`` with the same tags."""

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        """What is known at ``now``, after a run that failed as well."""
        ...


class Outbox(Protocol):
    """The part of the store that the delivery works on."""

    async def waiting(self, limit: int, skip: Set[int] = ...) -> list[Point]:
        """The oldest waiting points whose id is not in ``skip``: at most ``limit``, and about as many as one request
        can hold."""
        ...

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        """Moves points to ``fate``; only WAITING and SENDING are still to be delivered."""
        ...

    async def expire(self, before: datetime, historical: Sequence[str] = ...) -> int:
        """Moves waiting points older than ``before`` to EXPIRED; how many.

        Gauges and counts whose name begins with one of ``historical`` wait on.
        """
        ...

    async def count_waiting(self) -> int: ...


class Runs(Protocol):
    """The part of the store that the runs work on."""

    async def last_slots(self) -> Mapping[str, datetime]: ...

    async def shadow_slots(self) -> Mapping[str, datetime]:
        """The last slots that were run in shadow mode, kept apart from the live ones."""
        ...

    async def paused(self) -> frozenset[str]: ...

    async def begin(self, run: Run) -> None:
        """Keeps an active run and, where it has one, claims its slot: durable before the collector is asked."""
        ...

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample],
        checks: Sequence[Check],
        remember: Mapping[str, bytes | None],
    ) -> None:
        """Keeps an ended run, its samples (waiting), its checks and the collector's memory in one transaction."""
        ...

    async def checks(self, job: str) -> list[Check]: ...

    async def last_success(self, job: str) -> datetime | None: ...

    async def lost(self, job: str, since: datetime) -> Mapping[Fate, int]:
        """Points of the job's runs that were lost since then, by fate."""
        ...

    async def keep_log(self, run_id: str, lines: Sequence[Logged]) -> None:
        """Keeps the log lines of an ended run; they leave with it."""
        ...

    async def put(self, job: str, samples: Sequence[Sample]) -> None:
        """Keeps samples that belong to no run (the heartbeat); they leave the store once they are settled."""
        ...


class Intake(Protocol):
    """Where the points go."""

    def encode(self, points: Sequence[Point]) -> Payload:
        """One request body for points of one endpoint. CPU work: call it in a thread. Raises TooLarge."""
        ...

    async def send(self, payload: Payload) -> None:
        """Returns when the intake took the payload. Raises Unavailable, Rejected, Unauthorized or TooLarge."""
        ...
