"""A state file of the first released version, opened by this one; and the way back that the runbook tells."""

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters import store_schema
from service.adapters.store import SqliteStore
from service.adapters.store_schema import STEPS, migrate
from service.domain.errors import ConfigError
from service.domain.points import Fate
from tests.integration.store_cases import GAUGE, NOW, opened, reading

# Of schema 1: three runs of ci, of whose six points two wait, a failed run of training, a pause.
STORED = Path(__file__).parents[1] / "payloads/state-v1.db"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copy(STORED, tmp_path / "state.db")
    return tmp_path


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return store_schema.version_of(connection)
    finally:
        connection.close()


async def test_all_that_the_version_before_knew_is_known(directory: Path) -> None:
    async with opened(directory) as store:
        runs = await store.runs()
        assert [(run.job, run.outcome and run.outcome.value, run.error) for run in runs][:1] == [
            ("ci", "Complete", None)
        ]
        assert {run.job for run in runs} == {"ci", "training"}
        assert await store.last_slots() == {"ci": NOW + timedelta(minutes=20), "training": NOW}
        assert await store.shadow_slots() == {}
        assert await store.paused() == {"eval"}
        assert await store.recall("ci", "runs") == b"remembered"
        (check,) = await store.checks("ci")
        assert (check.status.value, check.metric) == ("fail", "metta.infra.cron.ci.workflow.success")
        waiting = await store.waiting(100)
        assert [(point.metric, point.value) for point in waiting] == [
            (GAUGE.name, 2.0),
            ("metta.infra.cron.ci.workflow.duration", 1.5),
        ]
        await store.settle([point.id for point in waiting], Fate.DELIVERED)
        assert await store.count_waiting() == 0
        await store.prune(NOW + timedelta(days=1))
    assert version(directory / "state.db") == len(STEPS)


async def test_a_command_beside_the_old_daemon_reads_the_old_file_and_leaves_it(directory: Path) -> None:
    before = (directory / "state.db").read_bytes()
    async with reading(directory) as store:
        assert len(await store.runs()) == 4
    assert (directory / "state.db").read_bytes() == before


async def test_the_way_back_of_the_runbook(directory: Path) -> None:
    original = sqlite3.connect(directory / "state.db").execute("SELECT id FROM runs ORDER BY id").fetchall()
    async with opened(directory):
        pass
    # What the version before does with a file of this one (its rule has been the same from the start).
    connection = sqlite3.connect(directory / "state.db", isolation_level=None)
    with pytest.raises(ConfigError, match="written by a newer infra-health"):
        migrate(connection, directory / "state.db", STEPS[:1])
    connection.close()
    backup = directory / "state.db.v1.bak"
    (directory / "state.db").rename(directory / "state.db.newer")
    (directory / "state.db-wal").unlink(missing_ok=True)
    (directory / "state.db-shm").unlink(missing_ok=True)
    shutil.copy(backup, directory / "state.db")
    connection = sqlite3.connect(directory / "state.db", isolation_level=None)
    migrate(connection, directory / "state.db", STEPS[:1])
    assert connection.execute("SELECT id FROM runs ORDER BY id").fetchall() == original
    connection.close()
    # And forward again, once what was wrong is mended.
    store = await SqliteStore.open(directory, now=NOW)
    assert len(await store.runs()) == 4
    await store.close()
