"""Which slot starts when, under a fake clock, and what callers may ask for.

The CronJob controller's rules (policies, starting deadline, missed slots, pauses, @every, steps of the clock) are in
test_scheduler_model.py.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from service.clock import SystemClock
from service.domain.errors import NotReady, Rejected, Unavailable, UnknownCollector
from service.domain.runs import Actor, Cause, ConcurrencyPolicy, Outcome, Run
from service.pipeline.runner import Runner
from service.pipeline.scheduler import Scheduler
from service.store import Beat, Busy, Claim, Store
from service.store.checks import Checks
from service.store.runs import Runs
from tests.unit.pipeline.stage import START, Disk, Gate, Scripted, make_job, settle, staged

HERE = Actor("10.0.0.1", "ann", "looks odd")


async def test_with_an_empty_store_every_collector_runs_at_once_and_then_each_slot_once() -> None:
    async with staged(make_job(starting_deadline=timedelta(seconds=10))) as it:
        await it.clock.advance(35 * 60)
        assert await it.starts() == ["10:00:00", "10:10:00", "10:20:00", "10:30:00", "10:40:00"]
        causes = [run.cause for run in await it.runs()]
        assert causes == [Cause.START] + [Cause.SCHEDULE] * 4


async def test_a_collector_that_is_new_beside_others_has_missed_its_last_slot() -> None:
    async with staged(make_job()) as it:
        await it.clock.advance(1)
    async with staged(make_job(), make_job(name="new"), after=it) as again:
        assert [run.cause for run in await again.runs("new")] == [Cause.CATCH_UP]


async def test_a_pause_starts_nothing_survives_a_restart_and_a_resume_starts_the_latest_missed_slot() -> None:
    async with staged(make_job()) as it:
        await it.scheduler.pause("ci", HERE)
        await it.clock.advance(30 * 60)
        assert await it.starts() == ["10:00:00"]
        assert "ci" in it.scheduler.pauses
    async with staged(make_job(), after=it) as again:
        await again.clock.advance(60)
        assert again.scheduler.pauses["ci"].actor == HERE
        await again.scheduler.resume("ci", HERE)
        await settle()
        assert await again.starts() == ["10:00:00", "10:30:00"]
        entries = await again.store.runs.audit_entries(10)
        assert [(entry.action, entry.collector, entry.actor) for entry in entries] == [
            ("resume", "ci", HERE),
            ("pause", "ci", HERE),
        ]


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
    async with staged(make_job(gate), after=it) as again:
        await again.clock.advance(25 * 60)
        assert await again.starts() == ["10:00:00", "-", "-"]
        # A run that is under way when it resumes does not add one for each slot that it held up.
        await again.scheduler.trigger("ci", Cause.HTTP, HERE)
        for _ in range(2):
            await again.scheduler.resume("ci", HERE)
        gate.open()
        await settle()
        gate.open()
        await again.clock.advance(60)
        later = (await again.runs())[3:]  # begun in one instant, so in any order
        slots = {run.cause: run.slot and f"{run.slot:%H:%M}" for run in later}
        assert (len(later), slots) == (2, {Cause.HTTP: None, Cause.CATCH_UP: "12:10"})


async def test_a_disabled_collector_has_no_schedule_but_can_be_triggered() -> None:
    async with staged(make_job(enabled=False)) as it:
        await it.clock.advance(30 * 60)
        assert await it.starts() == []
        await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        await settle()
        assert await it.starts() == ["-"]
        (entry,) = await it.store.runs.audit_entries(10)
        assert (entry.action, entry.run) == ("trigger", (await it.runs())[0].id)


async def test_a_trigger_of_a_running_collector_names_the_run() -> None:
    async with staged(make_job(Gate()), make_job(name="other", enabled=False)) as it:
        (running,) = it.scheduler.active.runs()
        with pytest.raises(Busy) as refused:
            await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        assert refused.value.run_id == running.id
        (triggered,) = await it.scheduler.trigger_all(Cause.SIGNAL, HERE)
        assert (triggered.run_id, triggered.is_new) == (running.id, False)
        with pytest.raises(UnknownCollector, match=r"'othr'; did you mean other\?"):
            await it.scheduler.trigger("othr", Cause.HTTP, HERE)


async def test_a_trigger_of_all_passes_over_what_a_reload_removes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, begin = [make_job(Gate(), name=name) for name in ("ci", "gone")], Runs.begin

    async def begin_and_reload(*arguments: Any, **options: Any) -> None:
        await begin(*arguments, **options)
        await it.scheduler.set_jobs(jobs[:1])

    async with staged(is_loaded=False) as it:
        await it.scheduler.set_jobs(jobs)
        monkeypatch.setattr(Runs, "begin", begin_and_reload)
        assert [each.collector for each in await it.scheduler.trigger_all(Cause.SIGNAL, HERE)] == ["ci"]


async def test_jitter_starts_each_run_by_the_same_amount_later() -> None:
    job = make_job(jitter=timedelta(seconds=100))
    async with staged(job) as it:
        await it.clock.advance(25 * 60)
        late = [run.started - run.slot for run in (await it.runs())[1:] if run.slot]
    assert len(late) == 3
    assert all(timedelta(0) <= each - job.offset < timedelta(seconds=1) for each in late)
    assert job.offset == make_job(jitter=timedelta(seconds=100)).offset != timedelta(0)


async def test_a_drain_without_time_keeps_what_is_under_way_as_interrupted() -> None:
    async with staged(make_job(Gate())) as it:
        await it.scheduler.active.drain(0)
        (run,) = await it.runs()
        assert (run.outcome, run.error) == (Outcome.INTERRUPTED, "the daemon ended before the run did")


async def test_a_drain_makes_no_further_attempt() -> None:
    """With everything unreachable the runs wait for their next attempt; the daemon's end does not wait with them."""
    async with staged(make_job(Scripted([Unavailable("away")] * 9))) as it:
        await it.scheduler.active.drain(20)
        (run,) = await it.runs()
        assert (run.outcome, run.attempts) == (Outcome.INTERRUPTED, 1)
        assert run.error == "away (the daemon ended before the next attempt)"
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
        gate.open()
        await settle()
        outcomes = {run.id: run.outcome for run in await it.runs()}
        assert outcomes == {first.id: Outcome.COMPLETE, waiting.id: None}
        gate.open()
        await settle()
        assert {run.outcome for run in await it.runs()} == {Outcome.COMPLETE}
        assert (await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)).id not in (first.id, waiting.id)


async def test_who_waits_for_a_run_that_nobody_carries_out_waits_without_asking_again_and_again() -> None:
    async with staged() as it, anyio.create_task_group() as tasks:
        answers: list[Run | None] = []

        async def wait() -> None:
            answers.append(await it.scheduler.active.wait("ci-lost", 30))

        tasks.start_soon(wait)
        await it.clock.advance(29)
        assert answers == []
        await it.clock.advance(1)
        assert answers == [None]


async def test_a_run_that_is_cancelled_while_it_waits_is_on_record_as_cancelled() -> None:
    gate = Gate()
    async with staged(make_job(gate)) as it:
        waiting = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await it.scheduler.cancel(waiting.id, HERE)
        gate.open()
        await it.clock.advance(3)
        outcomes = {run.id: run.outcome for run in await it.runs()}
        assert outcomes[waiting.id] is Outcome.CANCELLED


async def test_a_run_that_waits_for_another_replicas_can_be_cancelled_and_holds_up_no_drain() -> None:
    async with staged(make_job(enabled=False)) as it:
        other = Run("other", "ci", Cause.HTTP, START)
        await it.store.runs.begin(other, forbids=True)
        waiting = await it.scheduler.trigger_after("ci", Cause.PUSH, HERE)
        await it.clock.advance(5)
        await it.scheduler.cancel(waiting.id, HERE)
        await settle()
        assert [run.outcome for run in await it.runs()] == [None, Outcome.CANCELLED]
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


async def test_a_slot_that_another_replica_claimed_is_not_run_again() -> None:
    async with staged(make_job()) as it:
        other = replace((await it.runs())[0], id="other", slot=START.replace(minute=10, second=0))
        assert await it.store.runs.claim_slots([Claim(other, START.replace(minute=0, second=0), forbids=False)]) == [
            True
        ]
        await it.clock.advance(10 * 60)
        assert await it.starts() == ["10:00:00", "10:10:00"]
        await it.clock.advance(10 * 60)
        assert (await it.starts())[-1] == "10:20:00"


async def test_a_slot_waits_for_the_end_of_another_replicas_run() -> None:
    async with staged(make_job()) as it:
        other = replace((await it.runs())[0], id="other", slot=None, ended=None, outcome=None)
        await it.store.runs.begin(other, forbids=True)
        await it.clock.advance(4 * 60)
        assert await it.starts() == ["10:00:00", "-"]
        await it.store.runs.end(replace(other, ended=it.clock.now(), outcome=Outcome.COMPLETE))
        await it.clock.advance(3)
        assert sorted(await it.starts()) == ["-", "10:00:00", "10:10:00"]


async def test_a_slot_that_came_while_a_run_is_active_elsewhere_starts_with_the_beat_that_shows_its_end() -> None:
    async with staged(make_job()) as it:
        elsewhere = replace((await it.runs())[0], ended=None, outcome=None)
        beat = Beat(
            (), is_new=False, slots={}, pauses={}, active=(elsewhere,), own=frozenset(), cancelled={}, repeats=()
        )
        it.scheduler.follow(beat)
        await it.clock.advance(10 * 60)
        assert await it.starts() == ["10:00:00"]
        it.scheduler.follow(replace(beat, active=()))
        await settle()
        assert await it.starts() == ["10:00:00", "10:10:00"]


async def test_a_run_that_is_cancelled_while_a_shared_store_is_away_ends_on_record_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults, end = [Unavailable("away")] * 3, Runs.end

    async def fail(*arguments: Any) -> None:
        if faults:
            raise faults.pop()
        await end(*arguments)

    async with staged(make_job(Gate())) as it:
        monkeypatch.setattr(Store, "owner", "me")
        monkeypatch.setattr(Runs, "end", fail)
        await it.scheduler.cancel((await it.runs())[0].id, HERE)
        await it.clock.advance(30)
        assert [run.outcome for run in await it.runs()] == [Outcome.CANCELLED]


async def test_a_dead_replicas_slot_is_not_repeated_where_a_later_one_replaces_it() -> None:
    for policy, may in ((ConcurrencyPolicy.REPLACE, False), (ConcurrencyPolicy.ALLOW, True)):
        async with staged(make_job(concurrency_policy=policy)) as it:
            (first,) = await it.runs()
            assert it.scheduler.may_repeat(first)
            await it.clock.advance(10 * 60)
            assert it.scheduler.may_repeat(first) is may


@pytest.mark.parametrize("owner", ["", "me"])
async def test_a_slot_that_a_lost_store_could_not_claim_is_tried_again(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, original = [1, 2], Runs.claim_slots

    async def fail(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise Unavailable("away")
        return await original(*arguments)

    monkeypatch.setattr(Runs, "claim_slots", fail)
    monkeypatch.setattr(Store, "owner", owner)
    monkeypatch.setattr("service.store.runs._require_replica", lambda *_: None)
    async with staged(make_job()) as it:
        for _ in range(3):
            await it.clock.advance(2)
        assert [(run.slot, run.outcome) for run in await it.runs()] == [
            (START.replace(minute=0, second=0), Outcome.COMPLETE)
        ]


async def test_replace_ends_a_run_only_when_the_next_one_has_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Any:
        raise Unavailable("away")

    job = make_job(Gate(), concurrency_policy=ConcurrencyPolicy.REPLACE, active_deadline=timedelta(hours=1))
    async with staged(job) as it:
        with monkeypatch.context() as patch:
            patch.setattr(Runs, "claim_slots", fail)
            await it.clock.advance(10 * 60)
        assert [run.outcome for run in await it.runs()] == [None]
        await it.clock.advance(2)
        assert [run.outcome for run in await it.runs()] == [Outcome.REPLACED, None]


@pytest.mark.parametrize(("part", "broken"), [(Runs, "last_successes"), (Checks, "read")])
async def test_an_error_of_our_own_ends_its_run_alone(part: type, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(part, broken, fail)
    async with staged(make_job(Scripted([Rejected("no")]))) as it:
        assert not it.scheduler.active.runs()
        await it.clock.advance(5 * 60)
        first = (await it.runs())[0]
        assert (first.outcome, first.ended) == (Outcome.FAILED, START)
        assert first.error == "an error in the daemon itself; its log says more"
        assert await it.starts() == ["10:00:00", "10:10:00"]


async def test_the_timer_starts_a_slot_when_it_comes_and_beats() -> None:
    clock, ended = SystemClock(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        store = Disk().open(clock)
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
        assert (await store.runs.list())[0].cause is Cause.SCHEDULE
        tasks.cancel_scope.cancel()
