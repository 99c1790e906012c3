"""Which slot starts when: Kubernetes' CronJob controller for the jobs of one process.

``tick`` may be called at any time and any number of times: it looks at the clock, the last slot, the pauses and the
active runs, and starts the latest missed slot when the rules let it. So the timer, the end of a run, a resume, a
start after down time and a step of the clock all come to the same place.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import structlog
from anyio.abc import TaskGroup

from service.config import ConcurrencyPolicy
from service.domain import takeover
from service.domain.cron import Every
from service.domain.runs import Cause, Outcome, Run, Slot, new_run_id
from service.pipeline.active import Active, failed
from service.pipeline.job import Job
from service.pipeline.ports import Clock, Runs
from service.pipeline.run import Runner

log = structlog.get_logger(__name__)

# Further back a schedule can't have a slot: it would never fire (the search for the next one ends there as well).
_FIVE_YEARS = timedelta(days=5 * 366)
_MANY_MISSED = 100
# A slot that starts this much after its time was missed, not merely a little late.
_LATE = timedelta(seconds=30)


# Seconds that cancelled runs may take in a drain: the attempt's own grace, and the store.
_STOPPING = 6.0


class AlreadyRunning(Exception):
    """Forbid: a run of this collector is active. ``run_id`` is that run's."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is active and the concurrency policy is Forbid")
        self.run_id = run_id


class Draining(Exception):
    """The daemon is ending: nothing new starts."""


class Dispatcher:
    """Starts runs by policy and owns those that are active."""

    def __init__(self, runner: Runner, store: Runs, clock: Clock, tasks: TaskGroup) -> None:
        """The runs live in ``tasks``. ``is_shadow``: the CronJobs still run each slot, too (domain.takeover)."""
        self.is_shadow = False
        self._runner = runner
        self._store = store
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._live: dict[str, datetime] = {}
        self._shadow: dict[str, datetime] = {}
        self._paused: set[str] = set()
        self._active: dict[str, list[Active]] = {}
        self._warned: dict[str, datetime] = {}
        self._keeps_time = False
        self._draining = False
        self._idle = anyio.Event()
        self._tasks = tasks

    async def load(self) -> None:
        """Reads what must outlive a restart, last slots and pauses; from here on schedules count, too."""
        self._live = dict(await self._store.last_slots())
        self._shadow = dict(await self._store.shadow_slots())
        self._paused = set(await self._store.paused())
        self._keeps_time = True

    def set_jobs(self, jobs: Iterable[Job]) -> None:
        """The jobs from now on; active runs of the old ones go on."""
        self._jobs = {job.name: job for job in jobs}

    @property
    def jobs(self) -> Mapping[str, Job]:
        return self._jobs

    def active(self, name: str) -> list[Run]:
        """The job's runs that are under way, oldest first."""
        return [active.run for active in self._active.get(name, ())]

    def all_active(self) -> list[Run]:
        """Every run that is under way."""
        return [active.run for runs in self._active.values() for active in runs]

    def is_paused(self, name: str) -> bool:
        return name in self._paused

    def set_paused(self, name: str, paused: bool) -> None:
        """Suspends or resumes the schedule; on resume the latest missed slot starts. Keeping it is the caller's."""
        if paused:
            self._paused.add(name)
        else:
            self._paused.discard(name)
            self.tick(name)

    def next_run(self, name: str) -> datetime | None:
        """When the schedule starts the job next, None while it is paused, disabled or never fires."""
        if not self._jobs[name].enabled or name in self._paused:
            return None
        return self.next_start(name, self._clock.now())

    def next_start(self, name: str, after: datetime) -> datetime | None:
        """The first start later than ``after`` by the job's schedule, whatever its policy; None when there is none."""
        job = self._jobs[name]
        after -= job.offset
        if isinstance(job.schedule, Every) and (last := self._last(job)):
            # A period counts on from the last slot, not from now.
            after = job.schedule.latest(last, after, job.zone)[0] or last
        slot = job.schedule.next(after, job.zone)
        # In UTC: local time counts wrong over a daylight-saving change.
        return slot.astimezone(UTC) + job.offset if slot else None

    def tick(self, name: str) -> None:
        """Starts the job's latest missed slot if the rules let it."""
        job = self._jobs.get(name)
        if job is None or not job.enabled or not self._keeps_time or self._draining or name in self._paused:
            return
        now = self._clock.now() - job.offset
        slot, missed = self._latest(job, now)
        if slot is None:
            return
        if missed > _MANY_MISSED:
            self._warn(job, now, f"more than {_MANY_MISSED} slots were missed; only the latest starts")
        if job.starting_deadline is not None and now - slot > job.starting_deadline:
            self._warn(job, now, f"slot {slot.isoformat()} was missed by more than its starting deadline")
            return
        active = self._active.get(name)
        if active and job.policy is ConcurrencyPolicy.FORBID:
            return  # tried again when the run ends
        if active and job.policy is ConcurrencyPolicy.REPLACE:
            for run in active:
                run.cancel(Outcome.REPLACED)
        (self._shadow if self.is_shadow else self._live)[name] = slot
        cause = Cause.CATCH_UP if now - slot > _LATE else Cause.SCHEDULE
        self._start(job, Slot(name, slot, cause))

    def trigger(self, name: str, cause: Cause, source: str = "") -> Run:
        """Starts a run that no schedule asked for. Raises KeyError, AlreadyRunning (Forbid) or Draining."""
        job = self._jobs[name]
        if self._draining:
            raise Draining
        active = self._active.get(name)
        if active and job.policy is ConcurrencyPolicy.FORBID:
            raise AlreadyRunning(active[-1].run.id)
        if active and job.policy is ConcurrencyPolicy.REPLACE:
            for run in active:
                run.cancel(Outcome.REPLACED)
        return self._start(job, Slot(name, None, cause, source))

    def follow(self, name: str, cause: Cause, source: str = "") -> Run:
        """As ``trigger``, but what Forbid lets not start now starts when the active runs have ended.

        A run that waits so already is the one: it sees whatever this one would. Raises KeyError or Draining.
        """
        active = self._active.get(name, ())
        if self._jobs[name].policy is not ConcurrencyPolicy.FORBID or not active:
            return self.trigger(name, cause, source)
        if self._draining:
            raise Draining
        if waiting := next((each for each in active if each.waits), None):
            return waiting.run
        return self._start(self._jobs[name], Slot(name, None, cause, source), after=[each.done for each in active])

    async def wait(self, run_id: str) -> Run | None:
        """The run once it has ended, None when it isn't active (any more)."""
        for runs in self._active.values():
            for active in runs:
                if active.run.id == run_id:
                    await active.done.wait()
                    return active.run
        return None

    async def drain(self, seconds: float) -> None:
        """Nothing new starts; active runs get ``seconds``, then they are cancelled and kept as interrupted."""
        self._draining = True
        if not self._active:
            return
        with anyio.move_on_after(seconds):
            await self._idle.wait()
        for runs in self._active.values():
            for active in runs:
                active.cancel(Outcome.INTERRUPTED)
        # Cancelled runs still store what they know; one that can't be stopped is left to the end of the process.
        with anyio.move_on_after(_STOPPING):
            while self._active:
                await self._idle.wait()

    def last_live_slot(self, name: str) -> datetime | None:
        """The last slot that the job ran in live mode: what CronJobs that take over again need not run."""
        return self._live.get(name)

    def _last(self, job: Job) -> datetime | None:
        live, shadow = self._live.get(job.name), self._shadow.get(job.name)
        return takeover.last_slot(live, shadow, job.starts_after, is_shadow=self.is_shadow)

    def _latest(self, job: Job, now: datetime) -> tuple[datetime | None, int]:
        """The latest slot (UTC) that has come and was not started, and how many were missed."""
        after = self._last(job)
        if after is None and isinstance(job.schedule, Every):
            # A job that never ran has missed its last slot. A period has no instants of its own: it begins now.
            return now.replace(microsecond=0), 1
        if after is None:
            # In growing spans: nobody asks how many slots there were, and to count those of years takes its time.
            span, slot = timedelta(minutes=2), None
            while slot is None and span < _FIVE_YEARS:
                slot, _ = job.schedule.latest(now - span, now, job.zone)
                span *= 8
            slot = slot or job.schedule.latest(now - _FIVE_YEARS, now, job.zone)[0]
            return slot and slot.astimezone(UTC), 1
        slot, missed = job.schedule.latest(after, now, job.zone)
        return slot and slot.astimezone(UTC), missed

    def _start(self, job: Job, slot: Slot, after: Sequence[anyio.Event] = ()) -> Run:
        now = self._clock.now()
        active = Active(Run(new_run_id(job.name, now), slot, now), anyio.CancelScope(), anyio.Event())
        active.waits = bool(after)
        if not self._active:
            self._idle = anyio.Event()
        self._active.setdefault(job.name, []).append(active)
        self._tasks.start_soon(self._run, job, active, after, name=active.run.id)
        return active.run

    async def _run(self, job: Job, active: Active, after: Sequence[anyio.Event]) -> None:
        try:
            for each in after:
                await each.wait()
            active.waits = False
            await self._runner.run_slot(job, active)
        except Exception:
            # The last line of defence: a fault of ours in one run must not end the daemon and all other collectors.
            log.exception("a run was lost to an error in the daemon itself", collector=job.name, run=active.run.id)
            await self._give_up(job, active)
        finally:
            runs = self._active[job.name]
            runs.remove(active)
            if not runs:
                del self._active[job.name]
            if not self._active:
                self._idle.set()
            active.done.set()
        self.tick(job.name)

    async def _give_up(self, job: Job, active: Active) -> None:
        why = "an error in the daemon itself; its log says more"
        try:
            await self._runner.give_up(job, active, why)
        except Exception:
            # The same error may be in the way here; the next start then ends the run in the store.
            log.exception("the run's end could not be stored", collector=job.name, run=active.run.id)
            active.run = failed(active.run, why)

    def _warn(self, job: Job, now: datetime, text: str) -> None:
        """Once an hour a job at most: such lines have filled disks elsewhere."""
        if now - self._warned.get(job.name, now - timedelta(hours=2)) > timedelta(hours=1):
            self._warned[job.name] = now
            log.warning(text, collector=job.name)
