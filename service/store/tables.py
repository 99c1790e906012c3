"""The tables, declared once for SQLite and PostgreSQL. A change of them is one more version in migrations/.

Instants are microseconds since the epoch; those of samples are whole seconds.
"""

import json
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary
from sqlalchemy.dialects.postgresql import insert as insert  # its ON CONFLICT compiles for SQLite as well

from service.domain.alerts import StateChange
from service.domain.checks import CheckKey, Past
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Actor, Cause, LogLine, Mode, Outcome, PartialFailure
from service.domain.samples import Evidence, Kind, Status

T = TypeVar("T")

VERSION_TABLE, REVISION = "alembic_version", "0002"  # the version in migrations/versions that has these tables

_STEP = 500  # rows that are copied at a time
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Text(sa.TypeDecorator[str]):
    """Text from anywhere, without what a database refuses: lone surrogates, and the NUL of PostgreSQL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None or value.isprintable():
            return value
        return value.replace("\0", "").encode(errors="replace").decode()


class Converted(sa.TypeDecorator[Any]):
    """A column of ``impl`` with values of another type; None is NULL."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, impl: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        super().__init__()
        self.impl, self.encode, self.decode = impl, encode, decode

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else self.encode(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else self.decode(value)


def to_micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def to_json(value: Any) -> str:
    """JSON of any of our values; what JSON has no form for becomes its text, a lone surrogate a question mark."""
    try:
        return _encode(value).decode()
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value, enc_hook=str), ensure_ascii=False)
        return text.encode(errors="replace").decode()


INSTANT = Converted(BigInteger(), to_micros, lambda micros: _EPOCH + timedelta(microseconds=micros))


def _word(type: type[StrEnum]) -> Converted:
    return Converted(sa.Text(), str, type)


def _json(type: Any) -> Converted:
    return Converted(sa.Text(), to_json, msgspec.json.Decoder(type).decode)


meta = sa.MetaData()
SUCCEEDED = sa.text("outcome IN ('Complete', 'Partial')")
FAILED = sa.text("outcome IS NOT NULL AND outcome NOT IN ('Complete', 'Partial')")
LOST = sa.text("status IN ('unknown', 'throttled', 'rejected', 'expired')")


def _columns(type: Any, *names: str, key: bool = False, null: bool = False) -> list[Column[Any]]:
    return [Column(name, type, primary_key=key, nullable=null, autoincrement=False) for name in names]


def _rising() -> Column[int]:
    """An id that is never used twice, so that a late answer can't settle somebody else's row."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _partial(name: str, *columns: str, where: sa.TextClause, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


runs = sa.Table(
    "runs",
    meta,
    *_columns(Text, "id", key=True),
    *_columns(Text, "collector"),
    *_columns(_word(Mode), "mode"),
    *_columns(_word(Cause), "cause"),
    *_columns(Text, "source", "owner"),
    *_columns(_word(Outcome), "cancel", null=True),  # with which its owner is asked to end it
    *_columns(_word(Outcome), "outcome", null=True),  # NULL: active
    *_columns(INSTANT, "started"),
    *_columns(INSTANT, "slot", "ended", null=True),
    *_columns(Boolean, "forbids"),
    *_columns(Integer, "attempts", "samples"),
    *_columns(_json(tuple[PartialFailure, ...]), "errors"),
    # Forbid, enforced.
    _partial("runs_active", "collector", "mode", where=sa.text("outcome IS NULL AND forbids"), unique=True),
    Index("runs_by_start", "started", "id"),
    Index("runs_by_collector", "collector", "started", "id"),
    _partial("runs_failed", "collector", "started", where=FAILED),
    _partial("runs_succeeded", "collector", "ended", where=SUCCEEDED),
)
slots = sa.Table(
    "slots",
    meta,
    *_columns(Text, "collector", key=True),
    *_columns(_word(Mode), "mode", key=True),
    *_columns(INSTANT, "at"),
)
pauses = sa.Table(
    "pauses", meta, *_columns(Text, "collector", key=True), *_columns(INSTANT, "at"), *_columns(_json(Actor), "actor")
)
audit = sa.Table(
    "audit",
    meta,
    _rising(),
    *_columns(INSTANT, "at"),
    *_columns(Text, "action", "collector", "run"),
    *_columns(_json(Actor), "actor"),
    sqlite_autoincrement=True,
)
run_logs = sa.Table("run_logs", meta, *_columns(Text, "run", key=True), *_columns(_json(list[LogLine]), "lines"))
outbox = sa.Table(
    "outbox",
    meta,
    _rising(),
    *_columns(Text, "run", "collector"),  # run: empty where of none
    *_columns(_word(Mode), "mode"),
    *_columns(_word(Kind), "kind"),
    *_columns(_word(DeliveryStatus), "status"),
    *_columns(Text, "reason", "owner"),
    *_columns(Integer, "first", "samples", "bytes", "attempts"),  # first: its place in the run; bytes: of its JSON
    *_columns(BigInteger, "oldest", "newest"),
    *_columns(Boolean, "alone"),
    *_columns(INSTANT, "retry_at", "settled_at", null=True),
    *_columns(LargeBinary, "body"),  # list[Point], msgpack and zstd; empty once it has had its time
    Index("outbox_by_status", "status", "id", "samples"),
    Index("outbox_by_run", "run", "first"),
    _partial("outbox_lost", "collector", "settled_at", where=LOST),
    sqlite_autoincrement=True,
)
# series: a hash of metric and tags. A row a second, not the last second a series: counts come out of order, too.
count_seconds = sa.Table(
    "count_seconds",
    meta,
    *_columns(BigInteger, "series", "second", key=True),
    Index("count_seconds_by_second", "second"),
    sqlite_with_rowid=False,
)
checks = sa.Table(
    "checks",
    meta,
    *_columns(Text, "collector", key=True),
    *_columns(_json(CheckKey), "key", key=True),
    *_columns(_word(Status), "status"),
    *_columns(Text, "condition", "metric"),
    *_columns(Float, "value", null=True),
    *_columns(INSTANT, "since"),
    *_columns(INSTANT, "measured_at", null=True),
    *_columns(_json(tuple[Evidence, ...]), "evidence"),
    Column("summary", Text, nullable=False, server_default=sa.text("''")),
    Column("is_missing", Boolean, nullable=False, server_default=sa.text("false")),
    Column("cycles", Integer, nullable=False, server_default=sa.text("0")),
    *_columns(_json(Past | None), "past", null=True),
)
cycles = sa.Table(
    "cycles",
    meta,
    *_columns(BigInteger, "number", key=True),
    *_columns(Text, "collector", "run"),
    *_columns(Float, "start", "seconds"),
    *_columns(Text, "outcome"),
    *_columns(_json(dict[int, tuple[str, bool, float | None]]), "cells"),  # by domain.checks.check_id: history.Cell
    Index("cycles_by_collector", "collector", "number"),
    Index("cycles_by_run", "run"),
)
hours = sa.Table(
    "hours",
    meta,
    *_columns(BigInteger, "check_id", "hour", key=True),  # hour: hours since the epoch
    *_columns(Float, "low", "high", "last"),
    *_columns(Boolean, "failed"),
    *_columns(Float, "threshold", "threshold_low", null=True),  # domain.conditions.Condition, as of the last value
    sqlite_with_rowid=False,
)
state = sa.Table(
    "state",
    meta,
    *_columns(Text, "collector", "key", key=True),
    *_columns(BigInteger, "revision"),
    *_columns(LargeBinary, "value", null=True),  # NULL: deleted; the revision rises on, so that nobody mistakes it
)
pushes = sa.Table(
    "pushes",
    meta,
    _rising(),
    *_columns(Text, "collector", "key"),
    *_columns(INSTANT, "at"),
    *_columns(Boolean, "is_read"),
    *_columns(LargeBinary, "body"),
    Index("pushes_by_collector", "collector", "id"),
    sqlite_autoincrement=True,
)
events = sa.Table(
    "events",
    meta,
    _rising(),
    *_columns(Text, "owner"),
    *_columns(INSTANT, "at"),
    *_columns(_json(StateChange), "change"),
    sqlite_autoincrement=True,
)
replicas = sa.Table(
    "replicas",
    meta,
    *_columns(Text, "id", key=True),
    *_columns(Text, "name", "version"),
    *_columns(INSTANT, "started", "seen"),  # by the clock of the database
)

# alembic's own; here so that a fresh store needs no alembic.
version = sa.Table(VERSION_TABLE, sa.MetaData(), Column("version_num", sa.String(32), primary_key=True))


def database_now() -> sa.ColumnElement[int]:
    """The instant by PostgreSQL's clock, which all replicas share, while the statement runs."""
    return sa.literal_column("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint", BigInteger)


def lock(connection: sa.Connection, number: int) -> None:
    """Until the transaction ends no other replica has the same lock; SQLite has one writer anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def from_row(type: type[T], row: Any) -> T:
    """A row as a dataclass whose fields are columns of these names."""
    return type(*_read_fields(type)(row))  # type: ignore[arg-type]  # a class is hashable


@cache
def _read_fields(type: Hashable) -> Callable[[Any], Iterable[Any]]:
    return attrgetter(*type.__dataclass_fields__)  # type: ignore[attr-defined]


def to_row(value: Any) -> dict[str, Any]:
    """A dataclass as a row."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@cache  # to build a statement takes as long as to execute it
def upsert(table: sa.Table) -> sa.Insert:
    """Inserts a row; where its key is there, all other columns are replaced."""
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def copy_rows(query: sa.Select[Any], reading: sa.Connection, statement: sa.Insert, writing: sa.Connection) -> int:
    """Writes what ``query`` finds; how many rows."""
    count = 0
    for rows in reading.execute(query).mappings().partitions(_STEP):
        writing.execute(statement, [dict(row) for row in rows])
        count += len(rows)
    return count
