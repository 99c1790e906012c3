"""From the outbox to the intake: one request at a time, and what is done at each of its answers.

taken                  delivered
refused (400, 413)     each chunk alone next, then in halves, until one point is left with the reason
refused key (401, 403) everything is kept; the key's source is asked again, in growing pauses
not now (429, 5xx ...) kept; full jitter back-off, one small probe at a time
no answer              the same; but the values of a distribution would add up, so they are not sent again
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import anyio.to_thread
import structlog

from service.datadog.intake import Intake
from service.datadog.payload import MAX_POINTS, Payload, encode
from service.domain.delivery import LOST, Chunk, DeliveryStatus, count_points
from service.domain.errors import Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.runs import Mode
from service.domain.samples import MAX_POINT_AGE, MAX_POINT_AHEAD, Kind
from service.pipeline.clock import Clock
from service.pipeline.enrich import TOO_EARLY
from service.pipeline.series_limit import SeriesLimit
from service.store.outbox import Outbox

log = structlog.get_logger(__name__)

MAX_BYTES = 4_000_000  # of JSON, by what the chunks say; the exact limits are the payload's
PROBE = 100  # points, while it is not known whether the intake works again

_MIN_BACKOFF, _MAX_BACKOFF = 2.0, 64.0  # seconds, the first and the last bound
_MIN_HOLD, _MAX_HOLD = 10.0, 300.0  # seconds, while the key is refused
_MAX_ASKED = 600.0  # seconds that the intake may ask to wait
_MAX_REFUSED, _PAUSE = 200, 10.0  # refused requests in a row, then a pause: one 400 for everything costs little
# After so many 5xx in a row the probe's own points may be to blame; one that is left alone is tried again much later.
_PATIENCE, _ASIDE = 4, timedelta(seconds=64)
_HOUR = 3600.0
_random_between = random.SystemRandom().uniform
_MAX_SHOWN = 5  # reasons or metrics in one log line


@dataclass(frozen=True, slots=True)
class ForwarderState:
    """What pages and probes show. ``pending``: points, as of the last try. ``counts``: points since the start by what
    became of them; what shadow mode withholds is no loss and not among them.

    ``trouble``: why nothing can be delivered now, None while it can. ``next_try_at``: None when nothing is due.
    ``is_withheld``: shadow mode, in which nothing is sent.
    """

    pending: int
    counts: Mapping[DeliveryStatus, int]
    last_accepted_at: datetime | None
    trouble: str | None
    next_try_at: datetime | None
    is_withheld: bool

    @property
    def lost(self) -> Mapping[DeliveryStatus, int]:
        """Points that were lost since the start."""
        return {status: self.counts[status] for status in LOST if self.counts.get(status)}


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    since: datetime
    tries: int
    is_refused_key: bool


class Forwarder:
    """Sends what is pending in ``outbox``, one request at a time.

    ``linger``: seconds to wait after ``notify``, so that collectors that end together share a request.
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
        linger: float = 2.0,
        jitter: Callable[[float, float], float] = _random_between,
    ) -> None:
        self.on_settled: Callable[[DeliveryStatus, int], None] = lambda status, points: None
        self._outbox = outbox
        self._intake = intake
        self._clock = clock
        self._historical = historical
        self._limit = SeriesLimit(max_series) if max_series else None
        self._linger = linger
        self._jitter = jitter
        self._prefix: str | None = None
        self._is_withheld = False
        self._news = anyio.Event()
        self._sender = anyio.Lock()
        self._threads = anyio.CapacityLimiter(1)  # hanging collectors in all of the common threads must not stop this
        self._pending = 0
        self._counts: Counter[DeliveryStatus] = Counter()
        self._last_accepted_at: datetime | None = None
        self._trouble: _Trouble | None = None
        self._next_try_at: datetime | None = None
        self._not_before = 0.0  # monotonic; the intake asked for this pause
        self._refused = 0  # requests since the last pause
        self._strikes = 0  # requests in a row that were answered with 5xx
        self._refusals: Counter[str] = Counter()
        self._report_throttled_from = 0.0  # monotonic

    @property
    def state(self) -> ForwarderState:
        return ForwarderState(
            self._pending,
            Counter(self._counts),
            self._last_accepted_at,
            self._trouble.reason if self._trouble else None,
            self._next_try_at,
            self._is_withheld,
        )

    def set_shadow(self, prefix: str | None, is_withheld: bool) -> None:
        """``prefix``: put before the names of what was collected in shadow mode; ``is_withheld``: it is not sent."""
        self._prefix = prefix
        self._is_withheld = is_withheld

    def count(self, status: DeliveryStatus, points: int) -> None:
        """Counts points that came to ``status``, here or elsewhere (the store)."""
        if points:
            self._counts[status] += points
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
            elif self._trouble:
                await self._clock.sleep(pause)
                continue
            else:  # news need not wait for what is tried again later
                await self._clock.wait(self._news, pause)
            if self._news.is_set():
                await self._clock.sleep(self._linger)

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
                if self._trouble and self._trouble.is_refused_key:
                    return False
            return True
        return False

    async def _send_all(self) -> float | None:
        """Request after request; seconds until the next one is due, None when nothing is pending."""
        async with self._sender:
            before, delivered = self._trouble, self._counts[DeliveryStatus.DELIVERED]
            self._next_try_at = None
            self._refused = 0
            try:
                pause: float | None = 0.0
                while pause == 0.0:
                    # A cancellation comes through while an answer is waited for, and only then: no chunk stays claimed.
                    with anyio.CancelScope(shield=True) as scope:
                        pause = await self._forward(scope)
            except Unavailable as error:  # of the store
                pause = self._back_off(error)
            finally:
                self._report(before, self._counts[DeliveryStatus.DELIVERED] - delivered)
            if pause is not None:
                self._next_try_at = self._clock.now() + timedelta(seconds=pause)
            return pause

    async def _forward(self, scope: anyio.CancelScope) -> float | None:
        """Sends one request; seconds until the next one is due, None when nothing is pending."""
        if self._refused >= _MAX_REFUSED:
            return _PAUSE
        claimed = await self._claim()
        pending = await self._outbox.pending()
        self._pending = pending.samples
        if not claimed and not pending.samples:
            self._trouble = None  # whatever it was, nothing waits for its end
            return None
        if not claimed:
            return (pending.next_retry - self._clock.now()).total_seconds() if pending.next_retry else _PAUSE
        if not (chunks := await self._select(claimed)):
            return 0.0
        prefix = self._prefix or "" if chunks[0].mode is Mode.SHADOW else ""
        try:
            payload = await anyio.to_thread.run_sync(encode, chunks, prefix, limiter=self._threads)
        except TooLarge as error:
            await self._outbox.release(chunks[1:])
            return await self._refuse(chunks[:1], str(error))
        await self._outbox.release(payload.rest)
        return await self._send(payload, scope)

    async def _claim(self) -> list[Chunk]:
        """The next chunks to send; what is too old for the intake is expired first."""
        now, max_points = self._clock.now(), PROBE if self._trouble else MAX_POINTS
        before = now - MAX_POINT_AGE
        chunks = await self._outbox.claim(now, MAX_BYTES, max_points)
        if not any(chunk.oldest < before.timestamp() for chunk in chunks):
            return chunks
        await self._outbox.release(chunks)
        if expired := await self._outbox.expire(before, self._historical):
            log.warning("points grew too old to be sent", points=expired, before=before.isoformat(timespec="seconds"))
            self.count(DeliveryStatus.EXPIRED, expired)
        return await self._outbox.claim(now, MAX_BYTES, max_points)

    async def _select(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that may be sent; the others come to their status here."""
        if chunks[0].mode is Mode.SHADOW and (self._is_withheld or self._prefix is None):
            await self._outbox.settle(chunks, DeliveryStatus.THROTTLED, "shadow mode: nothing is sent")
            return []
        selected = []
        latest = (self._clock.now() + MAX_POINT_AHEAD).timestamp()
        for chunk in chunks:
            if chunk.oldest > latest:  # of a clock that was ahead and stepped back; the intake would drop them
                await self._reject(chunk, TOO_EARLY)
            elif chunk.newest > latest:
                await self._outbox.refuse([chunk], TOO_EARLY)  # its halves are looked at again
            elif rest := await self._throttle(chunk, self._limit) if self._limit else chunk:
                selected.append(rest)
        return selected

    async def _throttle(self, chunk: Chunk, limit: SeriesLimit) -> Chunk | None:
        """The chunk without the points of series beyond the limit."""
        if not (excess := limit.find_excess(chunk.points, self._clock.monotonic())):
            return chunk
        rest = await self._outbox.throttle(chunk, excess, f"more than {limit.limit} series within an hour")
        self.count(DeliveryStatus.THROTTLED, len(excess))
        if self._clock.monotonic() >= self._report_throttled_from:  # the same series come with each run
            self._report_throttled_from = self._clock.monotonic() + _HOUR
            worst = Counter(chunk.points[place].metric for place in excess).most_common(_MAX_SHOWN)
            log.error("too many series: points are not sent", limit=limit.limit, points=dict(worst))
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
            await self._give_back(sent, is_ambiguous=True, reason="the daemon ended before the answer came")
            raise
        except Unauthorized as error:
            await self._give_back(sent)
            return self._back_off(error)
        except Rejected as refusal:
            return await self._refuse(sent, str(refusal))
        except Unavailable as error:
            self._strikes = self._strikes + 1 if error.answered else 0
            if self._strikes % _PATIENCE or not self._strikes:
                await self._give_back(sent, is_ambiguous=error.ambiguous, reason=str(error))
            elif _is_single(sent):
                await self._outbox.release(sent, self._clock.now() + _ASIDE)
            else:
                await self._outbox.refuse(sent, str(error))
            return self._back_off(error)
        await self._outbox.settle(sent, DeliveryStatus.DELIVERED)
        self.count(DeliveryStatus.DELIVERED, payload.samples)
        self._pending = max(0, self._pending - payload.samples)
        self._last_accepted_at = self._clock.now()
        self._trouble, self._strikes = None, 0
        return 0.0

    async def _give_back(self, chunks: Sequence[Chunk], *, is_ambiguous: bool = False, reason: str = "") -> None:
        """Makes chunks pending again; a distribution that may have been taken is not sent again."""
        if not (is_ambiguous and chunks[0].kind is Kind.DISTRIBUTION):
            await self._outbox.release(chunks)
            return
        await self._outbox.settle(chunks, DeliveryStatus.UNKNOWN, reason)
        points = count_points(chunks)
        log.warning("points were sent without an answer and are not sent again", points=points, reason=reason)
        self.count(DeliveryStatus.UNKNOWN, points)

    async def _refuse(self, chunks: Sequence[Chunk], reason: str) -> float:
        """The next requests find out which points are to blame: in smaller parts, down to a single one."""
        self._refused += 1
        if _is_single(chunks):
            await self._reject(chunks[0], reason)
            self._trouble = None  # the intake answers, and its answer was about this point
        else:
            await self._outbox.refuse(chunks, reason)
        return 0.0

    async def _reject(self, chunk: Chunk, reason: str) -> None:
        self._refusals.update(f"{point.metric}: {reason}" for point in chunk.points)
        await self._outbox.settle([chunk], DeliveryStatus.REJECTED, reason)
        self.count(DeliveryStatus.REJECTED, len(chunk.points))

    def _back_off(self, error: Unavailable | Unauthorized) -> float:
        """Keeps ``error`` as the trouble; seconds until the next try."""
        before, reason, is_refused_key = self._trouble, str(error), isinstance(error, Unauthorized)
        tries = before.tries + 1 if before and before.is_refused_key is is_refused_key else 1
        if before is None:
            log.warning("delivery does not work", reason=reason, pending=self._pending)
        elif before.reason != reason:
            log.warning("delivery does not work for another reason", reason=reason, pending=self._pending)
        self._trouble = _Trouble(reason, before.since if before else self._clock.now(), tries, is_refused_key)
        growth = 2.0 ** min(tries - 1, 10)
        if isinstance(error, Unauthorized):
            return min(_MIN_HOLD * growth, _MAX_HOLD)
        asked = min(error.retry_after or 0.0, _MAX_ASKED)
        self._not_before = self._clock.monotonic() + asked
        return max(asked, self._jitter(0.0, min(_MIN_BACKOFF * growth, _MAX_BACKOFF)), 0.001)

    def _report(self, before: _Trouble | None, delivered: int) -> None:
        """Says once for many requests what has ended and what was refused."""
        if before and self._trouble is None:
            lasted = round((self._clock.now() - before.since).total_seconds())
            log.info("delivery works again", reason=before.reason, seconds=lasted, points=delivered)
        if self._refusals:
            reasons = dict(self._refusals.most_common(_MAX_SHOWN))
            log.warning("points were refused and set aside", points=self._refusals.total(), reasons=reasons)
            self._refusals.clear()


def _is_single(chunks: Sequence[Chunk]) -> bool:
    return len(chunks) == 1 and len(chunks[0].points) == 1
