"""One run, from its stored start to its stored samples: attempts, back-off, deadline, outcome, two log lines."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from service.clock import Clock
from service.config.logging import buffer
from service.config.masking import redact
from service.domain.errors import HealthError, Unavailable, Unexpected
from service.domain.runs import Actor, Cause, CollectResult, Outcome, PartialFailure, Run
from service.domain.samples import Metric
from service.pipeline.enrich import Enriched, enrich, own_samples
from service.pipeline.heartbeat import make_series
from service.pipeline.job import DURATION, POINTS_LOST, SAMPLES, SUCCESS_AGE, UP, Job
from service.store import Store

log = structlog.get_logger(__name__)

# A failed attempt is followed by another one as a Job's pod is: after 10 s, 20 s, 40 s, at most 6 minutes.
_FIRST_PAUSE, _MAX_PAUSE = 10.0, 360.0
_GRACE = 6.0  # seconds that a cancelled collector may take to end (a program has 5); the run goes on without it then
_CHANGE_DEADLINE = 30.0  # a change that takes longer to measure holds up the schedule
_MAX_REASON = 1_000  # characters
_MANY_SAMPLES = 1_000  # of more (and checks) the CPU work is done in a thread
_SUPERSEDED = "this replica was taken for dead meanwhile: another one ended the run, and nothing of it is kept"
_MAX_HELD = 50_000  # samples of ended runs that wait in memory for a shared store
_STORE_PAUSE = 1.0  # seconds until a store that is away is asked again

# What ends a run from outside says nothing about its collector.
_EARLY = {
    Outcome.INTERRUPTED: "the daemon ended before the run did",
    Outcome.REPLACED: "a later run took its place",
    Outcome.CANCELLED: "it was cancelled",
}
# What differs each time without being another reason: which of several requests met it, waits, instants.
_VOLATILE = re.compile(r"[A-Z]+ /\S*|\d+(?:\.\d+)? ?(?:ms|s|min|h|seconds|bytes)\b|\d{4}-\d\d-\d\d[T ][\d:.]+")


class RunHandle:
    """A run that is under way: ``run`` as far as it is known, ``done`` when it has ended.

    ``after``: other runs of its collector that must end before it begins. ``actor``: who asked for it.
    """

    def __init__(self, run: Run, actor: Actor, after: Sequence["RunHandle"] = ()) -> None:
        self.run = run
        self.actor = actor
        self.after = after
        self.done = anyio.Event()
        self.ending: Outcome | None = None
        self.why = _EARLY[Outcome.INTERRUPTED]
        self._scope = anyio.CancelScope()

    def cancel(self, outcome: Outcome, by: str = "") -> None:
        """Ends the run early; the first one to do so says why."""
        if not self.ending:
            self.ending, self.why = outcome, _shorten(_EARLY[outcome] + by)
        self._scope.cancel()

    async def wait_for_others(self) -> None:
        """Until the runs before it have ended, or it is cancelled."""
        with self.cancellable():
            for other in self.after:
                await other.done.wait()
        self.after = ()

    def fail(self, reason: str, outcome: Outcome) -> None:
        """Gives the run its outcome and the one reason for it."""
        self.run = replace(self.run, outcome=outcome, errors=(PartialFailure(reason),))

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """What ``cancel`` breaks off."""
        with anyio.CancelScope() as self._scope:
            if self.ending:
                self._scope.cancel()
            yield


@dataclass(slots=True)
class _Incident:
    """What is wrong with a collector for longer than one run is news once. ``runs``: how many have met it."""

    reason: str
    since: datetime
    runs: int = 0


class Runner:
    """Carries out runs that are on record as begun; of one that was cancelled before that the end alone is.

    ``attempts`` owns the attempts: one that ignores its cancellation is left there instead of holding up its run.
    ``on_stored``: there is something to send. ``on_begin``, ``on_end``: a run starts, a run has ended and is stored.
    ``retry``: whether there is more than one attempt. ``draining``: the daemon ends: no attempt begins.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        attempts: TaskGroup,
        *,
        on_stored: Callable[[], None],
        on_begin: Callable[[Run], None] = lambda run: None,
        on_end: Callable[[Run], None] = lambda run: None,
        retry: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._on_stored = on_stored
        self._on_begin = on_begin
        self._on_end = on_end
        self._retry = retry
        self.draining = anyio.Event()
        self._held = 0  # samples of ended runs that a store which is away has not taken yet
        self._incidents: dict[str, _Incident] = {}
        self._ends = defaultdict[str, anyio.Lock](anyio.Lock)  # two runs of a collector (Allow) know the same checks
        # A thread of its own: collectors that hang in all of the common ones must not stop others' runs.
        self._threads = anyio.CapacityLimiter(1)

    async def run(self, job: Job, handle: RunHandle) -> None:
        """The whole run. Its samples are in the outbox when this returns, or the log says that the store is lost."""
        run = handle.run
        with structlog.contextvars.bound_contextvars(collector=job.name, run=run.id):
            buffer.open_run(run.id)
            try:
                log.info("run started", cause=run.cause.value, **handle.actor.log_fields())
                self._on_begin(run)
                result = CollectResult()
                with handle.cancellable():
                    result = await self.attempt(job, handle)
                if handle.run.outcome is None:
                    handle.fail(handle.why, handle.ending or Outcome.INTERRUPTED)
                # What was collected must be stored even while the daemon ends.
                with anyio.CancelScope(shield=True):
                    await self._store_run(job, handle, result)
            finally:
                buffer.close_run(run.id)

    async def give_up(self, handle: RunHandle) -> None:
        """Ends a run that an error of the daemon's own cut off: as failed, with nothing of what it may have brought."""
        if handle.run.ended:
            return  # the error came after its end was stored
        handle.fail("an error in the daemon itself; its log says more", Outcome.FAILED)
        handle.run = replace(handle.run, ended=self._clock.now())
        with anyio.CancelScope(shield=True), suppress(Unavailable):
            await self._store.runs.end(handle.run)
        self._on_end(handle.run)

    async def attempt(self, job: Job, handle: RunHandle) -> CollectResult:
        """Until one succeeds, the fault is of a kind that time can't mend, or the deadline is near. Keeps nothing:
        the handle's run tells how it went."""
        limit = job.settings.active_deadline.total_seconds()
        if is_change := handle.run.cause is Cause.WEBHOOK:
            limit = min(limit, _CHANGE_DEADLINE)
        deadline = self._clock.monotonic() + limit
        while True:
            handle.run = replace(handle.run, attempts=handle.run.attempts + 1)
            try:
                result = await self._ask(job, handle.run.cause, deadline - self._clock.monotonic())
            except TimeoutError:
                before = f"; the attempt before it: {handle.run.error}" if handle.run.error else ""
                handle.fail(f"not done within {limit:g} s{before}", Outcome.DEADLINE_EXCEEDED)
                break
            except HealthError as error:
                reason, attempt = _shorten(str(error)), handle.run.attempts
                is_news = self._is_news(job.name, reason)
                if isinstance(error, Unexpected) and is_news:
                    log.exception("the collector raised an unexpected error")
                # Time may mend it: an unexpected error is given the benefit of the doubt, as a Job's crash is. What a
                # change's run could not measure, the next scheduled one will: it must not wait for a back-off.
                may_pass = self._retry and not is_change and isinstance(error, Unavailable | Unexpected)
                if not may_pass or attempt > job.settings.backoff_limit:
                    handle.fail(reason, Outcome.BACKOFF_LIMIT_EXCEEDED if may_pass else Outcome.FAILED)
                    break
                retry_after = error.retry_after if isinstance(error, Unavailable) else None
                pause = max(min(_FIRST_PAUSE * 2.0 ** (attempt - 1), _MAX_PAUSE), retry_after or 0.0)
                if self._clock.monotonic() + pause >= deadline:
                    handle.fail(f"{reason} (the next attempt would come after the deadline)", Outcome.DEADLINE_EXCEEDED)
                    break
                handle.run = replace(handle.run, errors=(PartialFailure(reason),))
                # A reason that is known already is in the run's own log alone.
                tell = log.warning if is_news else log.debug
                tell("attempt failed", attempt=attempt, reason=reason, next_in_seconds=pause)
                await self._clock.wait(self.draining, pause)
                if self.draining.is_set():
                    handle.fail(f"{reason} (the daemon ended before the next attempt)", Outcome.INTERRUPTED)
                    break
            else:
                errors = [PartialFailure(_shorten(each.reason), _shorten(each.part)) for each in result.failures]
                if (more := result.skipped - len(errors)) > 0:
                    errors.append(PartialFailure(f"and {more} more left out"))
                outcome = Outcome.PARTIAL if errors else Outcome.COMPLETE
                handle.run = replace(handle.run, outcome=outcome, errors=tuple(errors))
                return result
        return CollectResult()

    async def _ask(self, job: Job, cause: Cause, seconds: float) -> CollectResult:
        """One attempt. Raises TimeoutError when it takes more than ``seconds``, else a HealthError."""
        # The deadline is told to the collector, too: a client asks how long it may still wait for a limit to open.
        scope, done = anyio.CancelScope(deadline=anyio.current_time() + seconds), anyio.Event()
        answers: list[CollectResult | HealthError] = []

        async def ask() -> None:
            try:
                with scope:
                    answers.append(await job.collect(self._clock.now(), cause))
            except HealthError as error:
                answers.append(error)
            finally:
                done.set()

        self._attempts.start_soon(ask)
        try:
            await self._clock.wait(done, seconds)
        finally:
            if not done.is_set():
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._clock.wait(done, _GRACE)
                if not done.is_set():
                    log.error("the collector ignores its cancellation; the run goes on without it")
        answer = answers[0] if answers else TimeoutError()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _store_run(self, job: Job, handle: RunHandle, result: CollectResult) -> None:
        """Stores the ended run with what it brought, and then its log."""
        run, now = replace(handle.run, ended=self._clock.now()), self._clock.now()
        samples = len(result.samples)
        self._held += samples
        try:
            while True:
                try:
                    async with self._ends[job.name]:
                        handle.run, enriched = await self._end_run(job, run, result, now)
                    break
                except Unavailable as error:
                    # A shared store comes back; what was collected, and the end of what was cancelled, wait for it.
                    is_last = handle.ending and self.draining.is_set()
                    if not self._store.owner or is_last or self._held > max(_MAX_HELD, samples):
                        log.error("the run is not kept: the store is lost", reason=str(error), samples=samples)  # noqa: TRY400
                        handle.run = run
                        self._on_end(run)
                        return
                await self._clock.sleep(_STORE_PAUSE)
        finally:
            self._held -= samples
        self._on_stored()
        self._on_end(handle.run)
        self._log_end(handle.run, len(enriched.samples))
        with suppress(Unavailable):  # what counts is stored
            if enriched.late:
                await self._store.outbox.put(job.name, await make_series(job, enriched.late, now, self._threads))
                self._on_stored()
            await self._store.runs.save_log(run.id, buffer.run_lines(run.id))

    async def _end_run(self, job: Job, run: Run, result: CollectResult, now: datetime) -> tuple[Run, Enriched]:
        """The run as it is stored, with its samples. Raises Unavailable."""
        known = await self._store.checks.read(job.name)
        is_change = run.cause is Cause.WEBHOOK
        work = partial(enrich, job, result, known, now, is_whole=not is_change)
        is_large = len(result.samples) + len(known) > _MANY_SAMPLES
        enriched = await anyio.to_thread.run_sync(work, limiter=self._threads) if is_large else work()
        if enriched.errors:
            run = replace(run, outcome=Outcome.PARTIAL, errors=(*run.errors, *enriched.errors))
        # A change's run says nothing of the scheduled ones, which may fail all the while.
        health = {} if is_change else await self._measure_health(job, run, len(enriched.samples), now)
        samples = [*enriched.samples, *enriched.series, *own_samples(job, {**health, **enriched.own_values}, now)]
        run = replace(run, samples=len(samples))
        revisions = dict(job.state.revisions) if job.state else {}
        if not await self._store.runs.end(run, samples, enriched.checks, result.state, revisions, job.settings.max_age):
            run = replace(run, outcome=Outcome.INTERRUPTED, errors=(PartialFailure(_SUPERSEDED),), samples=0)
            enriched = replace(enriched, late=[])
        return run, enriched

    async def _measure_health(self, job: Job, run: Run, collected: int, now: datetime) -> dict[Metric, float]:
        succeeded = bool(run.outcome and run.outcome.succeeded)
        values = {UP: float(succeeded), DURATION: run.seconds or 0.0, SAMPLES: float(collected)}
        successes = {job.name: now} if succeeded else await self._store.runs.last_successes(job.name)
        if last := successes.get(job.name):
            values[SUCCESS_AGE] = max(0.0, (now - last).total_seconds())
        lost = await self._store.outbox.lost(job.name, now - timedelta(hours=24))
        return {**values, POINTS_LOST: float(sum(lost.values()))}

    def _is_news(self, name: str, reason: str) -> bool:
        """Whether this is not what the collector's runs before have ended with."""
        known = self._incidents.get(name)
        return known is None or _VOLATILE.sub("#", known.reason) != _VOLATILE.sub("#", reason)

    def _log_end(self, run: Run, collected: int) -> None:
        """The run's second line. ``samples`` are all that it stored, ``collected`` those of the collector itself."""
        facts: dict[str, object] = {"outcome": run.outcome, "seconds": round(run.seconds or 0.0, 3)}
        facts |= {"collected": collected, "samples": run.samples, "attempts": run.attempts}
        facts |= {"reason": run.error} if run.error else {}
        if run.outcome in _EARLY or run.cause is Cause.WEBHOOK:  # which say nothing of the scheduled runs to come
            (log.warning if run.error else log.info)("run ended", **facts)
            return
        if run.outcome is Outcome.COMPLETE:
            log.info("run ended", **facts)
            if over := self._incidents.pop(run.collector, None):
                since = over.since.isoformat(timespec="seconds")
                log.info("the collector works again", after=over.reason, since=since, runs=over.runs)
            return
        is_news = self._is_news(run.collector, run.error or "")
        known = self._incidents.setdefault(run.collector, _Incident("", self._clock.now()))
        known.reason, known.runs = run.error or "", known.runs + 1
        if not is_news:
            log.info("run ended", **facts, failing_since=known.since.isoformat(timespec="seconds"))
        elif run.outcome is Outcome.PARTIAL:
            log.warning("run ended", **facts)
        else:
            log.error("run failed", **facts)


def _shorten(text: str) -> str:
    """Anybody's text as it may be stored and shown: on one line, without secrets."""
    return " ".join(redact(text).split())[:_MAX_REASON]
