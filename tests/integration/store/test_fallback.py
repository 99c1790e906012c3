"""The disk is full or broken: runs go on in memory and come to the disk once it takes them."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.domain.alerts import NotifiedState
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Actor, AuditEntry, Mode, Pause
from service.domain.samples import Status
from service.store import fallback
from tests.integration.store.cases import (
    DISTRIBUTION,
    KEY,
    MINUTE,
    NOW,
    check,
    claim,
    claim_slot,
    deliver,
    ended,
    keep,
    opened,
    samples,
    started,
)


@contextmanager
def full_disk() -> Iterator[None]:
    """No connection of this process can make its file larger, nor write to what it has; reading goes on."""

    def refuse(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("is_writer") and connection.engine.url.database:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise sa.exc.OperationalError("BEGIN", None, error)

    sa.event.listen(sa.Engine, "begin", refuse)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "begin", refuse)


async def test_runs_go_on_in_memory_and_come_to_the_disk_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(3), checks=[check()], state={"k": b"1", "gone": b"1"})
        await claim_slot(store, started(1), None, forbids=True)
        await store.runs.pause(Pause("evals", NOW, Actor("signal")))
        with full_disk():
            await keep(store, started(9, "evals"), samples(1))
            assert "disk is full" in str(store.trouble)
            with pytest.raises(Unavailable, match="disk is full"):
                await store.check()
            # The same answers as from the disk.
            assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + MINUTE}
            assert await store.checks.read("ci") == [check()]
            assert await store.states.read("ci", "k") == (b"1", 1)
            assert {run.id for run in await store.runs.list()} == {
                started().id,
                started(1).id,
                started(9, "evals").id,
            }
            # A run that began on the disk ends, another one begins and ends.
            await keep(store, started(1), samples(2), checks=[check(Status.FAIL, 9.0)], state={"k": b"2", "gone": None})
            assert await claim_slot(store, started(2), NOW + MINUTE, forbids=True)
            await store.runs.resume("evals")
            await store.checks.record_changes("ci", [], {KEY: NotifiedState(Status.FAIL, NOW)}, NOW, 0)
            await store.runs.audit(AuditEntry(NOW, "resume", Actor("signal")))
            assert not await store.recover()
        assert await store.recover()
        assert store.trouble is None
        await store.check()
        assert not await store.recover()
    async with opened(tmp_path) as store:
        assert len(await store.runs.list()) == 4
        assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + 2 * MINUTE}
        assert await store.checks.read("ci") == [check(Status.FAIL, 9.0)]
        assert await store.states.read("ci", "k") == (b"2", 2)
        assert await store.states.read("ci", "gone") == (None, 2)
        assert await store.runs.pauses() == {}
        assert await store.checks.notified("ci") == ({KEY: NotifiedState(Status.FAIL, NOW)}, 1)
        assert [entry.action for entry in await store.runs.audit_entries()] == ["resume"]
        assert len((await store.checks.histories(["ci", "evals"], {}, NOW))[0]["ci"]) == 3
        assert await deliver(store) == 6


async def test_what_was_claimed_before_and_in_between_is_settled_where_it_is_now(tmp_path: Path) -> None:
    """Delivered is delivered, wherever its row was when the answer came; no distribution is sent twice."""
    async with opened(tmp_path) as store:
        run = await keep(store, started(), samples(3) + samples(2, DISTRIBUTION))
        waiting = await keep(store, started(1), samples(4, DISTRIBUTION))
        gauges, distributions = await claim(store), await store.outbox.claim(NOW, 1, 1)
        with full_disk():
            await store.outbox.settle(distributions, DeliveryStatus.DELIVERED)
            late = await keep(store, started(2), samples(5) + samples(6, DISTRIBUTION))
            in_memory = await claim(store)
            assert sum(len(chunk.points) for chunk in in_memory) == 5
            await store.outbox.refuse(in_memory)
            first = await claim(store)
            assert [(len(chunk.points), chunk.run) for chunk in first] == [(6, late.id)]
            assert [len(chunk.points) for chunk in (*await claim(store), *await claim(store))] == [2, 3]
            # The disk's distributions can't be marked, so they wait for it.
            assert await claim(store) == []
        assert await store.recover()
        await store.outbox.settle(gauges, DeliveryStatus.DELIVERED)
        await store.outbox.settle(first, DeliveryStatus.DELIVERED)
        assert await store.outbox.counts([run.id, waiting.id, late.id]) == {
            run.id: {DeliveryStatus.DELIVERED: 5},
            waiting.id: {DeliveryStatus.PENDING: 4},
            late.id: {DeliveryStatus.DELIVERED: 6, DeliveryStatus.SENDING: 5},
        }
        assert await deliver(store) == 4


async def test_memory_is_bounded_and_the_oldest_samples_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "MAX_SAMPLES", 5_000)
    async with opened(tmp_path) as store:
        with full_disk():
            for number in range(6):
                await keep(store, started(number), samples(1_000, at=NOW + number * MINUTE))
            pending = await store.outbox.pending()
            assert (pending.samples, pending.oldest) == (5_000, NOW + MINUTE)
            assert await store.outbox.lost("ci", NOW) == {DeliveryStatus.EXPIRED: 1_000}
        assert await store.recover()
        assert (await store.outbox.pending()).samples == 5_000
        assert await store.outbox.counts([started().id]) == {started().id: {DeliveryStatus.EXPIRED: 1_000}}


async def test_a_disk_that_becomes_full_within_a_transaction_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own error, in the middle of the end of a run: all of it goes to memory, then all of it to the disk."""

    limits = [1]  # pages: no more than there are

    def bound_size(connection: sa.Connection) -> None:
        if connection.engine.url.database:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {limits[-1]}")

    async with opened(tmp_path) as store:
        await store.runs.begin(started(), forbids=True)
        noise = [replace(each, tags={"noise": os.urandom(90).hex()}) for each in samples(3_000)]
        sa.event.listen(sa.Engine, "begin", bound_size)
        await store.runs.end(ended(started(), count=3_000), noise)
        assert store.trouble
        assert "disk is full" in store.trouble
        assert not await store.recover()
        limits.append(2**30)
        assert await store.recover()
        sa.event.remove(sa.Engine, "begin", bound_size)
        assert await deliver(store) == 3_000
