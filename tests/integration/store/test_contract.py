"""Runs, slots, checks, state and the outbox, on each of the databases."""

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from service.config.settings import StoreSettings
from service.domain.checks import CHECK_STATE, check_id
from service.domain.delivery import Chunk, DeliveryStatus, Point
from service.domain.errors import Unavailable
from service.domain.runs import Actor, AuditEntry, Cause, LogLine, Mode, Outcome
from service.domain.samples import Evidence, Kind, Metric, Sample, Status
from service.store import Busy, Claim, Store
from service.store.checks import Cell, Hour
from service.store.chunks import assign_seconds, to_batch
from service.store.engine import open_memory
from service.store.fallback import Failover
from service.store.states import MAX_PUSHES, READ_PUSH
from tests.store import KEY, MINUTE, NOW, check, claim, claim_slot, deliver, ended, keep, opened, samples, started

PENDING, DELIVERED, REJECTED = DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.REJECTED


@pytest.fixture(params=["file", "memory", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """What holds for one holds for all."""
    if request.param == "memory":
        yield Store(Failover(open_memory(), lambda: NOW), StoreSettings())
        return
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    async with opened(tmp_path, url=url) as opened_store:
        yield opened_store


async def test_a_slot_is_claimed_once_and_only_rises_in_each_mode(store: Store) -> None:
    assert await claim_slot(store, started(2), None)
    assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + 2 * MINUTE}
    await store.runs.end(ended(started(2)))
    assert not await claim_slot(store, started(3), None)  # somebody had one before
    assert not await claim_slot(store, started(1), NOW + 2 * MINUTE)  # the clock stepped back
    assert await claim_slot(store, started(3), NOW + 2 * MINUTE)
    assert await store.runs.slots(Mode.SHADOW) == {}
    assert await claim_slot(store, replace(started(1), id="a", mode=Mode.SHADOW))
    assert await store.runs.slots(Mode.SHADOW) == {"ci": NOW + MINUTE}


async def test_forbid_costs_no_slot_and_of_several_claims_each_is_judged_by_itself(store: Store) -> None:
    busy_run = started(0, "busy")
    await store.runs.begin(busy_run, forbids=True)
    with pytest.raises(Busy):
        await store.runs.begin(started(1, "busy"), forbids=True)
    await store.runs.begin(started(1, "busy"), forbids=False)
    await claim_slot(store, started(1))
    claims = [Claim(started(2, name), None, forbids=True) for name in ("ci", "evals", "busy", "gpu")]
    stale, won, busy, also_won = await store.runs.claim_slots(claims)
    assert (stale, won, also_won) == (False, True, True)
    assert isinstance(busy, Busy)
    assert busy.run_id == busy_run.id
    assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + MINUTE} | dict.fromkeys(("evals", "gpu"), NOW + 2 * MINUTE)
    assert await store.runs.run(started(2).id) is None
    await store.runs.end(ended(busy_run))
    assert await claim_slot(store, started(3, "busy"))


async def test_an_ended_run_is_kept_with_all_that_it_brought_and_a_repeat_changes_nothing(store: Store) -> None:
    """The answer to the first may have been lost."""
    await store.runs.begin(started(), forbids=True)
    assert (await store.runs.run(started().id)) == started()
    done = ended(started(), Outcome.PARTIAL, 2)
    await store.runs.end(done, samples(2), [check()], {"cursor": b"7"})
    assert await store.outbox.counts([done.id, "none"]) == {done.id: {PENDING: 2}, "none": {}}
    chunks = await claim(store)
    await store.outbox.settle(chunks, DELIVERED)
    await store.outbox.settle(chunks, DeliveryStatus.UNKNOWN, "late")
    await store.outbox.release(chunks)
    await store.outbox.refuse(chunks)
    await store.runs.end(replace(done, outcome=Outcome.FAILED), samples(3), [], {"cursor": b"8"})
    assert await store.runs.run(done.id) == done
    assert await store.checks.read("ci") == [check()]
    assert await store.states.read("ci", "cursor") == (b"7", 1)
    assert await store.outbox.counts([done.id]) == {done.id: {DELIVERED: 2}}


async def test_runs_are_listed_newest_first_and_those_by_webhook_say_nothing_of_health(store: Store) -> None:
    bad = (Outcome.FAILED, Outcome.FAILED, Outcome.INTERRUPTED)
    of_each = [each for bad_one in bad for each in (Outcome.COMPLETE, bad_one)]
    runs = [await keep(store, started(number), outcome=outcome) for number, outcome in enumerate(of_each)]
    polled = await keep(store, started(9, "evals"), checks=[check()])
    for number in range(10, 30):
        run = replace(started(number, "evals"), cause=Cause.WEBHOOK)
        await keep(store, run, outcome=bad[0] if number % 2 else Outcome.COMPLETE, checks=[check()])
    assert await store.runs.list("ci", limit=2) == [runs[5], runs[4]]
    assert await store.runs.list("ci", limit=2, before=runs[4].id) == [runs[3], runs[2]]
    assert await store.runs.list("ci", outcome=Outcome.FAILED) == [runs[3], runs[1]]
    assert await store.runs.list("ci", since=NOW + 4 * MINUTE) == [runs[5], runs[4]]
    assert (await store.runs.list(limit=1))[0].collector == "evals"
    assert await store.runs.latest() == {"ci": runs[5], "evals": polled}
    assert await store.runs.last_failures() == {"ci": runs[5]}
    assert await store.runs.last_successes() == {"ci": runs[4].ended, "evals": polled.ended}
    assert [cycle.run for cycle in (await store.checks.histories(["evals"], {}, NOW))[0]["evals"]] == [polled.id]
    store.history_limits = {"evals": (3, 4)}
    await store.prune(NOW)
    kept = await store.runs.list("evals", limit=1000)
    assert (len(kept), kept[-1]) == (8, polled)


async def test_text_from_anywhere_is_taken(store: Store) -> None:
    """No NUL for PostgreSQL, no half of a surrogate pair for anybody."""
    await store.runs.audit(AuditEntry(NOW, "trigger", Actor("::1", "a\0b", "\ud83d reason"), "ci"))
    assert (await store.runs.audit_entries())[0].actor.reason == "? reason"
    for lines in ([LogLine(NOW, "info", "before")], [LogLine(NOW, "info", "a\0\ud83d", {"n": 1})]):
        await store.runs.save_log("run", lines)
    assert await store.runs.log("run") == [LogLine(NOW, "info", "a\0?", {"n": 1})]
    odd = replace(check(), condition="a\0\ud83d", evidence=(Evidence("\ud83d"),))
    sample = Sample(CHECK_STATE, 1, NOW, {"t": "\ud83d"}, evidence=(Evidence("\ud83d"),))
    await keep(store, started(), [sample], checks=[odd])
    assert (await store.checks.read("ci"))[0].condition == "a?"
    assert await deliver(store) == 1


# State and pushes


async def test_state_is_written_only_where_nobody_wrote_meanwhile(store: Store) -> None:
    await store.states.write("ci", {"k": b"0"})
    assert await store.states.read("ci", "k") == (b"0", 1)
    await store.states.write("ci", {"k": b"webhook"})
    await keep(store, started(), state={"k": b"run", "other": b"1"}, revisions={"k": 1, "other": 0})
    assert await store.states.read("ci", "k") == (b"webhook", 2)
    for number, value in enumerate((None, b"1"), 1):  # a deleted key is not taken for the one before
        await keep(store, started(number), state={"other": value})
        assert await store.states.read("ci", "other") == (value, number + 1)
    await store.states.write("ci", {"a_/x": b"1", "a_/y": b"2", "ab/z": b"3", "a_/gone": None})
    await store.states.write("other", {"a_/x": b"4"})
    assert await store.states.read_all("ci", "a_/") == {"a_/x": b"1", "a_/y": b"2"}


async def test_pushes_wait_until_a_run_has_read_them_and_too_many_are_refused_for_now(store: Store) -> None:
    async def push(key: str, body: bytes, at: datetime = NOW, max_bytes: int = 10_000) -> None:
        await store.states.add_push("evals", key, body, at, max_bytes=max_bytes)

    await push("a", b"1")
    await push("b", b"2" * 100)
    await push("b", b"3", NOW + MINUTE)
    first, again = await store.states.pushes("evals")
    assert [(each.body, each.at) for each in (first, again)] == [(b"1", NOW), (b"3", NOW + MINUTE)]
    await keep(store, started(0, "evals"), state={READ_PUSH: str(first.id).encode()})
    assert await store.states.pushes("evals") == [again]
    await keep(store, started(1, "evals"), state={READ_PUSH: str(again.id).encode()})
    assert await store.states.pushes("evals") == [replace(again, is_read=True)]
    with pytest.raises(Unavailable):
        await push("c", b"x", max_bytes=-1)
    for number in range(MAX_PUSHES):
        await push(str(number), b"x")
    with pytest.raises(Unavailable, match="too many pushed") as refusal:
        await push("more", b"x")
    assert refusal.value.retry_after


# History


async def test_a_board_reads_cycles_cells_and_hours(store: Store) -> None:
    number = check_id("ci", KEY)
    values = [(Status.PASS, 1.0, 0), (Status.FAIL, 7.0, 1), (Status.FAIL, 7.0, 1), (Status.UNKNOWN, None, 3)]
    for minute, (status, value, measured) in enumerate(values):
        await keep(store, started(minute), checks=[check(status, value, NOW + measured * MINUTE)])
    of_collectors, of_checks = await store.checks.histories(["ci", "evals"], {"ci": [number, 5]}, NOW)
    cycles = of_collectors["ci"]
    assert [cycle.run for cycle in cycles] == [started(minute).id for minute in range(4)]
    assert (cycles[1].started, cycles[1].seconds, cycles[1].outcome) == (NOW + MINUTE, 9.0, "Complete")
    assert (await store.checks.histories(["ci"], {}, NOW, 2))[0]["ci"] == cycles[2:]
    assert await store.checks.cycle(cycles[2].run) == ("ci", cycles[2])
    assert await store.checks.cycle("none") is None
    assert [of_checks[number].cells[cycle.number] for cycle in cycles] == [
        Cell("pass", False, 1.0),
        Cell("fail", False, 7.0),
        Cell("fail", True, 7.0),
        Cell("unknown", False, None),
    ]
    assert of_checks[number].hours == (Hour(NOW, 1.0, 7.0, 7.0, True, 5.0),)
    assert of_checks[5].cells == {}


# The outbox


async def test_samples_are_claimed_in_chunks_of_one_endpoint_and_mode(store: Store) -> None:
    await keep(store, started(), samples(1_500) + samples(2, Kind.DISTRIBUTION) + samples(3, Kind.COUNT))
    first = await claim(store)
    sizes = [(chunk.kind, len(chunk.points)) for chunk in first]
    assert sizes == [(Kind.GAUGE, 1_000), (Kind.GAUGE, 500), (Kind.COUNT, 3)]
    assert [(chunk.kind, len(chunk.points)) for chunk in await claim(store)] == [(Kind.DISTRIBUTION, 2)]
    assert await claim(store) == []
    assert first[0].oldest == first[0].newest == int(NOW.timestamp())
    assert {(chunk.run, chunk.collector, chunk.mode) for chunk in first} == {(started().id, "ci", Mode.LIVE)}
    for number, mode in enumerate((Mode.SHADOW, Mode.LIVE, Mode.SHADOW), 1):
        await keep(store, started(number, mode=mode), samples(1))
    assert [chunk.mode for chunk in await claim(store)] == [Mode.SHADOW] * 2
    assert [chunk.mode for chunk in await claim(store)] == [Mode.LIVE]


async def test_counts_of_runs_that_end_at_once_share_no_second_and_claims_at_once_no_chunk(store: Store) -> None:
    claimed: list[Chunk] = []

    async def take() -> None:
        while chunks := await store.outbox.claim(NOW, 4_000_000, 50):
            claimed.extend(chunks)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(keep, store, started(number), samples(50, Kind.COUNT))
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(take)
    points = [(point.tags, point.at) for chunk in claimed for point in chunk.points]
    assert len(points) == len(set(points)) == 250


async def test_a_refused_chunk_comes_in_halves_and_a_run_s_samples_are_read_page_by_page(store: Store) -> None:
    """Of a refused request's chunks each comes alone, then its halves; each half is a row before it is sent."""
    evidence = check().evidence
    brought = [replace(each, evidence=evidence, measured_at=NOW - MINUTE) for each in samples(2_500)]
    run = await keep(store, started(), brought)
    await store.outbox.refuse(await claim(store))
    (alone,) = await claim(store)
    await store.outbox.refuse([alone])
    await store.outbox.refuse([alone])  # the answer was lost
    sizes = []
    while chunks := await claim(store):
        sizes += [len(chunk.points) for chunk in chunks]
        await store.outbox.settle(chunks, *((REJECTED, "cursed") if len(sizes) == 4 else (DELIVERED,)))
    assert sizes == [500, 1_000, 500, 500]
    page, total = await store.outbox.samples(run.id, 495, 10)
    assert total == 2_500
    assert [each.point.value for each in page] == [index + 0.5 for index in range(495, 505)]
    assert (page[0].point.evidence, page[0].tags) == (evidence, {"index": "00495"})
    assert page[0].point.measured_at == int((NOW - MINUTE).timestamp())
    assert [(each.status, each.reason) for each in page] == [(DELIVERED, "")] * 5 + [(REJECTED, "cursed")] * 5
    assert (await store.outbox.samples(run.id, 2_499, 10))[0][0].point.value == 2_499.5
    assert await store.outbox.samples("none") == ([], 0)


# Counts: the intake keeps one of a series and second, the one that came last.


async def test_a_second_of_a_count_is_never_used_twice_but_after_two_hours(store: Store) -> None:
    """What is one series to the intake is one here, however it is spelled."""
    spelled = ({"Team": "In fra", "a": "b"}, {"a": "B", "team": "in_fra"}, {"a": "b", "team": "In__Fra"})

    def count(value: float, at: int = 0, tags: dict[str, str] = spelled[0]) -> Sample:
        return replace(samples(1, Kind.COUNT)[0], value=value, at=NOW + timedelta(seconds=at), tags=tags)

    async def seconds() -> dict[float, int]:
        points = [point for chunk in await claim(store) for point in chunk.points]
        return {point.value: point.at - int(NOW.timestamp()) for point in points}

    await keep(store, started(), [count(1), count(2, tags=spelled[1]), count(3, 1, spelled[2]), count(4, tags={})])
    await deliver(store)
    await keep(store, started(1), [count(5), count(6, -5), count(7, tags={})])
    await store.outbox.put("ci", [count(8)])
    assert await seconds() == {5: 3, 6: -5, 7: 1, 8: 4}  # 1 to 3 have the seconds 0 to 2
    await store.prune(NOW + timedelta(hours=2, seconds=5))
    await keep(store, started(2), [count(9)])
    assert await seconds() == {9: 0}


Counts = st.tuples(st.integers(0, 3), st.integers(0, 90))  # series and second


@given(st.lists(Counts, max_size=200), st.sets(Counts, max_size=100))
def test_each_count_has_a_second_of_its_own_and_no_value_is_lost(
    counts: list[tuple[int, int]], before: set[tuple[int, int]]
) -> None:
    def points(of_each: Iterable[tuple[int, int]]) -> list[Point]:
        metric = Metric("metta.runs", Kind.COUNT)
        brought = (Sample(metric, 1.0, NOW + timedelta(seconds=at), {"series": str(series)}) for series, at in of_each)
        return to_batch(brought, {"run": "r", "collector": "ci", "mode": "live", "owner": ""}).counts

    taken = frozenset(assign_seconds(points(before), frozenset())[1])
    found, seconds = assign_seconds(points(counts), taken)
    assert sum(point.value for point in found) == len(counts)
    assert len({(point.tags, point.at) for point in found}) == len(found) == len(set(seconds))
    assert taken.isdisjoint(seconds)


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
    counts = {started(2).id: {}, started(3).id: {DELIVERED: 1}}
    assert await store.outbox.counts(counts) == counts
    await store.prune(NOW + timedelta(days=8))
    assert await store.outbox.samples(started(3).id) == ([], 0)
    assert await store.outbox.counts(counts) == counts  # these outlive them


async def test_a_full_outbox_gives_up_what_is_settled_then_its_oldest_samples(store: Store) -> None:
    store._limits = StoreSettings.model_construct(max_bytes=ByteSize(120_000))  # two runs
    for number, expired in enumerate((0, 0, 0, 500)):
        noise = [replace(each, tags={"noise": os.urandom(90).hex()}) for each in samples(500)]
        await keep(store, started(number), noise)
        if number == 0:
            await deliver(store)
        assert await store.prune(NOW) == expired
    assert (await store.outbox.pending()).samples == 1_000
    lost = [await store.outbox.lost("ci", since) for since in (NOW, NOW + MINUTE)]
    assert lost == [{DeliveryStatus.EXPIRED: 500}, {}]
