"""The store on disk: what was put in comes out again, moves on its way as told, and is accounted for."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from random import Random

import anyio
import pytest
from structlog.testing import capture_logs

from service.adapters.store import SqliteStore
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.errors import Unavailable
from service.domain.points import Fate
from service.domain.runs import Cause, Fault, Outcome, Run, Slot
from service.domain.samples import Metric, Sample, Status
from service.pipeline.ports import Outbox, Runs
from tests.integration.store_cases import (
    DISTRIBUTION,
    GAUGE,
    NOW,
    deliver,
    keep,
    opened,
    over,
    reading,
    samples,
    started,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path) as store:
        yield store


async def test_the_store_meets_the_ports_of_the_path(store: SqliteStore) -> None:
    outbox: Outbox = store
    runs: Runs = store
    assert await outbox.count_waiting() == 0
    assert await runs.last_slots() == {}


# Runs


async def test_a_run_comes_back_as_it_was_kept(store: SqliteStore) -> None:
    """Every field, to the microsecond, in UTC; faults with their parts."""
    start = NOW.astimezone(timezone(timedelta(hours=-5))) + timedelta(microseconds=123_457)
    run = Run("ci-1", Slot("ci", NOW, Cause.CATCH_UP, "timer"), start)
    await store.begin(run)
    active = await store.run("ci-1")
    ended = replace(
        run,
        ended=start + timedelta(seconds=2.5),
        attempts=3,
        outcome=Outcome.PARTIAL,
        faults=(Fault("404", "pull requests"), Fault("half a surrogate \ud800")),
        samples=7,
    )
    await store.end(ended, [], [], {})
    kept = await store.run("ci-1")

    assert active == run
    assert kept == replace(ended, faults=(Fault("404", "pull requests"), Fault("half a surrogate ?")))
    assert kept.started.utcoffset() == timedelta(0)
    assert await store.run("ci-2") is None


async def test_an_unscheduled_run_claims_no_slot(store: SqliteStore) -> None:
    await store.begin(Run("ci-1", Slot("ci", None, Cause.HTTP, "127.0.0.1"), NOW))
    assert await store.last_slots() == {}
    assert (await store.latest_runs())["ci"].slot == Slot("ci", None, Cause.HTTP, "127.0.0.1")


async def test_the_last_slot_only_rises(store: SqliteStore) -> None:
    for number in (2, 5, 3):
        await store.begin(started(number))
    assert await store.last_slots() == {"ci": NOW + timedelta(minutes=5)}


async def test_runs_are_listed_newest_first_and_paged_by_the_last_run_of_a_page(store: SqliteStore) -> None:
    """Runs that started in the same instant are told apart by their id, so none is skipped or shown twice."""
    runs = [replace(started(number // 3), id=f"ci-{number:02}") for number in range(10)]
    for run in (*runs, started(4, "eval")):
        await store.begin(run)

    pages: list[str] = []
    while page := await store.runs("ci", limit=4, before=pages[-1] if pages else None):
        pages += [run.id for run in page]

    assert pages == [run.id for run in reversed(runs)]
    assert (await store.runs(limit=1))[0].job == "eval"
    assert len(await store.runs()) == 11
    assert await store.runs(before="never-was") == []


async def test_the_last_runs_successes_and_failures_are_known_by_job(store: SqliteStore) -> None:
    await keep(store, started(0), [])
    partial = await keep(store, started(1), [], Outcome.PARTIAL)
    bad = await keep(store, started(2), [], Outcome.FAILED)
    active = started(3)
    await store.begin(active)
    other = await keep(store, started(0, "eval"), [], Outcome.DEADLINE_EXCEEDED)

    assert partial.ended
    assert await store.latest_runs() == {"ci": active, "eval": other}
    assert await store.last_success("ci") == partial.ended
    assert await store.last_success("eval") is None
    assert await store.last_successes() == {"ci": partial.ended}
    assert await store.last_failures() == {"ci": bad, "eval": other}


async def test_an_end_that_is_told_twice_brings_its_samples_once(store: SqliteStore) -> None:
    run = await keep(store, started(0), samples(3))
    await store.end(run, samples(3), [], {})
    assert await store.fates(run.id) == {Fate.WAITING: 3}


async def test_an_end_whose_beginning_was_lost_is_kept_whole(store: SqliteStore) -> None:
    """The store may have been away when the run began."""
    run = over(started(0), count=2)
    await store.end(run, samples(2), [], {})
    assert await store.run(run.id) == run
    assert await store.fates(run.id) == {Fate.WAITING: 2}
    assert await store.last_slots() == {"ci": NOW}


async def test_what_was_active_is_interrupted_at_the_next_start(tmp_path: Path) -> None:
    """The run ends, its slot stays claimed, and a point that was being sent is uncertain and counted."""
    async with opened(tmp_path) as store:
        await store.begin(started(1))
        await keep(store, started(0), samples(2) + samples(3, DISTRIBUTION))
        sending = [point.id for point in await store.waiting(10) if point.kind is DISTRIBUTION.kind]
        await store.settle(sending, Fate.SENDING)
        await store.put("ci", samples(1, DISTRIBUTION))
        await store.settle([point.id for point in await store.waiting(10)][-1:], Fate.SENDING)

    later = NOW + timedelta(hours=1)
    async with opened(tmp_path, later) as store:
        run = await store.run(started(1).id)
        assert run
        assert (run.outcome, run.ended) == (Outcome.INTERRUPTED, later)
        assert run.error == "the daemon ended before the run did"
        assert await store.last_slots() == {"ci": started(1).slot.scheduled_at}
        assert await store.fates(started(0).id) == {Fate.WAITING: 2, Fate.UNCERTAIN: 3}
        assert await store.lost("ci", later) == {Fate.UNCERTAIN: 4}


async def test_an_interrupted_run_never_ends_before_it_started(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.begin(started(30))
    async with opened(tmp_path, NOW) as store:
        run = await store.run(started(30).id)
        assert run
        assert run.seconds == 0


async def test_pauses_survive_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for job, paused in (("ci", True), ("ci", True), ("eval", True), ("eval", False), ("training", False)):
            await store.set_paused(job, paused)
    async with opened(tmp_path) as store:
        assert await store.paused() == {"ci"}


async def test_checks_of_a_job_are_replaced_by_each_run(store: SqliteStore) -> None:
    """Those of other jobs stay; a check that was never measured has neither value nor time."""
    key = (("source", "cron"), ("workflow_name", "latest_state_of_main"), ("task", "tests"), ("check", "passing"))
    measured = Check(key, Status.FAIL, "> 0", NOW, 0.1 + 0.2, NOW + timedelta(microseconds=1), GAUGE.name)
    unmeasured = Check((*key, ("repo", "a/b")), Status.UNKNOWN, "=1.0", NOW)
    await store.end(over(started(0)), [], [unmeasured, measured], {})
    await store.end(over(started(0, "eval")), [], [measured], {})
    first = await store.checks("ci")
    await store.end(over(started(1)), [], [unmeasured], {})

    assert first == [unmeasured, measured]
    assert await store.checks("ci") == [unmeasured]
    assert await store.checks("eval") == [measured]


async def test_a_collector_remembers_until_it_forgets(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.end(over(started(0)), [], [], {"etag": b"\x00\xff", "cursor": b"1"})
        await store.end(over(started(1)), [], [], {"cursor": b"2", "never known": None})
        await store.end(over(started(2)), [], [], {"etag": None})
    async with opened(tmp_path) as store:
        assert await store.recall("ci", "etag") is None
        assert await store.recall("ci", "cursor") == b"2"
        assert await store.recall("eval", "cursor") is None


async def test_actions_are_kept_newest_first(store: SqliteStore) -> None:
    first = Action(NOW, "pause", "ci", "127.0.0.1", "Zoë \ud800", "deploy")
    second = Action(NOW + timedelta(seconds=1), "trigger", run="ci-1")
    for action in (first, second):
        await store.act(action)
    assert await store.actions() == [second, replace(first, actor="Zoë ?")]
    assert await store.actions(limit=1) == [second]


# The outbox


async def test_a_sample_becomes_a_point_exactly(store: SqliteStore) -> None:
    """The value to the last bit, the time in whole seconds, the tags in their order as the intake takes them."""
    values = [0.1 + 0.2, 0, -1.5, 5e-324, 1.7976931348623157e308, 2**63, 1 / 3]
    tags = {"source": "cron", "condition": "< 5.0", "note": 'a:b "quoted" ü'}
    at = NOW + timedelta(milliseconds=999)
    await keep(store, started(0), [Sample(GAUGE, value, at, tags, interval=600) for value in values])
    points = await store.waiting(10)

    assert [point.value for point in points] == values
    assert {point.at for point in points} == {int(NOW.timestamp())}
    assert {(point.metric, point.kind, point.interval) for point in points} == {(GAUGE.name, GAUGE.kind, 600)}
    assert json.loads(points[0].tags) == ["source:cron", "condition:< 5.0", 'note:a:b "quoted" ü']


async def test_a_tag_that_is_no_text_does_not_cost_the_run_its_other_samples(store: SqliteStore) -> None:
    run = await keep(store, started(0), [Sample(GAUGE, 1, NOW, {"name": "half \ud800"}), *samples(1)])
    page, total = await store.samples(run.id)
    assert total == 2
    assert page[0].tags == {"name": "half _"}


async def test_what_datadog_could_not_take_is_mended_or_refused_point_by_point(tmp_path: Path) -> None:
    """Said once a cause, counted, and the intake never sees it."""
    observed: list[tuple[Fate, int]] = []
    odd = [
        Sample(Metric("9lives"), 1, NOW, {"a": "b"}),
        Sample(Metric("hearts per-minute"), 2, NOW, {"9": "no letter", "a": "b"}),
        *samples(1),
        Sample(Metric("9lives"), 3, NOW),
    ]
    async with opened(tmp_path) as store:
        store.observe = lambda fate, points: observed.append((fate, points))
        with capture_logs() as logs:
            run = await keep(store, started(0), odd)
            await keep(store, started(1), odd)
            await store.put("ci", odd)
        page, _ = await store.samples(run.id)
        assert [(sample.metric, sample.fate, sample.tags) for sample in page] == [
            ("9lives", Fate.REJECTED, {"a": "b"}),
            ("hearts_per_minute", Fate.WAITING, {"a": "b"}),
            (GAUGE.name, Fate.WAITING, {"index": "0"}),
            ("9lives", Fate.REJECTED, {}),
        ]
        assert page[0].reason == "the metric's name does not begin with a letter"
        assert len(await store.waiting(100)) == 6
        assert await store.lost("ci", NOW) == {Fate.REJECTED: 6}
        assert observed == [(Fate.REJECTED, 2)] * 3
    assert sorted(line["what"] for line in logs) == [
        "'9lives' is not sent: the metric's name does not begin with a letter",
        "'hearts per-minute' is sent as hearts_per_minute",
        "hearts_per_minute: tag '9' is left out, Datadog could not take it",
    ]


async def test_points_of_one_metric_that_differ_in_a_tag_stay_apart(store: SqliteStore) -> None:
    """Also where the difference hides between a name, a value and their separators."""
    different = [
        Sample(GAUGE, 1, NOW, {"a": "b"}),
        Sample(GAUGE, 2, NOW, {"a": "b", "c": "d"}),
        Sample(GAUGE, 3, NOW, {"a": 'b","c:'}),
        Sample(DISTRIBUTION, 4, NOW, {"a": "b"}),
        Sample(GAUGE, 5, NOW, {"a": "b"}, interval=60),
        Sample(Metric(GAUGE.name + "\0gauge"), 6, NOW, {"a": "b"}),
    ]
    await keep(store, started(0), different)
    points = await store.waiting(10)
    assert [point.value for point in points] == [1, 2, 3, 4, 5, 6]
    assert len({(point.metric, point.kind, point.interval, point.tags) for point in points}) == 6


async def test_waiting_points_come_oldest_first_and_at_most_as_many_as_asked(store: SqliteStore) -> None:
    await keep(store, started(0), samples(5))
    await keep(store, started(0, "eval"), samples(5))
    points = await store.waiting(7)
    assert [point.value for point in points] == [0.1, 1.1, 2.1, 3.1, 4.1, 0.1, 1.1]
    assert [point.id for point in points] == sorted(point.id for point in points)
    assert await store.count_waiting() == 10


def long(tags: int) -> dict[str, str]:
    return {f"text{number}": "x" * 190 for number in range(tags)}


async def test_waiting_points_are_no_more_than_a_request_can_hold(store: SqliteStore) -> None:
    """About 5 MB of text, but always one, however long its tags are."""
    await keep(store, started(0), [Sample(GAUGE, 1, NOW, long(5_000))] * 8)
    await keep(store, started(1), [Sample(GAUGE, 1, NOW, long(30_000))])
    assert [len(await deliver(store)) for _ in range(3)] == [4, 4, 1]


async def test_a_settled_point_is_settled(store: SqliteStore) -> None:
    """A second answer for it, or one for a point that never was, changes and counts nothing."""
    run = await keep(store, started(0), samples(4))
    first, second, third, fourth = [point.id for point in await store.waiting(4)]
    await store.settle([first, second], Fate.DELIVERED)
    await store.settle(iter([second, third, 999_999]), Fate.REJECTED, "the tag is bad")
    await store.settle([third], Fate.DELIVERED)
    await store.settle([fourth], Fate.SENDING)
    await store.settle([fourth], Fate.WAITING)
    await store.settle([], Fate.DELIVERED)

    page, _ = await store.samples(run.id)
    assert [sample.fate for sample in page] == [Fate.DELIVERED, Fate.DELIVERED, Fate.REJECTED, Fate.WAITING]
    assert [sample.reason for sample in page] == ["", "", "the tag is bad", ""]
    assert await store.lost("ci", NOW) == {Fate.REJECTED: 1}
    assert await store.fates(run.id) == {Fate.DELIVERED: 2, Fate.REJECTED: 1, Fate.WAITING: 1}


async def test_points_that_are_being_sent_do_not_wait(store: SqliteStore) -> None:
    await keep(store, started(0), samples(3, DISTRIBUTION))
    await store.settle([point.id for point in await store.waiting(2)], Fate.SENDING)
    assert len(await store.waiting(10)) == await store.count_waiting() == 1


async def test_samples_of_no_run_leave_once_they_are_settled(store: SqliteStore) -> None:
    """They are counted all the same when they are lost, under the job that they were put for."""
    await store.put("ci", samples(4))
    size = await store.size()
    first, second, *_ = [point.id for point in await store.waiting(4)]
    await store.settle([first], Fate.DELIVERED)
    await store.settle([second], Fate.REJECTED, "bad")
    assert await store.count_waiting() == 2
    assert await store.lost("ci", NOW) == {Fate.REJECTED: 1}
    for _ in range(100):
        await store.put("ci", samples(20))
        await deliver(store)
    assert await store.size() == size


async def test_old_points_expire_and_are_counted_by_job(store: SqliteStore) -> None:
    """Only those that wait: one whose answer is due is left to its answer."""
    old = NOW - timedelta(minutes=55)
    run = await keep(store, started(0), samples(3, at=old - timedelta(seconds=1)) + samples(2, at=old))
    await store.put("eval", samples(4, at=old - timedelta(hours=1)))
    await store.settle([(await store.waiting(1))[0].id], Fate.SENDING)

    assert await store.oldest_waiting() == old - timedelta(hours=1)
    assert await store.expire(old) == 6
    assert await store.expire(old) == 0
    assert await store.oldest_waiting() == old
    assert await store.fates(run.id) == {Fate.SENDING: 1, Fate.EXPIRED: 2, Fate.WAITING: 2}
    assert await store.lost("ci", NOW) == {Fate.EXPIRED: 2}
    assert await store.lost(None, NOW) == {Fate.EXPIRED: 6}
    assert await store.lost("ci", NOW + timedelta(seconds=1)) == {}


async def test_points_of_historical_metrics_wait_on(store: SqliteStore) -> None:
    """Gauges and counts, by the beginning of their names; the intake takes no old distribution."""
    old = NOW - timedelta(hours=3)
    plain = samples(1, Metric("metta.other"), at=old)
    await keep(store, started(0), samples(1, at=old) + samples(1, DISTRIBUTION, at=old) + plain)
    assert await store.expire(NOW, historical=["metta.infra.cron.ci", "metta.x"]) == 2
    assert [point.metric for point in await store.waiting(5)] == [GAUGE.name]


async def test_the_samples_of_a_run_are_paged_in_order(store: SqliteStore) -> None:
    await keep(store, started(0), samples(2))
    run = await keep(store, started(1), samples(250, colour="re:d"))
    page, total = await store.samples(run.id, offset=198, limit=3)
    assert total == 250
    assert [sample.value for sample in page] == [198.1, 199.1, 200.1]
    assert page[0].tags == {"index": "198", "colour": "re:d"}
    assert page[0].at == NOW
    assert await store.samples("never-was") == ([], 0)


async def test_fates_of_many_runs_are_told_at_once(store: SqliteStore) -> None:
    first, empty = await keep(store, started(0), samples(2)), await keep(store, started(1), [])
    await deliver(store)
    assert await store.fates_of([first.id, empty.id, "never-was"]) == {
        first.id: {Fate.DELIVERED: 2},
        empty.id: {},
        "never-was": {},
    }


# Under load, under cancellation, without a disk


async def test_thirty_thousand_samples_with_long_tags_are_one_run(store: SqliteStore) -> None:
    run = await keep(store, started(0), samples(30_000, text="x" * 200))
    delivered = 0
    while ids := await deliver(store):
        delivered += len(ids)
    assert delivered == 30_000
    assert await store.fates(run.id) == {Fate.DELIVERED: 30_000}


@pytest.mark.parametrize("by", ["a cancel scope", "asyncio"])
async def test_a_cancelled_end_is_kept_whole_or_not_at_all(tmp_path: Path, by: str) -> None:
    """Wherever the cancellation comes; and the store works on at once."""
    random = Random(7)
    whole = 0
    async with opened(tmp_path) as store:
        for number in range(40):
            run = over(started(number), count=2_000)
            await store.begin(started(number))
            pause = random.choice((0, random.uniform(0.001, 0.03)))
            if by == "asyncio":
                task = asyncio.ensure_future(store.end(run, samples(2_000), [], {"cursor": str(number).encode()}))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                with anyio.move_on_after(pause):
                    await store.end(run, samples(2_000), [], {"cursor": str(number).encode()})
            # A write of our own waits for the one that was left behind.
            await store.set_paused("ci", True)
            kept = await store.run(run.id)
            done = kept == run
            whole += done
            assert done or kept == started(number)
            assert await store.fates(run.id) == ({Fate.WAITING: 2_000} if done else {})
            assert (await store.recall("ci", "cursor") == str(number).encode()) == done
        assert await store.count_waiting() == 2_000 * whole
    assert 0 < whole < 40


async def test_a_reader_beside_the_writer_never_sees_half_a_run(tmp_path: Path) -> None:
    """Counts in whole runs, always as many as the runs that it sees ended."""
    async with opened(tmp_path) as store, reading(tmp_path) as reader, anyio.create_task_group() as tasks:

        async def write() -> None:
            for number in range(30):
                await keep(store, started(number), samples(500))
            tasks.cancel_scope.cancel()

        async def read() -> None:
            while True:
                runs = await reader.runs()
                fates = await reader.fates_of([run.id for run in runs])
                assert all(sum(fates[run.id].values()) == run.samples for run in runs if run.outcome)
                assert await reader.count_waiting() % 500 == 0

        tasks.start_soon(write)
        tasks.start_soon(read)


async def test_a_disk_that_takes_no_more_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    """The end that failed leaves nothing behind, the check says so, and all goes on when there is room again."""
    async with opened(tmp_path) as store:
        before = await keep(store, started(0), samples(10))
        await store.begin(started(1))
        run = over(started(1), count=20_000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            with pytest.raises(Unavailable, match=f"disk.*{tmp_path}"):
                await store.end(run, samples(20_000), [], {"cursor": b"1"})
            with pytest.raises(Unavailable):
                await store.end(run, samples(20_000), [], {"cursor": b"1"})
            assert await store.run(run.id) == started(1)
            assert await store.fates(before.id) == {Fate.WAITING: 10}
            assert await store.recall("ci", "cursor") is None
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
            with pytest.raises(Unavailable):
                await store.check()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.check()
        await store.end(run, samples(20_000), [], {})
        assert await store.fates(run.id) == {Fate.WAITING: 20_000}


async def test_what_a_full_disk_undid_is_written_whole_when_it_is_told_again(tmp_path: Path) -> None:
    """Also the series, of which the store remembers which ones the table has."""
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(1, old="yes"))
    async with opened(tmp_path) as store:
        brought = [*samples(2_000, new="yes"), *samples(1, old="yes")]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 1024, hard))
        try:
            with pytest.raises(Unavailable):
                await store.end(over(started(1), count=2_001), brought, [], {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.end(over(started(1), count=2_001), brought, [], {})
    async with opened(tmp_path) as store:
        assert len(await store.waiting(10_000)) == 2_002


async def test_a_store_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    """SQLite would write on into the deleted file."""
    async with opened(tmp_path) as store:
        await store.check()
        (tmp_path / "state.db").rename(tmp_path / "elsewhere")
        with pytest.raises(Unavailable, match="gone"):
            await store.begin(started(0))
        with pytest.raises(Unavailable, match="gone"):
            await store.check()
        (tmp_path / "elsewhere").rename(tmp_path / "state.db")
        await store.check()
        await store.begin(started(0))


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await store.put("ci", samples(1))
        with pytest.raises(Unavailable, match="closed"):
            await store.check()
