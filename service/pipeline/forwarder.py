"""From the outbox to the intake: one request at a time, and what each answer does to its chunks.

taken                  delivered
refused (400, 413)     each chunk alone next, then in halves, until one point is left with the reason
refused key (401, 403) kept; the key's source is asked again with each try
not now (429, 5xx ...) kept; full jitter back-off, one chunk at a time
every 4th 5xx in a row as refused, for a point may be to blame; one that is left alone is tried again a minute later
no answer              the same; but the values of a distribution would add up, so they are not sent again
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import structlog

from service.clock import Clock
from service.datadog.intake import Intake
from service.datadog.payload import MAX_POINTS, Payload, encode
from service.domain.delivery import LOST, Chunk, DeliveryStatus, Point, count_points
from service.domain.errors import Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.runs import Mode
from service.domain.samples import MAX_POINT_AGE, MAX_POINT_AHEAD, Kind
from service.pipeline.enrich import TOO_EARLY
from service.pipeline.series_limit import SeriesLimit
from service.store.outbox import Outbox

log = structlog.get_logger(__name__)

MAX_BYTES = 4_000_000  # of JSON, by what the chunks say; the exact limits are the payload's

_MIN_BACKOFF, _MAX_BACKOFF = 2.0, 64.0  # seconds, the first and the last bound
_MAX_WAIT = 600.0  # seconds that the intake may ask to wait
_MAX_REFUSED, _PAUSE = 200, 10.0  # refused since the last pause, then one: a 400 for everything costs little
# After so many 5xx in a row the chunk's own points may be to blame; one that is left alone is tried again much later.
_PATIENCE, _ASIDE = 4, timedelta(seconds=64)
_MAX_SHOWN = 5  # reasons in one log line
_random_between = random.SystemRandom().uniform


@dataclass(frozen=True, slots=True)
class Outage:
    """Why nothing can be delivered. ``tries``: in a row that failed."""

    error: Unavailable | Unauthorized
    since: datetime
    tries: int


@dataclass(slots=True)
class ForwarderState:
    """What pages and probes show. ``pending``: points, as of the last try. ``counts``: points since the start by what
    became of them; what shadow mode withholds (``is_withheld``) is no loss and not among them. ``outage``: None while
    what is sent is answered. ``next_try_at``: None when nothing is due.
    """

    pending: int = 0
    counts: Counter[DeliveryStatus] = field(default_factory=Counter)
    last_accepted_at: datetime | None = None
    outage: Outage | None = None
    next_try_at: datetime | None = None
    is_withheld: bool = False

    @property
    def trouble(self) -> str | None:
        """Why nothing can be delivered now, None while it can."""
        return str(self.outage.error) if self.outage else None

    @property
    def lost(self) -> Mapping[DeliveryStatus, int]:
        """Points that were lost since the start."""
        return {status: self.counts[status] for status in LOST if self.counts.get(status)}


class Forwarder:
    """Sends what is pending in ``outbox``, one request at a time.

    ``max_series``: how many series an hour are sent at most, None for all. ``historical``: how the names of metrics
    begin that the intake takes at any age. ``jitter``: gives a number between two others.
    ``on_settled``: told each final status and for how many points.
    """

    def __init__(
        self,
        outbox: Outbox,
        intake: Intake,
        clock: Clock,
        *,
        historical: Sequence[str] = (),
        max_series: int | None = None,
        jitter: Callable[[float, float], float] = _random_between,
    ) -> None:
        self.state = ForwarderState()
        self.on_settled: Callable[[DeliveryStatus, int], None] = lambda status, points: None
        self._outbox = outbox
        self._intake = intake
        self._clock = clock
        self._historical = tuple(historical)
        self._limit = SeriesLimit(max_series, clock) if max_series else None
        self._jitter = jitter
        self._prefix: str | None = None
        self._news = anyio.Event()
        self._sender = anyio.Lock()
        self._threads = anyio.CapacityLimiter(1)  # hanging collectors in all of the common threads must not stop this
        # The last change of claimed chunks, until the store, which may be away, has recorded it. No claim comes before.
        self._unrecorded: Callable[[], Awaitable[None]] | None = None
        self._refused = 0  # requests that were refused since the last pause
        self._strikes = 0  # requests in a row that were answered with 5xx
        self._not_before = 0.0  # monotonic; the intake asked for this pause
        self._dropped: Counter[str] = Counter()  # points that no line has told of, by metric and reason

    def set_shadow(self, prefix: str | None, is_withheld: bool) -> None:
        """``prefix``: put before the names of what was collected in shadow mode; without one it is not sent."""
        self._prefix = prefix
        self.state.is_withheld = is_withheld

    def count(self, status: DeliveryStatus, points: int) -> None:
        """Counts points that came to ``status``, here or elsewhere (the store)."""
        if points:
            self.state.counts[status] += points
            self.on_settled(status, points)

    def notify(self) -> None:
        """There is something new in the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Delivers until it is cancelled, what an earlier process left over first."""
        while True:
            self._news = anyio.Event()
            pause = await self._send_all()
            if pause is None:
                await self._news.wait()
            elif self.state.outage:
                await self._clock.sleep(pause)
            else:  # news need not wait for what is tried again later
                await self._clock.wait(self._news, pause)

    async def flush(self, until: float) -> bool:
        """Sends all that is pending, at once, and tells whether nothing is any more.

        Tries again after a transient fault while the monotonic time ``until`` allows it; a refused key ends it.
        """
        with anyio.move_on_after(max(0.0, until - self._clock.monotonic())):
            pause: float | None = max(0.0, self._not_before - self._clock.monotonic())
            while pause is not None:
                if self._clock.monotonic() + pause >= until:
                    return False
                if pause:
                    await self._clock.sleep(pause)
                pause = await self._send_all()
                if pause and self.state.outage and isinstance(self.state.outage.error, Unauthorized):
                    return False
            return True
        return False

    async def _send_all(self) -> float | None:
        """Request after request; seconds until the next one is due, None when nothing is pending."""
        async with self._sender:
            self.state.next_try_at, self._refused = None, 0
            try:
                pause: float | None = 0.0
                while pause == 0.0:
                    # A cancellation comes through while an answer is waited for, and only then: no chunk stays claimed.
                    with anyio.CancelScope(shield=True) as scope:
                        if self._unrecorded:
                            await self._unrecorded()
                        self._unrecorded = None
                        pause = await self._forward(scope)
                        self._unrecorded = None
            except Unavailable as error:  # of the store
                pause = self._back_off(error)
            finally:
                self._report_dropped()
            if pause is not None:
                self.state.next_try_at = self._clock.now() + timedelta(seconds=pause)
            return pause

    async def _forward(self, scope: anyio.CancelScope) -> float | None:
        """Sends one request; seconds until the next one is due, None when nothing is pending."""
        if self._refused >= _MAX_REFUSED:
            return _PAUSE
        pending = await self._outbox.pending()
        self.state.pending = pending.samples
        if not pending.samples:
            self._end_outage("nothing waits for delivery any more")
            return None
        claimed = await self._outbox.claim(self._clock.now(), MAX_BYTES, 1 if self.state.outage else MAX_POINTS)
        if not claimed:
            if await self._outbox.recover():
                return 0.0
            return (pending.next_retry - self._clock.now()).total_seconds() if pending.next_retry else _PAUSE
        self._unrecorded = partial(self._outbox.release, claimed)
        is_shadow = claimed[0].mode is Mode.SHADOW
        if is_shadow and self._prefix is None:
            await self._outbox.settle(claimed, DeliveryStatus.THROTTLED, "shadow mode: nothing is sent")
            return 0.0
        prefix = self._prefix or "" if is_shadow else ""
        if not (chunks := [rest for chunk in claimed if (rest := await self._select(chunk, prefix))]):
            return 0.0
        try:
            payload = await anyio.to_thread.run_sync(encode, chunks, prefix, limiter=self._threads)
        except TooLarge as error:
            await self._outbox.release(chunks[1:])
            return await self._refuse(chunks[:1], str(error))
        await self._outbox.release(payload.rest)
        return await self._send(payload, scope)

    async def _select(self, chunk: Chunk, prefix: str) -> Chunk | None:
        """The part of a chunk that may be sent, under names with this prefix; the other points are settled here."""
        now = self._clock.now()
        oldest, newest = (now - MAX_POINT_AGE).timestamp(), (now + MAX_POINT_AHEAD).timestamp()
        any_age = () if chunk.kind is Kind.DISTRIBUTION else self._historical  # which can't be on for distributions

        def is_old(point: Point) -> bool:
            return point.at < oldest and not f"{prefix}{point.metric}".startswith(any_age)

        # Of a clock that was ahead and stepped back; the intake would drop it.
        rest = await self._drop(chunk, lambda point: point.at > newest, DeliveryStatus.REJECTED, TOO_EARLY)
        rest = rest and await self._drop(rest, is_old, DeliveryStatus.EXPIRED, "too old for the intake")
        if rest and self._limit:
            reason = f"more than {self._limit.max_series} series within an hour"
            rest = await self._drop(rest, self._limit.is_excess, DeliveryStatus.THROTTLED, reason)
        return rest

    async def _drop(
        self, chunk: Chunk, is_bad: Callable[[Point], bool], status: DeliveryStatus, reason: str
    ) -> Chunk | None:
        """Settles the bad points with ``status``. Returns the rest of the chunk, None where nothing is left."""
        places = [place for place, point in enumerate(chunk.points) if is_bad(point)]
        if not places:
            return chunk
        rest = await self._outbox.drop(chunk, frozenset(places), status, reason)
        self.count(status, len(places))
        self._dropped.update(f"{chunk.points[place].metric}: {reason}" for place in places)
        return rest

    async def _send(self, payload: Payload, scope: anyio.CancelScope) -> float:
        """One request and what its answer asks for; seconds until the next one."""
        sent = payload.sent
        try:
            scope.shield = False
            try:
                await self._intake.send(payload)
            finally:
                scope.shield = True
        except anyio.get_cancelled_exc_class():
            await self._end_unanswered(sent, "the daemon ended before the answer came")
            raise
        except Unauthorized as error:
            await self._record(self._outbox.release, sent)
            return self._back_off(error)
        except Rejected as refusal:
            return await self._refuse(sent, str(refusal))
        except Unavailable as error:
            self._strikes = self._strikes + 1 if error.answered else 0
            is_suspect = self._strikes and not self._strikes % _PATIENCE
            pause = self._back_off(error)
            if error.ambiguous:
                await self._end_unanswered(sent, str(error))
            elif is_suspect and count_points(sent) > 1:
                await self._record(self._outbox.refuse, sent)
            else:
                later = self._clock.now() + timedelta(seconds=pause) + _ASIDE  # the others are tried first
                await self._record(self._outbox.release, sent, later if is_suspect else None)
            return pause
        self.count(DeliveryStatus.DELIVERED, count_points(sent))
        self.state.last_accepted_at = self._clock.now()
        self._end_outage("delivery works again")
        self._strikes = 0
        await self._record(self._outbox.settle, sent, DeliveryStatus.DELIVERED)
        return 0.0

    async def _record(self, change: Callable[..., Awaitable[None]], *facts: Any) -> None:
        """Records in the store what became of chunks; while it is away each try repeats that, which is harmless."""
        self._unrecorded = partial(change, *facts)
        await self._unrecorded()

    async def _end_unanswered(self, chunks: Sequence[Chunk], reason: str) -> None:
        """No answer came: gauges and counts are pending again; a distribution may have been taken, so it is not."""
        if chunks[0].kind is not Kind.DISTRIBUTION:
            await self._record(self._outbox.release, chunks)
            return
        self.count(DeliveryStatus.UNKNOWN, count_points(chunks))
        self._dropped["distributions that were sent without an answer"] += count_points(chunks)
        await self._record(self._outbox.settle, chunks, DeliveryStatus.UNKNOWN, reason)

    async def _refuse(self, chunks: Sequence[Chunk], reason: str) -> float:
        """The next requests find out which points are to blame: in smaller parts, down to a single one."""
        self._refused += 1
        if count_points(chunks) == 1:
            await self._drop(chunks[0], lambda point: True, DeliveryStatus.REJECTED, reason)
            self._end_outage("delivery works again")  # the intake answers, and its answer was about this point
        else:
            await self._record(self._outbox.refuse, chunks)
        return 0.0

    def _back_off(self, error: Unavailable | Unauthorized) -> float:
        """Keeps ``error`` as the trouble; seconds until the next try."""
        before = self.state.outage
        if self.state.trouble != str(error):
            log.warning("delivery does not work", reason=str(error), pending=self.state.pending)
        since, tries = (before.since, before.tries + 1) if before else (self._clock.now(), 1)
        self.state.outage = Outage(error, since, tries)
        wait = min((error.retry_after or 0.0) if isinstance(error, Unavailable) else 0.0, _MAX_WAIT)
        self._not_before = self._clock.monotonic() + wait
        bound = min(_MIN_BACKOFF * 2.0 ** min(tries - 1, 10), _MAX_BACKOFF)
        return max(wait, self._jitter(0.0, bound), 0.001)

    def _end_outage(self, event: str) -> None:
        if outage := self.state.outage:
            lasted = round((self._clock.now() - outage.since).total_seconds())
            log.info(event, reason=str(outage.error), seconds=lasted)
            self.state.outage = None

    def _report_dropped(self) -> None:
        """Logs once for many requests what was not sent."""
        if reasons := dict(self._dropped.most_common(_MAX_SHOWN)):
            log.warning("points are not sent", points=self._dropped.total(), reasons=reasons)
        self._dropped.clear()
