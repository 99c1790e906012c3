"""The first tables, as they were: a change of service.store.tables is one more version, not a change of this one."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TEXT, _BIG, _INT, _FLOAT, _BOOL, _BYTES = sa.Text, sa.BigInteger, sa.Integer, sa.Float, sa.Boolean, sa.LargeBinary


def upgrade() -> None:
    _table(
        "runs",
        *_keys(_TEXT, "id"),
        *_some(_TEXT, "collector", "mode", "cause", "source", "owner"),
        *_nullable(_TEXT, "cancel", "outcome"),
        *_some(_BIG, "started"),
        *_nullable(_BIG, "slot", "ended"),
        *_some(_BOOL, "forbids"),
        *_some(_INT, "attempts", "samples"),
        *_some(_TEXT, "errors"),
    )
    _index("runs_active", "runs", ["collector", "mode"], "outcome IS NULL AND forbids", unique=True)
    op.create_index("runs_by_start", "runs", ["started", "id"])
    op.create_index("runs_by_collector", "runs", ["collector", "started", "id"])
    failed = "outcome IS NOT NULL AND outcome NOT IN ('Complete', 'Partial')"
    _index("runs_failed", "runs", ["collector", "started"], failed)
    _index("runs_succeeded", "runs", ["collector", "ended"], "outcome IN ('Complete', 'Partial')")
    _table("slots", *_keys(_TEXT, "collector", "mode"), *_some(_BIG, "at"))
    _table("pauses", *_keys(_TEXT, "collector"), *_some(_BIG, "at"), *_some(_TEXT, "actor"))
    _table("audit", _id(), *_some(_BIG, "at"), *_some(_TEXT, "action", "collector", "run", "actor"))
    _table("run_logs", *_keys(_TEXT, "run"), *_some(_TEXT, "lines"))
    _table(
        "outbox",
        _id(),
        *_some(_TEXT, "run", "collector", "mode", "kind", "status", "reason", "owner"),
        *_some(_INT, "first", "samples", "bytes", "attempts"),
        *_some(_BIG, "oldest", "newest"),
        *_some(_BOOL, "alone"),
        *_nullable(_BIG, "retry_at", "settled_at"),
        *_some(_BYTES, "body"),
    )
    op.create_index("outbox_by_status", "outbox", ["status", "id", "samples"])
    op.create_index("outbox_by_run", "outbox", ["run", "first"])
    lost = "status IN ('unknown', 'throttled', 'rejected', 'expired')"
    _index("outbox_lost", "outbox", ["collector", "settled_at"], lost)
    _table("count_seconds", *_keys(_BIG, "series", "second"), with_rowid=False)
    op.create_index("count_seconds_by_second", "count_seconds", ["second"])
    _table(
        "checks",
        *_keys(_TEXT, "collector", "key"),
        *_some(_TEXT, "status", "condition", "metric"),
        *_nullable(_FLOAT, "value"),
        *_some(_BIG, "since"),
        *_nullable(_BIG, "measured_at"),
        *_some(_TEXT, "evidence"),
    )
    _table(
        "cycles", *_keys(_BIG, "number"), *_some(_TEXT, "collector", "run", "outcome"), *_some(_BIG, "started", "ended")
    )
    op.create_index("cycles_by_collector", "cycles", ["collector", "number"])
    op.create_index("cycles_by_run", "cycles", ["run"])
    _table(
        "cells",
        *_keys(_BIG, "cycle", "check_id"),
        *_some(_TEXT, "status"),
        *_some(_BOOL, "carried"),
        *_nullable(_FLOAT, "value"),
        with_rowid=False,
    )
    _table(
        "hours",
        *_keys(_BIG, "check_id", "hour"),
        *_some(_FLOAT, "low", "high", "last"),
        *_some(_BOOL, "failed"),
        with_rowid=False,
    )
    _table("state", *_keys(_TEXT, "collector", "key"), *_some(_BIG, "revision"), *_nullable(_BYTES, "value"))
    _table(
        "pushes",
        _id(),
        *_some(_TEXT, "collector", "key"),
        *_some(_BIG, "at"),
        *_some(_BOOL, "is_read"),
        *_some(_BYTES, "body"),
    )
    op.create_index("pushes_by_collector", "pushes", ["collector", "id"])
    _table("notified", *_keys(_TEXT, "collector", "key"), *_some(_TEXT, "status"), *_some(_BIG, "since"))
    _table("events", _id(), *_some(_TEXT, "owner"), *_some(_BOOL, "held"), *_some(_BIG, "at"), *_some(_TEXT, "change"))
    _table("sent_events", _id(), *_some(_BIG, "at"), *_some(_BOOL, "is_summary"))


def _id() -> sa.Column[Any]:
    return sa.Column("id", _ID, primary_key=True, autoincrement=True)


def _keys(type: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, type, primary_key=True, autoincrement=False) for name in names]


def _some(type: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, type, nullable=False) for name in names]


def _nullable(type: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, type, nullable=True) for name in names]


def _table(name: str, *columns: sa.Column[Any], with_rowid: bool = True) -> None:
    is_counted = columns[0].name == "id" and columns[0].autoincrement is True
    op.create_table(name, *columns, sqlite_autoincrement=is_counted, sqlite_with_rowid=with_rowid)


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
