"""The delivery: the one task that moves waiting points from the outbox to the intake.

Gauges and counts leave the outbox after the intake took them, so a crash in between sends them twice alike. The values
of a distribution would add up, so they are marked SENDING first, and an answer that never came counts them UNCERTAIN.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import anyio
import structlog
from anyio.abc import TaskStatus

from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.points import AHEAD, TOO_EARLY, Fate, Payload, Point, is_historical
from service.domain.samples import Kind
from service.pipeline.apart import Apart, Chunk
from service.pipeline.batch import Unsendable, halve, pack
from service.pipeline.ledger import Ledger
from service.pipeline.ports import Clock, Intake, Outbox
from service.pipeline.series_limit import SeriesLimit

log = structlog.get_logger(__name__)

# Datadog drops points older than an hour without a word; after this they would not arrive in time.
EXPIRES_AFTER = timedelta(minutes=55)
BATCH = 10_000  # points a read of the outbox
PROBE = 100  # points, while it is not known whether the intake works again

_SHORTEST, _LONGEST = 2.0, 64.0  # seconds, the first and the last bound of the back-off
_HOLD, _LONGEST_HOLD = 10.0, 300.0  # seconds, while the key is refused
_LONGEST_ASKED = 600.0  # seconds that the intake may ask to wait
# Refused requests that one attempt spends on the search for bad points; what is left then waits apart, behind the rest.
_SEARCH, _SEARCH_PAUSE = 200, 10.0
# After so many tries in a row that the intake answered with a fault of its own (5xx), the points of that request wait
# apart, so that others are not held up by what may be wrong with these.
_PATIENCE = 4
_APART_PAUSE = 64.0  # seconds between tries of what waits apart
_at = attrgetter("at")
_between = random.SystemRandom().uniform


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """What pages and probes show. Counts are of points; ``waiting`` is as of the last try, the others since the start.

    ``lost``: by the fate of the points.
    ``trouble``: why delivery does not work now, None while it does.
    ``next_try_at``: when it is tried again, None when nothing is to be tried.
    """

    waiting: int = 0
    accepted: int = 0
    lost: Mapping[Fate, int] = field(default_factory=dict)
    last_accepted_at: datetime | None = None
    trouble: str | None = None
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    since: datetime
    tries: int
    is_refused_key: bool


class Delivery:
    """Sends what waits, one request at a time.

    ``linger``: seconds to wait after ``notify``, so that collectors that end together share a request.
    ``max_series``: how many series an hour leave at most; points of others are held back. None: all leave.
    ``withholds``: nothing is sent (shadow mode); points are kept as withheld.
    ``observe``: told the fate of points and how many they are.
    ``historical``: how the names of metrics begin that the intake takes at any age.
    ``jitter``: a number between its two arguments.
    """

    def __init__(
        self,
        outbox: Outbox,
        intake: Intake,
        clock: Clock,
        *,
        linger: float = 2.0,
        max_series: int | None = None,
        observe: Callable[[Fate, int], None] | None = None,
        historical: Sequence[str] = (),
        jitter: Callable[[float, float], float] = _between,
    ) -> None:
        self.withholds = False
        self._series = SeriesLimit(max_series)
        self._outbox = outbox
        self._intake = intake
        self._clock = clock
        self._linger = linger
        self._ledger = Ledger(outbox, clock, observe)
        self._historical = historical
        self._jitter = jitter
        self._news = anyio.Event()
        self._sender = anyio.Lock()
        self._under_way = anyio.CancelScope()  # the last attempt
        self._trouble: _Trouble | None = None
        self._next_try_at: datetime | None = None
        self._not_before = 0.0  # monotonic; the intake asked for this pause
        self._last_accepted_at: datetime | None = None
        self._apart = Apart()
        self._searched = 0  # refused requests of this attempt
        self._strikes = 0  # requests in a row that were answered with 5xx
        self._sent: Sequence[Point] = ()  # by the last request
        # A thread of its own: collectors that hang in all of the common ones must not stop the delivery.
        self._threads = anyio.CapacityLimiter(1)

    @property
    def state(self) -> DeliveryState:
        return DeliveryState(
            waiting=self._ledger.waiting,
            accepted=self._ledger.accepted,
            lost=self._ledger.lost,
            last_accepted_at=self._last_accepted_at,
            trouble=self._trouble.reason if self._trouble else self._apart.trouble,
            next_try_at=self._next_try_at,
        )

    def account(self, fate: Fate, points: int) -> None:
        """Counts points that came to ``fate`` elsewhere."""
        self._ledger.account(fate, points)

    def notify(self) -> None:
        """Points were stored."""
        self._news.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Delivers until it is cancelled, what an earlier process left over first."""
        task_status.started()
        while True:
            self._news = anyio.Event()
            pause = await self._attempt()
            if pause is None:
                await self._news.wait()
            elif self._trouble:
                await self._clock.sleep(pause)
                continue
            else:
                # Only what waits apart is left: news need not wait for it.
                await self._clock.wait(self._news, pause)
            if self._news.is_set():
                await self._clock.sleep(self._linger)

    @asynccontextmanager
    async def paused(self, *, break_off: bool = False) -> AsyncIterator[None]:
        """Between two attempts: no point is under way, and none waits apart.

        ``break_off``: the request that is under way is not waited for. Gauges and counts of it wait, its distributions
        count as uncertain from the next start on, as after a crash: for the end, which has no time left.
        """
        if break_off:
            self._under_way.cancel()
        async with self._sender:
            self._apart = Apart()
            yield

    async def flush(self, until: float) -> bool:
        """Sends all that waits, at once, and tells whether nothing waits any more.

        Tries again after a transient fault while the monotonic time ``until`` allows it; a refused key ends it.
        """
        with anyio.move_on_after(max(0.0, until - self._clock.monotonic())):
            pause: float | None = max(0.0, self._not_before - self._clock.monotonic())
            while pause is not None:
                if self._clock.monotonic() + pause >= until:
                    return False
                if pause:
                    await self._clock.sleep(pause)
                pause = await self._attempt()
                if self._trouble and self._trouble.is_refused_key:
                    return False
            return True
        return False

    async def _attempt(self) -> float | None:
        """Sends all that waits; seconds until the next try, None when nothing is left to try."""
        async with self._sender:
            with anyio.CancelScope() as self._under_way:
                return await self._send_all()
            return None

    async def _send_all(self) -> float | None:
        """One attempt, as ``_attempt`` tells it."""
        before, accepted = self._trouble, self._ledger.accepted
        self._next_try_at = None
        self._searched = 0
        try:
            try:
                await self._ledger.pay()
                while points := await self._oldest():
                    await self._deliver_all(points)
                await self._try_apart()
                self._trouble = None  # whatever it was, nothing waits for its end
            finally:
                self._report(before, self._ledger.accepted - accepted)
        except (Unavailable, Unauthorized) as fault:
            return self._put_off(fault)
        if not self._apart:
            return None
        pause = _APART_PAUSE if self._apart.trouble else _SEARCH_PAUSE
        self._next_try_at = self._clock.now() + timedelta(seconds=pause)
        return pause

    async def _oldest(self) -> list[Point]:
        """The next points to send; what is too old for the intake leaves first."""
        limit = PROBE if self._trouble else BATCH
        points = await self._outbox.waiting(limit, self._apart.ids)
        latest = (self._clock.now() + AHEAD).timestamp()
        # A clock that was ahead and stepped back leaves such points; the intake would take them and drop them.
        while early := [point for point in points if point.at > latest]:
            await self._ledger.set_aside(early, TOO_EARLY)
            points = await self._outbox.waiting(limit, self._apart.ids)
        before = self._clock.now() - EXPIRES_AFTER
        oldest = self._earliest(points)
        if oldest is not None and oldest < before.timestamp():
            await self._expire(before, oldest)
            points = await self._outbox.waiting(limit, self._apart.ids)
        self._ledger.waiting = await self._outbox.count_waiting()
        return points

    async def _expire(self, before: datetime, oldest: float) -> None:
        self._apart.forget(before.timestamp(), self._may_be_late)
        if expired := await self._outbox.expire(before, self._historical):
            since = datetime.fromtimestamp(max(0, oldest), UTC).isoformat()  # an older program stored any second
            log.warning("points grew too old to be sent", points=expired, oldest=since)
            self._ledger.account(Fate.EXPIRED, expired)

    def _earliest(self, points: Iterable[Point]) -> int | None:
        """The time of the oldest of those points that expire."""
        if self._historical:
            points = [point for point in points if not self._may_be_late(point)]
        return min(map(_at, points), default=None)

    def _may_be_late(self, point: Point) -> bool:
        return is_historical(point.kind, point.metric, self._historical)

    async def _try_apart(self) -> None:
        """What waits apart has its turn when nothing else waits: in halves where others were taken meanwhile."""
        before = self._clock.now() - EXPIRES_AFTER
        oldest = self._earliest(self._apart.points())
        if oldest is not None and oldest < before.timestamp():
            await self._expire(before, oldest)
        chunks = self._apart.take()
        await self._deliver(*(chunk.points for chunk in chunks if not chunk.reason))
        for chunk in chunks:
            if not chunk.reason:
                continue
            if self._searched >= _SEARCH:
                self._apart.add(chunk)
                continue
            try:
                await self._deliver(chunk.points)
            except Unavailable as fault:
                works = chunk.works or self._ledger.accepted > chunk.accepted
                accepted = self._ledger.accepted
                parts = halve(chunk.points) if accepted > chunk.accepted else None
                for part in parts or (chunk.points,):
                    self._apart.add(Chunk(part, str(fault), accepted, works))
                if not (works and fault.answered):
                    raise
                self._searched += _SEARCH // 8  # a few such requests an attempt

    async def _deliver_all(self, points: Sequence[Point]) -> None:
        """After some tries in a row that a probe was answered with 5xx, its points wait apart: are they to blame?"""
        points = await self._let_pass(points)
        try:
            await self._deliver(points)
        except Unavailable as fault:
            if fault.answered:
                self._strikes += 1
                if self._strikes >= _PATIENCE and len(self._sent) <= PROBE:
                    self._strikes = 0
                    self._apart.add(Chunk(self._sent, str(fault), self._ledger.accepted))
            raise

    async def _let_pass(self, points: Sequence[Point]) -> Sequence[Point]:
        """The points that may leave; the others come to their fate here."""
        if self.withholds:
            await self._ledger.settle(points, Fate.WITHHELD, "shadow mode: nothing is sent")
            return ()
        passed, held = self._series.part(points, self._clock.monotonic())
        if held:
            await self._ledger.hold_back(held, self._series.most)
        return passed

    async def _deliver(self, *sets: Sequence[Point]) -> None:
        """Sends each set; what is refused is halved, largest parts first, so that good points leave early."""
        left = deque(sets)
        while left:
            packed = pack(left.popleft(), self._intake.encode)
            # Each step encodes one request: CPU work that must not hold up the loop.
            while item := await anyio.to_thread.run_sync(next, packed, None, limiter=self._threads):
                if isinstance(item, Unsendable):
                    await self._ledger.set_aside(item.points, item.reason)
                elif refusal := await self._send(item):
                    self._searched += 1
                    if parts := halve(item.points):
                        left += parts
                    else:
                        await self._ledger.set_aside(item.points, refusal)
                        self._trouble = None  # the intake answers, and its answer was about these points
            if self._searched >= _SEARCH:
                for part in left:
                    self._apart.add(Chunk(part))
                return

    async def _send(self, payload: Payload) -> str | None:
        """Sends one request and settles its points; why it was refused where smaller ones may be taken."""
        points = self._sent = payload.points
        is_distribution = payload.kind is Kind.DISTRIBUTION
        if is_distribution:
            await self._outbox.settle([point.id for point in points], Fate.SENDING)
        try:
            await self._intake.send(payload)
        except (Unavailable, Rejected) as fault:
            if is_distribution:
                is_ambiguous = isinstance(fault, Unavailable) and fault.ambiguous
                await self._ledger.settle(points, Fate.UNCERTAIN if is_ambiguous else Fate.WAITING, str(fault))
            if isinstance(fault, (Unavailable, Unauthorized)):
                raise
            return str(fault)
        self._strikes = 0
        self._last_accepted_at = self._clock.now()
        await self._ledger.settle(points, Fate.DELIVERED)
        self._trouble = None
        return None

    def _put_off(self, fault: Unavailable | Unauthorized) -> float:
        """Keeps ``fault`` as the trouble; seconds until the next try."""
        now, before, reason = self._clock.now(), self._trouble, str(fault)
        is_refused_key = isinstance(fault, Unauthorized)
        tries = before.tries + 1 if before and before.is_refused_key is is_refused_key else 1
        if before is None:
            log.warning("delivery does not work", reason=reason, waiting=self._ledger.waiting)
        elif before.reason != reason:
            log.warning("delivery does not work for another reason", reason=reason, waiting=self._ledger.waiting)
        self._trouble = _Trouble(reason, before.since if before else now, tries, is_refused_key)
        growth = 1 << min(tries - 1, 10)
        if isinstance(fault, Unauthorized):
            pause = min(_HOLD * growth, _LONGEST_HOLD)
        else:
            asked = min(fault.retry_after or 0.0, _LONGEST_ASKED)
            self._not_before = self._clock.monotonic() + asked
            pause = max(asked, self._jitter(0.0, min(_SHORTEST * growth, _LONGEST)))
        self._next_try_at = now + timedelta(seconds=pause)
        return pause

    def _report(self, before: _Trouble | None, accepted: int) -> None:
        """Says once an attempt what ended and what was refused."""
        if before and self._trouble is None:
            lasted = (self._clock.now() - before.since).total_seconds()
            log.info("delivery works again", reason=before.reason, seconds=round(lasted), points=accepted)
        self._ledger.tell_refusals()
