"""Which slot starts when, under a fake clock, and what callers may ask for.

The CronJob controller's rules (policies, starting deadline, missed slots, pauses, @every, steps of the clock) are in
test_scheduler_model.py.
"""

from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

import anyio
import pytest

from service.clock import SystemClock
from service.domain.errors import NotReady, Rejected, Unavailable, UnknownCollector
from service.domain.runs import Cause, ConcurrencyPolicy, Mode, Outcome, Run
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Beat, Claim, Store
from service.store.checks import Checks
from service.store.runs import Runs
from tests.unit.pipeline.stage import (
    HERE,
    START,
    Gate,
    Scripted,
    empty_store,
    lose_store,
    make_job,
    open_store,
    settle,
    staged,
)


async def test_with_an_empty_store_every_collector_runs_at_once_and_then_each_slot_once() -> None:
    """Jitter starts each by the same amount later; one that is new beside others has missed its last slot."""
    late = make_job(name="late", jitter=timedelta(seconds=100))
    async with staged(make_job(starting_deadline=timedelta(seconds=10)), late) as it:
        await it.clock.advance(25 * 60)
        assert await it.starts() == ["10:00:00", "10:10:00", "10:20:00", "10:30:00"]
        assert [run.cause for run in await it.runs()] == [Cause.START] + [Cause.SCHEDULE] * 3
        delays = [run.started - run.slot - late.offset for run in (await it.runs("late"))[1:] if run.slot]
        assert all(timedelta(0) <= each < timedelta(seconds=1) for each in delays)
        assert late.offset == make_job(name="late", jitter=timedelta(seconds=100)).offset != timedelta(0)
    async with staged(make_job(), make_job(name="new"), clock=it.clock) as again:
        assert [run.cause for run in await again.runs("new")] == [Cause.CATCH_UP]


async def test_a_paused_collector_stays_so_whatever_happens_and_a_resume_catches_up_once() -> None:
    """Who asks for a run (a push, a caller) gets that one; neither it nor a reload or a restart starts a slot."""
    async with staged(make_job()) as it:
        await it.scheduler.pause("ci", HERE)
        for ask in (it.scheduler.trigger_after("ci", Cause.PUSH, HERE), it.scheduler.trigger("ci", Cause.HTTP, HERE)):
            await it.clock.advance(25 * 60)
            await ask
        for schedule in ("*/5 * * * *", "*/10 * * * *"):  # reloads
            await it.scheduler.set_jobs([make_job(schedule=schedule)])
            it.scheduler.start_changes("ci")
            await it.clock.advance(25 * 60)
        assert await it.starts() == ["10:00:00", "-", "-"]
    gate = Gate()
    async with staged(make_job(gate), clock=it.clock) as again:
        await again.clock.advance(25 * 60)
        assert await again.starts() == ["10:00:00", "-", "-"]
        assert again.scheduler.pauses["ci"].actor == HERE
        # A run that is under way when it resumes does not add one for each slot that it held up.
        await again.scheduler.trigger("ci", Cause.HTTP, HERE)
        for _ in range(2):
            await again.scheduler.resume("ci", HERE)
        await gate.open()
        await gate.open()
        await again.clock.advance(60)
        later = (await again.runs())[3:]  # begun in one instant, so in any order
        slots = {run.cause: run.slot and f"{run.slot:%H:%M}" for run in later}
        assert (len(later), slots) == (2, {Cause.HTTP: None, Cause.CATCH_UP: "12:10"})
        entries = await again.store.runs.audit_entries(10)
        assert [entry.action for entry in entries] == ["resume", "resume", "trigger", "trigger", "push", "pause"]
        assert {(entry.collector, entry.actor) for entry in entries} == {("ci", HERE)}


async def test_a_disabled_collector_has_no_schedule_but_can_be_triggered() -> None:
    async with staged(make_job(enabled=False)) as it:
        await it.clock.advance(30 * 60)
        assert await it.starts() == []
        run = await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        await settle()
        assert await it.starts() == ["-"]
        (entry,) = await it.store.runs.audit_entries(10)
        assert (entry.action, entry.run) == ("trigger", run.id)
        with pytest.raises(UnknownCollector, match=r"'cii'; did you mean ci\?"):
            await it.scheduler.trigger("cii", Cause.HTTP, HERE)


@pytest.mark.parametrize(
    ("collector", "seconds", "error"),
    [
        (Gate(), 0, "the daemon ended before the run did"),
        # With everything unreachable the runs wait for their next attempt; the daemon's end does not wait with them.
        (Scripted(Unavailable("away")), 20, "away (the daemon ended before the next attempt)"),
    ],
)
async def test_a_drain_keeps_what_is_under_way_as_interrupted(collector: object, seconds: float, error: str) -> None:
    async with staged(make_job(collector)) as it:
        await it.scheduler.active.drain(seconds)
        (run,) = await it.runs()
        assert (run.outcome, run.attempts, run.error) == (Outcome.INTERRUPTED, 1, error)
        assert it.clock.now() == START


async def test_a_run_after_a_push_begins_when_the_active_one_has_ended_and_others_join_it() -> None:
    gate = Gate()
    async with staged(make_job(gate)) as it:
        (first,) = it.scheduler.active.runs()
        waiting = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        assert (await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)).id == waiting.id
        await settle()
        assert [run.id for run in await it.runs()] == [first.id]
        assert await it.scheduler.active.wait(waiting.id, 0) is None
        await gate.open()
        assert {run.id: run.outcome for run in await it.runs()} == {first.id: Outcome.COMPLETE, waiting.id: None}
        # One that is cancelled while it waits is on record as such.
        unwanted = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        assert unwanted.id not in (first.id, waiting.id)
        await it.scheduler.cancel(unwanted.id, HERE)
        await gate.open()
        await it.clock.advance(3)
        assert sorted(map(str, await it.outcomes())) == [Outcome.CANCELLED, Outcome.COMPLETE, Outcome.COMPLETE]


async def test_pushes_begin_only_so_many_runs_at_once_and_the_rest_is_one_run_after_them() -> None:
    gate = Gate()
    async with staged(make_job(gate, concurrency_policy=ConcurrencyPolicy.ALLOW)) as it:
        for _ in range(12):
            await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await settle()
        assert len(gate.calls) == 8
        await gate.open()
        assert len(gate.calls) == 1


async def test_a_run_that_waits_for_another_replicas_can_be_cancelled_and_holds_up_no_drain() -> None:
    async with staged(make_job(enabled=False)) as it:
        await it.store.runs.begin(Run("other", "ci", Cause.HTTP, START), forbids=True)
        waiting = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await it.clock.advance(5)
        await it.scheduler.cancel(waiting.id, HERE)
        await settle()
        assert await it.outcomes() == [None, Outcome.CANCELLED]
        waiting = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await it.scheduler.active.drain(0)
        assert {run.id: run.outcome for run in await it.runs()}[waiting.id] is Outcome.INTERRUPTED


async def test_a_collector_that_waits_for_a_push_runs_no_slot_and_catches_none_up() -> None:
    class Pushed(Scripted):
        waits_for: str | None = "waiting for a first push"

    collector = Pushed()
    async with staged(make_job(collector)) as it:
        await it.clock.advance(15 * 60)
        assert await it.starts() == []
        with pytest.raises(NotReady, match="waiting for a first push"):
            await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        assert await it.scheduler.trigger_all(Cause.HTTP, HERE) == []
        collector.waits_for = None
        await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await it.clock.advance(10 * 60)
        assert await it.starts() == ["-", "10:30:00"]


async def test_a_slot_that_another_replica_claimed_is_not_run_again_and_the_next_one_waits_for_its_run() -> None:
    async with staged(make_job()) as it:
        slot = START.replace(minute=10, second=0)
        other = replace((await it.runs())[0], id="other", slot=slot, ended=None, outcome=None)
        claim = Claim(other, START.replace(minute=0, second=0), forbids=True)
        assert await it.store.runs.claim_slots([claim]) == [True]
        await it.clock.advance(13 * 60)
        assert await it.starts() == ["10:00:00", "10:10:00"]
        await it.store.runs.end(replace(other, ended=it.clock.now(), outcome=Outcome.COMPLETE))
        await it.clock.advance(3)
        assert await it.starts() == ["10:00:00", "10:10:00", "10:20:00"]
        # Where a beat has told of the other's run, nothing is tried until a later one shows its end.
        beat = Beat((), False, slots={}, pauses={}, active=(other,), own=frozenset(), cancelled={}, repeats=())
        it.scheduler.follow(beat)
        await it.clock.advance(10 * 60)
        assert len(await it.starts()) == 3
        it.scheduler.follow(replace(beat, active=()))
        await settle()
        assert (await it.starts())[3:] == ["10:30:00"]


async def test_a_run_that_is_cancelled_while_a_shared_store_is_away_ends_on_record_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged(make_job(Gate())) as it:
        monkeypatch.setattr(Store, "owner", "me")
        lose_store(monkeypatch, Runs, "end", 3)
        monkeypatch.setattr("service.pipeline.runner._MAX_HELD", -1)  # one run alone may be larger than what is held
        await it.scheduler.cancel((await it.runs())[0].id, HERE)
        await it.clock.advance(30)
        (run,) = await it.runs()
        assert (run.outcome, run.error) == (Outcome.CANCELLED, "it was cancelled by ann: looks odd")


async def test_a_dead_replicas_slot_is_not_repeated_where_a_later_one_replaces_it() -> None:
    for policy, may in ((ConcurrencyPolicy.REPLACE, False), (ConcurrencyPolicy.ALLOW, True)):
        async with staged(make_job(concurrency_policy=policy)) as it:
            (first,) = await it.runs()
            assert it.scheduler.may_repeat(first)
            await it.clock.advance(10 * 60)
            assert it.scheduler.may_repeat(first) is may


async def test_a_slot_that_a_lost_store_could_not_claim_is_tried_again_and_replaces_nothing_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lose_store(monkeypatch, Runs, "claim_slots", 2)
    job = make_job(Gate(), concurrency_policy=ConcurrencyPolicy.REPLACE, active_deadline=timedelta(hours=1))
    async with staged(job) as it:
        for _ in range(3):
            await it.clock.advance(2)
        assert await it.starts() == ["10:00:00"]
        with monkeypatch.context() as patch:
            lose_store(patch, Runs, "claim_slots")
            await it.clock.advance(10 * 60)
        assert await it.outcomes() == [None]
        await it.clock.advance(2)
        assert await it.starts() == ["10:00:00", "10:10:00"]
        assert await it.outcomes() == [Outcome.REPLACED, None]


@pytest.mark.parametrize(("part", "broken"), [(Runs, "last_successes"), (Checks, "read")])
async def test_an_error_of_our_own_ends_its_run_alone(part: type, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(part, broken, fail)
    async with staged(make_job(Scripted(Rejected("no")))) as it:
        assert not it.scheduler.active.runs()
        await it.clock.advance(5 * 60)
        first = (await it.runs())[0]
        assert (first.outcome, first.ended) == (Outcome.FAILED, START)
        assert first.error == "an error in the daemon itself; its log says more"
        assert await it.starts() == ["10:00:00", "10:10:00"]


async def test_the_timer_starts_a_slot_when_it_comes_and_beats() -> None:
    clock, ended = SystemClock(), anyio.Event()
    empty_store()
    async with anyio.create_task_group() as tasks:
        store = open_store(clock)
        runner = Runner(store, clock, tasks, on_stored=lambda: None, on_end=lambda run: ended.set())
        scheduler = Scheduler(runner, store, clock, tasks)
        await scheduler.load()
        await scheduler.set_jobs([make_job(schedule="@every 1s")])
        with anyio.fail_after(20):
            await ended.wait()
            beat, ended = scheduler.beat, anyio.Event()
            tasks.start_soon(scheduler.run)
            await ended.wait()
        assert scheduler.beat > beat
        await scheduler.set_jobs([make_job(enabled=False)])
        with patch.object(scheduler, "start_due", wraps=scheduler.start_due) as looks:
            await anyio.sleep(0.3)
        assert looks.call_count < 5, "with nothing to start the timer waits"
        assert (await store.runs.list())[0].cause is Cause.SCHEDULE
        tasks.cancel_scope.cancel()


async def test_from_the_cronjob_to_the_daemon_and_back_no_slot_is_missed_or_run_twice() -> None:
    """The CronJob ran the slot of 10:10 last; a shadow looked on before, and does again afterwards."""
    last = START.replace(minute=10, second=0)
    async with staged(make_job(), mode=Mode.SHADOW) as shadow:
        await shadow.clock.advance(15 * 60)
        assert await shadow.starts() == ["10:00:00", "10:10:00", "10:20:00"]
        assert shadow.scheduler.last_slot("ci") is None
    for _ in range(2):  # a restart changes nothing, though starts_after still stands there
        shadow.clock.step(60)
        async with staged(make_job(starts_after=last), clock=shadow.clock, mode=Mode.LIVE) as live:
            await live.clock.advance(8 * 60)
    async with staged(make_job(), clock=shadow.clock, mode=Mode.SHADOW) as shadow:
        await shadow.clock.advance(10 * 60)
        runs = [(run.slot and run.slot.minute, run.mode) for run in (await shadow.runs())[3:]]
        assert runs == [(20, Mode.LIVE), (30, Mode.LIVE), (40, Mode.LIVE), (50, Mode.SHADOW)]
        assert shadow.scheduler.last_slot("ci") == last.replace(minute=40), "after which the CronJob goes on"
