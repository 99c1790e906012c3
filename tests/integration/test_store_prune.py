"""The store stays bounded, loses nothing that is still due before it must, and accounts for what it lost."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from service.domain.points import Fate
from service.domain.runs import Cause, Outcome, Run, Slot
from service.domain.samples import Sample
from tests.integration.store_cases import GAUGE, NOW, deliver, keep, opened, samples, started

DAY = timedelta(days=1)


async def test_each_job_keeps_its_newest_runs_failed_and_not(tmp_path: Path) -> None:
    """Failures push no success out, nor the other way round; an active run stays."""
    async with opened(tmp_path, keep_failed=2, keep_ended=3) as store:
        for job in ("ci", "eval"):
            for number in range(12):
                outcome = Outcome.FAILED if number % 2 else Outcome.COMPLETE
                await keep(store, started(number, job), samples(2), outcome)
            await store.begin(started(0, f"{job}-active"))
        await deliver(store)
        await store.prune(NOW)
        for job in ("ci", "eval"):
            kept = [run.id for run in await store.runs(job)]
            assert kept == [started(number, job).id for number in (11, 10, 9, 8, 6)]
        assert await store.run(started(0, "ci-active").id)
        assert await store.last_slots() == {
            job: started(11 if job in ("ci", "eval") else 0, job).slot.scheduled_at
            for job in ("ci", "eval", "ci-active", "eval-active")
        }


async def test_a_run_stays_while_its_points_are_due(tmp_path: Path) -> None:
    async with opened(tmp_path, keep_ended=1) as store:
        for number in range(4):
            await keep(store, started(number), samples(2))
        first, second, *_ = [point.id for point in await store.waiting(10)]
        await store.settle([first], Fate.SENDING)
        await store.settle([second], Fate.DELIVERED)
        await store.prune(NOW)
        assert len(await store.runs()) == 4
        await deliver(store)
        await store.prune(NOW)
        assert [run.id for run in await store.runs()] == [started(3).id, started(0).id]
        assert await store.fates(started(0).id) == {Fate.SENDING: 1, Fate.DELIVERED: 1}


async def test_old_samples_leave_and_their_run_keeps_the_tally(tmp_path: Path) -> None:
    """What is due stays at any age."""
    async with opened(tmp_path) as store:
        old = await keep(store, started(0), samples(12_000))
        await deliver(store, Fate.DELIVERED, 7_000)
        await deliver(store, Fate.EXPIRED, 4_000)
        new = await keep(store, started(0, "eval", NOW + 2 * DAY), samples(10))
        fates = {Fate.DELIVERED: 7_000, Fate.EXPIRED: 4_000, Fate.WAITING: 1_000}
        await store.prune(NOW + 8 * DAY)

        assert await store.fates(old.id) == fates
        assert (await store.samples(old.id))[1] == 1_000
        assert await store.fates(new.id) == {Fate.WAITING: 10}
        assert await store.run(old.id) == old
        await deliver(store)
        await store.prune(NOW + 8 * DAY)
        assert await store.fates(old.id) == {Fate.DELIVERED: 8_000, Fate.EXPIRED: 4_000}
        assert await store.samples(old.id) == ([], 0)
        assert (await store.samples(new.id))[1] == 10


async def test_a_full_store_lets_the_oldest_history_go_first(tmp_path: Path) -> None:
    """Nothing that waits is discarded while history can leave; series without a point leave too."""
    bound = 2 * 2**20
    async with opened(tmp_path, max_bytes=bound) as store:
        for number in range(8):
            await keep(store, started(number), samples(1_000, text="x" * 190, more="y" * 190, run=str(number)))
            if number < 6:
                await deliver(store)
        before = await store.size()
        assert before > 2 * bound
        await store.prune(NOW)

        assert await store.size() <= bound
        assert await store.count_waiting() == 2_000
        assert await store.lost(None, NOW) == {}
        for number in range(6):
            assert await store.fates(started(number).id) == {Fate.DELIVERED: 1_000}
        assert (await store.samples(started(0).id))[1] == 0
        points = [point.tags for point in await store.waiting(5_000)]
        assert len(points) == len(set(points)) == 2_000
    assert (tmp_path / "state.db").stat().st_size < before


async def test_a_full_store_discards_the_oldest_waiting_points_and_counts_them(tmp_path: Path) -> None:
    """Those whose answer is due stay."""
    bound = 2**20
    async with opened(tmp_path, max_bytes=bound) as store:
        await store.put("heartbeat", samples(1_000, text="x" * 300))
        run = await keep(store, started(0), samples(6_000, text="y" * 300))
        sending = [point.id for point in await store.waiting(1_010)][-10:]
        await store.settle(sending, Fate.SENDING)
        await store.prune(NOW)

        assert await store.size() <= bound
        waiting = await store.count_waiting()
        assert 0 < waiting < 3_000
        assert await store.lost("heartbeat", NOW) == {Fate.DISCARDED: 1_000}
        assert await store.fates(run.id) == {
            Fate.SENDING: 10,
            Fate.WAITING: waiting,
            Fate.DISCARDED: 6_000 - 10 - waiting,
        }
        assert [point.value for point in await store.waiting(10_000)][-1] == 5_999.1
        await store.settle(sending, Fate.DELIVERED)
        assert (await store.fates(run.id))[Fate.DELIVERED] == 10


async def test_a_store_within_its_bound_discards_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        run = await keep(store, started(0), samples(100))
        await store.put("ci", samples(10))
        await store.prune(NOW)
        assert await store.fates(run.id) == {Fate.WAITING: 100}
        assert await store.count_waiting() == 110


async def test_series_that_come_back_after_a_pruning_are_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for week in range(3):
            run = await keep(store, started(0, now=NOW + week * 8 * DAY), samples(5))
            await deliver(store)
            await store.prune(NOW + week * 8 * DAY)
            page, total = await store.samples(run.id)
            assert total == 5
            assert [sample.tags["index"] for sample in page] == ["0", "1", "2", "3", "4"]


async def test_the_count_of_lost_points_outlives_the_points(tmp_path: Path) -> None:
    """To the second while it is young, then to the day."""
    for hours in (0, 3, 30):
        async with opened(tmp_path, NOW + timedelta(hours=hours)) as store:
            await keep(store, started(hours), [Sample(GAUGE, 1, NOW)])
            await deliver(store, Fate.REJECTED)
    async with opened(tmp_path) as store:
        assert await store.lost("ci", NOW + timedelta(hours=1)) == {Fate.REJECTED: 2}
        for _ in range(2):
            await store.prune(NOW + 20 * DAY)
            assert await store.lost("ci", NOW - DAY) == {Fate.REJECTED: 3}
            assert await store.lost("ci", NOW + timedelta(hours=1)) == {Fate.REJECTED: 1}


async def test_a_job_may_keep_fewer_or_more_runs_than_the_others(tmp_path: Path) -> None:
    """As a CronJob's history limits; the newest of each kind stays: the age of the last success counts from it."""
    async with opened(tmp_path, keep_failed=2, keep_ended=4) as store:
        for number in range(6):
            for job in ("ci", "training", "eval"):
                for outcome in (Outcome.COMPLETE, Outcome.FAILED):
                    at = NOW + timedelta(minutes=number)
                    run = Run(f"{job}-{outcome.value}-{number}", Slot(job, at, Cause.SCHEDULE), at, attempts=1)
                    await store.begin(run)
                    await store.end(replace(run, ended=at, outcome=outcome), [], [], {})
        store.limit_history({"ci": (0, 1), "training": (5, None)})
        await store.prune(NOW + timedelta(hours=1))
        kept = Counter((run.job, run.outcome) for run in await store.runs(limit=100))
    assert kept == {
        ("ci", Outcome.COMPLETE): 1,
        ("ci", Outcome.FAILED): 1,
        ("training", Outcome.COMPLETE): 4,
        ("training", Outcome.FAILED): 5,
        ("eval", Outcome.COMPLETE): 4,
        ("eval", Outcome.FAILED): 2,
    }
