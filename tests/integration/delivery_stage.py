"""What a delivery stands on in tests: a clock that jumps, an outbox in memory, the real store with the same points."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from service.adapters.store import SqliteStore
from service.domain.naming import encode_tags
from service.domain.points import Fate, Point, is_historical
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Kind, Metric, Sample
from service.pipeline.ports import Outbox
from tests.unit.pipeline.fakes import first_of

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class JumpingClock:
    """Meets ``Clock``. Sleep takes no time but moves the clock; ``slept`` are the seconds asked for.

    ``on_sleep`` is called with them before the clock moves.
    """

    def __init__(self, now: datetime = START) -> None:
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] = lambda seconds: None
        self._start = self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    def jump(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep(seconds)
        self.jump(seconds)
        await checkpoint()

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        await first_of(event, lambda: self.sleep(seconds))


class Watch:
    """An observer of fates that tests can wait on."""

    def __init__(self) -> None:
        self.fates: Counter[Fate] = Counter()
        self._waiting: list[tuple[Fate, int, anyio.Event]] = []

    def __call__(self, fate: Fate, count: int) -> None:
        self.fates[fate] += count
        for awaited, enough, event in self._waiting:
            if self.fates[awaited] >= enough:
                event.set()

    async def reached(self, fate: Fate, count: int) -> None:
        """Returns once ``count`` points came to ``fate``."""
        event = anyio.Event()
        self._waiting.append((fate, count, event))
        self(fate, 0)
        await event.wait()


class Box(Protocol):
    """An outbox with the two ends that the delivery does not see."""

    @property
    def outbox(self) -> Outbox: ...

    async def add(self, samples: Sequence[Sample]) -> None: ...

    async def fates(self) -> Mapping[Fate, int]: ...

    async def restart(self) -> None:
        """As after a crash: what was being sent is uncertain."""
        ...

    async def close(self) -> None: ...


class MemoryOutbox:
    """Meets ``Outbox``."""

    def __init__(self) -> None:
        self.points: dict[int, Point] = {}
        self.fate: dict[int, Fate] = {}
        self.reason: dict[int, str] = {}

    @property
    def outbox(self) -> Outbox:
        return self

    async def add(self, samples: Sequence[Sample]) -> None:
        self.add_now(samples)

    def add_now(self, samples: Sequence[Sample]) -> None:
        for number, sample in enumerate(samples, len(self.points) + 1):
            metric, tags = sample.metric, encode_tags(sample.tags)
            interval, at = sample.interval or 0, int(sample.at.timestamp())
            self.points[number] = Point(number, metric.name, metric.kind, interval, tags, at, sample.value)
            self.fate[number] = Fate.WAITING

    async def fates(self) -> Mapping[Fate, int]:
        return Counter(self.fate.values())

    async def restart(self) -> None:
        for number, fate in self.fate.items():
            if fate is Fate.SENDING:
                self.fate[number] = Fate.UNCERTAIN

    async def close(self) -> None:
        return

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        waiting = [number for number, fate in self.fate.items() if fate is Fate.WAITING and number not in skip]
        return [self.points[number] for number in waiting[:limit]]

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        for number in ids:
            if self.fate[number] in (Fate.WAITING, Fate.SENDING):
                self.fate[number], self.reason[number] = fate, reason

    async def expire(self, before: datetime, historical: Sequence[str] = ()) -> int:
        waiting = [each for each in await self.waiting(len(self.points)) if each.at < before.timestamp()]
        old = [each.id for each in waiting if not is_historical(each.kind, each.metric, historical)]
        await self.settle(old, Fate.EXPIRED)
        return len(old)

    async def count_waiting(self) -> int:
        return len(await self.waiting(len(self.points)))


class SqliteBox:
    """The real store; the points belong to runs, so that their fates are kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: SqliteStore | None = None
        self._runs: list[str] = []

    async def open(self) -> None:
        self._store = await SqliteStore.open(self._directory, now=START, clock=lambda: START)

    @property
    def outbox(self) -> SqliteStore:
        assert self._store
        return self._store

    async def add(self, samples: Sequence[Sample]) -> None:
        run = Run(f"job-{len(self._runs)}", Slot("job", None, Cause.ONCE), START)
        self._runs.append(run.id)
        await self.outbox.begin(run)
        ended = replace(run, ended=START, outcome=Outcome.COMPLETE, samples=len(samples))
        await self.outbox.end(ended, samples, [], {})

    async def fates(self) -> Mapping[Fate, int]:
        total: Counter[Fate] = Counter()
        for run in self._runs:
            total.update(await self.outbox.fates(run))
        return total

    async def restart(self) -> None:
        await self.outbox.close()
        await self.open()

    async def close(self) -> None:
        await self.outbox.close()


def samples(
    count: int, kind: Kind = Kind.GAUGE, at: datetime = START, name: str = "metta.m{:05}", value: float = 1.0
) -> list[Sample]:
    """``count`` series with one sample each; a number goes into ``name``."""
    interval = 60 if kind is Kind.COUNT else None
    tags = {"env": "test", "condition": "< 5.0", "status": "pass"}
    return [Sample(Metric(name.format(number), kind), value, at, tags, interval=interval) for number in range(count)]
