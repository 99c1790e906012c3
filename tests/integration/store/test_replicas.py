"""Several replicas on one PostgreSQL: what each may do, and what becomes of what the dead leave behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.config.settings import StoreSettings
from service.domain.alerts import NotifiedState, StateChange
from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Actor, Cause, Mode, Outcome, Pause, Run, new_run_id
from service.domain.samples import Status
from service.store import Beat, Claim, Replicas, Store
from service.store.engine import open_server
from tests.integration.store.cases import DISTRIBUTION, KEY, check, claim, claim_slot, deliver, ended, samples
from tests.postgres import Postgres, find_free_port

HERE = Actor("here")


def now() -> datetime:
    return datetime.now(UTC)


class Cluster:
    """Replicas of one database."""

    def __init__(self, folder: Path, server: Postgres, stack: AsyncExitStack) -> None:
        self._folder, self._server, self._stack = folder, server, stack

    async def join(self, name: str) -> Store:
        # Beats are far apart, so that how slow the machine is decides nothing.
        settings = StoreSettings.model_validate({"url": self._server.url, "dead_after": "10m"})
        store = await Store.open(self._folder, settings, now, replica=(name, "2.0"))
        self._stack.push_async_callback(store.close)
        await beat(store)
        return store

    async def bury(self, dead: Store, living: Store, may_repeat: Callable[[Run], bool] = lambda run: True) -> Beat:
        """``dead`` gave no sign of life for long; ``living`` notices."""
        self.execute(f"UPDATE replicas SET seen = 0 WHERE id = '{dead.owner}'")
        return await beat(living, may_repeat)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        return self._server.execute(statement)


@pytest.fixture
async def cluster(tmp_path: Path, postgres_server: Postgres, postgres_url: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(tmp_path, postgres_server, stack)


def members(store: Store) -> Replicas:
    assert store.replicas
    return store.replicas


async def beat(store: Store, may_repeat: Callable[[Run], bool] = lambda run: True) -> Beat:
    return await members(store).beat(may_repeat)


@contextmanager
def listening(target: object, event: str, call: Callable[..., None]) -> Iterator[None]:
    sa.event.listen(target, event, call)
    try:
        yield
    finally:
        sa.event.remove(target, event, call)


def due(store: Store, collector: str = "ci", slot: datetime | None = None) -> Run:
    """A run of ``slot`` (None: of this moment) that the replica of ``store`` is to begin."""
    start = now()
    run_id = new_run_id(collector, start)
    return Run(run_id, collector, Cause.SCHEDULE, start, slot or start, owner=store.owner)


async def begin(store: Store, collector: str = "ci", *, forbids: bool = True) -> Run:
    run = due(store, collector)
    assert await claim_slot(store, run, (await store.runs.slots(Mode.LIVE)).get(collector), forbids=forbids)
    return run


async def find(store: Store, run: Run) -> Run:
    found = await store.runs.run(run.id)
    assert found
    return found


async def test_of_two_that_claim_a_slot_at_once_one_wins(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    for number in range(10):
        name, slot = f"c{number}", now()
        claims = [store.runs.claim_slots([Claim(due(store, name, slot), None, forbids=False)]) for store in (one, two)]
        results = [result for (result,) in await asyncio.gather(*claims)]
        assert sorted(map(bool, results)) == [False, True]
        assert len(await one.runs.list(name)) == 1


async def test_a_paused_collector_starts_nowhere(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    await one.runs.pause(Pause("ci", now(), HERE))
    assert "ci" in (await beat(two)).pauses
    assert not await claim_slot(two, due(two), None, forbids=True)
    assert (await two.runs.slots(Mode.LIVE), await two.runs.list()) == ({}, [])
    await two.runs.resume("ci")
    assert await claim_slot(one, due(one), None, forbids=True)


@pytest.mark.parametrize(("ahead", "is_won"), [(0.5, True), (5, False)])
async def test_a_clock_that_is_ahead_claims_no_slot_early(cluster: Cluster, ahead: float, is_won: bool) -> None:
    one = await cluster.join("one")
    assert await claim_slot(one, due(one, slot=now() + timedelta(seconds=ahead)), None, forbids=True) is is_won
    assert bool(await one.runs.list()) is is_won


async def test_one_that_was_taken_for_dead_begins_and_leaves_nothing(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    run, before = await begin(one), one.owner
    await cluster.bury(one, two, lambda run: False)
    with pytest.raises(Unavailable, match="taken for dead"):
        await claim_slot(one, due(one, "other"), None, forbids=True)
    with pytest.raises(Unavailable, match="taken for dead"):
        await one.runs.begin(due(one, "other"), forbids=True)
    assert not await one.runs.end(ended(run, count=1), samples(1), [check()], {"key": b"value"})
    assert (await find(two, run)).outcome is Outcome.INTERRUPTED
    assert await two.outbox.counts([run.id]) == {run.id: {}}
    assert (await two.checks.read("ci"), await two.states.read("ci", "key")) == ([], (None, 0))

    seen = await beat(one)
    assert seen.is_new
    assert one.owner != before
    assert set(seen.replicas) == {one.owner, two.owner}
    assert not (await beat(one)).is_new
    assert await claim_slot(one, due(one, "other"), None, forbids=True)


async def test_what_a_dead_replica_left_is_the_inheritors(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    sent, waiting, active = [await begin(one, name) for name in ("sent", "waiting", "active")]
    await one.runs.end(ended(sent, count=7), [*samples(3), *samples(4, DISTRIBUTION)])
    assert len([*await claim(one), *await claim(one)]) == 2
    await one.runs.end(ended(waiting, count=2), samples(2, DISTRIBUTION))
    await one.checks.record_changes("ci", [change()], {KEY: NotifiedState(Status.FAIL, now())}, now(), 0)
    assert await claim(two) == []

    seen = await cluster.bury(one, two, lambda run: False)
    assert (seen.replicas, seen.active, seen.repeats) == ((two.owner,), (), ())
    run = await find(two, active)
    assert (run.outcome, run.error) == (Outcome.INTERRUPTED, "the replica that carried it out died")
    assert await two.outbox.counts([sent.id, waiting.id]) == {
        sent.id: {DeliveryStatus.UNKNOWN: 4, DeliveryStatus.PENDING: 3},
        waiting.id: {DeliveryStatus.PENDING: 2},
    }
    assert (await two.outbox.pending()).samples == 5
    assert [each.change for each in await two.checks.pending_changes()] == [change()]
    assert not await claim(one)
    assert not await one.checks.pending_changes()
    assert await deliver(two) == 5


async def test_a_chunk_that_is_marked_during_the_burial_is_not_sent_twice(cluster: Cluster) -> None:
    """The dead replica woke up and does not know yet: what it marks between two statements of the inheritor."""
    one, two = await cluster.join("one"), await cluster.join("two")
    run = await begin(one)
    await one.runs.end(ended(run, count=2), samples(2, DISTRIBUTION))

    def mark(*arguments: object) -> None:
        if "UPDATE outbox" in str(arguments[2]) and "reason" in str(arguments[2]):
            cluster.execute("UPDATE outbox SET status = 'sending' WHERE status = 'pending'")

    with listening(two._database._disk._engine, "after_cursor_execute", mark):
        await cluster.bury(one, two)
    assert await claim(two) == []
    await beat(two)
    assert await two.outbox.counts([run.id]) == {run.id: {DeliveryStatus.UNKNOWN: 2}}


async def test_an_inherited_chunk_is_given_back_by_its_sender_alone(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    run = await begin(one)
    await one.runs.end(ended(run, count=2), samples(2, DISTRIBUTION))
    chunks = await claim(one)
    await one.outbox.release(chunks)
    await cluster.bury(one, two)
    assert await claim(two) == chunks
    for give_back in (one.outbox.release, one.outbox.refuse):  # the answer to it was lost, so it is told again
        await give_back(chunks)
        assert await claim(two) == []
    await two.outbox.release(chunks)
    assert await claim(two) == chunks


async def test_chunks_of_a_claim_whose_answer_was_lost_are_recovered(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    for store in (one, two):
        await store.outbox.put("heartbeat", samples(2, DISTRIBUTION))
        assert await claim(store)
    assert await one.outbox.recover()
    assert not await one.outbox.recover()
    assert (await deliver(one), await deliver(two)) == (2, 0)


async def test_an_interrupted_slot_is_repeated_once_within_its_deadline(cluster: Cluster) -> None:
    one, two, three = [await cluster.join(name) for name in ("one", "two", "three")]
    recent, late = await begin(one, "recent"), await begin(one, "late")
    seen = await cluster.bury(one, two, lambda run: run.collector == "recent")
    (repeat,) = seen.repeats
    assert (repeat.collector, repeat.slot, repeat.cause, repeat.owner) == (
        "recent",
        recent.slot,
        Cause.RETRY,
        two.owner,
    )
    assert [run.outcome for run in await two.runs.list("late")] == [Outcome.INTERRUPTED]
    assert (await beat(three)).active == (repeat,)

    assert (await cluster.bury(two, three)).repeats == ()
    assert [run.outcome for run in await three.runs.list("recent")] == 2 * [Outcome.INTERRUPTED]
    assert (await three.runs.slots(Mode.LIVE)) == {"recent": recent.slot, "late": late.slot}


async def test_a_run_that_nobody_carries_out_is_ended(cluster: Cluster) -> None:
    """Its claim was kept but the answer was lost, so its replica does not know of it."""
    one, two = await cluster.join("one"), await cluster.join("two")
    run = await begin(one)
    assert (await beat(one)).own == {run.id}
    assert (await beat(two)).own == set()
    seen = await members(one).beat(lambda run: True, lost={run.id, "of another"})
    assert (await find(one, run)).outcome is Outcome.INTERRUPTED
    assert [(repeat.slot, repeat.cause) for repeat in seen.repeats] == [(run.slot, Cause.RETRY)]
    assert seen.own == {seen.repeats[0].id}


async def test_what_leaves_in_order_is_taken_at_once(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    await one.outbox.put("heartbeat", samples(2))
    await members(one).leave()
    assert (await beat(two)).replicas == (two.owner,)
    assert await deliver(two) == 2


async def test_after_a_pause_of_its_own_a_replica_buries_nobody(cluster: Cluster) -> None:
    """Where the machine or the database stood still, everybody looks dead."""
    one, two = await cluster.join("one"), await cluster.join("two")
    members(two)._beaten -= 400
    assert one.owner in (await cluster.bury(one, two)).replicas
    assert one.owner not in (await beat(two)).replicas


async def test_runs_are_cancelled_and_replaced_across_replicas(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    first, second = await begin(one, forbids=False), await begin(one, "evals", forbids=False)
    assert await two.runs.request_cancel(second.id)
    newer = await begin(two, forbids=False)
    assert await two.runs.request_replace(newer)
    assert (await beat(one)).cancelled == {first.id: Outcome.REPLACED, second.id: Outcome.CANCELLED}
    assert (await beat(two)).cancelled == {}
    await two.runs.request_cancel(first.id)
    assert (await beat(one)).cancelled[first.id] is Outcome.REPLACED  # the first one to ask says why
    for run in (first, second):
        await one.runs.end(ended(run, Outcome.CANCELLED))
    assert not await two.runs.request_replace(newer)
    assert not await two.runs.request_cancel(second.id)
    unwanted = await begin(one, "gpu")
    assert await two.runs.request_cancel(unwanted.id)  # so nobody wants it once more
    assert (await cluster.bury(one, two)).repeats == ()
    assert (await find(two, unwanted)).outcome is Outcome.INTERRUPTED


async def test_a_turn_is_given_once_in_its_interval(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    turns = [await store.runs.claim_turn("heartbeat", timedelta(minutes=1)) for store in (one, two, one)]
    assert turns == [True, False, False]
    assert await two.runs.claim_turn("prune", timedelta(minutes=1))
    cluster.execute("UPDATE slots SET at = at - 55000000 WHERE collector = '$heartbeat'")
    turns = [await store.runs.claim_turn("heartbeat", timedelta(minutes=1)) for store in (two, one)]
    assert turns == [True, False]


def change() -> StateChange:
    at = datetime(2025, 1, 14, 15, tzinfo=UTC)
    return StateChange("ci", "prod", Status.PASS, timedelta(hours=1), check(Status.FAIL, at=at))


async def test_a_change_that_two_notice_is_recorded_once(cluster: Cluster) -> None:
    one, two = await cluster.join("one"), await cluster.join("two")
    for number in range(2):
        (_, revision), (_, same) = await one.checks.notified("ci"), await two.checks.notified("ci")
        assert revision == same == number
        states = {KEY: NotifiedState(Status.FAIL, now())}
        await asyncio.gather(
            *(store.checks.record_changes("ci", [change()], states, now(), revision) for store in (one, two))
        )
        changes = [*await one.checks.pending_changes(), *await two.checks.pending_changes()]
        assert len(changes) == number + 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        (("test@", "nobody@"), 'role "nobody" does not exist'),
        (("/postgres", "/postgres?sslmode=require"), "server does not support SSL"),
        (("/postgres", "/postgres?nonsense=1"), 'invalid connection option "nonsense"'),
        (("postgresql://", "mysql://"), "mysql is no PostgreSQL"),
    ],
)
async def test_a_server_that_refuses_is_a_wrong_configuration(
    tmp_path: Path, postgres_url: str, wrong: tuple[str, str], message: str
) -> None:
    settings = StoreSettings.model_validate({"url": postgres_url.replace(*wrong)})
    with pytest.raises(ConfigError, match=message):
        await Store.open(tmp_path, settings, now, replica=("one", "2.0"))


async def test_a_server_that_is_away_is_asked_again(tmp_path: Path, postgres_url: str) -> None:
    away = StoreSettings.model_validate({"url": f"postgresql://test:hidden@127.0.0.1:{find_free_port()}/postgres"})
    store = await Store.open(tmp_path, away, now, replica=("one", "2.0"))
    assert (store.owner, store.is_prepared, await store.recover()) == ("", False, False)
    with pytest.raises(Unavailable, match="has not answered yet") as error:
        await store.runs.slots(Mode.LIVE)
    assert "hidden" not in str(error.value)
    with pytest.raises(Unavailable, match="has not joined"):
        await beat(store)
    store._database._disk = open_server(postgres_url)  # it answers from here on
    assert await store.recover()
    assert (await beat(store)).replicas == (store.owner,)
    await store.close()
