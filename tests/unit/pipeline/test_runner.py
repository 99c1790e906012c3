"""One run: attempts, back-off, deadline, outcome, what is stored of it, and what the heartbeat sends until the next."""

import asyncio
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import anyio
import pytest

from service.collectors.registry import CollectorState
from service.config.masking import mask
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE, Check
from service.domain.errors import ConfigError, Rejected, Unavailable
from service.domain.runs import Cause, CollectResult, ConcurrencyPolicy, NoData, Outcome, PartialFailure
from service.domain.samples import Kind, Metric, Sample, Status
from service.pipeline.enrich import MANY_CHECKS, enrich, own_samples, prepare_samples
from service.pipeline.heartbeat import Heartbeat
from service.pipeline.job import DURATION, POINTS_LOST, SAMPLES, SUCCESS_AGE, UP
from service.store import Store
from tests.unit.pipeline.stage import CHECK, HERE, METRIC, START, Gate, Scripted, make_job, settle, staged

FAILED, LIMIT, DEADLINE = Outcome.FAILED, Outcome.BACKOFF_LIMIT_EXCEEDED, Outcome.DEADLINE_EXCEEDED


async def test_a_fault_that_time_may_mend_is_tried_again_after_10_20_and_40_seconds_but_not_by_once() -> None:
    faults = Unavailable("away"), RuntimeError("odd"), Unavailable("away"), Unavailable("away")
    for retry, outcome, attempts, pauses in ((True, LIMIT, 4, [10, 20, 40]), (False, FAILED, 1, [])):
        async with staged(make_job(Scripted(*faults)), retry=retry) as it:
            await it.clock.advance(2 * 60)
            (run,) = await it.runs()
            assert (run.outcome, run.attempts, run.error) == (outcome, attempts, "away")
            assert [line["next_in_seconds"] for line in it.logs if line["event"] == "attempt failed"] == pauses
            assert run.seconds == sum(pauses)


@pytest.mark.parametrize(
    ("step", "outcome", "error", "seconds"),
    [
        (Rejected("no"), FAILED, "no", 0),  # time can't mend it
        (ConfigError("no"), FAILED, "no", 0),
        (ExceptionGroup("a", [OSError(), ExceptionGroup("b", [Rejected("gone")])]), FAILED, "gone", 0),
        (KeyError("run"), LIMIT, "unexpected KeyError: 'run'", 10),
        (asyncio.CancelledError(), LIMIT, "the collector was cancelled by something of its own", 10),
        (10_000.0, DEADLINE, "not done within 90 s", 90),
        (Unavailable("off", retry_after=99), DEADLINE, "off (the next attempt would come after the deadline)", 0),
    ],
)
async def test_whatever_a_collector_does_is_the_fault_of_its_run_alone(
    step: BaseException | float, outcome: Outcome, error: str, seconds: float
) -> None:
    odd = make_job(Scripted(*[step] * 4), name="odd", backoff_limit=1, active_deadline=timedelta(seconds=90))
    async with staged(odd, make_job()) as it:
        await it.clock.advance(5 * 60)
        assert {(run.outcome, run.error, run.seconds) for run in await it.runs("odd")} == {(outcome, error, seconds)}
        assert await it.starts("odd") == await it.starts() == ["10:00:00", "10:10:00"]


async def test_what_a_foreign_collector_says_of_itself_may_fail_and_costs_no_sample() -> None:
    class Odd(Scripted):
        def asks_for(self, check: Check) -> bool:
            raise ValueError("no idea")

        def own_values(self, now: datetime) -> dict[Metric, float]:
            raise KeyError("quota")

    class Waiting(Scripted):
        @property
        def waits_for(self) -> str:
            raise OSError("no file")

    class Nothing(Scripted):
        async def collect(self, now: datetime) -> Any: ...

    measured = CollectResult((Sample(METRIC, 1, START, CHECK),))
    odd, waiting = make_job(Odd(measured, measured)), make_job(Waiting(), name="waiting")
    async with staged(odd, waiting, make_job(Nothing(), name="nothing", backoff_limit=0)) as it:
        await it.clock.advance(5 * 60)
        run = (await it.runs())[-1]
        assert run.outcome is Outcome.PARTIAL
        assert run.error == "asks_for: unexpected ValueError: no idea; own_values: unexpected KeyError: 'quota'"
        assert (await it.values())[METRIC.name] == 1
        assert not await it.runs("waiting")
        assert waiting.waits_for == "its waits_for raised an unexpected OSError: no file"
        assert (await it.runs("nothing"))[0].error == "collect returned NoneType instead of a CollectResult"


async def test_of_two_runs_that_end_together_each_keeps_what_it_measured() -> None:
    class Counting(Gate):
        async def collect(self, now: datetime) -> CollectResult:
            check = {**CHECK, "check": f"number {len(self.calls)}"}
            await super().collect(now)
            return CollectResult((Sample(METRIC, 1, now, check),))

    gate = Counting()
    async with staged(make_job(gate, concurrency_policy=ConcurrencyPolicy.ALLOW)) as it:
        await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        await settle()
        await gate.open()
        assert {each.tags["check"] for each in await it.store.checks.read("ci")} == {"number 0", "number 1"}


async def test_a_run_that_another_replica_ended_meanwhile_is_told_as_interrupted() -> None:
    async with staged(make_job(gate := Gate())) as it:
        (run,) = it.scheduler.active.runs()
        await it.store.runs.end(replace(run, outcome=Outcome.INTERRUPTED, ended=START))  # as its inheritor does
        await gate.open()
        assert [each.outcome for each in it.ended] == [Outcome.INTERRUPTED]


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


async def test_parts_that_failed_make_a_run_partial_and_leave_the_others_samples() -> None:
    mask(["ghp_very_secret"])
    long = PartialFailure("ghp_very_secret \ud800 " + "z" * 20_000)
    result = CollectResult((Sample(METRIC, 3, START),), (PartialFailure("403", part="pull requests"), long), skipped=4)
    async with staged(make_job(Scripted(result))) as it:
        (run,) = await it.runs()
        assert run.outcome is Outcome.PARTIAL
        first, second, last = map(str, run.errors)
        assert (first, last) == ("pull requests: 403", "and 2 more left out")
        assert (second[:12], len(second)) == ("******** ? z", 1000)
        assert (await it.values())[METRIC.name] == 3


async def test_a_run_stores_its_samples_its_checks_series_and_its_collectors_health() -> None:
    good = CollectResult((Sample(METRIC, 0.1, START, CHECK | {"status": "fail"}),))
    async with staged(make_job(Scripted(good, Rejected("gone")))) as it:
        (run,) = await it.runs()
        found = await it.values()
        assert (found[METRIC.name], found[CHECK_STATE.name], run.samples) == (0.1, 1, len(await it.samples()))
        assert (found[UP.name], found[SAMPLES.name], found[SUCCESS_AGE.name], found[POINTS_LOST.name]) == (1, 1, 0, 0)
        assert it.stored == [START]
        assert [each.id for each in it.ended] == [run.id]
        # One that failed keeps the checks and says that the collector is down.
        await it.clock.advance(3 * 60)
        found = await it.values()
        assert (found[CHECK_STATE.name], found[UP.name], found[SAMPLES.name], found[DURATION.name]) == (1, 0, 0, 0)
        assert found[SUCCESS_AGE.name] == found[CHECK_AGE.name] == 150


async def test_state_is_stored_with_the_samples_unless_another_run_has_changed_it_meanwhile() -> None:
    class Counting(Scripted):
        async def collect(self, now: datetime) -> CollectResult:
            known = int(await job.state.read("count") or 0)
            if known == 1:
                await it.store.states.write("ci", {"count": b"50"})
            return CollectResult(state={"count": b"%d" % (known + 1)})

    async with staged() as it:
        job: Any = make_job(Counting(), state=CollectorState(it.store.states, "ci"))
        await it.scheduler.set_jobs([job])
        for count in (b"50", b"51", b"52"):
            await it.clock.advance(10 * 60)
            assert (await it.store.states.read("ci", "count"))[0] == count


async def test_a_lasting_fault_is_news_once_and_its_end_too() -> None:
    faults = (Rejected(reason) for reason in ("limit opens in 9 s", "limit opens in 4 s", "gone"))
    async with staged(make_job(Scripted(*faults))) as it:
        await it.clock.advance(30 * 60)
        loud = [line for line in it.logs if line["log_level"] in ("warning", "error") or "again" in line["event"]]
    told = [(line["event"], line.get("reason") or line.get("after")) for line in loud]
    assert told[:2] == [("run failed", "limit opens in 9 s"), ("run failed", "gone")]
    assert told[2:] == [("the collector works again", "gone")]
    assert loud[-1]["runs"] == 3


async def test_the_series_of_many_checks_follow_their_run() -> None:
    """They are thrice as many as the samples that it is there for, and must not hold these up."""
    count = MANY_CHECKS + 1
    many = tuple(Sample(METRIC, 1, START, CHECK | {"workflow_name": f"w{number}"}) for number in range(count))
    async with staged(make_job(Scripted(CollectResult(many)), enabled=False)) as it:
        run = await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        await it.scheduler.active.wait(run.id, 10)
        assert len(await it.store.checks.read("ci")) == count
        assert CHECK_STATE.name not in await it.values()
        assert (await it.store.outbox.pending()).samples == len(await it.samples()) + 4 * count


async def claim(store: Store) -> list[tuple[str, float]]:
    """Metrics and values of what is to be sent, which is not given again."""
    chunks = await store.outbox.claim(START + timedelta(days=9), 10**9, 10**6)
    return [(point.metric, point.value) for chunk in chunks for point in chunk.points]


async def test_checks_are_sent_again_every_five_minutes_with_their_growing_age_until_they_are_unknown() -> None:
    measured = CollectResult((Sample(METRIC, 1, START, CHECK),))
    job = make_job(Scripted(measured), schedule="@weekly", max_age=timedelta(minutes=12))
    async with staged(job) as it, anyio.create_task_group() as tasks:
        await claim(it.store)
        on_stored = partial(it.stored.append, START)
        heartbeat = Heartbeat(lambda: it.scheduler.jobs, it.store, it.clock, timedelta(minutes=5), on_stored)
        tasks.start_soon(heartbeat.run)
        await it.clock.advance(15 * 60)
        values = await claim(it.store)
        assert [value for metric, value in values if metric == CHECK_STATE.name] == [0, 0, 2]
        assert [value for metric, value in values if metric == CHECK_AGE.name] == [300, 600, 900]
        assert [value for metric, value in values if metric == SUCCESS_AGE.name] == [300, 600, 900]
        assert len(it.stored) == 4
        # While the collector is paused nobody is woken by the age of its checks.
        await it.scheduler.pause("ci", HERE)
        await it.clock.advance(5 * 60)
        names = {metric for metric, _ in await claim(it.store)}
        assert (CHECK_STATE.name in names, CHECK_AGE.name in names) == (True, False)
        tasks.cancel_scope.cancel()


# What a run's samples become before they are stored


OURS = {"env": "production", "service": "infra-health-dashboard"}


def prepare(own: dict[str, str], value: float = 1, **job: Any) -> dict[str, str]:
    (sample,), errors = prepare_samples(make_job(**job), [Sample(METRIC, value, START, own)], START)
    assert not errors
    return dict(sample.tags)


def test_a_check_is_sent_with_the_required_tags_then_the_configured_then_its_own() -> None:
    tags = prepare({"commit": "abc", **CHECK, "Env": "spoofed"}, tags={"team": "infra", "commit": "none"})
    expected = {**CHECK, **OURS, "version": "1.2.3", "team": "infra", "commit": "abc"}
    assert list(tags.items()) == list(expected.items())


def test_a_sample_that_lacks_a_tag_of_checks_is_a_plain_metric() -> None:
    own = {name: value for name, value in CHECK.items() if name != "task"} | {"service": "mine", "team": "own"}
    assert prepare(own, tags={"team": "infra", "zone": "a"}) == {**own, **OURS, "version": "1.2.3", "zone": "a"}
    assert enrich(make_job(), CollectResult((Sample(METRIC, 1, START, own),)), [], START).checks == []


@pytest.mark.parametrize(
    ("own", "status"),
    [
        ({"condition": "< 5", "status": "degraded"}, "fail"),
        ({"condition": "< 9", "status": "fail"}, "fail"),
        ({}, "unknown"),
    ],
)
def test_a_check_without_a_status_gets_the_verdict_of_its_condition(own: dict[str, str], status: str) -> None:
    tags = prepare({"workflow_name": "w", "task": "t", "check": "c", **own}, 6)
    assert (tags["status"], tags["condition"]) == (status, own.get("condition", "none"))
    assert (tags["source"], tags["workflow_category"]) == ("none", "none")


def test_a_count_gets_the_schedules_interval() -> None:
    count = Metric("test.count", Kind.COUNT)
    samples = [Sample(count, 5, START), Sample(count, 5, START, interval=60), Sample(METRIC, 1, START)]
    prepared, _ = prepare_samples(make_job(schedule="0 * * * *"), samples, START)
    assert [each.interval for each in prepared] == [3600, 60, None]


@pytest.mark.parametrize(
    ("metric", "change", "fault"),
    [
        ("1st näme", {}, "the metric's name does not begin with a letter"),
        ("test.other", {"value": math.nan}, "the value is no finite number"),
        ("test.other", {"value": 10**400}, "the value is no finite number"),
        ("test.other", {"at": START + timedelta(seconds=601)}, "the time is more than 10 minutes in the future"),
        ("test.other", {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))}, "the time is before 1970"),
        ("test.other", {"interval": 10**30}, "an interval of 1e+30 seconds"),
    ],
)
def test_samples_that_can_t_be_sent_are_left_out_and_reported(metric: str, change: dict[str, Any], fault: str) -> None:
    bad = replace(Sample(Metric(metric), 1, START), **change)
    good, errors = prepare_samples(make_job(), [bad, bad, Sample(METRIC, 2, START)], START)
    assert [each.metric for each in good] == [METRIC]
    assert [str(error) for error in errors] == [f"metric {metric!r}: {fault} (2 samples)"]


def test_a_check_has_stable_series_whose_tags_do_not_flip() -> None:
    sample = Sample(METRIC, 0.9, START, CHECK | {"label": "bug"}, START - timedelta(minutes=50))
    enriched = enrich(make_job(), CollectResult((sample,)), [], START)
    values = {each.metric: each.value for each in enriched.series}
    assert values == {CHECK_STATE: 0, CHECK_THRESHOLD: 0.5, CHECK_VALUE: 0.9, CHECK_AGE: 3000}
    stable = {name: value for name, value in CHECK.items() if name not in ("condition", "status")}
    assert all(each.tags == stable | {"label": "bug"} | OURS for each in enriched.series)


def test_a_check_with_nothing_to_measure_is_unknown_under_the_same_key() -> None:
    names = {"workflow_name": "w", "task": "t", "check": "c"}
    job = make_job(tags={"repo": "a/b"})
    measured = enrich(job, CollectResult((Sample(METRIC, 1, START, names),)), [], START)
    after = enrich(job, CollectResult(no_data=(NoData(names),)), measured.checks, START)
    assert [check.status for check in after.checks] == [Status.UNKNOWN]


def test_a_collector_says_which_checks_its_settings_ask_for_no_more_and_values_of_its_health() -> None:
    quota = Metric("metta.infra.collector.quota_remaining")

    class Telling(Scripted):
        def asks_for(self, check: Check) -> bool:
            return check.tags["task"] != "gone"

        def own_values(self, now: datetime) -> dict[Metric, float]:
            return {quota: 17, METRIC: math.nan}

    asked, gone = Sample(METRIC, 1, START, CHECK), Sample(METRIC, 1, START, CHECK | {"task": "gone"})
    both, job = enrich(make_job(), CollectResult((asked, gone)), [], START).checks, make_job(Telling())
    left = enrich(job, CollectResult(), both, START)
    assert [check.tags["task"] for check in left.checks] == [CHECK["task"]]
    assert {sample.tags["task"] for sample in left.series} == {CHECK["task"]}
    (sample,) = own_samples(job, left.own_values, START)
    assert (sample.metric, sample.value) == (quota, 17)
    tags = {"collector": "ci", "env": "production", "service": "dashboard-collector", "version": "1.2.3"}
    assert sample.tags == tags
