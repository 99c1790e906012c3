"""Changes of check states become events: one each, ten an hour, then one for the rest; and never anything else."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import anyio
import pytest

from service.domain.alerts import Event
from service.domain.checks import Check
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.runs import Cause, Outcome, Run, new_run_id
from service.domain.samples import Status
from service.pipeline.notifier import MAX_EVENT_AGE, MAX_EVENTS, Notifier
from service.store.checks import Checks
from tests.unit.pipeline.stage import START, FakeClock, empty_store, lose_store, make_job, open_store, without_threads

PASS, FAIL = Status.PASS, Status.FAIL


class Here:
    """A notifier over a store, and the intake's end for events (``faults`` are raised first, one a try)."""

    def __init__(self) -> None:
        empty_store()
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.tries = 0
        self.faults: list[Exception] = []
        self.restart()

    def restart(self, notify_after: int = 1) -> None:
        """The next process, with the store as it is."""
        self._store = open_store(self.clock)
        jobs = {"ci": make_job(notify_after=notify_after)}
        options: dict[str, Any] = {"interval": timedelta(minutes=5), "page_url": "https://health.example"}
        self.notifier = Notifier(lambda: jobs, self._store, cast("Any", self), self.clock, **options)

    async def send_event(self, event: Event) -> None:
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)
        self.events.append(event)

    @property
    def titles(self) -> list[str]:
        return [event.title for event in self.events]

    async def run_ends(
        self,
        status: Status,
        names: Iterable[int] = (0,),
        at: datetime = START,
        since: datetime = START,
        cycles: int = 1,
    ) -> None:
        """A run ended and left checks of these names in one state."""
        now = self.clock.now()
        tags = {"source": "cron", "workflow_category": "ci", "workflow_name": "w", "task": "t"}
        checks = [
            Check((*tags.items(), ("check", f"c{name}")), status, "< 5", since, 7.0, at, "metta.test", cycles=cycles)
            for name in names
        ]
        run = Run(new_run_id("ci", now), "ci", Cause.HTTP, now, ended=now, outcome=Outcome.COMPLETE)
        await self._store.runs.end(run, (), checks)
        self.notifier.check_soon("ci")
        await self.notifier.notify(["ci"])


@pytest.fixture
def it() -> Iterator[Here]:
    with without_threads():
        yield Here()


async def test_each_change_is_one_event(it: Here) -> None:
    await it.run_ends(PASS)
    later = START + timedelta(hours=3)
    for _ in range(2):
        await it.run_ends(FAIL, since=later)
    (event,) = it.events
    assert (event.title, event.alert_type, event.at) == ("w / t / c0: pass -> fail", "error", later)
    assert "after 3 h 0 min of pass" in event.text
    assert "https://health.example" in event.text
    assert "env:production" in event.tags


async def test_a_restart_repeats_nothing_even_after_a_long_time(it: Here) -> None:
    await it.run_ends(PASS)
    await it.clock.advance(3 * 86400)
    it.restart()
    # The old value has grown too old meanwhile; that is the down time's doing, and no news.
    await it.notifier.notify([])
    await it.run_ends(PASS, at=it.clock.now())
    assert it.events == []


async def test_a_state_that_has_to_hold_is_told_once_by_whichever_process_is_there_then(it: Here) -> None:
    it.restart(notify_after=2)
    for status in (PASS, FAIL, PASS, FAIL):
        await it.run_ends(status)
    assert it.events == []
    it.restart(notify_after=2)
    for cycles in (2, 3):
        await it.run_ends(FAIL, cycles=cycles)
    assert it.titles == ["w / t / c0: pass -> fail"]


async def test_ten_an_hour_then_one_that_says_how_many_were_held_back(it: Here) -> None:
    await it.run_ends(PASS, range(30))
    await it.run_ends(FAIL, range(30))
    assert it.titles[MAX_EVENTS:] == ["20 changes of check states were held back"]
    assert it.events[-1].text.count("fail since") == 20
    await it.clock.advance(600)
    await it.run_ends(PASS, range(30))
    assert len(it.events) == MAX_EVENTS + 1
    await it.clock.advance(3001)
    await it.notifier.notify([])
    assert it.titles[2 * MAX_EVENTS + 1 :] == ["20 changes of check states were held back"]


async def test_a_shadow_sends_nothing_and_what_it_saw_is_no_news_when_it_goes_live(it: Here) -> None:
    it.notifier.is_silent = True
    await it.run_ends(PASS)
    await it.run_ends(FAIL)
    it.notifier.is_silent = False
    await it.run_ends(FAIL)
    assert it.tries == 0
    await it.run_ends(PASS)
    assert it.titles == ["w / t / c0: fail -> pass"]


async def test_the_task_looks_between_runs_too_and_dates_no_event_earlier_than_datadog_takes_it(it: Here) -> None:
    async with anyio.create_task_group() as tasks:
        await it.run_ends(PASS, at=START - timedelta(hours=23, minutes=58))
        tasks.start_soon(it.notifier.run)
        await it.clock.advance(400)
        assert ["pass -> unknown" in title for title in it.titles] == [True]
        tasks.cancel_scope.cancel()
    await it.run_ends(PASS, at=it.clock.now())
    await it.clock.advance(4 * 86400)
    await it.notifier.notify(["ci"])  # stale for three days, as after a long outage of its source
    assert it.events[-1].at == it.clock.now() - MAX_EVENT_AGE


async def test_an_outage_keeps_the_events_for_the_next_process_too_and_asks_less_and_less_often(it: Here) -> None:
    await it.run_ends(PASS)
    it.faults = [Unavailable("away"), Unauthorized("no key"), Unavailable("away"), Unavailable("away")]
    await it.run_ends(FAIL)
    for seconds, tries in ((29, 1), (1, 2), (59, 2), (1, 3), (119, 3), (1, 4)):
        await it.clock.advance(seconds)
        await it.notifier.notify([])
        assert it.tries == tries
    assert it.events == []
    it.restart()
    await it.notifier.notify([])
    assert len(it.events) == 1


async def test_an_event_that_is_refused_or_too_old_is_dropped_and_the_next_one_goes(it: Here) -> None:
    await it.run_ends(PASS, range(2))
    it.faults = [Rejected("400")]
    await it.run_ends(FAIL, range(2))
    assert it.titles == ["w / t / c1: pass -> fail"]
    it.faults = [Unavailable("away")]
    await it.run_ends(PASS)
    await it.clock.advance(MAX_EVENT_AGE.total_seconds() + 1)
    await it.notifier.notify([])
    assert (len(it.events), it.tries) == (1, 3)


async def test_while_the_store_is_lost_nothing_is_sent_twice(it: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    await it.run_ends(PASS)
    lose_store(monkeypatch, Checks, "settle_changes", 2)
    for ask in (it.run_ends(FAIL), it.notifier.notify([])):
        with pytest.raises(Unavailable):
            await ask
    await it.notifier.notify([])
    assert len(it.events) == 1
