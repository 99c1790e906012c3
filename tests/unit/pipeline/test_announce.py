"""Changes of check states become events: one each, ten an hour, then one for the rest; and never anything else."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

from service.adapters.store import SqliteStore
from service.adapters.store_changes import StoredChanges
from service.domain import changes
from service.domain.changes import Event
from service.domain.checks import Check
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.samples import Evidence, Status
from service.pipeline.announce import EXPIRES_AFTER, MOST, Announcer
from service.pipeline.job import Job
from tests.integration.store_cases import opened
from tests.unit.pipeline import fakes
from tests.unit.pipeline.fakes import START, FakeClock

PASS, FAIL, UNKNOWN = Status.PASS, Status.FAIL, Status.UNKNOWN


def check(status: Status, name: str = "c", at: datetime = START, since: datetime = START) -> Check:
    names = {"source": "cron", "workflow_category": "ci", "workflow_name": "w", "task": "t", "check": name}
    return Check(tuple(names.items()), status, "< 5", since, 7.0, at, "metta.test")


class FakeEvents:
    """Meets ``Events``; ``faults`` are raised first, one a send."""

    def __init__(self) -> None:
        self.sent: list[Event] = []
        self.tries = 0
        self.faults: list[Exception] = []
        self.told = anyio.Event()

    async def send(self, event: Event) -> None:
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(event)
        self.told.set()


class FullShelf:
    """The store's shelf; while ``is_full`` the disk takes no word of what was told."""

    def __init__(self, shelf: StoredChanges) -> None:
        self.is_full = False
        self.reported = shelf.reported
        self.note = shelf.note
        self.waiting = shelf.waiting
        self.hold = shelf.hold
        self.announced = shelf.announced
        self._settle = shelf.settle

    async def settle(self, ids: Iterable[int], announced_at: datetime | None, *, is_summary: bool = False) -> None:
        if self.is_full:
            raise Unavailable("disk full")
        await self._settle(ids, announced_at, is_summary=is_summary)


class Stage:
    """An announcer over a store on disk, a clock that moves when told, and checks as the test says."""

    def __init__(self, store: SqliteStore, events: FakeEvents, clock: FakeClock, job: Job) -> None:
        self.events = events
        self.clock = clock
        self.known: list[Check] = []
        self.shelf = FullShelf(store.changes)
        self.announcer = Announcer(
            lambda: {job.name: job}, self, self.shelf, events, clock, timedelta(minutes=5), "https://health.example"
        )
        self._job = job.name

    async def checks(self, job: str) -> list[Check]:
        return self.known

    async def ended(self, *known: Check) -> None:
        """A run ended and left these checks."""
        self.known = list(known)
        self.announcer.ended(self._job)
        await self.announcer.turn([self._job])

    @property
    def titles(self) -> list[str]:
        return [event.title for event in self.events.sent]


@asynccontextmanager
async def stage(folder: Path, clock: FakeClock | None = None, events: FakeEvents | None = None) -> AsyncIterator[Stage]:
    async with opened(folder, START) as store:
        yield Stage(store, events or FakeEvents(), clock or FakeClock(), fakes.job())


async def flip_all(here: Stage, status: Status, names: Iterable[int]) -> None:
    await here.ended(*(check(status, f"c{name}") for name in names))


async def test_a_check_that_is_seen_first_is_no_change(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(FAIL))
        await here.ended(check(FAIL))
        assert here.events.sent == []


async def test_each_change_is_one_event_with_value_condition_and_since(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(PASS))
        later = START + timedelta(hours=3)
        await here.ended(check(FAIL, since=later))
        await here.ended(check(FAIL, since=later))
        (event,) = here.events.sent
        assert event.title == "w / t / c: pass -> fail"
        assert (event.level, event.at) == ("error", later)
        for part in ("value: 7", "condition: < 5", "after 3 h 0 min of pass", "https://health.example"):
            assert part in event.text
        assert {"env:production", "check:c", "service:infra-health-dashboard"} <= set(event.tags)


async def test_a_restart_tells_nothing_even_after_a_long_time(tmp_path: Path) -> None:
    clock, events = FakeClock(), FakeEvents()
    async with stage(tmp_path, clock, events) as here:
        await here.ended(check(PASS))
    await clock.advance(3 * 86400)
    async with stage(tmp_path, clock, events) as here:
        # The old value has grown too old meanwhile; that is the down time's doing, and no news.
        here.known = [check(PASS)]
        await here.announcer.turn([])
        await here.ended(check(PASS, at=clock.now()))
        assert events.sent == []


async def test_what_changed_over_a_restart_is_told_once(tmp_path: Path) -> None:
    events = FakeEvents()
    async with stage(tmp_path, events=events) as here:
        await here.ended(check(PASS))
    async with stage(tmp_path, events=events) as here:
        await here.ended(check(FAIL))
    async with stage(tmp_path, events=events) as here:
        await here.ended(check(FAIL))
    assert len(events.sent) == 1


async def test_a_value_that_grows_too_old_is_a_change_to_unknown(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(PASS))
        await here.clock.advance(25 * 3600)
        await here.ended(check(PASS))
        (event,) = here.events.sent
        assert "pass -> unknown" in event.title
        assert event.at == START + timedelta(hours=24)


async def test_ten_an_hour_then_one_that_says_how_many_were_held_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await flip_all(here, PASS, range(30))
        await flip_all(here, FAIL, range(30))
        assert len(here.events.sent) == MOST + 1
        assert here.titles[-1] == "20 changes of check states were held back"
        assert here.events.sent[-1].text.count("fail since") == 20
        await here.clock.advance(600)
        await flip_all(here, PASS, range(30))
        assert len(here.events.sent) == MOST + 1
        await here.clock.advance(3001)
        await here.announcer.turn([])
        assert here.titles[MOST + 1 :] == ["30 changes of check states were held back"]


async def test_a_change_is_not_told_before_an_older_one_of_its_check_that_is_held_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await flip_all(here, PASS, range(MOST + 1))
        await flip_all(here, FAIL, range(MOST + 1))
        assert here.titles[-1] == "1 change of a check's state was held back"
        last = [check(FAIL, f"c{name}") for name in range(MOST)]
        await here.clock.advance(1800)
        await here.ended(*last, check(PASS, "c10"))
        # The hour's single events are free again, that of the summary is not.
        await here.clock.advance(1799)
        here.events.sent.clear()
        await here.ended(*last, check(FAIL, "c10"))
        assert here.titles == []
        await here.clock.advance(2)
        await here.ended(*last, check(PASS, "c10"))
        (event,) = here.events.sent
        assert "3 changes" in event.title
        assert "w / t / c10: pass" in event.text


async def test_a_shadow_tells_nothing_and_what_it_saw_is_no_news_when_it_goes_live(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        here.announcer.is_silent = True
        await here.ended(check(PASS))
        await here.ended(check(FAIL))
        assert here.events.tries == 0
        here.announcer.is_silent = False
        await here.ended(check(FAIL))
        assert here.events.tries == 0
        await here.ended(check(PASS))
        assert here.titles == ["w / t / c: fail -> pass"]


async def test_an_event_of_long_ago_is_dated_as_early_as_datadog_takes_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(PASS))
        await here.clock.advance(4 * 86400)
        await here.ended(check(PASS))  # stale for three days, as after a long outage of its source
        (event,) = here.events.sent
        assert event.at == here.clock.now() - EXPIRES_AFTER
        assert f"since: {START + timedelta(days=1):%Y-%m-%d %H:%M}" in event.text


async def test_the_share_of_the_hour_survives_a_restart(tmp_path: Path) -> None:
    events = FakeEvents()
    async with stage(tmp_path, events=events) as here:
        await flip_all(here, PASS, range(10))
        await flip_all(here, FAIL, range(10))
    async with stage(tmp_path, events=events) as here:
        await flip_all(here, PASS, range(10))
        assert len(events.sent) == MOST + 1


async def test_an_outage_keeps_the_events_and_asks_less_and_less_often(tmp_path: Path) -> None:
    events = FakeEvents()
    async with stage(tmp_path, events=events) as here:
        await here.ended(check(PASS))
        events.faults = [Unavailable("away")] * 3
        await here.ended(check(FAIL))
        for seconds, tries in ((29, 1), (1, 2), (59, 2), (1, 3), (120, 4)):
            await here.clock.advance(seconds)
            await here.announcer.turn([])
            assert events.tries == tries
        assert len(events.sent) == 1


@pytest.mark.parametrize("fault", [Unavailable("away"), Unauthorized("no key")])
async def test_an_event_that_could_not_be_sent_waits_for_the_next_process(tmp_path: Path, fault: Exception) -> None:
    events = FakeEvents()
    async with stage(tmp_path, events=events) as here:
        await here.ended(check(PASS))
        events.faults = [fault]
        await here.ended(check(FAIL))
        assert events.sent == []
    async with stage(tmp_path, events=events) as here:
        await here.announcer.turn([])
        assert len(events.sent) == 1


async def test_a_refused_event_is_dropped_and_the_next_one_goes(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await flip_all(here, PASS, range(2))
        here.events.faults = [Rejected("400")]
        await flip_all(here, FAIL, range(2))
        await here.announcer.turn([])
        assert here.titles == ["w / t / c1: pass -> fail"]


async def test_what_is_too_old_for_datadog_is_dropped(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(PASS))
        here.events.faults = [Unavailable("away")]
        await here.ended(check(FAIL))
        await here.clock.advance(EXPIRES_AFTER.total_seconds() + 1)
        await here.announcer.turn([])
        assert here.events.sent == []
        assert here.events.tries == 1


async def test_while_the_store_is_lost_nothing_is_told_twice(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        await here.ended(check(PASS))
        here.shelf.is_full = True
        with pytest.raises(Unavailable):
            await here.ended(check(FAIL))
        with pytest.raises(Unavailable):
            await here.announcer.turn([])
        assert len(here.events.sent) == 1
        here.shelf.is_full = False
        await here.announcer.turn([])
        assert len(here.events.sent) == 1


async def test_the_task_looks_between_runs_too_and_outlives_a_lost_store(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, anyio.create_task_group() as tasks:
        await here.ended(check(PASS, at=START - timedelta(hours=23, minutes=58)))
        tasks.start_soon(here.announcer.run)
        await here.clock.advance(200)
        await here.clock.advance(200)
        with anyio.fail_after(10):
            await here.events.told.wait()
        assert "pass -> unknown" in here.titles[0]
        tasks.cancel_scope.cancel()


def test_an_event_links_the_evidence_and_stays_within_the_limits() -> None:
    evidence = [
        Evidence("Fix [the] build %%%", "https://github.com/a/b/actions/runs/1", START, "failure", "Tests"),
        Evidence("no address", "javascript:alert(1)"),
        *(Evidence("x" * 300, f"https://github.com/a/b/actions/runs/{number}") for number in range(30)),
    ]
    known = replace(check(FAIL), evidence=tuple(evidence))
    before = {known.key: changes.Reported(PASS, START)}
    (change,), _ = changes.changed("ci", "test", [known], before, START, timedelta(hours=24))
    event = changes.event_of(change, None)
    assert "(https://github.com/a/b/actions/runs/1) (Tests, failure" in event.text
    assert "javascript" not in event.text
    assert event.text.count("%%%") == 2
    assert len(event.text) <= 4000
    assert len(event.about) <= 100
    assert len(event.title) <= 100
