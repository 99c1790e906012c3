"""The tables as declared and as migrated."""

import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.store import migrations, tables
from service.store.engine import Database, create, open_file, open_server
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


def differences(database: Database) -> list[object]:
    def compare(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.meta))

    return database.write(compare)


def migrated(database: Database) -> Database:
    """A database that went through all versions, from none on."""
    database.write(lambda connection: migrations.upgrade(connection, "base", "here"))
    return database


def test_a_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).touch()
    new, old = open_file(tmp_path / "new"), migrated(open_file(tmp_path / "old"))
    new.write(create)

    def described(database: Database) -> dict[str, object]:
        query = sa.text(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
        )
        rows = database.read(lambda connection: connection.execute(query).all())
        return {name: "".join((sql or "").split()) for name, sql in rows}

    assert described(old) == described(new)
    assert differences(old) == []
    assert old.read(lambda connection: connection.execute(sa.select(tables.version)).scalar()) == tables.REVISION
    new.close()
    old.close()


def test_a_migrated_server_has_the_tables_that_are_declared(postgres_url: str) -> None:
    database = migrated(open_server(postgres_url))
    assert differences(database) == []
    database.close()


def test_the_store_imports_neither_alembic_nor_a_driver_of_postgresql() -> None:
    code = (
        "import sys, service.store; print([name for name in ('alembic', 'psycopg', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
