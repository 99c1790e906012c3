"""The tables as they are declared, as a new store has them, and as an older one comes to them."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.store import tables
from service.store.engine import MIGRATIONS, Database, open_file, open_memory, open_server, prepare, upgrade
from tests.postgres import Postgres

SCHEMAS = sorted((Path(__file__).parents[2] / "payloads" / "schema").glob("*.sql"))


def differences(database: Database) -> list[object]:
    def compare(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.meta))

    return database.write(compare)


def described(database: Database) -> dict[str, str]:
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    rows = database.read(lambda connection: connection.execute(query).all())
    return {name: "".join(sql.split()) for name, sql in rows}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.stem)
def test_a_store_of_each_released_version_comes_to_the_tables_of_a_new_one(tmp_path: Path, schema: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old")) as connection:
        connection.executescript(schema.read_text())
    old, new = open_file(tmp_path / "old"), open_memory()
    old.write(lambda connection: upgrade(connection, "here"))
    assert described(old) == described(new)
    assert differences(old) == []
    assert old.read(lambda connection: connection.execute(sa.select(tables.version)).scalar()) == tables.REVISION
    old.close()
    new.close()


def test_the_tables_of_each_version_are_among_the_payloads() -> None:
    script = ScriptDirectory(MIGRATIONS)
    assert script.get_current_head() == tables.REVISION
    assert {version.revision for version in script.walk_revisions()} == {path.stem for path in SCHEMAS}


def test_replicas_that_start_at_once_agree_on_the_tables(postgres_server: Postgres, postgres_url: str) -> None:
    database = open_server(postgres_url)
    with ThreadPoolExecutor(3) as replicas:
        for _ in ("empty", "of an older version"):
            list(replicas.map(prepare, 3 * [database]))
            assert differences(database) == []
            added = ("summary", "is_missing", "cycles", "past")
            postgres_server.execute(
                *(f"ALTER TABLE checks DROP COLUMN {name}" for name in added),
                *(f"ALTER TABLE hours DROP COLUMN {name}" for name in ("threshold", "threshold_low")),
                "UPDATE alembic_version SET version_num = '0001'",
            )
    database.close()


def test_the_store_imports_neither_alembic_nor_a_driver_of_postgresql() -> None:
    code = (
        "import sys, service.store; print([name for name in ('alembic', 'psycopg', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
