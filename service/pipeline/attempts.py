"""The attempts of one run, as those of a Kubernetes Job: back-off between them, and one deadline for all."""

from dataclasses import dataclass, replace

import anyio
import structlog
from anyio.abc import TaskGroup

from service.domain.errors import HealthError, Unavailable
from service.domain.runs import Collected, Fault, Outcome
from service.pipeline.active import Active, failed, succeeded
from service.pipeline.ask import ask, reason_of
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.pipeline.telling import Telling

log = structlog.get_logger(__name__)

# A failed run is tried again as a Job is: after 10 s, 20 s, 40 s, at most 6 minutes.
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 360.0
# So long a cancelled collector may take to stop before its run goes on without it.
_GRACE = 5.0


@dataclass(slots=True)
class _Attempt:
    """One try of a collector: what it brought or why it did not."""

    collected: Collected | None = None
    error: Exception | None = None


class Attempts:
    """Tries a collector in ``tasks``, which outlive the run: one that ignores its cancellation is left there.

    ``retry``: whether there is more than one try.
    """

    def __init__(self, clock: Clock, tasks: TaskGroup, telling: Telling, *, retry: bool) -> None:
        self._clock = clock
        self._tasks = tasks
        self._telling = telling
        self._retry = retry

    async def until_done(self, job: Job, active: Active) -> Collected:
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


def _may_pass(attempt: _Attempt) -> bool:
    """Whether time may mend it: an unexpected error is given the benefit of the doubt, as a Job's crash is."""
    return isinstance(attempt.error, Unavailable) or not isinstance(attempt.error, HealthError)
