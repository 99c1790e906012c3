"""One run, from the claimed slot to the stored samples, and the outcome.

Every cause (schedule, HTTP, signal, --once) comes through ``Runner.run_slot``.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from service import logs
from service.domain import checks, garbage
from service.domain.errors import Unavailable
from service.domain.points import LOST
from service.domain.runs import Collected, Outcome, Run
from service.domain.samples import Sample
from service.pipeline.active import Active, failed
from service.pipeline.attempts import Attempts
from service.pipeline.heartbeat import put_states
from service.pipeline.job import DURATION, POINTS_LOST, QUOTA_METRICS, SAMPLES, SUCCESS_AGE, UP, Job
from service.pipeline.leaving import Leaving, worked_out
from service.pipeline.ports import Clock, Runs
from service.pipeline.telling import Telling

Answer = TypeVar("Answer")

# Why a run has no outcome of its own.
_WHY = {
    Outcome.INTERRUPTED: "the daemon ended before the run did",
    Outcome.REPLACED: "the next slot's run took its place",
}


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
        self._stored = stored
        self._quota = quota
        self._began = began
        self._ended = ended
        self._telling = Telling(clock)
        self._attempts = Attempts(clock, attempts, self._telling, retry=retry)
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
                    collected = await self._attempts.until_done(job, active)
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

    async def leaving(self, job: Job, run: Run, collected: Collected) -> Leaving:
        """What the ended ``run`` sends, and the checks as they are after it. Nothing is kept here."""
        now = run.ended or self._clock.now()
        before = await self._known_checks(job)
        if len(before) + len(collected.samples) <= checks.FEW:
            done = worked_out(job, collected, before, now)
        else:
            done = await anyio.to_thread.run_sync(worked_out, job, collected, before, now, limiter=self._threads)
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
