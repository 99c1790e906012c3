"""Several replicas on one PostgreSQL: what each may do, and what becomes of what the dead leave behind."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.config.settings import StoreSettings
from service.domain.alerts import NotifiedState, StateChange
from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Actor, Cause, Mode, Outcome, Pause, Run, new_run_id
from service.domain.samples import Kind, Status
from service.store import Beat, Claim, Store, tables
from tests.postgres import Postgres
from tests.store import KEY, NOW, check, claim, claim_slot, deliver, ended, samples

PENDING, UNKNOWN = DeliveryStatus.PENDING, DeliveryStatus.UNKNOWN
CHANGE = StateChange("ci", "prod", Status.PASS, timedelta(hours=1), check(Status.FAIL))


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def replicas(tmp_path: Path, postgres_url: str) -> AsyncIterator[list[Store]]:
    # Beats are far apart, so that how slow the machine is decides nothing.
    settings = StoreSettings.model_validate({"url": postgres_url, "dead_after": "10m"})
    stores = [await Store.open(tmp_path, settings, now, replica=(name, "2.0")) for name in ("one", "two")]
    for store in stores:
        await beat(store)
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
def one(replicas: list[Store]) -> Store:
    return replicas[0]


@pytest.fixture
def two(replicas: list[Store]) -> Store:
    return replicas[1]


async def beat(store: Store, *, repeated: str = "") -> Beat:
    """``repeated``: the collector whose interrupted runs may be repeated."""
    assert store.replicas
    return await store.replicas.beat(lambda run: run.collector == repeated)


async def bury(dead: Store, living: Store, *, repeated: str = "") -> Beat:
    """``dead`` gave no sign of life for long; ``living`` notices."""
    silent = tables.replicas.update().where(tables.replicas.c.id == dead.owner)
    await living._database.execute(silent.values(seen=NOW))
    return await beat(living, repeated=repeated)


def due(store: Store, collector: str = "ci", slot: datetime | None = None) -> Run:
    """A run of ``slot`` (None: of this moment) that the replica of ``store`` is to begin."""
    start = now()
    run_id = new_run_id(collector, start)
    return Run(run_id, collector, Cause.SCHEDULE, start, slot or start, owner=store.owner)


async def begin(store: Store, collector: str = "ci", *, forbids: bool = True) -> Run:
    run = due(store, collector)
    assert await claim_slot(store, run, (await store.runs.slots(Mode.LIVE)).get(collector), forbids=forbids)
    return run


async def outcomes(store: Store, *runs: Run) -> list[Outcome | None]:
    found = {run.id: run.outcome for run in await store.runs.list()}
    return [found[run.id] for run in runs]


async def test_of_two_that_claim_a_slot_at_once_one_wins_and_none_early_or_paused(one: Store, two: Store) -> None:
    for number in range(10):
        name, slot = f"c{number}", now()
        claims = [store.runs.claim_slots([Claim(due(store, name, slot), None, forbids=False)]) for store in (one, two)]
        results = [result for (result,) in await asyncio.gather(*claims)]
        assert sorted(map(bool, results)) == [False, True]
        assert len(await one.runs.list(name)) == 1
    for ahead in (5.0, 0.5):  # so much are clocks apart
        run = due(one, slot=now() + timedelta(seconds=ahead))
        assert await claim_slot(one, run) is (ahead == 0.5)
    await one.runs.pause(Pause("paused", now(), Actor("here")))
    assert "paused" in (await beat(two)).pauses
    assert not await claim_slot(two, due(two, "paused"))
    await two.runs.resume("paused")
    assert await claim_slot(one, due(one, "paused"))


async def test_one_that_was_taken_for_dead_begins_and_leaves_nothing(one: Store, two: Store) -> None:
    run, before = await begin(one), one.owner
    await bury(one, two)
    for beginning in (claim_slot(one, due(one, "other")), one.runs.begin(due(one, "other"), forbids=True)):
        with pytest.raises(Unavailable, match="taken for dead"):
            await beginning
    assert not await one.runs.end(ended(run, count=1), samples(1), [check()], {"key": b"value"})
    assert await outcomes(two, run) == [Outcome.INTERRUPTED]
    assert await two.outbox.counts([run.id]) == {run.id: {}}
    assert (await two.checks.read("ci"), await two.states.read("ci", "key")) == ([], (None, 0))
    seen = await beat(one)
    assert (seen.is_new, set(seen.replicas)) == (True, {one.owner, two.owner})
    assert one.owner != before
    assert not (await beat(one)).is_new
    assert await claim_slot(one, due(one, "other"))


async def test_what_a_dead_replica_left_is_the_inheritors(one: Store, two: Store) -> None:
    sent, waiting, recent, late = [await begin(one, name) for name in ("sent", "waiting", "recent", "late")]
    await one.runs.end(ended(sent, count=7), [*samples(3), *samples(4, Kind.DISTRIBUTION)])
    assert len([*await claim(one), *await claim(one)]) == 2
    await one.runs.end(ended(waiting, count=2), samples(2, Kind.DISTRIBUTION))
    await one.checks.record_changes("ci", [CHANGE], {KEY: NotifiedState(Status.FAIL, now())}, now(), 0)
    assert await claim(two) == []

    seen = await bury(one, two, repeated="recent")
    (repeat,) = seen.repeats
    facts = (repeat.collector, repeat.slot, repeat.cause, repeat.owner)
    assert facts == ("recent", recent.slot, Cause.RETRY, two.owner)
    assert (seen.replicas, seen.active, list(seen.own)) == ((two.owner,), (), [repeat.id])
    assert await outcomes(two, recent, late, repeat) == [Outcome.INTERRUPTED, Outcome.INTERRUPTED, None]
    left = {sent.id: {UNKNOWN: 4, PENDING: 3}, waiting.id: {PENDING: 2}}
    assert await two.outbox.counts(left) == left
    assert (await two.outbox.pending()).samples == 5
    assert [each.change for each in await two.checks.pending_changes()] == [CHANGE]
    assert (await claim(one), await one.checks.pending_changes()) == ([], [])
    # What leaves in order is taken at once; a repeat is not repeated.
    assert (await beat(one)).active == (repeat,)
    await two.close()
    seen = await beat(one, repeated="recent")
    assert (seen.replicas, seen.repeats) == ((one.owner,), ())
    assert await deliver(one) == 5


async def test_a_chunk_that_is_marked_during_the_burial_is_not_sent_twice(
    one: Store, two: Store, postgres_server: Postgres
) -> None:
    """The dead replica woke up and does not know yet: what it marks between two statements of the inheritor."""
    run = await begin(one)
    await one.runs.end(ended(run, count=2), samples(2, Kind.DISTRIBUTION))

    def mark(*arguments: object) -> None:
        if "UPDATE outbox" in str(arguments[2]) and "reason" in str(arguments[2]):
            postgres_server.execute("UPDATE outbox SET status = 'sending' WHERE status = 'pending'")

    sa.event.listen(two._database._disk._engine, "after_cursor_execute", mark)
    await bury(one, two)
    sa.event.remove(two._database._disk._engine, "after_cursor_execute", mark)
    assert await claim(two) == []
    await beat(two)
    assert await two.outbox.counts([run.id]) == {run.id: {UNKNOWN: 2}}


async def test_an_inherited_chunk_is_given_back_by_its_sender_alone(one: Store, two: Store) -> None:
    for store in (one, two):
        await store.outbox.put("heartbeat", samples(2, Kind.DISTRIBUTION))
    chunks, others = await claim(one), await claim(two)
    assert await one.outbox.recover()  # the answer to a claim was lost
    assert not await one.outbox.recover()
    await two.outbox.settle(others, DeliveryStatus.DELIVERED)
    await bury(one, two)
    assert await claim(two) == chunks
    for give_back in (one.outbox.release, one.outbox.refuse):  # the answer to it was lost, so it is told again
        await give_back(chunks)
        assert await claim(two) == []
    await two.outbox.release(chunks)
    assert await claim(two) == chunks


async def test_after_a_pause_of_its_own_a_replica_buries_nobody(one: Store, two: Store) -> None:
    """Where the machine or the database stood still, everybody looks dead."""
    assert two.replicas
    two.replicas._beaten -= 400
    assert one.owner in (await bury(one, two)).replicas
    assert one.owner not in (await beat(two)).replicas


async def test_runs_are_cancelled_and_replaced_across_replicas(one: Store, two: Store) -> None:
    first, second = await begin(one, forbids=False), await begin(one, "evals", forbids=False)
    assert await two.runs.request_cancel(second.id)
    newer = await begin(two, forbids=False)
    assert await two.runs.request_replace(newer)
    await two.runs.request_cancel(first.id)  # the first one to ask says why
    assert (await beat(one)).cancelled == {first.id: Outcome.REPLACED, second.id: Outcome.CANCELLED}
    assert (await beat(two)).cancelled == {}
    for run in (first, second):
        await one.runs.end(ended(run, Outcome.CANCELLED))
    assert (await two.runs.request_replace(newer), await two.runs.request_cancel(second.id)) == (False, False)
    unwanted = await begin(one, "gpu")
    assert await two.runs.request_cancel(unwanted.id)  # so nobody wants it once more
    assert (await bury(one, two, repeated="gpu")).repeats == ()
    assert await outcomes(two, unwanted) == [Outcome.INTERRUPTED]


async def test_a_turn_is_given_once_in_its_interval(one: Store, two: Store, postgres_server: Postgres) -> None:
    for order in ((one, two, one), (two, one, two)):
        turns = [await store.runs.claim_turn("heartbeat", timedelta(minutes=1)) for store in order]
        assert turns == [True, False, False]
        postgres_server.execute("UPDATE slots SET at = at - 55000000 WHERE collector = '$heartbeat'")
    assert await two.runs.claim_turn("prune", timedelta(minutes=1))
    assert not await two.runs.slots(Mode.LIVE), "a turn is no collector's slot"


async def test_a_change_that_two_notice_is_recorded_once(one: Store, two: Store) -> None:
    states = {KEY: NotifiedState(Status.FAIL, now())}
    for revision in range(2):
        assert [await store.checks.notified("ci") for store in (one, two)] == 2 * [
            (states if revision else {}, revision)
        ]
        notice = [store.checks.record_changes("ci", [CHANGE], states, now(), revision) for store in (one, two)]
        await asyncio.gather(*notice)
        changes = [*await one.checks.pending_changes(), *await two.checks.pending_changes()]
        assert len(changes) == revision + 1


async def test_a_server_that_refuses_is_a_wrong_configuration(tmp_path: Path, postgres_url: str) -> None:
    for old, new, message in (
        ("test@", "nobody:hidden@", 'role "nobody" does not exist'),
        ("/postgres", "/postgres?sslmode=require", "server does not support SSL"),
        ("/postgres", "/postgres?nonsense=1", 'invalid connection option "nonsense"'),
        ("postgresql://", "mysql://", "mysql is no PostgreSQL"),
    ):
        settings = StoreSettings.model_validate({"url": postgres_url.replace(old, new)})
        with pytest.raises(ConfigError, match=message) as error:
            await Store.open(tmp_path, settings, now, replica=("one", "2.0"))
        assert "hidden" not in str(error.value)
