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
from tests.unit.pipeline.stage import CHECK, HERE, METRIC, FakeClock, Stage, make_job, settle, staged

OTHER = Metric("other.metric")


class Changing:
    """A collector with two checks, of which a change measures one. ``gate``: what its runs wait for.

    ``errors``: what its looks and its runs by webhook raise, one after the other. ``looks``: when it looked.
    """

    metrics = (METRIC, OTHER)
    repositories = ("o/r",)

    def __init__(self, *errors: Exception, clock: FakeClock | None = None, is_open: bool = True) -> None:
        self.changes, self.asked, self.looks = 1, list[str](), list[float]()
        self.errors = list(errors)
        self.watch = timedelta(seconds=20) if clock else None
        self._clock = clock or FakeClock()
        self.gate = anyio.Event()
        if is_open:
            self.gate.set()

    async def collect(self, now: datetime) -> CollectResult:
        self.asked.append("poll")
        await self.gate.wait()
        other = Sample(OTHER, 1, now, {**CHECK, "check": "other"})
        return CollectResult((Sample(METRIC, 1, now, CHECK), other))

    async def look(self) -> None:
        self.looks.append(self._clock.monotonic())
        if self.errors:
            raise self.errors.pop(0)

    async def has_changes(self, now: datetime) -> bool:
        return self.changes > 0

    async def collect_changes(self, now: datetime) -> CollectResult:
        self.asked.append("changes")
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.changes = 0
        return CollectResult((Sample(METRIC, 0, now, {**CHECK, "status": "fail"}),))


async def change(it: Stage, name: str = "ci") -> None:
    it.scheduler.start_changes(name)
    await settle()


async def test_a_change_is_measured_at_once_and_the_rest_keeps_its_state() -> None:
    async with staged(make_job(Changing())) as it:
        await it.clock.advance(1)
        (kept,) = [check for check in await it.store.checks.read("ci") if check.tags["check"] == "other"]
        await it.clock.advance(60)
        await change(it)
        run = (await it.runs())[-1]
        assert (run.cause, run.source, run.outcome, run.slot) == (Cause.WEBHOOK, "webhook", Outcome.COMPLETE, None)
        checks = {check.tags["check"]: check for check in await it.store.checks.read("ci")}
        assert checks["other"] == kept
        assert (checks["passing"].status, checks["passing"].measured_at) == ("fail", it.clock.now())
        # Only what was measured; nothing of the collector's health, which its polls decide.
        assert {tags.get("check") for _, _, tags in await it.samples()} == {"passing"}
        assert (await it.values()).items() >= {"test.metric": 0, "metta.infra.check.state": 1}.items()
        assert await it.store.runs.audit_entries() == []
        # Nothing is left to measure: there is no run.
        await change(it)
        assert len(await it.runs()) == 2
        assert it.scheduler.active.runs() == []


@pytest.mark.parametrize("policy", list(ConcurrencyPolicy))
async def test_a_change_waits_for_the_active_run_and_several_become_one(policy: ConcurrencyPolicy) -> None:
    collector = Changing(is_open=False)
    async with staged(make_job(collector, concurrency_policy=policy)) as it:
        for _ in range(3):
            await change(it)
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
            await change(it, name)
        assert collector.asked == ["poll"]
        assert it.scheduler.active.runs() == []
        await it.scheduler.resume("ci", HERE)
        await change(it)
        assert collector.asked == ["poll", "changes"]


async def test_who_triggers_a_run_waits_for_a_change_and_gets_a_whole_one() -> None:
    collector = Changing()
    async with staged(make_job(collector)) as it, anyio.create_task_group() as tasks:
        collector.gate = anyio.Event()
        await change(it)
        tasks.start_soon(it.scheduler.trigger, "ci", Cause.HTTP, HERE)
        await settle()
        assert collector.asked == ["poll", "changes"]
        collector.gate.set()
        await settle()
        assert collector.asked == ["poll", "changes", "poll"]


async def test_a_change_that_fails_or_hangs_is_not_tried_again_and_does_not_hide_how_the_polls_do() -> None:
    collector = Changing(Unavailable("GitHub is away"))
    async with staged(make_job(collector)) as it:
        await it.clock.advance(1)
        await change(it)
        run = (await it.runs())[-1]
        assert (run.attempts, run.outcome, run.error) == (1, Outcome.FAILED, "GitHub is away")
        assert await it.store.runs.last_failures() == {}
        assert [line["event"] for line in it.logs if line["log_level"] == "warning"] == ["run ended"]
        collector.gate = anyio.Event()
        await it.clock.advance(1)  # runs are listed by their start
        await change(it)
        await it.clock.advance(30)  # it would hold up the schedule
        assert await it.outcomes() == [Outcome.COMPLETE, Outcome.FAILED, Outcome.DEADLINE_EXCEEDED]
        await it.clock.advance(600)
        assert collector.asked == ["poll", "changes", "changes", "poll"]


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_drain_starts_no_change_that_waits_and_who_is_refused_is_told_the_run_before_it(is_over: bool) -> None:
    collector = Changing(is_open=False)
    async with staged(make_job(collector)) as it, anyio.create_task_group() as tasks:
        (poll,) = it.scheduler.active.runs()
        await change(it)
        with pytest.raises(Busy) as refusal:
            await it.scheduler.trigger("ci", Cause.HTTP, HERE)
        assert refusal.value.run_id == poll.id
        tasks.start_soon(it.scheduler.active.drain, 9 if is_over else 0)
        await settle()
        if is_over:
            collector.gate.set()
        await settle()
        assert collector.asked == ["poll"]
        assert it.scheduler.active.runs() == []


async def test_a_watch_looks_at_its_interval_after_errors_more_and_more_seldom_and_not_while_paused() -> None:
    clock = FakeClock()
    faults = Unavailable("away"), ValueError("odd"), Unavailable("limit", retry_after=300)
    held_up, fine, silent = Changing(*faults, clock=clock), Changing(clock=clock), Changing()
    jobs = [make_job(each, name=name) for name, each in (("held-up", held_up), ("fine", fine), ("silent", silent))]
    scheduler: Any = SimpleNamespace(pauses={}, start_changes=None)
    runs = WebhookRuns(Deliveries(clock), scheduler, clock)
    runs.set_jobs(jobs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runs.run)
        await clock.advance(490)
        assert held_up.looks == [20, 60, 140, 440, 460, 480]
        assert (fine.looks, silent.looks) == (list(range(20, 481, 20)), [])
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
