"""The way of a store of one process into a PostgreSQL that replicas share."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from service.domain.delivery import DeliveryStatus
from service.domain.errors import ConfigError
from service.store import engine, tables
from service.store.engine import Database
from service.store.store import take_over

_STEP = 500  # rows a transaction reads
# What the next process needs to go on where this one ended, and what boards draw: runs and their logs stay.
_TABLES = (tables.slots, tables.pauses, tables.state, tables.checks, tables.pushes, tables.count_seconds, tables.hours)
_RISING = (tables.pushes, tables.outbox, tables.events)  # their ids are given anew


def copy_store(state_dir: Path, url: str, *, is_pooled: bool = False) -> Mapping[str, int]:
    """Copies slots, pauses, state, checks and their hours, pushes and what waits to be sent; rows by table.

    All or nothing. Raises ConfigError (a daemon uses the directory, there is no store, the target is not empty, it
    refuses) or Unavailable.
    """
    path = state_dir / engine.DATABASE
    if not path.exists():
        raise ConfigError(f"there is no store in {state_dir}: nothing to copy")
    lock = engine.lock_directory(state_dir)
    try:
        source, target = engine.open_file(path), engine.open_server(url, is_pooled=is_pooled)
        try:
            return _copy(source, target)
        except engine.Refused as error:
            raise ConfigError(str(error)) from error
        finally:
            source.close()
            target.close()
    finally:
        os.close(lock)


def _copy(source: Database, target: Database) -> Mapping[str, int]:
    if (revision := source.read(engine.read_revision)) != tables.REVISION:
        raise ConfigError(f"{source.where} is of another version ({revision}): let this one's daemon open it first")
    engine.prepare(target)
    if not target.read(_is_empty):
        raise ConfigError(f"store.url: {target.where} is in use already: only an empty store can be copied to")
    now = datetime.now(UTC)
    source.write(lambda connection: take_over(now, connection))
    waits = sa.select(tables.outbox).where(tables.outbox.c.status == DeliveryStatus.PENDING)
    queries = {table: sa.select(table) for table in (*_TABLES, tables.events)} | {tables.outbox: waits}

    def work(reading: sa.Connection, writing: sa.Connection) -> dict[str, int]:
        return {table.name: _copy_rows(table, query, reading, writing) for table, query in queries.items()}

    return target.write(lambda writing: source.read(lambda reading: work(reading, writing)))


def _is_empty(connection: sa.Connection) -> bool:
    """Nothing was ever run with it, nor copied to it: a second copy would send what waits twice."""
    return not any(
        connection.execute(sa.select(sa.exists(sa.select(table)))).scalar()
        for table in (tables.runs, tables.outbox, tables.events, *_TABLES)
    )


def _copy_rows(table: sa.Table, query: sa.Select[tuple[object]], reading: sa.Connection, writing: sa.Connection) -> int:
    count = 0
    for rows in reading.execute(query.order_by(*table.primary_key)).mappings().partitions(_STEP):
        left_out = {"id"} if table in _RISING else set()
        writing.execute(table.insert(), [{name: row[name] for name in row if name not in left_out} for row in rows])
        count += len(rows)
    return count
