"""The scheduler against a simple model of the CronJob controller, over random sequences of what can happen.

The model walks through the schedule's fires second by second (no search, no tasks).
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import anyio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain.runs import Cause, ConcurrencyPolicy, Outcome
from service.store import Busy
from tests.unit.pipeline.stage import HERE, START, FakeClock, Gate, empty_store, make_job, settle, staged

T = TypeVar("T")

ACTIVE_DEADLINE = timedelta(minutes=25)
Seconds = st.one_of(st.integers(1, 90), st.integers(1, 1200))


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
    wall: int = int(START.timestamp())
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

    def end(self, index: int, outcome: Outcome) -> None:
        self.active[index].outcome = outcome
        self.tick()

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.elapsed += 1
            self.wall += 1
            overdue = [run for run in self.active if run.deadline <= self.elapsed]
            for run in overdue:
                run.outcome = Outcome.DEADLINE_EXCEEDED
            if overdue or self.latest() == self.wall:
                self.tick()


class SchedulerMachine(RuleBasedStateMachine):
    """One job; the scheduler over the real store and the model are told the same.

    Each step takes time, or most sequences would come to nothing: Hypothesis leaves some of the rules out of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``, and all that follows from it."""
        result = self._loop.run_until_complete(work)
        self._loop.run_until_complete(settle())
        return result

    @initialize(
        policy=st.sampled_from(ConcurrencyPolicy),
        deadline=st.sampled_from([None, 0, 30, 400]),
        schedule=st.sampled_from([("*/10 * * * *", 600, False), ("* * * * *", 60, False), ("@every 90s", 90, True)]),
    )
    def begin(self, policy: ConcurrencyPolicy, deadline: int | None, schedule: tuple[str, int, bool]) -> None:
        expression, period, every = schedule
        self.gate, self.clock = Gate(), FakeClock()
        self.job = make_job(
            self.gate,
            schedule=expression,
            concurrency_policy=policy,
            starting_deadline=None if deadline is None else timedelta(seconds=deadline),
            active_deadline=ACTIVE_DEADLINE,
        )
        self.model = Model(policy, deadline, period, every)
        empty_store()
        self.run(self._start())

    async def _start(self) -> None:
        """The scheduler lives in a task of its own, to which its task group belongs."""
        ready, self.kill = anyio.Event(), anyio.Event()

        async def live() -> None:
            async with staged(self.job, clock=self.clock) as self.stage:
                ready.set()
                await self.kill.wait()

        self.life = asyncio.create_task(live())
        await ready.wait()
        self.model.tick()

    @rule(seconds=Seconds)
    def time_passes(self, seconds: int) -> None:
        self.run(self.clock.advance(seconds))
        self.model.pass_time(seconds)

    @precondition(lambda self: self.model.active)
    @rule(data=st.data(), is_cancelled=st.booleans(), seconds=Seconds)
    def a_run_ends(self, data: st.DataObject, is_cancelled: bool, seconds: int) -> None:
        """The others hang on, to their deadline if nobody ends them."""
        index = data.draw(st.integers(0, len(self.model.active) - 1))
        if is_cancelled:
            self.run(self.stage.scheduler.cancel(self.stage.scheduler.active.runs()[index].id, HERE))
        else:
            self.gate.calls[index].set()
            self.run(settle())
        self.model.end(index, Outcome.CANCELLED if is_cancelled else Outcome.COMPLETE)
        self.time_passes(seconds)

    @rule(seconds=Seconds)
    def pause_or_resume(self, seconds: int) -> None:
        change = self.stage.scheduler.resume if self.model.paused else self.stage.scheduler.pause
        self.run(change(self.job.name, HERE))
        self.model.paused = not self.model.paused
        self.model.tick()
        self.time_passes(seconds)

    @rule(down=st.integers(0, 4000), seconds=Seconds)
    def crash_and_restart(self, down: int, seconds: int) -> None:
        self.kill.set()
        self.run(asyncio.wait_for(self.life, 5))
        self.clock.step(down)
        self.model.wall += down
        self.model.skipped = 0
        for run in self.model.active:
            run.outcome = Outcome.INTERRUPTED
        self.run(self._start())
        self.time_passes(seconds)

    @rule(step=st.integers(-4000, 4000), seconds=Seconds)
    def the_clock_steps(self, step: int, seconds: int) -> None:
        """The timer sees it within a second; its stand-in at once."""
        self.clock.step(step)
        self.run(settle())
        self.model.wall += step
        self.model.tick()
        self.time_passes(seconds)

    @precondition(lambda self: len(self.model.active) < 8)
    @rule(seconds=Seconds)
    def trigger(self, seconds: int) -> None:
        is_refused = False
        try:
            self.run(self.stage.scheduler.trigger(self.job.name, Cause.HTTP, HERE))
        except Busy:
            is_refused = True
        assert is_refused is (bool(self.model.active) and self.model.policy is ConcurrencyPolicy.FORBID)
        if not is_refused:
            self.model.start(None)
        self.time_passes(seconds)

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        # By slot: where the clock stepped, the order of the starts is not that in which they were made.
        runs = [(run.slot and int(run.slot.timestamp()), run.outcome) for run in self.run(self.stage.runs())]
        assert sorted(runs, key=str) == sorted(((run.slot, run.outcome) for run in self.model.runs), key=str)
        slots = [slot for slot, _ in runs if slot is not None]
        assert len(slots) == len(set(slots))

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.kill.set()
            self.run(asyncio.wait_for(self.life, 5))
        self._loop.close()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate),  # to shrink a sequence takes minutes
)
