"""The scheduler against a simple model of the CronJob controller, over random sequences of what can happen.

The model walks through the schedule's fires second by second (no search, no events, no tasks).
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import anyio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain.runs import Actor, Cause, CollectResult, ConcurrencyPolicy, Outcome
from service.domain.samples import Metric
from service.store import Busy
from tests.unit.pipeline.stage import METRIC, START, Disk, FakeClock, make_job, settle, staged

T = TypeVar("T")

ACTIVE_DEADLINE = timedelta(minutes=25)
HERE = Actor("here")


class Gates:
    """A collector whose every call waits until the test lets it end; calls that hang wait for their deadline."""

    metrics: tuple[Metric, ...] = (METRIC,)

    def __init__(self) -> None:
        self.calls: list[anyio.Event] = []

    async def collect(self, now: datetime) -> CollectResult:
        call = anyio.Event()
        self.calls.append(call)
        try:
            await call.wait()
        finally:
            self.calls.remove(call)
        return CollectResult()


@dataclass
class ModelRun:
    slot: int | None
    deadline: int  # elapsed seconds
    outcome: Outcome | None = None


@dataclass
class Model:
    """Seconds everywhere. ``wall`` and ``elapsed`` are the two clocks; ``every``: slots count from the last one.

    ``skipped``: the slot that came too late; whatever the clock does it does not start, but for a restart.
    """

    policy: ConcurrencyPolicy
    deadline: int | None
    period: int
    every: bool
    wall: int
    elapsed: int = 0
    last: int | None = None
    skipped: int = 0
    paused: bool = False
    runs: list[ModelRun] = field(default_factory=list)

    @property
    def active(self) -> list[ModelRun]:
        return [run for run in self.runs if run.outcome is None]

    def latest(self) -> int | None:
        """The latest slot that has come and was not started."""
        if self.last is None:
            return self.wall if self.every else self.wall // self.period * self.period
        slot = max(self.last, self.skipped)
        slot = slot if self.every else slot // self.period * self.period
        found = None
        while slot + self.period <= self.wall:
            slot += self.period
            found = slot
        return found

    def tick(self) -> None:
        slot = self.latest()
        if self.paused or slot is None:
            return
        is_late = self.deadline is not None and self.wall - slot > self.deadline
        if is_late and self.last is not None:  # the first run, with an empty store, is never too late
            self.skipped = slot
            return
        if self.active and self.policy is ConcurrencyPolicy.FORBID:
            return
        self.last = slot
        self.start(slot)

    def start(self, slot: int | None) -> None:
        if self.policy is ConcurrencyPolicy.REPLACE:
            for run in self.active:
                run.outcome = Outcome.REPLACED
        self.runs.append(ModelRun(slot, self.elapsed + int(ACTIVE_DEADLINE.total_seconds())))

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.elapsed += 1
            self.wall += 1
            for run in self.active:
                if run.deadline <= self.elapsed:
                    run.outcome = Outcome.DEADLINE_EXCEEDED
            self.tick()


class SchedulerMachine(RuleBasedStateMachine):
    """One job; the scheduler over the real store and the model are told the same."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @initialize(
        policy=st.sampled_from(ConcurrencyPolicy),
        deadline=st.sampled_from([None, 0, 30, 400]),
        schedule=st.sampled_from([("*/10 * * * *", 600, False), ("* * * * *", 60, False), ("@every 90s", 90, True)]),
    )
    def begin(self, policy: ConcurrencyPolicy, deadline: int | None, schedule: tuple[str, int, bool]) -> None:
        expression, period, every = schedule
        self.gates = Gates()
        self.job = make_job(
            self.gates,
            schedule=expression,
            concurrency_policy=policy,
            starting_deadline=None if deadline is None else timedelta(seconds=deadline),
            active_deadline=ACTIVE_DEADLINE,
        )
        self.clock, self.disk = FakeClock(), Disk()
        self.model = Model(policy, deadline, period, every, int(START.timestamp()))
        self.run(self._start())

    async def _start(self) -> None:
        """The scheduler lives in a task of its own, to which its task group belongs."""
        ready, self.kill = anyio.Event(), anyio.Event()

        async def live() -> None:
            async with staged(self.job, clock=self.clock, disk=self.disk) as self.stage:
                ready.set()
                await self.kill.wait()

        self.life = asyncio.create_task(live())
        await ready.wait()
        self.model.tick()

    @rule(seconds=st.one_of(st.integers(1, 90), st.integers(1, 1200)))
    def time_passes(self, seconds: int) -> None:
        self.run(self.clock.advance(seconds))
        self.run(settle())
        self.model.pass_time(seconds)

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def a_run_ends(self, data: st.DataObject) -> None:
        """The others hang on, to their deadline if nobody ends them."""
        index = data.draw(st.integers(0, len(self.gates.calls) - 1))
        self.gates.calls[index].set()
        self.run(settle())
        self.model.active[index].outcome = Outcome.COMPLETE
        self.model.tick()

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def a_run_is_cancelled(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.gates.calls) - 1))
        self.run(self.stage.scheduler.cancel(self.stage.scheduler.active.runs()[index].id, HERE))
        self.run(settle())
        self.model.active[index].outcome = Outcome.CANCELLED
        self.model.tick()

    @rule()
    def pause(self) -> None:
        self.run(self.stage.scheduler.pause(self.job.name, HERE))
        self.run(settle())
        self.model.paused = True

    @rule()
    def resume(self) -> None:
        self.run(self.stage.scheduler.resume(self.job.name, HERE))
        self.run(settle())
        self.model.paused = False
        self.model.tick()

    @rule(down=st.integers(0, 4000))
    def crash_and_restart(self, down: int) -> None:
        self.run(self._crash(down))

    async def _crash(self, down: int) -> None:
        self.kill.set()
        await self.life
        self.clock.step(down)
        self.model.wall += down
        self.model.skipped = 0
        for run in self.model.active:
            run.outcome = Outcome.INTERRUPTED
        await self._start()

    @rule(seconds=st.integers(-4000, 4000))
    def the_clock_steps(self, seconds: int) -> None:
        """The timer sees it within a second; its stand-in at once."""
        self.run(self._step(seconds))
        self.model.wall += seconds
        self.model.tick()

    async def _step(self, seconds: int) -> None:
        self.clock.step(seconds)
        await settle()

    @precondition(lambda self: len(self.model.active) < 8)
    @rule()
    def trigger(self) -> None:
        refused = self.run(self._trigger())
        expected = bool(self.model.active) and self.model.policy is ConcurrencyPolicy.FORBID
        assert refused is expected
        if not refused:
            self.model.start(None)

    async def _trigger(self) -> bool:
        try:
            await self.stage.scheduler.trigger(self.job.name, Cause.HTTP, HERE)
        except Busy:
            return True
        finally:
            await settle()
        return False

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        # By slot: where the clock stepped, the order of the starts is not that in which they were made.
        runs = self.run(self.stage.runs())
        ours = [(run.slot and int(run.slot.timestamp()), run.outcome) for run in runs]
        theirs = [(run.slot, run.outcome) for run in self.model.runs]
        assert sorted(ours, key=str) == sorted(theirs, key=str)
        slots = [slot for slot, _ in ours if slot is not None]
        assert len(slots) == len(set(slots))

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.kill.set()
            self.run(asyncio.wait_for(self.life, 5))
        self._loop.close()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate),  # to shrink a sequence takes minutes
)
