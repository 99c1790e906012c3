"""The outbox on each of the databases."""

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from service.config.settings import StoreSettings
from service.domain.delivery import Chunk, DeliveryStatus, Point
from service.domain.runs import Mode, Outcome
from service.domain.samples import Evidence, Kind, Sample
from service.store import Store
from service.store.chunks import assign_seconds, to_batch
from tests.integration.store.cases import (
    COUNT,
    DISTRIBUTION,
    GAUGE,
    MINUTE,
    NOW,
    claim,
    deliver,
    keep,
    samples,
    started,
)

DELIVERED, REJECTED = DeliveryStatus.DELIVERED, DeliveryStatus.REJECTED


def values(chunks: list[Chunk]) -> list[float]:
    return [point.value for chunk in chunks for point in chunk.points]


async def test_samples_are_claimed_in_chunks_of_one_endpoint_and_mode(store: Store) -> None:
    await keep(store, started(), samples(1_500) + samples(2, DISTRIBUTION) + samples(3, COUNT))
    first = await claim(store)
    sizes = [(chunk.kind, len(chunk.points)) for chunk in first]
    assert sizes == [(Kind.GAUGE, 1_000), (Kind.GAUGE, 500), (Kind.COUNT, 3)]
    assert [(chunk.kind, len(chunk.points)) for chunk in await claim(store)] == [(Kind.DISTRIBUTION, 2)]
    assert await claim(store) == []
    assert first[0].points[0].tags == ("index:00000",)
    assert first[0].oldest == first[0].newest == int(NOW.timestamp())
    assert {(chunk.run, chunk.collector, chunk.mode) for chunk in first} == {(started().id, "ci", Mode.LIVE)}
    for number, mode in enumerate((Mode.SHADOW, Mode.LIVE, Mode.SHADOW), 1):
        await keep(store, started(number, mode=mode), samples(1))
    assert [chunk.mode for chunk in await claim(store)] == [Mode.SHADOW] * 2
    assert [chunk.mode for chunk in await claim(store)] == [Mode.LIVE]


async def test_of_claims_at_the_same_time_none_gives_a_chunk_twice(store: Store) -> None:
    await keep(store, started(), samples(5_000))
    claimed: list[int] = []

    async def take() -> None:
        while chunks := await store.outbox.claim(NOW, 4_000_000, 1_000):
            claimed.extend(chunk.id for chunk in chunks)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(take)
    assert len(claimed) == len(set(claimed)) == 5


async def test_what_is_settled_stays_settled(store: Store) -> None:
    run = await keep(store, started(), samples(2))
    chunks = await claim(store)
    await store.outbox.settle(chunks, DELIVERED)
    await store.outbox.settle(chunks, DeliveryStatus.UNKNOWN, "late")
    await store.outbox.release(chunks)
    await store.outbox.refuse(chunks)
    assert await store.outbox.counts([run.id, "none"]) == {run.id: {DELIVERED: 2}, "none": {}}


async def test_a_poisoned_sample_is_found_by_halves_and_the_others_arrive(store: Store) -> None:
    """A refused request's chunks go alone, then by halves; each half is a row before it is sent."""
    run = await keep(store, started(), samples(700) + samples(5, COUNT))
    requests = 0
    while chunks := await claim(store):
        requests += 1
        if 123.5 not in values(chunks):
            await store.outbox.settle(chunks, DELIVERED)
        elif len(values(chunks)) == 1:
            await store.outbox.settle(chunks, REJECTED, "123.5 is cursed")
        else:
            assert len(chunks) == 1 or requests == 1
            await store.outbox.refuse(chunks)
    assert requests < 30
    assert await store.outbox.counts([run.id]) == {run.id: {DELIVERED: 704, REJECTED: 1}}
    stored, total = await store.outbox.samples(run.id, 0, 1_000)
    assert total == 705
    bad = [(each.point.value, each.reason) for each in stored if each.status is REJECTED]
    assert bad == [(123.5, "123.5 is cursed")]
    assert [each.point.value for each in stored[:700]] == [index + 0.5 for index in range(700)]  # still in order


async def test_a_run_s_samples_are_read_page_by_page_with_their_evidence(store: Store) -> None:
    evidence = (Evidence("run 7", "https://example.org/7", NOW, "failure", "nightly"),)
    brought = [replace(each, evidence=evidence, measured_at=NOW - MINUTE) for each in samples(2_500)]
    run = await keep(store, started(), brought)
    page, total = await store.outbox.samples(run.id, 995, 10)
    assert total == 2_500
    assert [each.point.value for each in page] == [index + 0.5 for index in range(995, 1_005)]
    assert (page[0].point.evidence, page[0].tags) == (evidence, {"index": "00995"})
    assert page[0].point.measured_at == int((NOW - MINUTE).timestamp())
    assert (await store.outbox.samples(run.id, 2_499, 10))[0][0].point.value == 2_499.5
    assert await store.outbox.samples("none") == ([], 0)


# Counts: the intake keeps one of a series and second, the one that came last.


async def seconds(store: Store) -> dict[float, int]:
    """The seconds after NOW of all counts that are pending, by their value."""
    chunks = await claim(store)
    return {point.value: point.at - int(NOW.timestamp()) for chunk in chunks for point in chunk.points}


async def test_a_second_of_a_count_is_never_used_twice_but_after_two_hours(store: Store) -> None:
    """What is one series to the intake is one here, however it is spelled."""
    spelled = ({"Team": "In fra", "a": "b"}, {"a": "B", "team": "in_fra"}, {"a": "b", "team": "In__Fra"})

    def count(value: float, at: int = 0, tags: dict[str, str] = spelled[0]) -> Sample:
        return Sample(COUNT, value, NOW + timedelta(seconds=at), tags)

    await keep(store, started(), [count(1), count(2, tags=spelled[1]), count(3, 1, spelled[2]), count(4, tags={})])
    await deliver(store)
    await keep(store, started(1), [count(5), count(6, -5), count(7, tags={})])
    assert await seconds(store) == {5: 3, 6: -5, 7: 1}  # 1 to 3 have the seconds 0 to 2
    await store.outbox.put("ci", [count(8)])
    assert await seconds(store) == {8: 4}
    await store.prune(NOW + timedelta(hours=2, seconds=5))
    await keep(store, started(2), [count(9)])
    assert await seconds(store) == {9: 0}


async def test_counts_of_runs_that_end_at_once_share_no_second(store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(keep, store, started(number), samples(50, COUNT))
    points = [(point.tags, point.at) for chunk in await claim(store) for point in chunk.points]
    assert len(points) == len(set(points)) == 250


Counts = st.tuples(st.integers(0, 3), st.integers(0, 90))  # series and second


@given(st.lists(Counts, max_size=200), st.sets(Counts, max_size=100))
def test_each_count_has_a_second_of_its_own_and_no_value_is_lost(
    counts: list[tuple[int, int]], before: set[tuple[int, int]]
) -> None:
    def points(of_each: Iterable[tuple[int, int]]) -> list[Point]:
        brought = (Sample(COUNT, 1.0, NOW + timedelta(seconds=at), {"series": str(series)}) for series, at in of_each)
        return to_batch(brought, {"run": "r", "collector": "ci", "mode": "live", "owner": ""}).counts

    taken = frozenset(assign_seconds(points(before), frozenset())[1])
    found, seconds = assign_seconds(points(counts), taken)
    assert sum(point.value for point in found) == len(counts)
    assert len({(point.tags, point.at) for point in found}) == len(found) == len(set(seconds))
    assert taken.isdisjoint(seconds)
    assert len(taken) == len(before)


# Retention


async def test_runs_beyond_the_newest_leave_with_their_samples(store: Store) -> None:
    for number in range(5):
        await keep(store, started(number, "evals"))
    for number in range(6):
        await keep(store, started(number), samples(1), Outcome.FAILED)
    store.history_limits = {"evals": (None, 2)}
    await store.prune(NOW)
    assert len(await store.runs.list("ci")) == 6  # until their samples were delivered
    await deliver(store)
    await store.prune(NOW)
    assert [run.id for run in await store.runs.list("ci")] == [started(number).id for number in (5, 4, 3)]
    assert [run.id for run in await store.runs.list("evals")] == [started(4, "evals").id, started(3, "evals").id]
    counts = await store.outbox.counts([started(2).id, started(3).id])
    assert counts == {started(2).id: {}, started(3).id: {DELIVERED: 1}}
    await store.prune(NOW + timedelta(days=8))
    assert await store.outbox.samples(started(3).id) == ([], 0)
    assert (await store.outbox.counts([started(3).id]))[started(3).id] == {DELIVERED: 1}  # this outlives them


@pytest.mark.parametrize("is_delivered", [True, False])
async def test_a_full_outbox_gives_up_its_oldest_samples(store: Store, is_delivered: bool) -> None:
    store._limits = StoreSettings.model_construct(max_bytes=ByteSize(100_000))
    for number in range(3):
        noise = [Sample(GAUGE, 0.5, NOW, {"noise": os.urandom(90).hex()}) for _ in range(500)]
        await keep(store, started(number), noise)
        if is_delivered and number < 2:
            await deliver(store)
    expired = await store.prune(NOW)
    pending = (await store.outbox.pending()).samples
    assert pending + expired == (500 if is_delivered else 1_500)
    assert (expired == 0) == is_delivered
    assert await store.outbox.lost("ci", NOW) == ({} if is_delivered else {DeliveryStatus.EXPIRED: expired})
    assert await store.prune(NOW) == 0
