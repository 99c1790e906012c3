"""The runs that are under way in this process: each begins, waits for those before it, is carried out and ends."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import anyio
import structlog
from anyio.abc import TaskGroup

from service.clock import Clock
from service.domain.errors import RunEnded, Unavailable, UnknownRun
from service.domain.runs import Actor, Cause, Mode, Outcome, Run, new_run_id
from service.pipeline.job import Job
from service.pipeline.runner import RunHandle, Runner
from service.store import Busy, Store

log = structlog.get_logger(__name__)

BUSY_PAUSE = 2.0  # seconds until a run is tried again that another replica's run, or a lost store, was in the way of
_CANCEL_TIMEOUT = 6.0  # seconds that cancelled runs may take in a drain: the attempt's own grace, and the store
_LOOK = 0.5  # seconds between two looks at a run of another replica


# Puts a run on record, and tells whether it may run.
Begin = Callable[[Job, RunHandle], Awaitable[bool]]


class ActiveRuns:
    """``tasks``: where the runs live. ``on_end``: told the collector's name at the end of each of its runs."""

    def __init__(
        self, runner: Runner, store: Store, clock: Clock, tasks: TaskGroup, *, on_end: Callable[[str], None]
    ) -> None:
        self._runner = runner
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._on_end = on_end
        self._handles = defaultdict[str, list[RunHandle]](list)

    @property
    def is_draining(self) -> bool:
        return self._runner.draining.is_set()

    def runs(self) -> list[Run]:
        """Those under way; of one collector the oldest first."""
        return [handle.run for handle in self.handles()]

    def handles(self) -> list[RunHandle]:
        return [handle for handles in self._handles.values() for handle in handles]

    def of(self, name: str) -> Sequence[RunHandle]:
        """A collector's, the oldest first."""
        return tuple(self._handles[name])

    def add(
        self,
        job: Job,
        cause: Cause,
        actor: Actor,
        mode: Mode,
        slot: datetime | None = None,
        after: Sequence[RunHandle] = (),
    ) -> RunHandle:
        """A run that counts as active from here on, and is carried out from ``start`` on."""
        now = self._clock.now()
        run = Run(new_run_id(job.name, now), job.name, cause, now, slot=slot, source=actor.source, mode=mode)
        handle = RunHandle(replace(run, owner=self._store.owner), actor, after)
        self._handles[job.name].append(handle)
        return handle

    def remove(self, handle: RunHandle) -> None:
        self._handles[handle.run.collector].remove(handle)
        handle.done.set()

    def repeat(self, job: Job, run: Run) -> None:
        """Carries out a run that was begun in place of a dead replica's."""
        handle = RunHandle(run, Actor(""))
        self._handles[job.name].append(handle)
        self.start(job, handle)

    def start(self, job: Job, handle: RunHandle, begin: Begin | None = None) -> None:
        """Carries the run out in the background. Without ``begin`` it is on record already."""
        self._tasks.start_soon(self._carry_out, job, handle, begin, name=handle.run.id)

    async def begin_after(self, job: Job, handle: RunHandle) -> bool:
        """Begins the run when those before it have ended, on other replicas as well.

        One that is cancelled by then need not begin: its end puts it on record.
        """
        await handle.wait_for_others()
        handle.run = replace(handle.run, started=self._clock.now())
        while not handle.ending:
            try:
                await self._store.runs.begin(handle.run, forbids=job.forbids)
            except (Busy, Unavailable):
                with handle.cancellable():
                    await self._clock.sleep(BUSY_PAUSE)
                handle.run = replace(handle.run, started=self._clock.now())
            else:
                break
        return True

    async def wait(self, run_id: str, seconds: float) -> Run | None:
        """The run once it has ended, None when it has not within ``seconds`` or is unknown. Raises Unavailable."""
        if handle := self._find(run_id):
            await self._clock.wait(handle.done, seconds)
            # Not before the next one may start: its end is on record a moment earlier.
            return handle.run if handle.done.is_set() and handle.run.ended else None
        run = await self._store.runs.run(run_id)
        if run is None or not run.ended:  # it may be another replica's
            await self._clock.sleep(seconds)
            run = await self._store.runs.run(run_id)
        return run if run and run.ended else None

    async def cancel(self, run_id: str, actor: Actor) -> Run:
        """Asks the run to end as Cancelled; ``wait`` tells when it has. Raises UnknownRun, RunEnded, Unavailable."""
        if handle := self._find(run_id):
            handle.cancel(Outcome.CANCELLED, f" by {actor}")
            return handle.run
        run = await self._store.runs.run(run_id)
        if run is None:
            raise UnknownRun(f"there is no run {run_id}")
        if not await self._store.runs.request_cancel(run_id):
            raise RunEnded(f"run {run_id} has ended: {run.outcome}")
        return run

    async def drain(self, seconds: float) -> None:
        """No slot and no trigger starts a run, and no run makes a further attempt. Runs that are under way, or wait for
        one that is, get ``seconds``; then they are cancelled and kept as Interrupted."""
        self._runner.draining.set()
        # Cancelled runs still store what they know; one that can't be stopped is left to the end of the process.
        for patience in (seconds, _CANCEL_TIMEOUT):
            with anyio.move_on_after(patience):
                for handle in self.handles():
                    await handle.done.wait()
            for handle in self.handles():
                handle.cancel(Outcome.INTERRUPTED)

    def _find(self, run_id: str) -> RunHandle | None:
        return next((each for each in self.handles() if each.run.id == run_id), None)

    async def _carry_out(self, job: Job, handle: RunHandle, begin: Begin | None) -> None:
        """The run to its end."""
        try:
            if begin is None or await begin(job, handle):
                if job.replaces and not handle.ending and handle.run.cause is not Cause.WEBHOOK:
                    await self._replace_others(handle)
                await self._runner.run(job, handle)
        except Exception:
            # The last line of defence: a fault of ours in one run must not end the daemon and all other collectors.
            log.exception("a run was lost to an error in the daemon itself", collector=job.name, run=handle.run.id)
            await self._runner.give_up(handle)
        finally:
            self.remove(handle)
        self._on_end(job.name)

    async def _replace_others(self, handle: RunHandle) -> None:
        """Ends the runs of the collector before this one, which is sure to run itself by now, and waits for their end:
        here and on other replicas."""
        handles = self._handles[handle.run.collector]
        handle.after = tuple(handles[: handles.index(handle)])
        for other in handle.after:
            other.cancel(Outcome.REPLACED)
        await handle.wait_for_others()
        with handle.cancellable():
            while self._store.owner:
                try:
                    if not await self._store.runs.request_replace(handle.run):
                        return
                except Unavailable as error:
                    log.debug("can't tell whether the other replicas' runs have ended", reason=str(error))
                await self._clock.sleep(_LOOK)
