"""The state directory: who may use it, what is made of files of other versions and of damaged ones, and its backup."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.store import SqliteStore, StoreLocked
from service.adapters.store_file import DATABASE, connect, translated
from service.adapters.store_schema import STEPS, migrate, version_of
from service.domain.errors import ConfigError, Unavailable
from service.domain.points import Fate
from tests.integration.store_cases import NOW, deliver, keep, opened, over, reading, samples, started

HOLDER = """
import asyncio, pathlib, sys
from datetime import UTC, datetime
from service.adapters.store import SqliteStore

async def hold():
    store = await SqliteStore.open(pathlib.Path(sys.argv[1]), now=datetime.now(UTC))
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(hold())
"""


def started_holder(state: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, str(state)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def list_of(directory: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


async def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    """With its id and its command; a reader works beside it; its death, however sudden, frees the directory."""
    state = tmp_path / "state"
    holder = started_holder(state)
    assert holder.stdout
    assert holder.stdin
    with holder, holder.stdin:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked) as refusal:
            await SqliteStore.open(state, now=NOW)
        assert f"process {holder.pid} (-c {state})" in str(refusal.value)
        assert "state_dir" in str(refusal.value)
        async with reading(state) as reader:
            assert await reader.runs() == []
        holder.kill()
    async with opened(state) as store:
        await store.begin(started(0))


async def test_one_process_can_not_open_a_directory_twice(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(StoreLocked, match=f"{tmp_path} is in use by process {os.getpid()}"):
            await SqliteStore.open(tmp_path, now=NOW)
        await keep(store, started(0), samples(3))
    async with opened(tmp_path) as store:
        assert await store.count_waiting() == 3


async def test_the_directory_and_its_files_are_for_their_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    async with opened(state) as store:
        await store.begin(started(0))
        await store.backup(tmp_path / "copy")
        assert state.stat().st_mode & 0o777 == 0o700
        modes = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
        assert modes == dict.fromkeys((DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "lock"), 0o600)
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("inside", ["state", "state/deeper"])
async def test_a_directory_that_can_not_be_is_a_matter_of_configuration(tmp_path: Path, inside: str) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=f"{tmp_path}/state.*state_dir"):
        await SqliteStore.open(tmp_path / inside, now=NOW)


async def test_a_database_that_can_not_be_a_file_is_a_matter_of_configuration(tmp_path: Path) -> None:
    """And the lock is free again after the failure."""
    (tmp_path / DATABASE).mkdir()
    with pytest.raises(ConfigError, match=r"state\.db can't be used.*state_dir"):
        await SqliteStore.open(tmp_path, now=NOW)
    (tmp_path / DATABASE).rmdir()
    async with opened(tmp_path):
        pass


# Reading


async def test_a_store_that_is_not_there_reads_as_an_empty_one(tmp_path: Path) -> None:
    async with reading(tmp_path / "never") as reader:
        assert await reader.runs() == []
        assert await reader.latest_runs() == {}
        assert await reader.paused() == frozenset()
        assert await reader.waiting(10) == []
        await reader.check()
    assert not (tmp_path / "never").exists()


async def test_a_reader_sees_what_a_killed_or_a_running_daemon_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(3))
        async with reading(tmp_path) as reader:
            assert await reader.count_waiting() == 3
            await keep(store, started(1), samples(2))
            assert await reader.count_waiting() == 5
    async with reading(tmp_path) as reader:
        assert await reader.count_waiting() == 5


async def test_a_reader_can_not_write(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        with pytest.raises(OSError, match="opened to read"):
            await reader.begin(started(0))


# Damage


@pytest.mark.parametrize("damage", ["no database", "a torn page", "a short file"])
async def test_a_damaged_database_is_set_aside_and_a_new_one_starts(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(2_000))
    database = tmp_path / DATABASE
    content = database.read_bytes()
    broken = {
        "no database": b"these are not the bytes you are looking for" * 100,
        "a torn page": content[:4096] + b"\xff" * 4096 + content[8192:],
        "a short file": content[: len(content) // 2],
    }[damage]
    database.write_bytes(broken)

    async with opened(tmp_path, NOW + timedelta(seconds=5)) as store:
        rescued = await store.count_waiting()
        assert rescued == (2_000 if damage == "a torn page" else 0)  # it holds no rows
        await keep(store, started(1), samples(2))
        assert await store.count_waiting() == rescued + 2
    assert (tmp_path / f"{DATABASE}.corrupt-20250114T150005Z").read_bytes() == broken
    async with opened(tmp_path) as store:
        assert await store.count_waiting() == rescued + 2


@pytest.mark.parametrize("page", [5, 6, 8, 12, 20, 40, 60])
async def test_a_damaged_page_costs_what_is_on_it_and_no_more(tmp_path: Path, page: int) -> None:
    """Wherever it is; and no number comes again that a point may have had."""
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(2_000))
        await store.remember("ci", {"cursor": b"7"})
        await store.set_paused("ci", True)
        points = await store.waiting(10_000)
        sent, last = {(point.tags, point.value) for point in points}, points[-1].id
    with (tmp_path / DATABASE).open("r+b") as file:
        file.seek(4096 * page)
        file.write(b"\xff" * 4096)
    async with opened(tmp_path) as store:
        points = await store.waiting(10_000)
        assert len(points) > 1_000
        assert {(point.tags, point.value) for point in points} <= sent
        lost = (await store.recall("ci", "cursor") is None) + (await store.paused() == frozenset())
        assert lost + (await store.last_slots() == {}) <= 1
        await store.put("ci", samples(1, fresh="yes"))
        assert (await store.waiting(10_000))[-1].id > last + 1_000


async def read_and_write(store: SqliteStore) -> None:
    for _ in range(3):
        await deliver(store, Fate.WAITING)
        await keep(store, started(2), samples(4_000, more="yes"))


@pytest.mark.parametrize("what", ["emptied", "cut", "removed", "removed with its directory", "replaced"])
async def test_a_file_that_others_spoil_in_use_costs_no_restart(tmp_path: Path, what: str) -> None:
    database = tmp_path / DATABASE
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(2_000))
    other = database.read_bytes()
    async with opened(tmp_path) as store:
        await keep(store, started(1), samples(10, late="yes"))
        if what == "emptied":
            os.truncate(database, 0)
        elif what == "cut":
            os.truncate(database, 8192)
        elif what == "removed with its directory":
            shutil.rmtree(tmp_path)
        elif what == "removed":
            for suffix in ("", "-wal", "-shm"):
                (tmp_path / f"{DATABASE}{suffix}").unlink()
        else:
            (tmp_path / "restored").write_bytes(other)
            (tmp_path / "restored").replace(database)
            (tmp_path / f"{DATABASE}-wal").unlink()
        with pytest.raises(Unavailable):
            await read_and_write(store)
        assert await store.mend(NOW)
        await store.check()
        kept = await store.count_waiting()
        if what.startswith("removed"):
            assert kept == 2_010
        with pytest.raises(StoreLocked):
            await SqliteStore.open(tmp_path, now=NOW)
        await store.end(over(started(3), count=3), samples(3), [], {})
        assert await store.count_waiting() == kept + 3
    async with opened(tmp_path) as store:
        assert await store.count_waiting() == kept + 3


async def test_points_whose_run_was_lost_are_sent_and_then_leave(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(1_000))
        await deliver(store)
        await keep(store, started(1), samples(1_000, other="yes"))
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()
    with (tmp_path / DATABASE).open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)
    async with opened(tmp_path) as store:
        assert await store.runs() == []
        assert len(await deliver(store)) == 1_000
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM points").fetchone() == (0,)


def damage_points(database: Path) -> None:
    """Overwrites a page in the middle of the table of points."""
    content = database.read_bytes()
    pages = [content[start : start + 4096] for start in range(0, len(content), 4096)]
    # A leaf of a table (0x0d) whose rows name their job, and no tags.
    of_points = [
        number
        for number, page in enumerate(pages)
        if page[0] == 0x0D and page.count(b"ci") > 50 and b"index:" not in page
    ]
    with database.open("r+b") as file:
        file.seek(4096 * of_points[len(of_points) // 2])
        file.write(b"\xff" * 4096)


async def test_a_page_that_is_damaged_in_use_costs_no_restart(tmp_path: Path) -> None:
    """Work fails until the store is mended, and what is readable goes on in a new file."""
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(2_000))
    async with opened(tmp_path) as store:
        assert not await store.mend(NOW)
        damage_points(tmp_path / DATABASE)
        with pytest.raises(Unavailable, match="damaged"):
            await deliver(store, Fate.WAITING)
        assert await store.mend(NOW)
        assert not await store.mend(NOW)
        await store.check()
        rescued = await store.count_waiting()
        assert 1_000 < rescued < 2_000
        await store.end(over(started(2), count=3), samples(3), [], {})
        assert await store.count_waiting() == rescued + 3
    assert len(list_of(tmp_path, "*corrupt*Z")) == 1
    async with opened(tmp_path) as store:
        assert await store.count_waiting() == rescued + 3


async def test_the_log_of_a_damaged_database_does_not_reach_the_new_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(1_000))
    async with opened(tmp_path) as store:
        await keep(store, started(1), samples(10))
        log = (tmp_path / f"{DATABASE}-wal").read_bytes()
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    (tmp_path / f"{DATABASE}-wal").write_bytes(log)
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert await store.runs() == []
    assert len(list_of(tmp_path, "*corrupt*")) == 2


async def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    """A crash in the first instant leaves one."""
    (tmp_path / DATABASE).touch()
    async with reading(tmp_path) as reader:
        assert await reader.runs() == []
    async with opened(tmp_path) as store:
        assert await store.runs() == []
    assert list_of(tmp_path, "*corrupt*") == []


async def test_a_reader_of_a_damaged_database_is_told(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable, match="damaged"):
        await SqliteStore.open_reading(tmp_path)


# Versions


async def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(1))
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for opening in (SqliteStore.open(tmp_path, now=NOW), SqliteStore.open_reading(tmp_path)):
        with pytest.raises(ConfigError, match=r"newer infra-health \(schema 99"):
            await opening
    assert list_of(tmp_path, "*corrupt*") == []


async def test_an_older_version_migrates_after_a_copy_of_it(tmp_path: Path) -> None:
    """Step by step, each a transaction: one that fails leaves the version before it whole."""
    path = tmp_path / DATABASE
    async with opened(tmp_path) as store:
        await keep(store, started(0), samples(3))
    connection = connect(path)

    def better(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN mood TEXT NOT NULL DEFAULT 'good'")

    def worse(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE runs")
        connection.execute("this is no SQL")

    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, path, (*STEPS, better, worse))
    assert version_of(connection) == len(STEPS) + 1
    assert connection.execute("SELECT mood FROM runs").fetchall() == [("good",)]
    migrate(connection, path, (*STEPS, better, lambda connection: None))
    assert version_of(connection) == len(STEPS) + 2
    connection.close()

    backup = sqlite3.connect(tmp_path / f"{DATABASE}.v{len(STEPS)}.bak")
    assert version_of(backup) == len(STEPS)
    assert backup.execute("SELECT count(*) FROM points").fetchone() == (3,)
    backup.close()


# Backup


async def test_a_backup_is_a_whole_store_of_its_own(tmp_path: Path) -> None:
    """Taken while the store is written to; one file, which a new daemon takes as its own."""
    async with opened(tmp_path / "state") as store:
        await keep(store, started(0), samples(500))
        await store.backup(tmp_path / "copy")
        await deliver(store)
        async with reading(tmp_path / "state") as reader:
            await reader.backup(tmp_path / "copy of the reader")
    assert list_of(tmp_path) == ["copy", "copy of the reader", "state"]

    for name, fate in (("copy", Fate.WAITING), ("copy of the reader", Fate.DELIVERED)):
        restored = tmp_path / f"restored {name}"
        restored.mkdir()
        (tmp_path / name).rename(restored / DATABASE)
        async with opened(restored) as store:
            assert await store.fates(started(0).id) == {fate: 500}
            await keep(store, started(1), samples(1))


async def test_a_backup_that_can_not_be_written_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    state = tmp_path / "state"
    async with opened(state) as store:
        await keep(store, started(0), samples(1))
        for target in (tmp_path / "nowhere" / "copy", tmp_path / "folder", state / DATABASE):
            with pytest.raises(ConfigError, match=str(target)):
                await store.backup(target)
        assert await store.count_waiting() == 1
    assert list_of(tmp_path) == ["folder", "state"]
    async with reading(tmp_path / "never") as reader:
        with pytest.raises(ConfigError, match="no store"):
            await reader.backup(tmp_path / "copy")


# Errors


def test_a_full_disk_is_called_by_its_name(tmp_path: Path) -> None:
    connection = connect(tmp_path / DATABASE)
    connection.execute("PRAGMA max_page_count = 4")
    connection.execute("CREATE TABLE filler (bytes)")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO filler VALUES (zeroblob(100000))")
    connection.close()
    error = translated(full.value, tmp_path / DATABASE)
    assert isinstance(error, Unavailable)
    assert str(error).startswith(f"the state directory's disk is full: {tmp_path}")
