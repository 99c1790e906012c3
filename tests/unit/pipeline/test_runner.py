"""One run: attempts, back-off, deadline, outcome, and what is stored of it."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from service.collectors.registry import CollectorState
from service.config.masking import mask
from service.domain.checks import CHECK_AGE, CHECK_STATE
from service.domain.errors import ConfigError, Rejected, Unauthorized, Unavailable
from service.domain.runs import Actor, Cause, CollectResult, Outcome, PartialFailure, Run
from service.domain.samples import Sample
from service.pipeline.enrich import MANY_CHECKS
from service.pipeline.job import DURATION, POINTS_LOST, SAMPLES, SUCCESS_AGE, UP, Job
from tests.unit.pipeline.stage import CHECK, METRIC, START, Gate, Scripted, make_job, staged, values


async def first_run(job: Job, seconds: float = 0, *, retry: bool = True) -> Run:
    """The first run of a job after that time."""
    async with staged(job, retry=retry) as it:
        await it.clock.advance(seconds)
        return (await it.runs(job.name))[0]


async def test_a_fault_that_time_may_mend_is_tried_again_after_10_20_and_40_seconds() -> None:
    collector = Scripted([Unavailable("away"), RuntimeError("odd"), Unavailable("away"), Unavailable("away")])
    async with staged(make_job(collector)) as it:
        calls = []
        for seconds in (9, 1, 19, 1, 39, 1):
            await it.clock.advance(seconds)
            await it.clock.advance(0)
            calls.append(collector.calls)
        assert calls == [1, 2, 2, 3, 3, 4]
        (run,) = await it.runs()
    assert (run.outcome, run.attempts, run.error) == (Outcome.BACKOFF_LIMIT_EXCEEDED, 4, "away")


@pytest.mark.parametrize(
    ("error", "retry"),
    [(Rejected("no"), True), (Unauthorized("no"), True), (ConfigError("no"), True), (Unavailable("no"), False)],
)
async def test_a_fault_that_time_cannot_mend_is_not_tried_again_nor_is_any_by_once(
    error: Exception, retry: bool
) -> None:
    run = await first_run(make_job(Scripted([error])), 60, retry=retry)
    assert (run.outcome, run.attempts, run.error) == (Outcome.FAILED, 1, "no")


async def test_a_run_that_hangs_ends_at_its_deadline() -> None:
    run = await first_run(make_job(Gate(), active_deadline=timedelta(seconds=90)), 91)
    assert (run.outcome, run.error) == (Outcome.DEADLINE_EXCEEDED, "not done within 90 s")


async def test_no_attempt_is_waited_for_that_would_come_after_the_deadline() -> None:
    run = await first_run(make_job(Scripted([Unavailable("limited", retry_after=1800)])))
    assert run.outcome is Outcome.DEADLINE_EXCEEDED
    assert run.error == "limited (the next attempt would come after the deadline)"
    assert run.seconds == 0


async def test_a_run_that_another_replica_ended_meanwhile_is_told_as_interrupted() -> None:
    gate = Gate()
    async with staged(make_job(gate)) as it:
        (run,) = it.scheduler.active.runs()
        await it.store.runs.end(replace(run, outcome=Outcome.INTERRUPTED, ended=START))  # as its inheritor does
        gate.open()
        await it.clock.advance(1)
        assert [each.outcome for each in it.ended] == [Outcome.INTERRUPTED]
        assert any("taken for dead" in str(line.get("reason")) for line in it.logs)


async def test_a_collector_that_ignores_its_cancellation_does_not_hold_up_its_schedule() -> None:
    class Stubborn(Scripted):
        async def collect(self, now: object) -> CollectResult:
            with anyio.CancelScope(shield=True):
                await release.wait()
            return CollectResult()

    release = anyio.Event()
    async with staged(make_job(Stubborn(), active_deadline=timedelta(seconds=60))) as it:
        await it.clock.advance(10 * 60)
        assert await it.starts() == ["10:00:00", "10:10:00"]
        release.set()


class Raising(Scripted):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def collect(self, now: datetime) -> CollectResult:
        raise self._error


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (ExceptionGroup("a", [OSError(), ExceptionGroup("b", [Rejected("gone")])]), Outcome.FAILED, "gone"),
        (KeyError("run"), Outcome.BACKOFF_LIMIT_EXCEEDED, "unexpected KeyError: 'run'"),
        (ExceptionGroup("a", [ValueError("x")]), Outcome.BACKOFF_LIMIT_EXCEEDED, "unexpected ValueError: x"),
        (
            asyncio.CancelledError(),
            Outcome.BACKOFF_LIMIT_EXCEEDED,
            "the collector was cancelled by something of its own",
        ),
    ],
)
async def test_whatever_a_collector_raises_is_the_fault_of_its_run_alone(
    error: BaseException, outcome: Outcome, reason: str
) -> None:
    async with staged(make_job(Raising(error), name="odd", backoff_limit=0), make_job()) as it:
        await it.clock.advance(10 * 60)
        assert [(run.outcome, run.error) for run in await it.runs("odd")] == [(outcome, reason)] * 2
        assert await it.starts() == ["10:00:00", "10:10:00"]


async def test_parts_that_failed_make_a_run_partial_and_leave_the_others_samples() -> None:
    secret = "ghp_very_secret"
    mask([secret])
    long = PartialFailure(f"{secret} \ud800 " + "z" * 20_000, "half \udfff")
    result = CollectResult((Sample(METRIC, 3, START),), (PartialFailure("403", part="pull requests"), long), skipped=4)
    async with staged(make_job(Scripted([result]))) as it:
        (run,) = await it.runs()
        assert run.outcome is Outcome.PARTIAL
        first, second, last = run.errors
        assert (str(first), second.part, str(last)) == ("pull requests: 403", "half ?", "and 2 more left out")
        assert second.reason.startswith("******** ? z")
        assert len(second.reason) == 1000
        assert values(await it.samples())[METRIC.name] == 3


async def test_a_run_stores_its_samples_its_checks_series_and_its_collectors_health() -> None:
    result = CollectResult((Sample(METRIC, 1, START, CHECK),))
    async with staged(make_job(Scripted([result]))) as it:
        (run,) = await it.runs()
        found = values(await it.samples(run))
        assert {METRIC.name, CHECK_STATE.name, UP.name} <= set(found)
        assert run.samples == len(await it.samples(run))
        assert (found[UP.name], found[SAMPLES.name], found[SUCCESS_AGE.name], found[POINTS_LOST.name]) == (1, 1, 0, 0)
        assert it.stored == [START]
        assert [each.id for each in it.ended] == [run.id]


async def test_a_failed_run_keeps_the_checks_and_says_that_the_collector_is_down() -> None:
    good = CollectResult((Sample(METRIC, 0.1, START, CHECK | {"status": "fail"}),))
    async with staged(make_job(Scripted([good, Rejected("gone")]))) as it:
        await it.clock.advance(3 * 60)
        found = values(await it.samples((await it.runs())[-1]))
    assert (found[CHECK_STATE.name], found[UP.name], found[SAMPLES.name], found[DURATION.name]) == (1, 0, 0, 0)
    assert found[SUCCESS_AGE.name] == found[CHECK_AGE.name] == 150


async def test_state_is_stored_with_the_samples_unless_another_run_has_changed_it_meanwhile() -> None:
    class Counting(Scripted):
        async def collect(self, now: datetime) -> CollectResult:
            known = await job.state.read("count") or b"0"
            if known == b"1":
                await it.store.states.write("ci", {"count": b"50"})
            return CollectResult(state={"count": b"%d" % (int(known) + 1)})

    class Stated(Job):
        state: Any

    async with staged() as it:
        job: Any = make_job(Counting(), state=CollectorState(it.store.states, "ci"))
        await it.scheduler.set_jobs([job])
        seen = []
        for _ in range(3):
            await it.clock.advance(10 * 60)
            seen.append((await it.store.states.read("ci", "count"))[0])
    assert seen == [b"50", b"51", b"52"]


async def test_a_lasting_fault_is_news_once_and_its_end_too() -> None:
    collector = Scripted([Rejected("limit opens in 9 s"), Rejected("limit opens in 4 s"), Rejected("gone")])
    async with staged(make_job(collector)) as it:
        await it.clock.advance(30 * 60)
        loud = [line for line in it.logs if line["log_level"] in ("warning", "error") or "again" in line["event"]]
    assert [(line["event"], line.get("reason") or line.get("after")) for line in loud] == [
        ("run failed", "limit opens in 9 s"),
        ("run failed", "gone"),
        ("the collector works again", "gone"),
    ]
    assert loud[-1]["runs"] == 3


async def test_the_series_of_many_checks_follow_their_run() -> None:
    """They are thrice as many as the samples that it is there for, and must not hold these up."""
    count = MANY_CHECKS + 1
    many = tuple(Sample(METRIC, 1, START, CHECK | {"workflow_name": f"w{number}"}) for number in range(count))
    async with staged(make_job(Scripted([CollectResult(many)]), enabled=False)) as it:
        run = await it.scheduler.trigger("ci", Cause.HTTP, Actor("here"))
        await it.scheduler.active.wait(run.id, 10)
        assert len(await it.store.checks.read("ci")) == count
        assert CHECK_STATE.name not in values(await it.samples(run))
        assert (await it.store.outbox.pending()).samples == len(await it.samples(run)) + 4 * count
