"""One run, from the claimed slot to the stored samples: attempts, back-off, deadline, outcome.

Every cause (schedule, HTTP, signal, --once) comes through ``Runner.run_slot``.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from service import logs
from service.domain import checks, garbage
from service.domain.errors import HealthError, Unavailable
from service.domain.naming import metric_name
from service.domain.points import AHEAD, EPOCH, LOST, TOO_EARLY
from service.domain.runs import Collected, Fault, Outcome, Run
from service.domain.samples import Sample
from service.pipeline.ask import ask
from service.pipeline.heartbeat import put_states
from service.pipeline.job import DURATION, POINTS_LOST, QUOTA_METRICS, SAMPLES, SUCCESS_AGE, UP, Job
from service.pipeline.ports import Clock, Runs
from service.pipeline.telling import Telling

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")

# A failed run is tried again as a Job is: after 10 s, 20 s, 40 s, at most 6 minutes.
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 360.0
_LONGEST_REASON = 1000  # characters
_LONGEST_INTERVAL = 366 * 86_400  # seconds that a count may cover; the store holds no number of any size
# So long a cancelled collector may take to stop before its run goes on without it.
_GRACE = 5.0


@dataclass(eq=False, slots=True)
class Active:
    """A run that is under way: what is known of it so far, and how to end it early."""

    run: Run
    scope: anyio.CancelScope
    done: anyio.Event
    ending: Outcome = Outcome.INTERRUPTED  # what a cancellation of ``scope`` means
    waits: bool = False  # for others of its job to end

    def cancel(self, outcome: Outcome) -> None:
        self.ending = outcome
        self.scope.cancel()


@dataclass(slots=True)
class _Attempt:
    """One try of a collector: what it brought or why it did not."""

    collected: Collected | None = None
    error: Exception | None = None


class Runner:
    """Carries out runs.

    ``attempts`` owns the tries: one that ignores its cancellation is left there instead of holding up its run.
    ``stored`` is told when there is something to send, ``began`` which run starts, ``ended`` which run ended with
    which collected samples;
    ``quota`` gives the requests that are left of a collector's quota and its limit, None where it has none.
    """

    def __init__(
        self,
        store: Runs,
        clock: Clock,
        attempts: TaskGroup,
        *,
        stored: Callable[[], None],
        quota: Callable[[Job], tuple[float, float] | None] = lambda job: None,
        began: Callable[[Run], None] = lambda run: None,
        ended: Callable[[Run, Sequence[Sample]], None] = lambda run, samples: None,
        retry: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tasks = attempts
        self._stored = stored
        self._quota = quota
        self._began = began
        self._ended = ended
        self._retry = retry
        self._telling = Telling(clock)
        # A thread of its own: collectors that hang in all of the common ones must not stop others' runs.
        self._threads = anyio.CapacityLimiter(1)

    async def run_slot(self, job: Job, active: Active) -> Run:
        """The whole run. Its samples are in the outbox when this returns, whatever the collector did."""
        run_id = active.run.id
        with structlog.contextvars.bound_contextvars(collector=job.name, run=run_id):
            logs.memory.open(run_id)
            try:
                await self._keep("the start of the run", self._store.begin(active.run))
                self._telling.started(active.run)
                self._began(active.run)
                collected = Collected()
                with active.scope:
                    collected = await self._attempts(job, active)
                if active.run.outcome is None:
                    active.run = failed(active.run, _WHY[active.ending], active.ending)
                # What was collected must be stored even while the daemon ends.
                with anyio.CancelScope(shield=True):
                    known = await self._finish(job, active, collected)
                    del collected  # a hundred thousand samples take 100 MB
                    await self._follow(job, active.run, known)
                    await self._keep("the run's log", self._store.keep_log(run_id, logs.memory.of_run(run_id)))
            finally:
                logs.memory.close(run_id)
            return active.run

    async def give_up(self, job: Job, active: Active, reason: str) -> None:
        """Ends a run that an error of the daemon's own cut off: as failed, with nothing of what it may have brought."""
        if active.run.ended:
            return  # the error came after its end was stored
        active.run = replace(failed(active.run, reason), ended=self._clock.now())
        with anyio.CancelScope(shield=True):
            known = await self._known_checks(job)
            await self._keep("the run", self._store.end(active.run, (), known, {}))
        self._ended(active.run, ())

    async def _attempts(self, job: Job, active: Active) -> Collected:
        """Tries until one succeeds, the fault is of a kind that time can't mend, or the deadline is near."""
        deadline = self._clock.monotonic() + job.active_deadline.total_seconds()
        while True:
            active.run = replace(active.run, attempts=active.run.attempts + 1)
            attempt = await self._attempt(job, deadline - self._clock.monotonic())
            if attempt is None:
                limit = f"{job.active_deadline.total_seconds():g} s"
                active.run = failed(active.run, f"not done within {limit}", Outcome.DEADLINE_EXCEEDED)
                return Collected()
            if attempt.collected is not None:
                active.run = succeeded(active.run, attempt.collected)
                return attempt.collected
            reason = reason_of(attempt.error)
            pause = self._pause(job, active.run.attempts, attempt)
            if pause is None:
                outcome = Outcome.BACKOFF_LIMIT_EXCEEDED if self._retry and _may_pass(attempt) else Outcome.FAILED
                active.run = failed(active.run, reason, outcome)
                return Collected()
            if self._clock.monotonic() + pause >= deadline:
                active.run = failed(
                    active.run, f"{reason} (the next try would come after the deadline)", Outcome.DEADLINE_EXCEEDED
                )
                return Collected()
            active.run = replace(active.run, faults=(Fault(reason),))
            self._telling.attempt_failed(active.run, reason, pause)
            await self._clock.sleep(pause)

    async def _attempt(self, job: Job, seconds: float) -> _Attempt | None:
        """One try, None when it was not done within ``seconds``."""
        # The deadline is told to the collector, too: a client asks how long it may still wait for a limit to open.
        attempt, done = _Attempt(), anyio.Event()
        scope = anyio.CancelScope(deadline=anyio.current_time() + seconds)
        self._tasks.start_soon(self._collect, job, attempt, done, scope)
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

    async def _collect(self, job: Job, attempt: _Attempt, done: anyio.Event, scope: anyio.CancelScope) -> None:
        """One try, to its end or its cancellation."""
        try:
            with scope:
                attempt.collected = await ask(job, self._clock.now())
        except Exception as error:
            attempt.error = error
            if not isinstance(error, HealthError):
                log.exception("the collector raised an unexpected error")
        finally:
            done.set()

    def _pause(self, job: Job, attempts: int, attempt: _Attempt) -> float | None:
        """Seconds until the next try, None when there is none."""
        if not self._retry or attempts > job.backoff_limit:
            return None
        if not _may_pass(attempt):
            return None
        pause: float = min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE)
        asked = attempt.error.retry_after if isinstance(attempt.error, Unavailable) else None
        return max(pause, asked or 0.0)

    async def _finish(self, job: Job, active: Active, collected: Collected) -> Sequence[checks.Check]:
        """Stores the run and what it brought; the checks after it."""
        run = replace(active.run, ended=self._clock.now())
        is_large = len(collected.samples) > checks.FEW
        with garbage.put_off() if is_large else nullcontext():
            leaving = await self.leaving(job, run, collected)
            run = replace(leaving.run, samples=len(leaving.samples))
            ended = self._store.end(run, leaving.samples, leaving.checks, collected.remember)
            await self._keep("the run and its samples", ended)
        active.run = run  # it has ended now: its samples are in the outbox
        self._stored()
        self._ended(run, leaving.measured)
        self._telling.ended(run, len(leaving.measured))
        return leaving.checks

    async def _follow(self, job: Job, run: Run, known: Sequence[checks.Check]) -> None:
        """The series of many checks, which ``leaving`` left out."""
        if len(known) > checks.FEW:
            states = put_states(job, known, self._store, run.ended or self._clock.now())
            await self._keep("the checks' series", states)
            self._stored()

    async def leaving(self, job: Job, run: Run, collected: Collected) -> "Leaving":
        """What the ended ``run`` sends, and the checks as they are after it. Nothing is kept here."""
        now = run.ended or self._clock.now()
        before = await self._known_checks(job)
        if len(before) + len(collected.samples) <= checks.FEW:
            done = _worked_out(job, collected, before, now)
        else:
            done = await anyio.to_thread.run_sync(_worked_out, job, collected, before, now, limiter=self._threads)
        if done.bad:
            run = replace(run, outcome=Outcome.PARTIAL, faults=(*run.faults, *done.bad))
        own = await self._own_samples(job, run, len(done.brought), now)
        return Leaving(run, done.brought, [*done.brought, *done.states, *own], done.checks)

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
        values += zip(QUOTA_METRICS, self._quota(job) or (), strict=False)
        return [job.own_sample(metric, value, now) for metric, value in values] + job.reported(now)

    async def _keep(self, what: str, work: Awaitable[Answer]) -> Answer | None:
        """``work`` of the store, None when the store is lost: a run goes on without it."""
        try:
            answer = await work
        except Unavailable as error:
            self._telling.store_lost(what, str(error))
            return None
        self._telling.store_works(what)
        return answer


@dataclass(frozen=True, slots=True)
class Leaving:
    """``measured``: the collected samples as they leave; ``samples``: these, the checks' series and the run's own.

    Of more than ``checks.FEW`` checks the series are thrice as many as the samples that the run is there for. They
    follow on its heels, as a heartbeat does; among ``samples`` are those alone whose value has grown too old.
    ``run``: as it ended, metrics that had to be left out included.
    """

    run: Run
    measured: Sequence[Sample]
    samples: Sequence[Sample]
    checks: Sequence[checks.Check]


class _Result(NamedTuple):
    """The samples as they leave, what is wrong with others, the job's checks after them, and their stable series."""

    brought: list[Sample]
    bad: list[Fault]
    checks: list[checks.Check]
    states: list[Sample]


def _worked_out(job: Job, collected: Collected, before: Sequence[checks.Check], now: datetime) -> _Result:
    brought, bad = stamped(job, collected, now)
    unmeasured = [{**job.tags, **tags} for tags in collected.unmeasured]
    known = checks.updated(before, brought, unmeasured, now)
    told = known if len(known) <= checks.FEW else checks.outdated(known, now, job.max_age)
    return _Result(brought, bad, known, checks.to_samples(told, now, job.max_age, job.check_tags))


def stamped(job: Job, collected: Collected, now: datetime) -> tuple[list[Sample], list[Fault]]:
    """The collected samples as they leave, and a fault for each metric and reason for which some can't."""
    interval = job.schedule.interval(now, job.zone)
    names = {sample.metric.name for sample in collected.samples}
    nameless = {name for name in names if metric_name(name) is None}
    limit = now + AHEAD
    good: list[Sample] = []
    bad: Counter[tuple[str, str]] = Counter()
    for sample in collected.samples:
        if sample.metric.name in nameless:
            bad[sample.metric.name, "the metric's name does not begin with a letter"] += 1
        elif not _is_number(sample.value):
            bad[sample.metric.name, "the value is no finite number"] += 1
        elif sample.at > limit:
            bad[sample.metric.name, TOO_EARLY] += 1
        elif sample.at < EPOCH or sample.measured < EPOCH:
            bad[sample.metric.name, "the time is before 1970"] += 1
        elif not 0 <= (sample.interval or 0) <= _LONGEST_INTERVAL:
            bad[sample.metric.name, f"an interval of {sample.interval:.3g} seconds"] += 1
        else:
            good.append(job.stamp(sample, interval))
    faults = [
        Fault(why if count == 1 else f"{why} ({count} samples)", f"metric {name!r:.200}")
        for (name, why), count in sorted(bad.items())
    ]
    return good, faults


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type] # a foreign collector may bring anything
    except (TypeError, ValueError, OverflowError):
        return False


_WHY = {
    Outcome.INTERRUPTED: "the daemon ended before the run did",
    Outcome.REPLACED: "the next slot's run took its place",
}


def _may_pass(attempt: _Attempt) -> bool:
    """Whether time may mend it: an unexpected error is given the benefit of the doubt, as a Job's crash is."""
    return isinstance(attempt.error, Unavailable) or not isinstance(attempt.error, HealthError)


def reason_of(error: Exception | None) -> str:
    """What to tell the operator of a failed attempt, in one line."""
    text = str(error) if isinstance(error, HealthError) else f"unexpected {type(error).__name__}: {logs.text_of(error)}"
    return " ".join(_shown(text).split())


def _shown(text: str) -> str:
    # Foreign code may say anything, and what it says here is stored and shown.
    return logs.hidden(text)[:_LONGEST_REASON]


def succeeded(run: Run, collected: Collected) -> Run:
    """The run that brought ``collected``: whole, or partial with what was left out."""
    faults = tuple(Fault(_shown(fault.reason), _shown(fault.part)) for fault in collected.faults)
    if (more := collected.left_out - len(faults)) > 0:
        faults = (*faults, Fault(f"and {more} more left out"))
    return replace(run, outcome=Outcome.PARTIAL if faults else Outcome.COMPLETE, faults=faults)


def failed(run: Run, reason: str, outcome: Outcome = Outcome.FAILED) -> Run:
    """The run that brought nothing."""
    return replace(run, outcome=outcome, faults=(Fault(reason),))
