"""One run: attempts, back-off, deadline, outcome, and what is stored of it."""

import asyncio
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from service.domain import checks
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD
from service.domain.errors import Rejected, Unavailable
from service.domain.runs import Cause, Collected, Fault, Outcome, Run
from service.domain.samples import Kind, Metric, Sample
from service.pipeline.ask import ask
from service.pipeline.job import DURATION, SAMPLES, SUCCESS_AGE, UP, Job
from tests.unit.pipeline.fakes import METRIC, START, Engine, Gate, Scripted, engine, job, settle

CHECK = {
    "source": "cron",
    "workflow_category": "ci",
    "workflow_name": "main",
    "task": "tests",
    "check": "passing",
    "condition": "> 0.5",
    "status": "pass",
}


async def ended(each: Job, seconds: float = 0, *, retry: bool = True) -> tuple[Run, Engine]:
    """The first run of a job after that time."""
    async with engine(each, retry=retry) as it:
        await it.clock.advance(seconds)
        return it.store.ended(each.name)[0], it


def test_back_off_and_deadline_fit_the_replaced_cronjobs() -> None:
    assert job().backoff_limit == 3
    assert job().active_deadline == timedelta(minutes=5)


async def test_a_fault_that_time_may_mend_is_tried_again_after_10_20_and_40_seconds() -> None:
    collector = Scripted([Unavailable("away")] * 4)
    async with engine(job(collector)) as it:
        calls = []
        for seconds in (9, 1, 19, 1, 39, 1):
            await it.clock.advance(seconds)
            await settle()
            calls.append(collector.calls)
        assert calls == [1, 2, 2, 3, 3, 4]
        (run,) = it.store.ended("ci")
    assert (run.outcome, run.attempts, run.error) == (Outcome.BACKOFF_LIMIT_EXCEEDED, 4, "away")


async def test_a_later_attempt_can_succeed() -> None:
    run, _ = await ended(job(Scripted([Unavailable("away")])), 11)
    assert (run.outcome, run.attempts, run.error) == (Outcome.COMPLETE, 2, None)


async def test_a_fault_that_time_cannot_mend_is_not_tried_again() -> None:
    run, _ = await ended(job(Scripted([Rejected("401")])))
    assert (run.outcome, run.attempts, run.error) == (Outcome.FAILED, 1, "401")


async def test_once_tries_once() -> None:
    run, _ = await ended(job(Scripted([Unavailable("away")])), retry=False)
    assert (run.outcome, run.attempts) == (Outcome.FAILED, 1)


async def test_a_run_that_hangs_ends_at_its_deadline() -> None:
    run, _ = await ended(replace(job(Gate()), active_deadline=timedelta(seconds=90)), 91)
    assert run.outcome is Outcome.DEADLINE_EXCEEDED
    assert run.error == "not done within 90 s"


async def test_no_try_is_waited_for_that_would_come_after_the_deadline() -> None:
    run, _ = await ended(job(Scripted([Unavailable("limited", retry_after=1800)])))
    assert run.outcome is Outcome.DEADLINE_EXCEEDED
    assert run.error == "limited (the next try would come after the deadline)"
    assert run.seconds == 0


async def test_a_collector_that_ignores_its_cancellation_does_not_hold_up_its_schedule() -> None:
    class Stubborn(Scripted):
        async def collect(self, now: object) -> Collected:
            with anyio.CancelScope(shield=True):
                await release.wait()
            return Collected()

    release = anyio.Event()
    stubborn = replace(job(Stubborn()), active_deadline=timedelta(seconds=60))
    async with engine(stubborn) as it:
        await it.clock.advance(10 * 60)
        assert it.starts() == ["10:00:00", "10:10:00"]
        release.set()


async def test_an_error_inside_a_collectors_task_group_is_told_as_itself() -> None:
    run, _ = await ended(job(Scripted([ExceptionGroup("tasks", [Rejected("no such repository")])])))
    assert (run.outcome, run.error) == (Outcome.FAILED, "no such repository")


async def test_parts_that_failed_make_a_run_partial_and_leave_the_others_samples() -> None:
    brought = Collected((Sample(METRIC, 3, START),), (Fault("403", part="pull requests"),), left_out=4)
    run, it = await ended(job(Scripted([brought])))
    assert run.outcome is Outcome.PARTIAL
    assert run.error == "pull requests: 403; and 3 more left out"
    assert [sample.value for sample in it.store.samples[run.id] if sample.metric == METRIC] == [3]


async def test_every_sample_leaves_with_the_required_tags_then_the_configured_then_its_own() -> None:
    sample = Sample(METRIC, 1, START, {"commit": "abc", **CHECK, "env": "spoofed"})
    tagged = replace(job(Scripted([Collected((sample,))])), tags={"team": "infra"})
    run, it = await ended(tagged)
    (sent,) = (each for each in it.store.samples[run.id] if each.metric == METRIC)
    assert list(sent.tags.items()) == [
        *CHECK.items(),
        ("env", "production"),
        ("service", "infra-health-dashboard"),
        ("version", "1.2.3"),
        ("team", "infra"),
        ("commit", "abc"),
    ]


async def test_a_count_gets_the_schedules_interval() -> None:
    count = Sample(Metric("test.count", Kind.COUNT), 5, START)
    run, it = await ended(job(Scripted([Collected((count,))]), schedule="0 * * * *"))
    assert [each.interval for each in it.store.samples[run.id] if each.metric.kind is Kind.COUNT] == [3600]


async def test_a_check_has_stable_series_whose_tags_do_not_flip() -> None:
    sample = Sample(METRIC, 0.9, START, CHECK | {"label": "bug"}, measured_at=START - timedelta(minutes=50))
    run, it = await ended(job(Scripted([Collected((sample,))])))
    stable = {
        each.metric: each for each in it.store.samples[run.id] if each.metric.name.startswith("metta.infra.check")
    }
    assert {metric: each.value for metric, each in stable.items()} == {
        CHECK_STATE: 0,
        CHECK_THRESHOLD: 0.5,
        CHECK_AGE: 3000,
    }
    tags = {name: value for name, value in CHECK.items() if name not in ("condition", "status")}
    assert stable[CHECK_STATE].tags == tags | {
        "label": "bug",
        "env": "production",
        "service": "infra-health-dashboard",
    }


async def test_a_failed_run_keeps_the_checks_and_says_that_the_collector_is_down() -> None:
    good = Collected((Sample(METRIC, 0.1, START, CHECK | {"status": "fail"}),))
    async with engine(job(Scripted([good, Rejected("gone")]))) as it:
        await it.clock.advance(3 * 60)
        run = it.store.ended("ci")[-1]
    values = {each.metric: each.value for each in it.store.samples[run.id]}
    assert run.outcome is Outcome.FAILED
    assert (values[CHECK_STATE], values[UP], values[SAMPLES], values[DURATION]) == (1, 0, 0, 0)
    assert values[SUCCESS_AGE] == values[CHECK_AGE] == 150


async def test_a_check_with_nothing_to_measure_is_unknown() -> None:
    script = [Collected((Sample(METRIC, 1, START, CHECK),)), Collected(unmeasured=(CHECK,))]
    async with engine(job(Scripted([*script]))) as it:
        await it.clock.advance(3 * 60)
        run = it.store.ended("ci")[-1]
    states = [each.value for each in it.store.samples[run.id] if each.metric == CHECK_STATE]
    assert states == [2]


async def test_own_metrics_carry_the_replaced_cronjobs_service() -> None:
    run, it = await ended(job())
    (up,) = (each for each in it.store.samples[run.id] if each.metric == UP)
    assert up.tags == {
        "collector": "ci",
        "env": "production",
        "service": "dashboard-collector",
        "version": "1.2.3",
    }


async def test_what_a_collector_remembers_is_stored_with_its_samples() -> None:
    _, it = await ended(job(Scripted([Collected(remember={"etag": b"abc"})])))
    assert it.store.memory == {("ci", "etag"): b"abc"}


@pytest.mark.parametrize("cause", [Cause.HTTP, Cause.SIGNAL, Cause.ONCE])
async def test_every_cause_goes_the_same_way(cause: Cause) -> None:
    async with engine(replace(job(), enabled=False)) as it:
        it.dispatcher.trigger("ci", cause, source="10.0.0.1")
        await settle()
        (run,) = it.store.ended("ci")
        assert (run.slot.cause, run.slot.source, run.outcome) == (cause, "10.0.0.1", Outcome.COMPLETE)
        assert run.samples == len(it.store.samples[run.id])
        assert it.stored == [START]


@pytest.mark.parametrize(
    ("brought", "told"),
    [
        (None, "unexpected TypeError: the collector brought NoneType instead of Collected"),
        (Collected(("x",)), "unexpected TypeError: the collector brought str among its samples"),  # type: ignore[arg-type]
        (
            Collected((Sample(METRIC, 1, START, {"gpu": 3}),)),  # type: ignore[dict-item]
            "unexpected TypeError: a tag of test.metric is not text: 'gpu': 3",
        ),
        *(
            (brought, f"unexpected TypeError: {told}")
            for brought, told in (
                (Collected((Sample("cpu", 1, START),)), "the collector brought a sample of 'cpu', which is no metric"),  # type: ignore[arg-type]
                (Collected((Sample(METRIC, 1, START, None),)), "the tags of test.metric are NoneType"),  # type: ignore[arg-type]
                (
                    Collected((Sample(METRIC, 1, START, measured_at=START.replace(tzinfo=None)),)),
                    f"test.metric was measured at {START.replace(tzinfo=None)!r}, which is no time with a zone",
                ),
                (
                    Collected((Sample(METRIC, 1, START, interval=1.5),)),  # type: ignore[arg-type]
                    "the interval of test.metric is no whole number of seconds: 1.5",
                ),
                (
                    Collected((Sample(METRIC, 1, START, evidence=("x",)),)),  # type: ignore[arg-type]
                    "the evidence of test.metric holds something else than Evidence",
                ),
                (Collected(faults=("403",)), "the collector brought '403' among its faults"),  # type: ignore[arg-type]
                (Collected(unmeasured=("x",)), "the collector brought 'x' among what it did not measure"),  # type: ignore[arg-type]
                (Collected(remember=None), "the collector wants to remember NoneType instead of a mapping"),  # type: ignore[arg-type]
                (Collected(remember={"at": 5}), "the collector wants to remember int under 'at' instead of bytes"),  # type: ignore[dict-item]
                (Collected(left_out="x"), "the collector left out 'x', which is no number"),  # type: ignore[arg-type]
            )
        ),
    ],
)
async def test_what_is_no_collected_fails_its_run_and_says_so(brought: Collected, told: str) -> None:
    class Rubbish(Scripted):
        async def collect(self, now: object) -> Collected:
            return brought

    run, it = await ended(replace(job(Rubbish()), backoff_limit=0))
    assert (run.outcome, run.error) == (Outcome.BACKOFF_LIMIT_EXCEEDED, told)
    assert [each.value for each in it.store.samples[run.id] if each.metric == UP] == [0]


class _NoExceptionError(BaseException):
    """As trio's and pytest's own: `except Exception` lets it through."""


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        _NoExceptionError(),
        BaseExceptionGroup("two", [KeyboardInterrupt(), _NoExceptionError()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_collector_that_tries_to_end_the_daemon_fails_its_run_alone(error: BaseException) -> None:
    class Ending(Scripted):
        async def collect(self, now: object) -> Collected:
            raise error

    async with engine(replace(job(Ending(), name="ends"), backoff_limit=0), job()) as it:
        await it.clock.advance(10 * 60)
        assert it.store.ended("ends")[0].outcome is Outcome.BACKOFF_LIMIT_EXCEEDED
        assert it.starts() == ["10:00:00", "10:10:00"]


async def test_a_collector_that_cancels_its_own_task_fails_its_run_alone() -> None:
    class Cancelling(Scripted):
        async def collect(self, now: object) -> Collected:
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.sleep(3600)
            return Collected()

    async with engine(replace(job(Cancelling(), name="cancels"), backoff_limit=0), job()) as it:
        await it.clock.advance(10 * 60)
        run = it.store.ended("cancels")[0]
        assert (run.outcome, run.error) == (
            Outcome.BACKOFF_LIMIT_EXCEEDED,
            "unexpected RuntimeError: the collector was cancelled by something of its own",
        )
        assert it.starts() == ["10:00:00", "10:10:00"]


async def test_others_go_on_while_very_many_samples_are_checked() -> None:
    count, turns, brought = 20_000, 0, anyio.Event()

    class Many(Scripted):
        async def collect(self, now: object) -> Collected:
            brought.set()
            return Collected((Sample(METRIC, 1, START),) * count)

    async def others() -> None:
        nonlocal turns
        await brought.wait()
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        collected = await ask(job(Many()), START)
        tasks.cancel_scope.cancel()
    assert len(collected.samples) == count
    assert turns >= 4


async def test_samples_may_come_from_a_generator() -> None:
    class Generating(Scripted):
        async def collect(self, now: object) -> Collected:
            return Collected(samples=(Sample(METRIC, value, START) for value in range(2)))  # type: ignore[arg-type]

    run, it = await ended(job(Generating()))
    assert run.outcome is Outcome.COMPLETE
    assert [each.value for each in it.store.samples[run.id] if each.metric == METRIC] == [0, 1]


async def test_an_error_that_can_t_be_printed_is_the_fault_of_its_run() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Mute(Scripted):
        async def collect(self, now: object) -> Collected:
            raise MuteError

    run, _ = await ended(replace(job(Mute()), backoff_limit=0))
    assert run.outcome is Outcome.BACKOFF_LIMIT_EXCEEDED
    assert run.error == "unexpected MuteError: <MuteError that can't be printed: RuntimeError>"


@pytest.mark.parametrize(
    ("metric", "value", "after", "why"),
    [
        ("1st näme", 1, 0, "the metric's name does not begin with a letter"),
        ("test.other", math.nan, 0, "the value is no finite number"),
        ("test.other", -math.inf, 0, "the value is no finite number"),
        ("test.other", 10**400, 0, "the value is no finite number"),
        ("test.other", None, 0, "the value is no finite number"),
        ("test.other", 1, 601, "the time is more than 10 minutes in the future"),
    ],
)
async def test_samples_that_datadog_could_not_take_are_left_out_and_reported(
    metric: str, value: float, after: int, why: str
) -> None:
    bad = Sample(Metric(metric), value, START + timedelta(seconds=after))
    run, it = await ended(job(Scripted([Collected((bad, bad, Sample(METRIC, 2, START)))])))
    assert run.outcome is Outcome.PARTIAL
    assert run.error == f"metric {metric!r}: {why} (2 samples)"
    assert METRIC in {each.metric for each in it.store.samples[run.id]}
    assert bad.metric not in {each.metric for each in it.store.samples[run.id]}


async def test_a_fault_is_kept_as_text_that_a_page_can_hold() -> None:
    brought = Collected((Sample(METRIC, 2, START),), (Fault("half a pair \ud800 " + "z" * 20_000, "part \udfff"),))
    run, _ = await ended(job(Scripted([brought])))
    (fault,) = run.faults
    assert fault.part == "part ?"
    assert fault.reason.startswith("half a pair ? z")
    assert len(fault.reason) == 1000


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))}, "the time is before 1970"),
        ({"measured_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))}, "the time is before 1970"),
        ({"interval": 10**30}, "an interval of 1e+30 seconds"),
        ({"interval": -5}, "an interval of -5 seconds"),
    ],
)
async def test_times_that_the_store_could_not_hold_are_left_out_and_reported(bad: dict[str, Any], why: str) -> None:
    brought = (replace(Sample(Metric("test.other"), 1, START), **bad), Sample(METRIC, 2, START))
    run, it = await ended(job(Scripted([Collected(brought)])))
    assert (run.outcome, run.error) == (Outcome.PARTIAL, f"metric 'test.other': {why}")
    assert METRIC in {each.metric for each in it.store.samples[run.id]}


async def test_the_series_of_many_checks_follow_their_run() -> None:
    """They are thrice as many as the samples that it is there for, and must not hold these up."""
    count = checks.FEW + 1
    many = tuple(Sample(METRIC, 1, START, CHECK | {"workflow_name": f"w{number}"}) for number in range(count))
    old = Sample(METRIC, 1, START, CHECK | {"workflow_name": "old"}, measured_at=START - timedelta(hours=25))
    async with engine(replace(job(Scripted([Collected((*many, old))])), enabled=False)) as it:
        run = await it.dispatcher.wait(it.dispatcher.trigger("ci", Cause.HTTP).id)
        assert run
        in_run = [each.value for each in it.store.samples[run.id] if each.metric == CHECK_STATE]
        followed = [each.value for each in it.store.beats if each.metric == CHECK_STATE]
    assert len(it.store.known["ci"]) == count + 1
    assert in_run == [2]  # what has grown too old, for the run's own record
    assert followed == [0] * count + [2]
    assert len([each for each in it.store.beats if each.metric == CHECK_THRESHOLD]) == count + 1
