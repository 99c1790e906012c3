"""One run, from the claimed slot to the stored samples: attempts, back-off, deadline, outcome.

Every cause (schedule, HTTP, signal, --once) comes through ``Runner.run_slot``.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import anyio
import structlog
from anyio.abc import TaskGroup

from service.domain import checks
from service.domain.errors import HealthError, Unavailable
from service.domain.points import LOST
from service.domain.runs import Collected, Fault, Outcome, Run
from service.domain.samples import Sample
from service.pipeline.job import DURATION, POINTS_LOST, QUOTA_REMAINING, SAMPLES, SUCCESS_AGE, UP, Job
from service.pipeline.ports import Clock, Runs

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")

# A failed run is tried again as a Job is: after 10 s, 20 s, 40 s, at most 6 minutes.
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 360.0
# So long a cancelled collector may take to stop before its run goes on without it.
_GRACE = 5.0


@dataclass(eq=False, slots=True)
class Active:
    """A run that is under way: what is known of it so far, and how to end it early."""

    run: Run
    scope: anyio.CancelScope
    done: anyio.Event
    ending: Outcome = Outcome.INTERRUPTED  # what a cancellation of ``scope`` means

    def cancel(self, outcome: Outcome) -> None:
        self.ending = outcome
        self.scope.cancel()


@dataclass(slots=True)
class _Attempt:
    """One try of a collector: what it brought (``brought``: its samples as they leave) or why it did not."""

    collected: Collected | None = None
    brought: list[Sample] = field(default_factory=list)
    error: Exception | None = None


class Runner:
    """Carries out runs.

    ``stored`` is told when there is something to send, ``ended`` which run ended with which collected samples;
    ``quota`` gives the requests that are left of a collector's quota, None where it has none.
    """

    def __init__(
        self,
        store: Runs,
        clock: Clock,
        *,
        stored: Callable[[], None],
        quota: Callable[[Job], float | None] = lambda job: None,
        ended: Callable[[Run, Sequence[Sample]], None] = lambda run, samples: None,
        retry: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._stored = stored
        self._quota = quota
        self._ended = ended
        self._retry = retry

    async def run_slot(self, job: Job, active: Active, tasks: TaskGroup) -> Run:
        """The whole run. Its samples are in the outbox when this returns, whatever the collector did.

        ``tasks`` owns the attempts: one that ignores its cancellation is left there instead of holding up the run.
        """
        # The run has a task of its own, and so a context of its own: nothing needs to be unbound.
        structlog.contextvars.bind_contextvars(collector=job.name, run=active.run.id)
        await self._keep("the start of the run", self._store.begin(active.run))
        log.info("run started", cause=active.run.slot.cause.value)
        last = _Attempt()
        with active.scope:
            last = await self._attempts(job, active, tasks)
        if active.run.outcome is None:
            active.run = failed(active.run, _WHY[active.ending], active.ending)
        # What was collected must be stored even while the daemon ends.
        with anyio.CancelScope(shield=True):
            await self._finish(job, active, last.collected or Collected(), last.brought)
        return active.run

    async def _attempts(self, job: Job, active: Active, tasks: TaskGroup) -> _Attempt:
        """Tries until one succeeds, the fault is of a kind that time can't mend, or the deadline is near."""
        deadline = self._clock.monotonic() + job.active_deadline.total_seconds()
        while True:
            active.run = replace(active.run, attempts=active.run.attempts + 1)
            attempt = await self._attempt(job, deadline - self._clock.monotonic(), tasks)
            if attempt is None:
                limit = f"{job.active_deadline.total_seconds():g} s"
                active.run = failed(active.run, f"not done within {limit}", Outcome.DEADLINE_EXCEEDED)
                return _Attempt()
            if attempt.collected is not None:
                active.run = succeeded(active.run, attempt.collected)
                return attempt
            reason = reason_of(attempt.error)
            pause = self._pause(job, active.run.attempts, attempt)
            if pause is None:
                outcome = Outcome.BACKOFF_LIMIT_EXCEEDED if self._retry and _may_pass(attempt) else Outcome.FAILED
                active.run = failed(active.run, reason, outcome)
                return _Attempt()
            if self._clock.monotonic() + pause >= deadline:
                active.run = failed(
                    active.run, f"{reason} (the next try would come after the deadline)", Outcome.DEADLINE_EXCEEDED
                )
                return _Attempt()
            active.run = replace(active.run, faults=(Fault(reason),))
            log.warning("attempt failed", attempt=active.run.attempts, reason=reason, next_in_seconds=pause)
            await self._clock.sleep(pause)

    async def _attempt(self, job: Job, seconds: float, tasks: TaskGroup) -> _Attempt | None:
        """One try, None when it was not done within ``seconds``."""
        # The deadline is told to the collector, too: a client asks how long it may still wait for a limit to open.
        attempt, done = _Attempt(), anyio.Event()
        scope = anyio.CancelScope(deadline=anyio.current_time() + seconds)
        tasks.start_soon(_collect, job, self._clock.now(), attempt, done, scope)
        try:
            await self._clock.wait(done, seconds)
        finally:
            if not done.is_set():
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._clock.wait(done, _GRACE)
                if not done.is_set():
                    log.error("the collector ignores its cancellation; the run goes on without it")
        return attempt if attempt.collected or attempt.error else None

    def _pause(self, job: Job, attempts: int, attempt: _Attempt) -> float | None:
        """Seconds until the next try, None when there is none."""
        if not self._retry or attempts > job.backoff_limit:
            return None
        if not _may_pass(attempt):
            return None
        pause: float = min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE)
        asked = attempt.error.retry_after if isinstance(attempt.error, Unavailable) else None
        return max(pause, asked or 0.0)

    async def _finish(self, job: Job, active: Active, collected: Collected, brought: list[Sample]) -> None:
        now = self._clock.now()
        run = replace(active.run, ended=now)
        unmeasured = [{**job.tags, **tags} for tags in collected.unmeasured]
        known = checks.updated(await self._known_checks(job), brought, unmeasured, now)
        states = [job.stamp_check(sample) for sample in checks.to_samples(known, now, job.max_age)]
        samples = brought + states + await self._own_samples(job, run, len(brought), now)
        run = replace(run, samples=len(samples))
        await self._keep("the run and its samples", self._store.end(run, samples, known, collected.remember))
        active.run = run  # it has ended now: its samples are in the outbox
        self._stored()
        self._ended(run, brought)
        _tell(run, collected)

    async def _known_checks(self, job: Job) -> Sequence[checks.Check]:
        return await self._keep("the known checks", self._store.checks(job.name)) or ()

    async def _own_samples(self, job: Job, run: Run, count: int, now: datetime) -> list[Sample]:
        succeeded = run.outcome is not None and run.outcome.succeeded
        values = [(UP, 1.0 if succeeded else 0.0), (DURATION, run.seconds or 0.0), (SAMPLES, float(count))]
        last = now if succeeded else await self._keep("the last success", self._store.last_success(job.name))
        if last:
            values.append((SUCCESS_AGE, max(0.0, (now - last).total_seconds())))
        lost = await self._keep("the lost points", self._store.lost(job.name, now - timedelta(hours=24))) or {}
        values.append((POINTS_LOST, float(sum(lost.get(fate, 0) for fate in LOST))))
        if (remaining := self._quota(job)) is not None:
            values.append((QUOTA_REMAINING, remaining))
        return [job.own_sample(metric, value, now) for metric, value in values]

    async def _keep(self, what: str, work: Awaitable[Answer]) -> Answer | None:
        """``work`` of the store, None when the store is lost: a run goes on without it."""
        try:
            return await work
        except Unavailable as error:
            log.error("the store is lost", what=what, reason=str(error))  # noqa: TRY400 - the reason says it all
            return None


def stamped(job: Job, collected: Collected, now: datetime) -> list[Sample]:
    """The collected samples as they leave."""
    interval = job.schedule.interval(now, job.zone)
    return [job.stamp(sample, interval) for sample in collected.samples]


_WHY = {
    Outcome.INTERRUPTED: "the daemon ended before the run did",
    Outcome.REPLACED: "the next slot's run took its place",
}


async def _collect(job: Job, now: datetime, attempt: _Attempt, done: anyio.Event, scope: anyio.CancelScope) -> None:
    try:
        with scope:
            collected = await job.collector.collect(now)
            # Here, where a fault is the collector's own: an outside one may bring what is no sample at all.
            attempt.brought = stamped(job, collected, now)
            attempt.collected = collected
    except* HealthError as errors:
        attempt.error = _first(errors)
    except* Exception as errors:
        # A collector may be foreign code: whatever it raises is the fault of its run alone.
        attempt.error = attempt.error or _first(errors)
        log.exception("the collector raised an unexpected error")
    finally:
        done.set()


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """The first error of a group; a collector with a task group raises groups of groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _may_pass(attempt: _Attempt) -> bool:
    """Whether time may mend it: an unexpected error is given the benefit of the doubt, as a Job's crash is."""
    return isinstance(attempt.error, Unavailable) or not isinstance(attempt.error, HealthError)


def reason_of(error: Exception | None) -> str:
    """What to tell the operator of a failed attempt."""
    return str(error) if isinstance(error, HealthError) else f"unexpected {type(error).__name__}: {error}"


def succeeded(run: Run, collected: Collected) -> Run:
    """The run that brought ``collected``: whole, or partial with what was left out."""
    faults = collected.faults
    if (more := collected.left_out - len(faults)) > 0:
        faults = (*faults, Fault(f"and {more} more left out"))
    return replace(run, outcome=Outcome.PARTIAL if faults else Outcome.COMPLETE, faults=faults)


def failed(run: Run, reason: str, outcome: Outcome = Outcome.FAILED) -> Run:
    """The run that brought nothing."""
    return replace(run, outcome=outcome, faults=(Fault(reason),))


def _tell(run: Run, collected: Collected) -> None:
    """The run's second log line."""
    facts = {"outcome": run.outcome, "seconds": round(run.seconds or 0.0, 3), "samples": len(collected.samples)}
    if run.attempts != 1:
        facts["attempts"] = run.attempts
    if run.outcome is Outcome.COMPLETE:
        log.info("run ended", **facts)
    elif run.outcome is Outcome.PARTIAL:
        log.warning("run ended, some parts are missing", **facts, missing=run.error)
    else:
        log.error("run failed", **facts, reason=run.error)
