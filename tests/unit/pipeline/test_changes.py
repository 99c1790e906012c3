"""Runs of the cause webhook: when they start, what they leave alone, that none is lost; and who watches its source."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from service.collectors.github_ci.deliveries import Deliveries
from service.daemon.webhook_runs import WebhookRuns
from service.domain.errors import Unavailable
from service.domain.runs import Cause, CollectResult, ConcurrencyPolicy, Outcome
from service.domain.samples import Metric, Sample
from service.store import Busy
from tests.unit.pipeline.stage import CHECK, HERE, METRIC, FakeClock, make_job, settle, staged

OTHER = Metric("other.metric")


class Changing:
    """A collector with two checks, of which a change measures one. ``gate``: what its runs wait for."""

    metrics = (METRIC, OTHER)
    repositories = ("o/r",)
    watch: timedelta | None = None

    def __init__(self) -> None:
        self.changes, self.asked, self.error = 1, list[str](), Exception()
        self.gate = anyio.Event()
        self.gate.set()

    async def collect(self, now: datetime) -> CollectResult:
        self.asked.append("poll")
        await self.gate.wait()
        other = Sample(OTHER, 1, now, {**CHECK, "check": "other"})
        return CollectResult((Sample(METRIC, 1, now, CHECK), other))

    async def look(self) -> None:
        raise NotImplementedError

    async def has_changes(self, now: datetime) -> bool:
        return self.changes > 0

    async def collect_changes(self, now: datetime) -> CollectResult:
        self.asked.append("changes")
        await self.gate.wait()
        if isinstance(self.error, Unavailable):
            raise self.error
        self.changes = 0
        return CollectResult((Sample(METRIC, 0, now, {**CHECK, "status": "fail"}),))


async def test_who_is_refused_is_told_the_run_that_is_under_way_not_one_that_may_never_begin() -> None:
    collector = Changing()
    collector.gate = anyio.Event()
    async with staged(make_job(collector)) as it:
        (poll,) = it.scheduler.active.runs()
        it.scheduler.start_changes("ci")
        with pytest.raises(Busy) as refusal:
            await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        assert refusal.value.run_id == poll.id


async def test_a_change_is_measured_at_once_and_the_rest_keeps_its_state() -> None:
    async with staged(make_job(Changing())) as it:
        await it.clock.advance(1)
        (kept,) = [check for check in await it.store.checks.read("ci") if check.tags["check"] == "other"]
        await it.clock.advance(60)
        it.scheduler.start_changes("ci")
        await settle()
        run = (await it.runs())[-1]
        assert (run.cause, run.source, run.outcome, run.slot) == (Cause.WEBHOOK, "webhook", Outcome.COMPLETE, None)
        checks = {check.tags["check"]: check for check in await it.store.checks.read("ci")}
        assert checks["other"] == kept
        assert (checks["passing"].status, checks["passing"].measured_at) == ("fail", it.clock.now())
        # Only what was measured; nothing of the collector's health, which its polls decide.
        assert {tags["check"] for _, _, tags in await it.samples()} == {"passing"}
        stored = await it.values()
        assert stored.items() >= {"test.metric": 0, "metta.infra.check.state": 1}.items()
        assert not [metric for metric in stored if metric.startswith("metta.infra.collector.")]
        assert await it.store.runs.audit_entries() == []
        # Nothing is left to measure: there is no run.
        it.scheduler.start_changes("ci")
        await settle()
        assert len(await it.runs()) == 2
        assert it.scheduler.active.runs() == []


@pytest.mark.parametrize("policy", list(ConcurrencyPolicy))
async def test_a_change_waits_for_the_active_run_and_several_become_one(policy: ConcurrencyPolicy) -> None:
    collector = Changing()
    collector.gate = anyio.Event()
    async with staged(make_job(collector, concurrency_policy=policy)) as it:
        for _ in range(3):
            it.scheduler.start_changes("ci")
            await settle()
        assert collector.asked == ["poll"]
        collector.gate.set()
        await settle()
        assert collector.asked == ["poll", "changes"]
        assert await it.outcomes() == [Outcome.COMPLETE] * 2


async def test_paused_disabled_and_unknown_collectors_are_not_run_by_webhook() -> None:
    collector = Changing()
    async with staged(make_job(collector), make_job(collector, name="off", enabled=False)) as it:
        await it.scheduler.pause("ci", HERE)
        for name in ("ci", "off", "gone"):
            it.scheduler.start_changes(name)
        await settle()
        assert collector.asked == ["poll"]
        assert it.scheduler.active.runs() == []
        await it.scheduler.resume("ci", HERE)
        it.scheduler.start_changes("ci")
        await settle()
        assert collector.asked == ["poll", "changes"]


async def test_who_triggers_a_run_waits_for_a_change_and_gets_a_whole_one() -> None:
    collector = Changing()
    async with staged(make_job(collector)) as it, anyio.create_task_group() as tasks:
        collector.gate = anyio.Event()
        it.scheduler.start_changes("ci")
        await settle()
        tasks.start_soon(it.scheduler.trigger, "ci", Cause.HTTP, HERE)
        await settle()
        assert collector.asked == ["poll", "changes"]
        collector.gate.set()
        await settle()
        assert collector.asked == ["poll", "changes", "poll"]


async def test_a_change_that_hangs_is_ended_before_it_holds_up_the_schedule() -> None:
    collector = Changing()
    async with staged(make_job(collector)) as it:
        await it.clock.advance(60)
        collector.gate = anyio.Event()
        it.scheduler.start_changes("ci")
        await it.clock.advance(29)
        assert it.scheduler.active.runs() != []
        await it.clock.advance(1)
        assert await it.outcomes() == [Outcome.COMPLETE, Outcome.DEADLINE_EXCEEDED]


async def test_a_failed_change_is_not_tried_again_and_does_not_hide_how_the_polls_do() -> None:
    collector = Changing()
    async with staged(make_job(collector)) as it:
        await it.clock.advance(1)
        collector.error = Unavailable("GitHub is away")
        it.scheduler.start_changes("ci")
        await settle()
        run = (await it.runs())[-1]
        assert (run.attempts, run.outcome, run.error) == (1, Outcome.FAILED, "GitHub is away")
        assert await it.store.runs.last_failures() == {}
        assert [line["event"] for line in it.logs if line["log_level"] == "warning"] == ["run ended"]
        await it.clock.advance(600)
        assert collector.asked == ["poll", "changes", "poll"]


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_drain_starts_no_change_that_waits(is_over: bool) -> None:
    collector = Changing()
    collector.gate = anyio.Event()
    async with staged(make_job(collector)) as it, anyio.create_task_group() as tasks:
        it.scheduler.start_changes("ci")
        await settle()
        tasks.start_soon(it.scheduler.active.drain, 9 if is_over else 0)
        await settle()
        if is_over:
            collector.gate.set()
        await settle()
        assert collector.asked == ["poll"]
        assert it.scheduler.active.runs() == []


class Watching(Changing):
    """``errors``: what its looks raise, one after the other. ``looks``: when it looked."""

    watch: timedelta | None = timedelta(seconds=20)

    def __init__(self, clock: FakeClock, *errors: Exception) -> None:
        super().__init__()
        self._clock, self._errors, self.looks = clock, list(errors), list[float]()

    async def look(self) -> None:
        self.looks.append(self._clock.monotonic())
        if self._errors:
            raise self._errors.pop(0)


async def test_a_watch_looks_at_its_interval_after_errors_more_and_more_seldom_and_not_while_paused() -> None:
    clock = FakeClock()
    held_up = Watching(clock, Unavailable("away"), ValueError("odd"), Unavailable("limit", retry_after=300))
    fine, silent = Watching(clock), Watching(clock)
    silent.watch = None
    jobs = [make_job(each, name=name) for name, each in (("held-up", held_up), ("fine", fine), ("silent", silent))]
    scheduler: Any = SimpleNamespace(pauses={}, start_changes=None)
    runs = WebhookRuns(Deliveries(clock), scheduler, clock)
    runs.set_jobs(jobs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runs.run)
        await clock.advance(490)
        assert held_up.looks == [20, 60, 140, 440, 460, 480]
        assert fine.looks == list(range(20, 481, 20))
        assert silent.looks == []
        fine.looks.clear()
        scheduler.pauses["fine"] = object()
        await clock.advance(40)
        scheduler.pauses.clear()
        runs.set_jobs([])
        await clock.advance(60)
        assert fine.looks == []
        runs.set_jobs(jobs)
        await clock.advance(25)
        assert fine.looks == [610]
        tasks.cancel_scope.cancel()
