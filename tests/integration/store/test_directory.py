"""The state directory: who may use it, what is made of damage and a full disk, backup, tables of versions, way out."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.config.settings import StoreSettings
from service.domain.alerts import NotifiedState
from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Actor, AuditEntry, Mode, Outcome, Pause
from service.domain.samples import Kind, Status
from service.store import Store, engine, fallback, tables
from service.store.engine import Database, OtherVersion
from service.store.state_directory import DATABASE, back_up, copy_store, find_lock_holder
from tests.postgres import Postgres
from tests.store import KEY, MINUTE, NOW, check, claim, claim_slot, deliver, keep, opened, samples, started

SCHEMAS = sorted((Path(__file__).parents[2] / "payloads" / "schema").glob("*.sql"))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_the_directory_is_its_owner_s_alone_has_one_writer_and_readers_beside_it(tmp_path: Path) -> None:
    """A store that is not there reads as an empty one."""
    state = tmp_path / "new" / "state"
    nothing = await Store.open_reading(state)
    assert (await nothing.is_unused(), await nothing.runs.latest(), await claim(nothing)) == (True, {}, [])
    await nothing.check()
    await nothing.close()
    assert not state.exists()
    async with opened(state) as store:
        writer = f"process {os.getpid()}"
        with pytest.raises(ConfigError, match=f"{state} is in use by {writer}.*state_dir"):
            await Store.open(state, StoreSettings())
        assert find_lock_holder(state) == writer
        await keep(store, started(), samples(3))
        reader = await Store.open_reading(state)
        await keep(store, started(1), samples(2))
        assert (await reader.outbox.pending()).samples == 5
        with pytest.raises(Unavailable, match="readonly database"):
            await reader.runs.begin(started(2), forbids=False)
        await reader.close()
        back_up(state, tmp_path / "copy")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (state, *state.iterdir(), tmp_path / "copy")}
        files = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "lock", "copy")
        assert modes == {"state": 0o700} | dict.fromkeys(files, 0o600)
    assert find_lock_holder(state) is None


async def test_a_database_that_can_not_be_a_file_is_a_matter_of_configuration(tmp_path: Path) -> None:
    """Nor a directory that can't be one. And the lock is free again after the failure."""
    (tmp_path / "file").write_text("a file")
    (tmp_path / DATABASE).mkdir()
    for directory, named in ((tmp_path / "file" / "deeper", "file"), (tmp_path, r"state\.db can't be used")):
        with pytest.raises(ConfigError, match=f"{tmp_path}/{named}.*state_dir"):
            await Store.open(directory, StoreSettings())
    (tmp_path / DATABASE).rmdir()
    async with opened(tmp_path):
        pass


async def test_what_was_under_way_when_the_process_died_is_settled_at_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        done = await keep(store, started(), samples(3) + samples(2, Kind.DISTRIBUTION))
        await store.runs.begin(started(1), forbids=True)
        assert [len(await claim(store)), len(await claim(store))] == [1, 1]
    later = NOW + timedelta(hours=1)
    async with opened(tmp_path, later) as store:
        run = await store.runs.run(started(1).id)
        assert run
        assert (run.outcome, run.ended, run.error) == (
            Outcome.INTERRUPTED,
            later,
            "the daemon ended before the run did",
        )
        cycles = (await store.checks.histories(["ci"], {}, NOW))[0]["ci"]
        assert [cycle.outcome for cycle in cycles] == ["Complete", "Interrupted"]
        assert await store.outbox.counts([done.id]) == {done.id: {DeliveryStatus.PENDING: 3, DeliveryStatus.UNKNOWN: 2}}
        assert await store.outbox.lost("ci", NOW) == {DeliveryStatus.UNKNOWN: 2}
        await store.runs.begin(started(2), forbids=True)


def spoil(database: Path, how: str) -> bytes:
    """The bytes that it has now."""
    content = database.read_bytes()
    torn = content[:4096] + b"\xff" * (len(content) - 4096)
    spoilt = {"foreign": b"not a database" * 300, "torn": torn, "cut": content[:8192], "emptied": b""}[how]
    database.write_bytes(spoilt)
    return spoilt


@pytest.mark.parametrize("how", ["foreign", "torn", "cut"])
async def test_a_damaged_database_is_set_aside_and_a_new_one_starts(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(2_000))
    broken = spoil(tmp_path / DATABASE, how)
    with pytest.raises(Unavailable):
        await (await Store.open_reading(tmp_path)).is_unused()
    with pytest.raises(Unavailable, match=r"unavailable: .*/state\.db"):
        back_up(tmp_path, tmp_path / "copy")
    async with opened(tmp_path, NOW + timedelta(seconds=5)) as store:
        await keep(store, started(1), samples(2))
    assert (tmp_path / f"{DATABASE}.damaged-20250114T150005Z").read_bytes() == broken
    async with opened(tmp_path) as store:
        assert await deliver(store) == 2


@pytest.mark.parametrize("how", ["emptied", "cut", "torn", "removed", "replaced"])
async def test_a_file_that_others_spoil_in_use_costs_no_restart(tmp_path: Path, how: str) -> None:
    """What runs need goes on; what waited is kept where it can still be read."""
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(2_000))
    database, copy = tmp_path / DATABASE, tmp_path / "copy"
    back_up(tmp_path, copy)
    async with opened(tmp_path) as store:
        if how == "replaced":
            copy.replace(database)
        elif how == "removed":
            for suffix in ("", "-wal", "-shm"):
                (tmp_path / f"{DATABASE}{suffix}").unlink()
        else:
            spoil(database, how)
            assert await store.runs.list() == []
        for number in range(1, 4):
            await keep(store, started(number), samples(1))
        await store.recover()
        await store.check()
        await keep(store, started(9), samples(1))
        kept = await deliver(store)
        assert kept == 2_004 if how in ("removed", "replaced") else kept >= 1
        with pytest.raises(ConfigError, match="in use"):
            await Store.open(tmp_path, StoreSettings())
    async with opened(tmp_path) as store:
        assert await store.runs.run(started(9).id)


async def test_a_store_of_a_newer_version_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(ConfigError, match=r"newer infra-health \(schema 0099, this one knows \d{4}\)"):
        await Store.open(tmp_path, StoreSettings())
    with pytest.raises(OtherVersion, match="tables of version 0099"):
        await Store.open_reading(tmp_path)
    assert names(tmp_path) == ["lock", DATABASE, f"{DATABASE}-shm", f"{DATABASE}-wal"]


async def test_a_backup_that_can_not_be_written_harms_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(1))
        before = names(tmp_path)
        for target in (tmp_path / "nowhere" / "copy", tmp_path, tmp_path / DATABASE):
            with pytest.raises(ConfigError, match=str(target)):
                back_up(tmp_path, target)
        assert names(tmp_path) == before
        assert await deliver(store) == 1
    with pytest.raises(ConfigError, match="no store"):
        back_up(tmp_path / "never", tmp_path / "copy")


# Tables


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.stem)
def test_a_store_of_each_released_version_comes_to_the_tables_of_a_new_one(tmp_path: Path, schema: Path) -> None:
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")

    def described(connection: sa.Connection) -> dict[str, str]:
        return {name: "".join(sql.split()) for name, sql in connection.execute(query)}

    with closing(sqlite3.connect(tmp_path / "old")) as connection:
        connection.executescript(schema.read_text())
    with closing(engine.prepare(engine.open_file(tmp_path / "old"))) as old, closing(engine.open_memory()) as new:
        assert old.read(described) == new.read(described)
        assert old.read(engine.read_revision) == tables.REVISION


def test_replicas_that_start_at_once_agree_on_the_tables(postgres_server: Postgres, postgres_url: str) -> None:
    def compare(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.meta))

    with closing(engine.open_server(postgres_url)) as database, ThreadPoolExecutor(3) as replicas:
        for _ in ("empty", "of an older version"):
            list(replicas.map(engine.prepare, 3 * [database]))
            assert database.write(compare) == []
            added = {"checks": ("summary", "is_missing", "cycles", "past"), "hours": ("threshold", "threshold_low")}
            for table, names in added.items():
                postgres_server.execute(*(f"ALTER TABLE {table} DROP COLUMN {name}" for name in names))
            postgres_server.execute("UPDATE alembic_version SET version_num = '0001'")


def test_the_store_imports_neither_alembic_nor_a_driver_of_postgresql() -> None:
    code = "import sys, service.store; print({'alembic', 'psycopg', 'pydantic'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


async def test_what_the_next_process_needs_goes_along_to_an_empty_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with pytest.raises(ConfigError, match="nothing to copy"):
        copy_store(tmp_path, postgres_url)
    pause = Pause("evals", NOW, Actor("here", "ada", "a quiet night"))
    async with opened(tmp_path) as store:
        await store.runs.pause(pause)
        await keep(store, started(), samples(1500), checks=[check()], state={"k": b"1"})
        assert await claim_slot(store, started(1))
        await keep(store, started(2, "evals"), samples(3, Kind.DISTRIBUTION))
        with pytest.raises(ConfigError, match="in use by process"):
            copy_store(tmp_path, postgres_url)
    with pytest.raises(ConfigError, match="does not exist"):
        copy_store(tmp_path, postgres_url.replace("/postgres", "/nowhere"))
    assert copy_store(tmp_path, postgres_url)["outbox"] == 3
    async with opened(tmp_path / "none", url=postgres_url) as shared:
        assert await shared.runs.slots(Mode.LIVE) == {"ci": started(1).slot}
        assert await shared.runs.pauses() == {"evals": pause}
        assert await shared.checks.read("ci") == [check()]
        assert await shared.states.read("ci", "k") == (b"1", 1)
        assert await deliver(shared) == 1503
    with pytest.raises(ConfigError, match="only an empty store"):
        copy_store(tmp_path, postgres_url)


# The disk is full: runs go on in memory and come to it once it takes them


@contextmanager
def full_disk() -> Iterator[None]:
    """No file takes anything; reading goes on."""
    write = Database.write

    def refuse(database: Database, work: Any) -> Any:
        if database.where != "memory":
            raise Unavailable("the disk is full")
        return write(database, work)

    with patch.object(Database, "write", refuse):
        yield


async def test_runs_go_on_in_memory_and_come_to_the_disk_later(tmp_path: Path) -> None:
    notified = {KEY: NotifiedState(Status.FAIL, NOW)}
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(3), checks=[check()], state={"k": b"1", "gone": b"1"})
        await claim_slot(store, started(1))
        await store.runs.pause(Pause("evals", NOW, Actor("signal")))
        with full_disk():
            await keep(store, started(9, "evals"), samples(1))
            with pytest.raises(Unavailable, match="disk is full"):
                await store.check()
            # The same answers as from the disk.
            assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + MINUTE}
            assert await store.checks.read("ci") == [check()]
            assert await store.states.read("ci", "k") == (b"1", 1)
            # A run that began on the disk ends, another one begins.
            await keep(store, started(1), samples(2), checks=[check(Status.FAIL, 9.0)], state={"k": b"2", "gone": None})
            assert await claim_slot(store, started(2), NOW + MINUTE)
            await store.runs.resume("evals")
            await store.checks.record_changes("ci", [], notified, NOW, 0)
            await store.runs.audit(AuditEntry(NOW, "resume", Actor("signal")))
            assert not await store.recover()
        assert await store.recover()
        await store.check()
    async with opened(tmp_path) as store:
        runs = (started(9, "evals"), started(2), started(1), started())
        assert [run.id for run in await store.runs.list()] == [run.id for run in runs]
        assert await store.runs.slots(Mode.LIVE) == {"ci": NOW + 2 * MINUTE}
        assert await store.checks.read("ci") == [check(Status.FAIL, 9.0)]
        assert [await store.states.read("ci", key) for key in ("k", "gone")] == [(b"2", 2), (None, 2)]
        assert await store.runs.pauses() == {}
        assert await store.checks.notified("ci") == (notified, 1)
        assert [entry.action for entry in await store.runs.audit_entries()] == ["resume"]
        assert len((await store.checks.histories(["ci", "evals"], {}, NOW))[0]["ci"]) == 3
        assert await deliver(store) == 6


async def test_what_was_claimed_before_and_in_between_is_settled_where_it_is_now(tmp_path: Path) -> None:
    """Delivered is delivered, wherever its row was when the answer came; no distribution is sent twice."""
    async with opened(tmp_path) as store:
        run = await keep(store, started(), samples(3) + samples(2, Kind.DISTRIBUTION))
        waiting = await keep(store, started(1), samples(4, Kind.DISTRIBUTION))
        gauges, distributions = await claim(store), await store.outbox.claim(NOW, 1, 1)
        with full_disk():
            await store.outbox.settle(distributions, DeliveryStatus.DELIVERED)
            late = await keep(store, started(2), samples(5) + samples(6, Kind.DISTRIBUTION))
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


async def test_memory_is_bounded_and_the_oldest_samples_go_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with full_disk(), patch.object(fallback, "MAX_SAMPLES", 5_000):
            for number in range(6):
                await keep(store, started(number), samples(1_000, at=NOW + number * MINUTE))
            pending = await store.outbox.pending()
            assert (pending.samples, pending.oldest) == (5_000, NOW + MINUTE)
            assert await store.outbox.lost("ci", NOW) == {DeliveryStatus.EXPIRED: 1_000}
        assert await store.recover()
        assert (await store.outbox.pending()).samples == 5_000
        assert await store.outbox.counts([started().id]) == {started().id: {DeliveryStatus.EXPIRED: 1_000}}
