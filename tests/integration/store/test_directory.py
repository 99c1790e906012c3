"""The state directory: who may use it, what is made of damaged files and of other versions, and its backup."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from service.config.settings import StoreSettings
from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError, Unavailable
from service.domain.runs import Outcome
from service.store import Store
from service.store.directory import DATABASE, back_up, find_lock_holder
from tests.integration.store.cases import DISTRIBUTION, NOW, claim, deliver, keep, opened, samples, started

HOLDER = """
import asyncio, pathlib, sys
from service.config.settings import StoreSettings
from service.store import Store

async def hold():
    store = await Store.open(pathlib.Path(sys.argv[1]), StoreSettings())
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(hold())
"""


def names(directory: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


async def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    """A reader works beside it; its death, however sudden, frees the directory."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(  # noqa: ASYNC220 - the store is not asked meanwhile
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"{tmp_path} is in use by process {holder.pid}.*state_dir"):
            await Store.open(tmp_path, StoreSettings())
        assert f"process {holder.pid}" in (find_lock_holder(tmp_path) or "")
        reader = await Store.open_reading(tmp_path)
        assert await reader.runs.list() == []
        await reader.close()
        holder.kill()
    assert find_lock_holder(tmp_path) is None
    async with opened(tmp_path) as store:
        await keep(store, started())


async def test_the_directory_and_its_files_are_for_their_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    async with opened(state) as store:
        await keep(store, started())
        back_up(state, tmp_path / "copy")
        assert state.stat().st_mode & 0o777 == 0o700
        modes = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
        assert modes == dict.fromkeys((DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "lock"), 0o600)
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


async def test_a_database_that_can_not_be_a_file_is_a_matter_of_configuration(tmp_path: Path) -> None:
    """Nor a directory that can't be one. And the lock is free again after the failure."""
    (tmp_path / "file").write_text("a file")
    for inside in ("file", "file/deeper"):
        with pytest.raises(ConfigError, match=f"{tmp_path}/file.*state_dir"):
            await Store.open(tmp_path / inside, StoreSettings())
    (tmp_path / DATABASE).mkdir()
    with pytest.raises(ConfigError, match=r"state\.db can't be used.*state_dir"):
        await Store.open(tmp_path, StoreSettings())
    (tmp_path / DATABASE).rmdir()
    async with opened(tmp_path):
        pass


# What the process before left


async def test_what_was_under_way_when_the_process_died_is_settled_at_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert await store.is_unused()
        done = await keep(store, started(), samples(3) + samples(2, DISTRIBUTION))
        await store.runs.begin(started(1), forbids=True)
        assert {len(await claim(store)), len(await claim(store))} == {1}
    async with opened(tmp_path, NOW + timedelta(hours=1)) as store:
        assert not await store.is_unused()
        run = await store.runs.run(started(1).id)
        assert run
        assert (run.outcome, run.ended) == (Outcome.INTERRUPTED, NOW + timedelta(hours=1))
        assert run.error == "the daemon ended before the run did"
        assert [cycle.outcome for cycle in (await store.checks.histories(["ci"], {}, NOW))[0]["ci"]] == [
            "Complete",
            "Interrupted",
        ]
        assert await store.outbox.counts([done.id]) == {done.id: {DeliveryStatus.PENDING: 3, DeliveryStatus.UNKNOWN: 2}}
        assert await store.outbox.lost("ci", NOW) == {DeliveryStatus.UNKNOWN: 2}
        await store.runs.begin(started(2), forbids=True)


# Reading


async def test_a_store_that_is_not_there_reads_as_an_empty_one(tmp_path: Path) -> None:
    reader = await Store.open_reading(tmp_path / "never")
    assert await reader.is_unused()
    assert await reader.runs.latest() == {}
    assert await claim(reader) == []
    await reader.check()
    await reader.close()
    assert not (tmp_path / "never").exists()


async def test_a_reader_sees_what_a_running_daemon_keeps_and_can_not_write(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(3))
        reader = await Store.open_reading(tmp_path)
        await keep(store, started(1), samples(2))
        assert (await reader.outbox.pending()).samples == 5
        with pytest.raises(Unavailable, match="readonly database"):
            await reader.runs.begin(started(2), forbids=False)
        await reader.close()


# Damage


@pytest.mark.parametrize("damage", ["no database", "a torn page", "a short file", "an early version"])
async def test_a_damaged_database_is_set_aside_and_a_new_one_starts(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(2_000))
    database = tmp_path / DATABASE
    content = database.read_bytes()
    with closing(sqlite3.connect(tmp_path / "early")) as connection:
        connection.execute("CREATE TABLE points (id INTEGER PRIMARY KEY)")
    broken = {
        "no database": b"these are not the bytes you are looking for" * 100,
        "a torn page": content[:4096] + b"\xff" * 4096 + content[8192:],
        "a short file": content[: len(content) // 2],
        "an early version": (tmp_path / "early").read_bytes(),
    }[damage]
    database.write_bytes(broken)
    if damage != "an early version":
        with pytest.raises(Unavailable):
            await (await Store.open_reading(tmp_path)).is_unused()
        with pytest.raises(Unavailable, match=r"unavailable: .*/state\.db"):
            back_up(tmp_path, tmp_path / "copy")

    async with opened(tmp_path, NOW + timedelta(seconds=5)) as store:
        assert await store.runs.list() == []
        await keep(store, started(1), samples(2))
    kept = (tmp_path / f"{DATABASE}.damaged-20250114T150005Z").read_bytes()
    assert kept == broken or damage == "an early version"  # which was whole, and opened to look at it
    async with opened(tmp_path) as store:
        assert await deliver(store) == 2


@pytest.mark.parametrize("what", ["emptied", "cut", "torn", "removed", "replaced"])
async def test_a_file_that_others_spoil_in_use_costs_no_restart(tmp_path: Path, what: str) -> None:
    """What runs need goes on; what waited is kept where it can still be read."""
    database = tmp_path / DATABASE
    async with opened(tmp_path) as store:
        await keep(store, started(), samples(2_000), state={"k": b"1"})
    other = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_start'").fetchone()
    async with opened(tmp_path) as store:
        if what == "emptied":
            os.truncate(database, 0)
        elif what == "torn":
            with database.open("r+b") as file:
                file.seek(4096 * (page - 1))
                file.write(b"\xff" * 4096)
            assert await store.runs.list() == []
            assert "malformed" in str(store.trouble)
        elif what == "cut":
            os.truncate(database, 8192)
        elif what == "removed":
            for suffix in ("", "-wal", "-shm"):
                (tmp_path / f"{DATABASE}{suffix}").unlink()
        else:
            (tmp_path / "restored").write_bytes(other)
            (tmp_path / "restored").replace(database)
        for number in range(1, 4):
            await keep(store, started(number), samples(1))
        await store.recover()
        assert store.trouble is None
        await store.check()
        await keep(store, started(9), samples(1))
        kept = await deliver(store)
        assert kept >= 1 if what in ("emptied", "cut") else kept == 2_004
        with pytest.raises(ConfigError, match="in use"):
            await Store.open(tmp_path, StoreSettings())
    async with opened(tmp_path) as store:
        assert await store.runs.run(started(9).id)


# Versions


async def test_a_store_of_a_newer_version_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    with pytest.raises(ConfigError, match=r"newer infra-health \(schema 0099, this one knows \d{4}\)"):
        await Store.open(tmp_path, StoreSettings())
    with pytest.raises(Unavailable, match="another version"):
        await Store.open_reading(tmp_path)
    assert names(tmp_path, "*damaged*") == []


# Backup


async def test_a_backup_that_can_not_be_written_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    state = tmp_path / "state"
    async with opened(state) as store:
        await keep(store, started(), samples(1))
        for target in (tmp_path / "nowhere" / "copy", tmp_path / "folder", state / DATABASE):
            with pytest.raises(ConfigError, match=str(target)):
                back_up(state, target)
        assert await deliver(store) == 1
    assert names(tmp_path) == ["folder", "state"]
    with pytest.raises(ConfigError, match="no store"):
        back_up(tmp_path / "never", tmp_path / "copy")
