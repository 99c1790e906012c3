"""Changes of check states become events: one each, ten an hour, then one for the rest; and never anything else."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from service.domain.alerts import Event
from service.domain.checks import Check
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.runs import Cause, Outcome, Run, new_run_id
from service.domain.samples import Status
from service.pipeline.notifier import MAX_EVENT_AGE, MAX_EVENTS, Notifier
from service.store.checks import Checks
from tests.unit.pipeline.stage import START, Disk, FakeClock, make_job, settle, without_threads

PASS, FAIL = Status.PASS, Status.FAIL


def make_check(status: Status, name: str = "c", at: datetime = START, since: datetime = START) -> Check:
    names = {"source": "cron", "workflow_category": "ci", "workflow_name": "w", "task": "t", "check": name}
    return Check(tuple(names.items()), status, "< 5", since, 7.0, at, "metta.test")


class Events:
    """The intake's end for events; ``faults`` are raised first, one a try."""

    def __init__(self) -> None:
        self.sent: list[Event] = []
        self.tries = 0
        self.faults: list[Exception] = []
        self.came = anyio.Event()

    async def send_event(self, event: Event) -> None:
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(event)
        self.came.set()

    @property
    def titles(self) -> list[str]:
        return [event.title for event in self.sent]


class Here:
    """A notifier over a store, and runs that leave checks as the test says."""

    def __init__(self, disk: Disk, events: Any, clock: FakeClock, notify_after: int) -> None:
        self.disk, self.events, self.clock, self.store = disk, events, clock, disk.open(clock)
        jobs = {"ci": make_job(notify_after=notify_after)}
        self.notifier = Notifier(
            lambda: jobs, self.store, events, clock, interval=timedelta(minutes=5), page_url="https://health.example"
        )

    async def run_ends(self, *checks: Check) -> None:
        """A run ended and left these checks."""
        now = self.clock.now()
        run = Run(new_run_id("ci", now), "ci", Cause.HTTP, now, ended=now, outcome=Outcome.COMPLETE)
        await self.store.runs.end(run, (), checks)
        self.notifier.check_soon("ci")
        await self.notifier.notify(["ci"])

    async def flip_all(self, status: Status, names: Iterable[int]) -> None:
        await self.run_ends(*(make_check(status, f"c{name}") for name in names))


@asynccontextmanager
async def here(after: Here | None = None, notify_after: int = 1) -> AsyncIterator[Here]:
    """``after``: whose store, intake and clock the next process goes on with."""
    disk, clock, events = (after.disk, after.clock, after.events) if after else (Disk(), FakeClock(), Events())
    with without_threads():
        yield Here(disk, events, clock, notify_after)


async def test_each_change_is_one_event_with_value_condition_and_since() -> None:
    async with here() as it:
        await it.run_ends(make_check(PASS))
        later = START + timedelta(hours=3)
        await it.run_ends(make_check(FAIL, since=later))
        await it.run_ends(make_check(FAIL, since=later))
        (event,) = it.events.sent
        assert event.title == "w / t / c: pass -> fail"
        assert (event.alert_type, event.at) == ("error", later)
        for part in ("value: 7", "condition: < 5", "after 3 h 0 min of pass", "https://health.example"):
            assert part in event.text
        assert {"env:production", "check:c", "service:infra-health-dashboard"} <= set(event.tags)


async def test_a_restart_repeats_nothing_even_after_a_long_time() -> None:
    async with here() as first:
        await first.run_ends(make_check(PASS))
    await first.clock.advance(3 * 86400)
    async with here(after=first) as it:
        # The old value has grown too old meanwhile; that is the down time's doing, and no news.
        await it.notifier.notify([])
        await it.run_ends(make_check(PASS, at=it.clock.now()))
        assert it.events.sent == []


async def test_a_state_that_has_to_hold_is_told_once_by_whichever_process_is_there_then() -> None:
    async with here(notify_after=2) as first:
        await first.run_ends(make_check(PASS))
        await first.run_ends(replace(make_check(FAIL), cycles=1))
        await first.run_ends(replace(make_check(PASS), cycles=1))
        await first.run_ends(replace(make_check(FAIL), cycles=1))
        assert first.events.sent == []
    async with here(after=first, notify_after=2) as it:
        await it.run_ends(replace(make_check(FAIL), cycles=2))
        await it.run_ends(replace(make_check(FAIL), cycles=3))
        assert it.events.titles == ["w / t / c: pass -> fail"]


async def test_ten_an_hour_then_one_that_says_how_many_were_held_back() -> None:
    async with here() as it:
        await it.flip_all(PASS, range(30))
        await it.flip_all(FAIL, range(30))
        assert len(it.events.sent) == MAX_EVENTS + 1
        assert it.events.titles[-1] == "20 changes of check states were held back"
        assert it.events.sent[-1].text.count("fail since") == 20
        await it.clock.advance(600)
        await it.flip_all(PASS, range(30))
        assert len(it.events.sent) == MAX_EVENTS + 1
        await it.clock.advance(3001)
        await it.notifier.notify([])
        assert len(it.events.sent) == 2 * MAX_EVENTS + 2
        assert it.events.titles[-1] == "20 changes of check states were held back"


async def test_a_shadow_sends_nothing_and_what_it_saw_is_no_news_when_it_goes_live() -> None:
    async with here() as it:
        it.notifier.is_silent = True
        await it.run_ends(make_check(PASS))
        await it.run_ends(make_check(FAIL))
        it.notifier.is_silent = False
        await it.run_ends(make_check(FAIL))
        assert it.events.tries == 0
        await it.run_ends(make_check(PASS))
        assert it.events.titles == ["w / t / c: fail -> pass"]


async def test_an_event_of_long_ago_is_dated_as_early_as_datadog_takes_it() -> None:
    async with here() as it:
        await it.run_ends(make_check(PASS))
        await it.clock.advance(4 * 86400)
        await it.run_ends(make_check(PASS))  # stale for three days, as after a long outage of its source
        (event,) = it.events.sent
        assert "pass -> unknown" in event.title
        assert event.at == it.clock.now() - MAX_EVENT_AGE
        assert f"since: {START + timedelta(days=1):%Y-%m-%d %H:%M}" in event.text


async def test_an_outage_keeps_the_events_and_asks_less_and_less_often() -> None:
    async with here() as it:
        await it.run_ends(make_check(PASS))
        it.events.faults = [Unavailable("away")] * 3
        await it.run_ends(make_check(FAIL))
        for seconds, tries in ((29, 1), (1, 2), (59, 2), (1, 3), (120, 4)):
            await it.clock.advance(seconds)
            await it.notifier.notify([])
            assert it.events.tries == tries
        assert len(it.events.sent) == 1


@pytest.mark.parametrize("fault", [Unavailable("away"), Unauthorized("no key")])
async def test_an_event_that_could_not_be_sent_waits_for_the_next_process(fault: Exception) -> None:
    async with here() as first:
        await first.run_ends(make_check(PASS))
        first.events.faults = [fault]
        await first.run_ends(make_check(FAIL))
        assert first.events.sent == []
    async with here(after=first) as it:
        await it.notifier.notify([])
        assert len(it.events.sent) == 1


async def test_a_refused_event_is_dropped_and_the_next_one_goes() -> None:
    async with here() as it:
        await it.flip_all(PASS, range(2))
        it.events.faults = [Rejected("400")]
        await it.flip_all(FAIL, range(2))
        await it.notifier.notify([])
        assert it.events.titles == ["w / t / c1: pass -> fail"]


async def test_what_is_too_old_for_datadog_is_dropped() -> None:
    async with here() as it:
        await it.run_ends(make_check(PASS))
        it.events.faults = [Unavailable("away")]
        await it.run_ends(make_check(FAIL))
        await it.clock.advance(MAX_EVENT_AGE.total_seconds() + 1)
        await it.notifier.notify([])
        assert (it.events.sent, it.events.tries) == ([], 1)


async def test_while_the_store_is_lost_nothing_is_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("disk full")

    async with here() as it:
        await it.run_ends(make_check(PASS))
        with monkeypatch.context() as broken:
            broken.setattr(Checks, "settle_changes", fail)
            with pytest.raises(Unavailable):
                await it.run_ends(make_check(FAIL))
            with pytest.raises(Unavailable):
                await it.notifier.notify([])
        await it.notifier.notify([])
        assert len(it.events.sent) == 1


async def test_the_task_looks_between_runs_too() -> None:
    async with here() as it, anyio.create_task_group() as tasks:
        await it.run_ends(make_check(PASS, at=START - timedelta(hours=23, minutes=58)))
        tasks.start_soon(it.notifier.run)
        await it.clock.advance(200)
        await it.clock.advance(200)
        await settle()
        with anyio.fail_after(10):
            await it.events.came.wait()
        assert "pass -> unknown" in it.events.titles[0]
        tasks.cancel_scope.cancel()
