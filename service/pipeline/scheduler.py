"""Which slot starts when: Kubernetes' CronJob controller for the jobs of one process.

``tick`` may be called at any time and any number of times: it looks at the clock, the last slot, the pauses and the
active runs, and starts the latest missed slot when the rules let it. So the timer, the end of a run, a resume, a start
after down time and a step of the clock all come to the same place.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import TaskGroup
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from service.clock import Clock
from service.domain.errors import Draining, NotReady, TooManyRuns, Unavailable, UnknownCollector
from service.domain.runs import Actor, AuditEntry, Cause, ChangeCollector, Mode, Outcome, Pause, Run, first_slot_after
from service.pipeline.active_runs import BUSY_PAUSE, ActiveRuns
from service.pipeline.job import Job
from service.pipeline.runner import RunHandle, Runner
from service.store import Beat, Busy, Claim, Store

log = structlog.get_logger(__name__)

_LATE = timedelta(seconds=30)  # a slot that starts so much after its time was missed, not merely a little late
_MAX_ACTIVE = 8  # runs of one collector, as far as callers start them: Allow and Replace have no bound of their own
_PATIENCE = timedelta(seconds=2)  # for which the others leave a slot to the replica whose turn it is
_BEAT = 1.0  # seconds between two signs of life; what is due by then starts, though the machine slept over its alarm
_STEP = 0.5  # seconds by which the clock must have been set for every job to be looked at again
_CHANGE_PATIENCE = 5.0  # seconds that who triggers a run waits for one by webhook
_JOBS_A_TURN = 50  # that are looked at, or whose runs start, before the rest of the loop has its turn


@dataclass(frozen=True, slots=True)
class Triggered:
    """``is_new``: the run was started; else it was active already."""

    run_id: str
    collector: str
    is_new: bool


class Scheduler:
    """Starts runs by policy. ``tasks``: where they live.

    ``mode``: in which slots are claimed; to be set before ``set_jobs``. ``jobs``, ``pauses``: by name, to be read only.
    ``beat``: monotonic time of the timer's last sign of life. ``active``: the runs under way; ``elsewhere``: those of
    the other replicas. ``is_loaded``: the store has told what outlives a restart; before that no slot starts.
    """

    def __init__(self, runner: Runner, store: Store, clock: Clock, tasks: TaskGroup) -> None:
        self.mode = Mode.LIVE
        self.jobs: Mapping[str, Job] = {}
        self.pauses: dict[str, Pause] = {}
        self.beat = clock.monotonic()
        self.active = ActiveRuns(runner, store, clock, tasks, on_end=self.tick)
        self.elsewhere: Sequence[Run] = ()
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._slots: dict[Mode, dict[str, datetime]] = {mode: {} for mode in Mode}
        self._skipped: dict[str, datetime] = {}  # slots that came too late, or at which a collector was not ready
        self._starts: dict[str, datetime] = {}  # when the timer looks at a job next
        self._due: list[tuple[Job, RunHandle, datetime | None]] = []  # runs whose slots are claimed in a moment
        self._looking = anyio.Lock()  # at several jobs: their slots are claimed together
        self._replicas: Sequence[str] = ()
        self._boot_time = 0.0  # of the clock, as the jobs were last looked at: it changes when the clock is set
        self.is_loaded = self._is_first_start = False

    async def load(self) -> None:
        """Reads what outlives a restart, last slots and pauses; from here on schedules count. Raises Unavailable."""
        await self._load_slots()
        self.pauses = await self._store.runs.pauses()
        self._is_first_start = await self._store.is_unused()
        self.is_loaded = True

    async def set_jobs(self, jobs: Iterable[Job]) -> None:
        """The jobs from now on; active runs of the old ones go on. What is due starts."""
        self.jobs = {job.name: job for job in jobs}
        self._starts.clear()
        await self._look_at(self._enabled())
        self._is_first_start = False

    async def run(self) -> None:
        """The timer, until cancelled: APScheduler's alarm rings at the next start, whatever the clock does."""
        # One alarm, for the earliest start: with a job for each collector a thousand of them stop the loop for 100 ms.
        # The debug executor calls where APScheduler runs; without a grace time no alarm is dropped for being late.
        alarm = AsyncIOScheduler(
            executors={"default": DebugExecutor()}, job_defaults={"misfire_grace_time": None}, timezone="UTC"
        )
        alarm.start()
        try:
            rung, set_for = anyio.Event(), None
            while True:
                self.beat = self._clock.monotonic()
                first = await self.start_due()
                if rung.is_set():
                    rung, set_for = anyio.Event(), None
                if first and first != set_for:
                    set_for = first
                    alarm.add_job(rung.set, "date", run_date=first, id="next", replace_existing=True)
                await self._clock.wait(rung, _BEAT)
        finally:
            alarm.shutdown(wait=False)

    async def start_due(self) -> datetime | None:
        """Starts what is due by now, and returns when the next start is. Where the clock was set all jobs are looked
        at."""
        now = self._clock.now()
        if abs(now.timestamp() - self._clock.monotonic() - self._boot_time) > _STEP:
            await self._look_at(self._enabled())
        else:
            await self._look_at([name for name, start in self._starts.items() if start <= now])
        return min(self._starts.values(), default=None)

    async def _look_at(self, names: Sequence[str]) -> None:
        """Starts what is due of these jobs and notes when the timer looks at them next."""
        now = self._clock.now()
        self._boot_time = now.timestamp() - self._clock.monotonic()
        async with self._looking:
            for number, name in enumerate(names, 1):
                self._starts.pop(name, None)
                self.tick(name)
                if start := self.next_start(name, now):
                    self._look_again(name, start)
                if not number % _JOBS_A_TURN:
                    await anyio.lowlevel.checkpoint()

    def _look_again(self, name: str, at: datetime) -> None:
        self._starts[name] = min(at, self._starts.get(name, at))

    def tick(self, name: str) -> None:
        """Starts the job's latest missed slot if the rules let it."""
        job = self.jobs.get(name)
        if not self.is_loaded or self.active.is_draining or name in self.pauses or not (job and job.settings.enabled):
            return
        now, known = self._clock.now() - job.offset, self._last_slot(job)
        is_first = known is None and self._is_first_start
        slot = job.find_latest_slot(known, now) or (now.replace(microsecond=0) if is_first else None)
        if slot is None:
            return
        if job.is_too_late(slot, now) and not is_first:
            self._skipped[name], at = slot, slot.isoformat()
            log.warning("a slot was missed by more than its starting deadline", collector=name, slot=at)
            return
        elsewhere = (run for run in self.elsewhere if run.collector == name and run.mode is self.mode)
        if job.forbids and (self.active.of(name) or any(elsewhere)):
            return  # tried again when the run ends
        if job.waits_for:
            self._skipped[name] = slot
            return
        if now - slot < _PATIENCE and not self._is_turn(job):
            self._look_again(name, slot + job.offset + _PATIENCE)
            return
        cause = Cause.START if is_first else Cause.CATCH_UP if now - slot > _LATE else Cause.SCHEDULE
        slots = self._slots[self.mode]
        self._due.append((job, self.active.add(job, cause, Actor(""), self.mode, slot), slots.get(name)))
        slots[name] = slot
        if len(self._due) == 1:
            self._tasks.start_soon(self._claim_slots)

    def next_start(self, name: str, after: datetime) -> datetime | None:
        """The first start later than ``after`` by the job's schedule, whatever its policy; None when there is none."""
        job = self.jobs.get(name)
        return job.find_next_start(after, self._last_slot(job)) if job else None

    def last_slot(self, name: str) -> datetime | None:
        """The last slot that the job ran in live mode: what CronJobs that take over again need not run."""
        return self._slots[Mode.LIVE].get(name)

    def follow(self, beat: Beat) -> frozenset[str]:
        """Takes over what the replicas of a shared store decided, and does what they ask of this one's runs.

        The ids of runs that are this one's on record and that it does not carry out: to be told with the next beat.
        """
        held_up = self.pauses.keys() | {run.collector for run in self.elsewhere}
        self._replicas, self.elsewhere, self.pauses = beat.replicas, beat.active, dict(beat.pauses)
        for (name, mode), at in beat.slots.items():
            self._slots[mode][name] = max(at, self._slots[mode].get(name, at))
        for handle in self.active.handles():
            if beat.is_new and handle.run.owner != self._store.owner:
                handle.cancel(Outcome.INTERRUPTED)  # on record it has ended so, and nothing of it is kept
            elif outcome := beat.cancelled.get(handle.run.id):
                handle.cancel(outcome)
        for run in beat.repeats:
            if job := self.jobs.get(run.collector):  # a reload may have come between
                self.active.repeat(job, run)
        for name in held_up:
            self.tick(name)
        # A run is here before it is on record, and until its end is.
        return beat.own - {handle.run.id for handle in self.active.handles()}

    def may_repeat(self, run: Run) -> bool:
        """Whether a scheduled run that its replica could not end may be carried out again."""
        job = self.jobs.get(run.collector)
        is_ours = job and job.settings.enabled and run.mode is self.mode and not self.active.is_draining
        if not job or not is_ours or run.slot is None or job.is_too_late(run.slot, self._clock.now()):
            return False
        # With Replace a later one has taken its place, and would be replaced by it.
        return not (job.replaces and run.slot < self._slots[run.mode].get(job.name, run.slot))

    def _is_turn(self, job: Job) -> bool:
        """Whether this replica tries first: the one with the highest hash. It spreads the load, and keeps with one
        process what belongs together; it never decides who may."""
        own = self._store.owner
        # All of github_ci together: it has one token, with its ETags and its limits.
        affinity = "github_ci" if job.settings.type == "github_ci" else job.name
        return own == max(self._replicas, key=lambda each: zlib.crc32(f"{each}:{affinity}".encode()), default=own)

    async def trigger(self, name: str, cause: Cause, actor: Actor) -> Run:
        """Starts a run that no schedule asked for.

        Raises UnknownCollector, Busy, TooManyRuns, NotReady, Draining, Unavailable (the store).
        """
        job, active = self._find_job(name), self.active.of(name)
        if job.forbids and all(handle.run.cause is Cause.WEBHOOK for handle in active):
            for handle in active:  # they are over in a moment, and measure less than who triggers one wants
                await self._clock.wait(handle.done, _CHANGE_PATIENCE)
            active = self.active.of(name)
        if self.active.is_draining:
            raise Draining
        if job.waits_for:
            raise NotReady(job.waits_for)
        if active and job.forbids:
            begun = [handle for handle in active if not handle.after] or active  # one that waits may never begin
            raise Busy(begun[-1].run.id)
        if len(active) >= _MAX_ACTIVE:
            raise TooManyRuns(f"{len(active)} runs of {name} are active")
        handle = self.active.add(job, cause, actor, self.mode)
        try:
            with anyio.CancelScope(shield=True):  # who asked may go away; a run on record must be carried out
                await self._store.runs.begin(handle.run, forbids=job.forbids)
        except BaseException:
            self.active.remove(handle)
            raise
        self.active.start(job, handle)
        await self._audit("trigger", name, actor, handle.run.id)
        return handle.run

    async def trigger_all(self, cause: Cause, actor: Actor) -> list[Triggered]:
        """Triggers every enabled collector that can run now. Raises Draining or Unavailable."""
        triggered = []
        for name in self._enabled():
            try:
                triggered.append(Triggered((await self.trigger(name, cause, actor)).id, name, is_new=True))
            except Busy as error:
                triggered.append(Triggered(error.run_id, name, is_new=False))
            except TooManyRuns:
                triggered.append(Triggered(self.active.of(name)[-1].run.id, name, is_new=False))
            except (NotReady, UnknownCollector):  # a reload may have come between
                continue
        return triggered

    async def trigger_after(self, name: str, cause: Cause, actor: Actor) -> Run:
        """As ``trigger``, but what Forbid or the bound lets not start now starts when the active runs have ended.

        A run that waits so already is the one: it sees whatever this one would. Raises UnknownCollector, Draining.
        """
        job, active = self._find_job(name), self.active.of(name)
        if self.active.is_draining:
            raise Draining
        handle = next((each for each in active if each.after), None)
        if handle is None:
            must_wait = job.forbids or len(active) >= _MAX_ACTIVE
            handle = self.active.add(job, cause, actor, self.mode, after=active if must_wait else ())
            self.active.start(job, handle, self.active.begin_after)
        await self._audit(cause.value, name, actor, handle.run.id)
        return handle.run

    def start_changes(self, name: str) -> None:
        """A run of the cause webhook, once the active ones have ended; of several that wait for them one is enough.

        There is none while the collector is paused, and where by then nothing is left to measure.
        """
        job, active = self.jobs.get(name), self.active.of(name)
        is_waiting = any(each.after and each.run.cause is Cause.WEBHOOK for each in active)
        if job and job.settings.enabled and not (name in self.pauses or self.active.is_draining or is_waiting):
            handle = self.active.add(job, Cause.WEBHOOK, Actor("webhook"), self.mode, after=active)
            self.active.start(job, handle, self._begin_changes)

    async def cancel(self, run_id: str, actor: Actor) -> None:
        """Asks the run to end as Cancelled. Raises UnknownRun, RunEnded, Unavailable."""
        run = await self.active.cancel(run_id, actor)
        await self._audit("cancel", run.collector, actor, run_id)

    async def pause(self, name: str, actor: Actor) -> None:
        """Suspends the schedule; active runs go on. Raises UnknownCollector, Unavailable."""
        pause = Pause(self._find_job(name).name, self._clock.now(), actor)
        await self._store.runs.pause(pause)
        self.pauses[name] = pause
        await self._audit("pause", name, actor)

    async def resume(self, name: str, actor: Actor) -> None:
        """The schedule counts again; the latest missed slot starts. Raises UnknownCollector, Unavailable."""
        self._find_job(name)
        await self._store.runs.resume(name)
        self.pauses.pop(name, None)
        self.tick(name)
        await self._audit("resume", name, actor)

    def _find_job(self, name: str) -> Job:
        if job := self.jobs.get(name):
            return job
        if not self.jobs and not self.is_loaded:
            raise Unavailable("the store has not answered yet: collectors start when it does")
        raise UnknownCollector(name, self.jobs)

    def _enabled(self) -> list[str]:
        return [job.name for job in self.jobs.values() if job.settings.enabled]

    def _last_slot(self, job: Job) -> datetime | None:
        live, shadow = self._slots[Mode.LIVE].get(job.name), self._slots[Mode.SHADOW].get(job.name)
        last = first_slot_after(live, shadow, job.settings.starts_after, self.mode)
        return max(filter(None, (last, self._skipped.get(job.name))), default=None)

    async def _claim_slots(self) -> None:
        """Claims what is due in the same moment in one transaction: a collector is asked only when its slot is durably
        its run's."""
        async with self._looking:  # the others of this moment join
            due, self._due = self._due, []
        results: Sequence[bool | Busy] = [False] * len(due)
        try:
            results = await self._store.runs.claim_slots(
                [Claim(each.run, known, job.forbids) for job, each, known in due]
            )
        except Unavailable as error:
            tell = log.debug if self._store.owner else log.error  # of a shared store that is away its beat tells once
            tell("slots can't be claimed: the store is lost", slots=len(due), reason=str(error))
        except Exception:
            log.exception("slots can't be claimed, by an error in the daemon itself")
        again = self._clock.now() + timedelta(seconds=BUSY_PAUSE)
        for number, ((job, handle, known), result) in enumerate(zip(due, results, strict=True), 1):
            if not number % _JOBS_A_TURN:
                await anyio.lowlevel.checkpoint()
            if result is True:
                self.active.start(job, handle)
                continue
            # Another replica had the slot, or something was in the way of the run.
            self.active.remove(handle)
            slots = self._slots[handle.run.mode]
            if slots.get(job.name) == handle.run.slot:
                slots.pop(job.name) if known is None else slots.update({job.name: known})
            self._look_again(job.name, again)
        if False in results:
            with suppress(Unavailable):  # a beat tells as well
                await self._load_slots()

    async def _begin_changes(self, job: Job, handle: RunHandle) -> bool:
        """Begins the run where the collector has something to measure after those before it."""
        await handle.wait_for_others()
        is_stopped = handle.ending or self.active.is_draining or job.name in self.pauses
        if is_stopped or not isinstance(job.collector, ChangeCollector):
            return False
        try:
            return await job.collector.has_changes(self._clock.now()) and await self.active.begin_after(job, handle)
        except Unavailable as error:
            log.error("no run by webhook: the store is lost", collector=job.name, reason=str(error))  # noqa: TRY400
            return False

    async def _load_slots(self) -> None:
        for mode in Mode:
            self._slots[mode] |= await self._store.runs.slots(mode)

    async def _audit(self, action: str, collector: str, actor: Actor, run_id: str = "") -> None:
        """Keeps who did what; what can't be kept is done all the same, and said in the log."""
        if not run_id:  # of a run its own lines say who asked for it
            log.info(action, collector=collector, **actor.log_fields())
        try:
            await self._store.runs.audit(AuditEntry(self._clock.now(), action, actor, collector, run_id))
        except Unavailable as error:
            log.error("the audit log can't be written", reason=str(error))  # noqa: TRY400 - the reason says it all
