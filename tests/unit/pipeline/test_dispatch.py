"""Which slot starts when: the CronJob controller's rules (facts of the Kubernetes documentation) under a fake clock."""

from dataclasses import replace
from datetime import datetime, timedelta

import anyio
import pytest

from service.config import ConcurrencyPolicy
from service.domain.checks import Check
from service.domain.errors import Rejected
from service.domain.runs import Cause, Outcome
from service.pipeline.dispatch import AlreadyRunning, Draining
from tests.unit.pipeline.fakes import START, Gate, MemoryRuns, Scripted, engine, job, settle


async def test_an_empty_store_counts_as_missed_and_then_each_slot_runs_once() -> None:
    async with engine(job()) as it:
        await it.clock.advance(35 * 60)
        assert it.starts() == ["10:00:00", "10:10:00", "10:20:00", "10:30:00", "10:40:00"]
        assert next(iter(it.store.runs.values())).slot.cause is Cause.CATCH_UP
        assert list(it.store.runs.values())[-1].slot.cause is Cause.SCHEDULE


async def test_a_crash_loop_runs_a_slot_once() -> None:
    store = MemoryRuns()
    for _ in range(5):
        async with engine(job(), store=store) as it:
            await it.clock.advance(1)
    assert it.starts() == ["10:00:00"]


async def test_after_down_time_only_the_latest_missed_slot_runs() -> None:
    store = MemoryRuns()
    async with engine(job(), store=store) as it:
        await it.clock.advance(1)
    it.clock.step(3 * 3600)
    async with engine(job(), store=store, clock=it.clock) as again:
        await again.clock.advance(1)
        assert again.starts() == ["10:00:00", "13:00:00"]


async def test_a_period_counts_on_from_the_last_slot_across_restarts() -> None:
    store = MemoryRuns()
    every = job(schedule="@every 90s")
    async with engine(every, store=store) as it:
        await it.clock.advance(100)
        assert it.starts() == ["10:07:30", "10:09:00"]
    it.clock.step(200)
    async with engine(every, store=store, clock=it.clock) as again:
        assert again.starts() == ["10:07:30", "10:09:00", "10:12:00"]
        assert again.dispatcher.next_run("ci") == START + timedelta(seconds=360)


async def test_forbid_starts_the_latest_missed_slot_when_the_run_ends() -> None:
    gate = Gate()
    async with engine(replace(job(gate), active_deadline=timedelta(hours=2))) as it:
        await it.clock.advance(25 * 60)
        assert it.starts() == ["10:00:00"]
        gate.let_go()
        await settle()
        assert it.starts() == ["10:00:00", "10:30:00"]


async def test_allow_lets_runs_overlap() -> None:
    gate = Gate()
    allowed = replace(job(gate), policy=ConcurrencyPolicy.ALLOW, active_deadline=timedelta(hours=2))
    async with engine(allowed) as it:
        await it.clock.advance(25 * 60)
        assert it.starts() == ["10:00:00", "10:10:00", "10:20:00", "10:30:00"]
        assert len(it.dispatcher.active("ci")) == 4


async def test_replace_cancels_the_active_run() -> None:
    replaced = replace(job(Gate()), policy=ConcurrencyPolicy.REPLACE, active_deadline=timedelta(hours=2))
    async with engine(replaced) as it:
        await it.clock.advance(5 * 60)
        outcomes = [run.outcome for run in it.store.runs.values()]
        assert outcomes == [Outcome.REPLACED, None]
        assert [run.slot.scheduled_at for run in it.dispatcher.active("ci")] == [START.replace(minute=10, second=0)]


@pytest.mark.parametrize(("deadline", "starts"), [(60, []), (600, ["10:00:00"])])
async def test_a_missed_slot_starts_only_within_its_starting_deadline(deadline: int, starts: list[str]) -> None:
    async with engine(replace(job(), starting_deadline=timedelta(seconds=deadline))) as it:
        assert it.starts() == starts


async def test_a_pause_starts_nothing_and_a_resume_starts_the_latest_missed_slot() -> None:
    async with engine(job()) as it:
        it.dispatcher.set_paused("ci", True)
        await it.clock.advance(30 * 60)
        assert it.starts() == ["10:00:00"]
        assert it.dispatcher.next_run("ci") is None
        it.dispatcher.set_paused("ci", False)
        await settle()
        assert it.starts() == ["10:00:00", "10:30:00"]


async def test_a_pause_survives_a_restart() -> None:
    store = MemoryRuns()
    store.pauses.add("ci")
    async with engine(job(), store=store) as it:
        await it.clock.advance(30 * 60)
        assert it.starts() == []


async def test_a_disabled_collector_has_no_schedule_but_can_be_triggered() -> None:
    async with engine(replace(job(), enabled=False)) as it:
        await it.clock.advance(30 * 60)
        assert it.starts() == []
        it.dispatcher.trigger("ci", Cause.HTTP)
        await settle()
        assert it.starts() == ["-"]


async def test_a_trigger_of_a_running_collector_names_the_run() -> None:
    async with engine(job(Gate())) as it:
        (running,) = it.dispatcher.active("ci")
        with pytest.raises(AlreadyRunning) as refused:
            it.dispatcher.trigger("ci", Cause.HTTP)
        assert refused.value.run_id == running.id


async def test_a_triggered_run_takes_no_slot() -> None:
    async with engine(job()) as it:
        it.dispatcher.trigger("ci", Cause.SIGNAL)
        await it.clock.advance(3 * 60)
        assert it.starts() == ["10:00:00", "-", "10:10:00"]


async def test_a_clock_that_steps_back_runs_no_slot_twice() -> None:
    async with engine(job()) as it:
        await it.clock.advance(13 * 60)
        it.clock.step(-15 * 60)
        await it.clock.advance(20 * 60)
        assert it.starts() == ["10:00:00", "10:10:00", "10:20:00"]


async def test_jitter_starts_each_run_by_the_same_amount_later() -> None:
    jittered = replace(job(), jitter=timedelta(seconds=100))
    async with engine(jittered) as it:
        await it.clock.advance(25 * 60)
        late = [
            run.started - run.slot.scheduled_at for run in list(it.store.runs.values())[1:] if run.slot.scheduled_at
        ]
        assert len(late) == 3
        assert all(timedelta(0) <= each - jittered.offset < timedelta(seconds=1) for each in late)


async def test_a_drain_lets_runs_end_and_starts_nothing_new() -> None:
    gate = Gate()
    async with engine(job(gate)) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.dispatcher.drain, 20)
            await settle()
            with pytest.raises(Draining):
                it.dispatcher.trigger("ci", Cause.HTTP)
            gate.let_go()
        assert [run.outcome for run in it.store.runs.values()] == [Outcome.COMPLETE]


async def test_one_collector_that_hangs_or_raises_leaves_the_others_alone() -> None:
    hanging, raising = job(Gate(), name="hangs"), job(Scripted([RuntimeError("bug")] * 100), name="raises")
    async with engine(hanging, raising, job()) as it:
        await it.clock.advance(20 * 60)
        assert it.starts() == ["10:00:00", "10:10:00", "10:20:00"]
        assert it.store.ended("hangs")[0].outcome is Outcome.DEADLINE_EXCEEDED
        assert it.store.ended("raises")[0].error == "unexpected RuntimeError: bug"


async def test_a_run_that_follows_begins_when_the_active_one_has_ended_and_others_join_it() -> None:
    gate = Gate()
    async with engine(job(gate)) as it:
        await settle()
        (first,) = it.dispatcher.active("ci")
        follower = it.dispatcher.follow("ci", Cause.HTTP)
        assert it.dispatcher.follow("ci", Cause.HTTP) == follower
        await settle()
        assert list(it.store.runs) == [first.id]
        gate.let_go()
        await settle()
        assert it.store.runs[first.id].outcome is Outcome.COMPLETE
        assert it.store.runs[follower.id].outcome is None
        gate.let_go()
        await settle()
        assert it.store.runs[follower.id].outcome is Outcome.COMPLETE
        assert it.dispatcher.follow("ci", Cause.HTTP).id not in (first.id, follower.id)
        gate.let_go()


@pytest.mark.parametrize("broken", ["last_success", "checks"])
async def test_an_error_of_our_own_ends_its_run_alone(broken: str) -> None:
    """In the store as well, where the error lets it; and the schedule goes on."""

    class Broken(MemoryRuns):
        async def last_success(self, job: str) -> datetime | None:
            raise ArithmeticError

    class Worse(MemoryRuns):
        async def checks(self, job: str) -> list[Check]:
            raise ArithmeticError

    store = Broken() if broken == "last_success" else Worse()
    failing = Scripted([Rejected("no")])
    async with engine(job(failing), store=store) as it:
        assert not it.dispatcher.all_active()
        await it.clock.advance(5 * 60)
        first = next(iter(store.runs.values()))
        if broken == "last_success":
            assert (first.outcome, first.ended) == (Outcome.FAILED, START)
            assert first.error == "an error in the daemon itself; its log says more"
        assert it.starts() == ["10:00:00", "10:10:00"]
