"""The reserve: goes on from memory while the store is lost, and writes what it kept once the store is back.

It stands between the path and the store and meets the same protocols. What the store can't take is kept here in the
order in which it came, bounded, and delivered from here. Points that the store holds are delivered on while it can be
read, but for distributions: those must be marked first, and a mark that is not durable could send them twice.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import anyio
import structlog

from service.domain.checks import Check
from service.domain.errors import Unavailable
from service.domain.logged import Logged
from service.domain.points import Fate, Point, is_historical
from service.domain.runs import Run
from service.domain.samples import Kind, Sample
from service.pipeline.kept import Kept
from service.pipeline.ports import Outbox, Runs

log = structlog.get_logger(__name__)

# What is kept in memory at most: some 60 MB of points, and numbers of points whose fate is still to be written.
MOST_POINTS = 50_000
MOST_SETTLED = 200_000


class Store(Runs, Outbox, Protocol):
    """All that the path needs of the store."""

    async def recall(self, job: str, key: str) -> bytes | None: ...

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample],
        checks: Sequence[Check],
        remember: Mapping[str, bytes | None],
        fates: Mapping[int, Fate] = ...,
    ) -> None:
        """``fates``: of samples that are not waiting any more, by their place among ``samples``."""
        ...


class Reserve:
    """Meets ``Runs`` and ``Outbox``; a lost store fails none but SENDING marks and the reads at the start.

    ``observe``: told the fate and number of points that are lost in here.
    ``shadow_prefix``: in shadow mode, what stands before the names of the metrics that are kept from now on, so that
    what still waits when the mode changes can't pass for live values; None in live mode.
    """

    def __init__(
        self,
        store: Store,
        *,
        observe: Callable[[Fate, int], object] = lambda fate, points: None,
        most: int = MOST_POINTS,
    ) -> None:
        self.observe = observe
        self.shadow_prefix: str | None = None
        self._store = store
        self._most = most
        self._kept: deque[Kept] = deque()
        self._unwritten: deque[tuple[list[int], Fate, str]] = deque()
        self._settled: set[int] = set()  # the ids in ``_unwritten``
        self._held_back: set[int] = set()  # the store's points that can't be sent before it can be written
        self._next_id = -1
        self._trouble: str | None = None
        self._checks: dict[str, Sequence[Check]] = {}
        self._successes: dict[str, datetime] = {}
        self._memory: dict[tuple[str, str], bytes | None] = {}

    @property
    def trouble(self) -> str | None:
        """Why and how much is kept in memory, None while the store takes everything."""
        if not (self._kept or self._unwritten):
            return None
        runs = sum(kept.run is not None for kept in self._kept)
        return f"{self._trouble}; in memory meanwhile: {runs} runs, {self._waiting()} points"

    def kept_runs(self) -> dict[str, Run]:
        """The ended runs that the store does not know of yet, by id."""
        return {kept.run.id: kept.run for kept in self._kept if kept.run}

    async def repay(self) -> bool:
        """Writes what is kept; whether nothing is left. No point that ``waiting`` gave may be under way meanwhile."""
        if not (self._kept or self._unwritten):
            self._held_back.clear()
            return True
        try:
            while self._unwritten:
                await self._store.settle(*self._unwritten[0])
                self._settled.difference_update(self._unwritten.popleft()[0])
            while self._kept:
                await self._write(self._kept[0])
                self._kept.popleft()
        except Unavailable as error:
            self._lost(error)
            return False
        self._held_back.clear()
        self._works()
        return True

    # Runs

    async def last_slots(self) -> Mapping[str, datetime]:
        return await self._store.last_slots()

    async def shadow_slots(self) -> Mapping[str, datetime]:
        return await self._store.shadow_slots()

    async def paused(self) -> frozenset[str]:
        return await self._store.paused()

    async def begin(self, run: Run) -> None:
        try:
            await self._store.begin(run)
        except Unavailable as error:
            self._lost(error)  # ``end`` begins the run as well

    async def end(
        self, run: Run, samples: Sequence[Sample], checks: Sequence[Check], remember: Mapping[str, bytes | None]
    ) -> None:
        self._checks[run.job] = checks
        self._memory.update({(run.job, key): value for key, value in remember.items()})
        if run.ended and run.outcome and run.outcome.succeeded:
            self._successes[run.job] = run.ended
        await self._keep(Kept(run.job, run, self._named(samples), checks, remember))

    async def keep_log(self, run_id: str, lines: Sequence[Logged]) -> None:
        # Not kept in memory: whoever looks for them finds them in the daemon's own log.
        await self._store.keep_log(run_id, lines)

    async def put(self, job: str, samples: Sequence[Sample]) -> None:
        await self._keep(Kept(job, None, self._named(samples), (), {}))

    async def checks(self, job: str) -> list[Check]:
        if not any(kept.job == job and kept.run for kept in self._kept):
            try:
                self._checks[job] = await self._store.checks(job)
            except Unavailable as error:
                self._lost(error)
        return list(self._checks.get(job, ()))

    async def recall(self, job: str, key: str) -> bytes | None:
        """What the job's collector remembered; its last word, though the store may not have it yet."""
        if not any(kept.job == job and key in kept.remember for kept in self._kept):
            try:
                self._memory[job, key] = await self._store.recall(job, key)
            except Unavailable as error:
                if (job, key) not in self._memory:
                    raise
                self._lost(error)
        return self._memory[job, key]

    async def last_success(self, job: str) -> datetime | None:
        try:
            stored = await self._store.last_success(job)
        except Unavailable as error:
            self._lost(error)
            stored = None
        known = self._successes.get(job)
        return max(known, stored) if known and stored else known or stored

    async def lost(self, job: str, since: datetime) -> Mapping[Fate, int]:
        try:
            return await self._store.lost(job, since)
        except Unavailable as error:
            self._lost(error)
            return {}

    # The outbox

    async def waiting(self, limit: int, skip: Set[int] = frozenset()) -> list[Point]:
        if not (self._kept or self._unwritten or self._held_back):
            return await self._store.waiting(limit, skip)
        points: list[Point] = []
        if len(self._settled) < MOST_SETTLED:
            try:
                points = await self._sendable(limit, skip)
            except Unavailable as error:
                self._lost(error)
        for kept in self._kept:
            if len(points) >= limit:
                break
            points += kept.points(limit - len(points), skip)
        return points

    async def settle(self, ids: Iterable[int], fate: Fate, reason: str = "") -> None:
        stored = []
        for number in ids:
            if number >= 0:
                stored.append(number)
            elif kept := next((kept for kept in self._kept if kept.holds(number)), None):
                kept.settle(number, fate)
        if not stored:
            return
        if not self._unwritten:
            try:
                await self._store.settle(stored, fate, reason)
            except Unavailable as error:
                if fate is Fate.SENDING:
                    raise
                self._lost(error)
            else:
                return
        elif fate is Fate.SENDING:
            raise Unavailable(f"the store is lost: {self._trouble}")
        self._unwritten.append((stored, fate, reason))
        self._settled.update(stored)

    async def expire(self, before: datetime, historical: Sequence[str] = ()) -> int:
        gone = sum(kept.expire(before, historical) for kept in self._kept)
        try:
            return gone + await self._store.expire(before, historical)
        except Unavailable as error:
            self._lost(error)
        # What has to expire waits apart until that can be written.
        while old := [
            point.id
            for point in await self._readable()
            if point.at < before.timestamp() and not is_historical(point.kind, point.metric, historical)
        ]:
            self._held_back.update(old)
        return gone

    async def count_waiting(self) -> int:
        try:
            stored = await self._store.count_waiting()
        except Unavailable as error:
            self._lost(error)
            stored = 0
        return max(0, stored - len(self._settled)) + self._waiting()

    # Inside

    def _named(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """``samples`` under the names that they leave with."""
        if (prefix := self.shadow_prefix) is None:
            return samples
        return [replace(each, metric=replace(each.metric, name=f"{prefix}{each.metric.name}")) for each in samples]

    async def _keep(self, kept: Kept) -> None:
        # What was collected must be kept even while the daemon ends.
        with anyio.CancelScope(shield=True):
            if not self._kept:  # nothing overtakes what waits already: a later run's checks are the newer ones
                try:
                    await self._write(kept)
                except Unavailable as error:
                    self._lost(error)
                else:
                    self._works()
                    return
            kept.first_id = self._next_id
            self._next_id -= len(kept.samples)
            if refused := kept.refuse_nameless():
                self.observe(Fate.REJECTED, refused)
            self._kept.append(kept)
            self._make_room()

    async def _write(self, kept: Kept) -> None:
        if kept.run:
            await self._store.end(kept.run, kept.samples, kept.checks, kept.remember, kept.fates)
        elif left := [sample for place, sample in enumerate(kept.samples) if place not in kept.fates]:
            await self._store.put(kept.job, left)

    def _make_room(self) -> None:
        """Discards the oldest points beyond the bound; their runs stay."""
        total = sum(len(kept.samples) for kept in self._kept)
        discarded = 0
        for kept in self._kept:
            if total <= self._most:
                break
            total -= len(kept.samples)
            discarded += kept.discard()
        if discarded:
            log.error("the store is lost and memory is full: the oldest points were discarded", points=discarded)
            self.observe(Fate.DISCARDED, discarded)

    async def _sendable(self, limit: int, skip: Set[int]) -> list[Point]:
        """The store's points that wait, but those that are settled already or can't be sent now."""
        while True:
            points = await self._store.waiting(limit, skip | self._settled | self._held_back)
            marked = [point.id for point in points if point.kind is Kind.DISTRIBUTION]
            if not marked:
                return points
            self._held_back.update(marked)

    async def _readable(self) -> list[Point]:
        try:
            return await self._store.waiting(10_000, self._settled | self._held_back)
        except Unavailable:
            return []

    def _waiting(self) -> int:
        return sum(kept.waiting for kept in self._kept)

    def _lost(self, error: Unavailable) -> None:
        if self._trouble is None:
            log.error("the store is lost: going on from memory", reason=str(error))
        self._trouble = str(error)

    def _works(self) -> None:
        if self._trouble is not None:
            log.info("the store works again", reason=self._trouble)
        self._trouble = None
