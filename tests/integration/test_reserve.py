"""A store that is lost for a while: the path goes on from memory, and nothing is lost or sent twice by it."""

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.domain.checks import Check
from service.domain.errors import Unavailable
from service.domain.points import Fate
from service.domain.samples import Kind, Metric, Sample, Status
from service.pipeline.deliver import Delivery
from service.pipeline.reserve import Reserve
from tests.integration.delivery_stage import JumpingClock
from tests.integration.scripted_intake import HANG_UP, Answer, ScriptedIntake, datadog_says, scripted
from tests.integration.store_cases import DISTRIBUTION, NOW, opened, over, samples, started
from tests.integration.test_deliver import delivering

CHECK = Check((("check", "a"),), Status.PASS, "> 0", NOW, 1.0, NOW, "m")


@contextmanager
def full_disk() -> Iterator[None]:
    """The files of this process take not one byte more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with capture_logs():  # pytest's own file takes nothing either
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def values(server: ScriptedIntake) -> Counter[tuple[str, float]]:
    """What arrived, by metric and value."""
    found: Counter[tuple[str, float]] = Counter()
    for request in server.requests:
        for series in request.json["series"]:
            for point in series["points"]:
                numbers = point[1] if isinstance(point, list) else [point["value"]]
                found.update((series["metric"], number) for number in numbers)
    return found


def each_once(brought: list[Sample]) -> Counter[tuple[str, float]]:
    return Counter((sample.metric.name, sample.value) for sample in brought)


async def deliver_all(delivery: Delivery, clock: JumpingClock) -> bool:
    return await delivery.flush(clock.monotonic() + 30)


async def mend(delivery: Delivery, reserve: Reserve) -> bool:
    async with delivery.paused():
        return await reserve.repay()


async def test_a_run_that_ends_on_a_full_disk_is_delivered_from_memory_and_kept_later(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    brought = [*samples(20), *samples(5, DISTRIBUTION)]
    async with opened(tmp_path) as store, scripted(Answer()) as server:
        reserve = Reserve(store)
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                await reserve.begin(started(0))
                await reserve.end(over(started(0), count=25), brought, [CHECK], {"cursor": b"1"})
                assert await reserve.count_waiting() == 25
                assert await deliver_all(delivery, clock)
                assert values(server) == each_once(brought)
                assert reserve.trouble
                assert "disk" in reserve.trouble
                assert "in memory meanwhile: 1 runs, 0 points" in reserve.trouble
                assert list(reserve.kept_runs()) == [started(0).id]
                # The next run sees what this one knew, and does not overtake it.
                assert await reserve.checks("ci") == [CHECK]
                assert await reserve.recall("ci", "cursor") == b"1"
                assert await reserve.last_success("ci") == over(started(0)).ended
                assert not await mend(delivery, reserve)
            assert await mend(delivery, reserve)
            assert list(reserve.kept_runs()) == []
            assert await store.fates(started(0).id) == {Fate.DELIVERED: 25}
            assert await store.recall("ci", "cursor") == b"1"
            assert await store.last_slots() == {"ci": started(0).slot.scheduled_at}
            assert await deliver_all(delivery, clock)
            assert values(server) == each_once(brought)


async def test_stored_points_go_out_once_though_their_fate_can_not_be_written(tmp_path: Path) -> None:
    """Distributions among them wait until it can: they must be marked before they are sent."""
    clock = JumpingClock(NOW)
    gauges, distributions = samples(10), samples(4, DISTRIBUTION)
    async with opened(tmp_path) as store, scripted(Answer()) as server:
        reserve = Reserve(store)
        await reserve.end(over(started(0), count=14), [*distributions, *gauges], [], {})
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                await deliver_all(delivery, clock)
                later = [Sample(Metric("later"), 1, NOW)]
                await reserve.put("ci", later)
                await deliver_all(delivery, clock)
                assert values(server) == each_once([*gauges, *later])
                assert await reserve.count_waiting() == 4
            assert await mend(delivery, reserve)
            assert await deliver_all(delivery, clock)
        assert values(server) == each_once([*gauges, *later, *distributions])
        assert await store.fates(started(0).id) == {Fate.DELIVERED: 14}
        assert await store.count_waiting() == 0


async def test_what_could_not_be_delivered_meanwhile_is_stored_as_waiting(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    async with opened(tmp_path) as store, scripted(datadog_says(403, "Forbidden")) as server:
        reserve = Reserve(store)
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                await reserve.end(over(started(0), count=3), samples(3), [], {})
                await reserve.put("ci", samples(2))
                assert not await deliver_all(delivery, clock)
            assert await mend(delivery, reserve)
            assert await store.fates(started(0).id) == {Fate.WAITING: 3}
            server.script = lambda _: Answer()
            clock.jump(600)
            assert await deliver_all(delivery, clock)
        assert sum(values(server).values()) >= 5
        assert await store.fates(started(0).id) == {Fate.DELIVERED: 3}


async def test_a_distribution_from_memory_without_an_answer_is_never_sent_again(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    async with opened(tmp_path) as store, scripted(HANG_UP, Answer()) as server:
        reserve = Reserve(store)
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                await reserve.end(over(started(0), count=3), samples(3, DISTRIBUTION), [], {})
                await deliver_all(delivery, clock)
            assert await mend(delivery, reserve)
            assert await deliver_all(delivery, clock)
        assert len(server.requests) == 1
        assert await store.fates(started(0).id) == {Fate.UNCERTAIN: 3}
        assert await store.lost("ci", NOW) == {Fate.UNCERTAIN: 3}


async def test_memory_is_bounded_and_what_leaves_is_counted(tmp_path: Path) -> None:
    observed: list[tuple[Fate, int]] = []
    async with opened(tmp_path) as store:
        reserve = Reserve(store, observe=lambda fate, points: observed.append((fate, points)), most=25)
        with full_disk():
            for number in range(3):
                await reserve.end(over(started(number), count=10), samples(10), [], {})
            assert await reserve.count_waiting() == 20
        assert await reserve.repay()
        assert observed == [(Fate.DISCARDED, 10)]
        assert len(await store.runs()) == 3
        assert await store.count_waiting() == 20


async def test_old_points_expire_in_memory_as_in_the_store(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    old = NOW - timedelta(hours=2)
    async with opened(tmp_path) as store, scripted(Answer()) as server:
        reserve = Reserve(store)
        await reserve.end(over(started(0), count=3), samples(3, at=old), [], {})
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                await reserve.end(over(started(1), count=2), samples(2, at=old), [], {})
                await reserve.put("ci", samples(1, Metric("late.count", Kind.COUNT)))
                await deliver_all(delivery, clock)
                assert values(server) == {("late.count", 0.1): 1}
            assert await mend(delivery, reserve)
            await deliver_all(delivery, clock)
        assert await store.fates(started(1).id) == {Fate.EXPIRED: 2}
        assert await store.fates(started(0).id) == {Fate.EXPIRED: 3}
        assert values(server) == {("late.count", 0.1): 1}
        assert delivery.state.lost == {Fate.EXPIRED: 5}


async def test_a_store_that_can_not_even_be_read_stops_nothing(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    async with opened(tmp_path) as store, scripted(Answer()) as server:
        reserve = Reserve(store)
        await reserve.end(over(started(0)), [], [CHECK], {"cursor": b"1"})
        assert await reserve.recall("ci", "cursor") == b"1"
        elsewhere = tmp_path / "elsewhere"
        (tmp_path / "state.db").rename(elsewhere)
        with pytest.raises(Unavailable):
            await store.check()
        async with delivering(reserve, server.url, clock) as delivery:
            await reserve.begin(started(1))
            assert await reserve.recall("ci", "cursor") == b"1"
            assert await reserve.checks("ci") == [CHECK]
            assert await reserve.lost("ci", NOW) == {}
            await reserve.end(over(started(1), count=2), samples(2), [CHECK], {})
            await deliver_all(delivery, clock)
            assert values(server) == each_once(samples(2))
            elsewhere.rename(tmp_path / "state.db")
            assert await mend(delivery, reserve)
        assert await store.fates(started(1).id) == {Fate.DELIVERED: 2}


async def test_a_name_that_can_not_be_sent_is_refused_in_memory_too(tmp_path: Path) -> None:
    clock = JumpingClock(NOW)
    async with opened(tmp_path) as store, scripted(Answer()) as server:
        reserve = Reserve(store)
        observed: list[tuple[Fate, int]] = []
        store.observe = reserve.observe = lambda fate, points: observed.append((fate, points))
        async with delivering(reserve, server.url, clock) as delivery:
            with full_disk():
                bad = Sample(Metric("9lives"), 1, NOW)
                await reserve.end(over(started(0), count=3), [bad, *samples(2)], [], {})
                await deliver_all(delivery, clock)
            assert await mend(delivery, reserve)
        assert values(server) == each_once(samples(2))
        assert await store.fates(started(0).id) == {Fate.DELIVERED: 2, Fate.REJECTED: 1}
        assert observed == [(Fate.REJECTED, 1)]
