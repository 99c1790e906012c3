"""One run, from its stored start to its stored samples: attempts, back-off, deadline, outcome, two log lines."""

from collections.abc import Callable
from datetime import datetime

import anyio
from anyio.abc import TaskGroup

from service.domain.runs import Actor, CollectResult, Outcome, Run
from service.pipeline.clock import Clock
from service.pipeline.job import Job
from service.store import Store


class RunHandle:
    """A run that is under way: ``run`` as far as it is known, ``done`` when it has ended."""

    def __init__(self, run: Run, actor: Actor | None = None) -> None:
        self.run = run
        self.actor = actor
        self.done = anyio.Event()

    def cancel(self, outcome: Outcome) -> None:
        """Ends the run early."""
        raise NotImplementedError


class Runner:
    """Carries out runs that the scheduler has begun in the store.

    ``attempts`` owns the attempts: one that ignores its cancellation is left there instead of holding up its run.
    ``on_stored``: there is something to send. ``on_begin``, ``on_end``: a run starts, a run has ended and is stored.
    ``retry``: whether there is more than one attempt.
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
        raise NotImplementedError

    async def run(self, job: Job, handle: RunHandle) -> None:
        """The whole run. Its samples are in the outbox when this returns, whatever the collector did."""
        raise NotImplementedError


async def ask_collector(job: Job, now: datetime) -> CollectResult:
    """What the collector brings. Raises HealthError; what it raises otherwise comes as Unexpected."""
    raise NotImplementedError
