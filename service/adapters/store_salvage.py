"""What becomes of a damaged database: it is set aside, and a new one goes on with whatever of it can be read.

A damaged page costs the rows on it (and, within one table, those between two damaged pages). The new file is made
beside the old one and takes its place whole, so a crash meanwhile loses nothing: the next start finds the damaged file.
"""

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from datetime import datetime
from operator import itemgetter
from pathlib import Path

from service.adapters import store_file as files
from service.adapters import store_rows as rows
from service.adapters.store_schema import migrate
from service.domain.points import Fate
from service.domain.samples import Kind


def renew(path: Path, reason: str, now: datetime) -> None:
    """Puts a new database, with what can be read of the damaged one at ``path``, in its place.

    Nobody may have it open. Raises sqlite3.Error, Unavailable or ConfigError; then all is as it was.
    """
    fresh = path.with_name(f"{path.name}.new")
    with files.usable(fresh):
        for suffix in ("", "-wal", "-shm"):  # of an attempt that a crash cut off
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    try:
        files.create(fresh)
        with closing(files.connect(fresh)) as connection:
            migrate(connection, fresh, backup=False)
            kept = _salvage(connection, path, now)
        files.set_aside(path, fresh, reason, now, kept)
    except BaseException:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        raise


def _salvage(connection: sqlite3.Connection, damaged: Path, now: datetime) -> dict[str, int]:
    """Copies what can be read, in one transaction; the number of rows by table."""
    kept: Counter[str] = Counter()
    with closing(sqlite3.connect(damaged, isolation_level=None)) as old, files.transaction(connection, "IMMEDIATE"):
        old.text_factory = lambda text: text.decode(errors="replace")
        tables = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY rowid"
        ).fetchall()
        for table, sql in tables:
            if not table.startswith("sqlite_"):
                kept[table] = _copy(connection, old, table, has_rowid="WITHOUT ROWID" not in sql)
        kept["points"] -= _part_from_what_is_lost(connection)
        _number_on(connection, now)
    return +kept


def _part_from_what_is_lost(connection: sqlite3.Connection) -> int:
    """Removes points that are of no use without a row that was lost; how many."""
    # Nothing could be sent of a point without its series.
    gone = connection.execute(
        "DELETE FROM points WHERE series NOT IN (SELECT id FROM series) OR fate NOT BETWEEN ? AND ?",
        (min(Fate), max(Fate)),
    ).rowcount
    # History leaves with its run; what is still due leaves once it is settled.
    gone += connection.execute("DELETE FROM points WHERE run NOT IN (SELECT seq FROM runs) AND fate > 1").rowcount
    connection.execute("UPDATE points SET run = NULL WHERE run NOT IN (SELECT seq FROM runs)")
    connection.execute("DELETE FROM evidence WHERE point NOT IN (SELECT id FROM points)")
    return gone


def _copy(connection: sqlite3.Connection, old: sqlite3.Connection, table: str, has_rowid: bool) -> int:
    """The rows from the first on, and where that meets a damaged page, from the last back; how many."""
    # Of an older version: without the columns that it did not know.
    columns = _columns(connection, table)
    try:
        there = _columns(old, table).keys()
    except sqlite3.DatabaseError:
        return 0
    names = ", ".join(column for column in columns if column in there)
    if not names:
        return 0
    key = [column for column, place in sorted(columns.items(), key=itemgetter(1)) if place]
    found = 0
    for order in ("ASC", "DESC"):
        by = ", ".join(f"{column} {order}" for column in (("rowid",) if has_rowid else key))
        values = ", ".join("?" * (names.count(",") + 1))
        insert = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({values})"  # noqa: S608 - names of the schema
        try:
            for row in old.execute(f"SELECT {names} FROM {table} NOT INDEXED ORDER BY {by}"):  # noqa: S608 - the same
                if table != "series" or _is_whole(row):
                    with suppress(sqlite3.IntegrityError):
                        found += connection.execute(insert, row).rowcount
        except sqlite3.DatabaseError as error:
            if not files.is_damage(error):
                raise
        else:
            break
    return found


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, int]:
    """The table's columns, and the place of each in its primary key, 0 for none."""
    return {str(row[1]): int(row[5]) for row in connection.execute(f"PRAGMA table_info({table})")}


def _is_whole(series: tuple[int, str, str, int, str]) -> bool:
    number, metric, kind, interval, tags = series
    return rows.series_id(metric, kind, interval, tags) == number and kind in set(Kind)


def _number_on(connection: sqlite3.Connection, now: datetime) -> None:
    """Numbers that the damaged file may have given out must not come again, whether it tells them or not."""
    least = int(now.timestamp() * 1000)
    tables = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
    known = f"SELECT ?, name FROM ({tables}) WHERE name NOT IN (SELECT name FROM sqlite_sequence)"  # noqa: S608 - constant
    connection.execute(f"INSERT INTO sqlite_sequence (seq, name) {known}", (least,))
    connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?)", (least,))
