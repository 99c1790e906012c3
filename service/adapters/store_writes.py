"""What the store writes: each function is the work of one transaction.

Points move in sets. A function that moves some first chooses them (their ids in the temporary table ``chosen``); then
``move`` is the one place where fates change and losses are counted.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any

import orjson

from service.adapters import store_rows as rows
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.points import LOST, Fate
from service.domain.runs import Fault, Outcome, Run
from service.domain.samples import Sample

_DUE = (Fate.WAITING, Fate.SENDING)
# Rows an INSERT. SQLite lets go of the GIL at each statement, and with a busy event loop it takes up to 5 ms to get it
# back: row by row, 500 rows took 3.5 s beside a busy thread; by the hundred, 0.1 s.
_CHUNK = 200


def prepare(connection: sqlite3.Connection) -> None:
    """What a connection needs before any other function here."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (id INTEGER PRIMARY KEY) STRICT")


def recover(connection: sqlite3.Connection, now: datetime) -> tuple[int, int]:
    """Ends what a daemon that died left open: how many runs were active, how many points were being sent."""
    active = connection.execute("SELECT seq, faults FROM runs WHERE outcome IS NULL").fetchall()
    for seq, faults in active:
        told = (*rows.to_faults(faults), Fault("the daemon ended before the run did"))
        connection.execute(
            # Not before it started, whatever the clock did.
            "UPDATE runs SET outcome = ?, ended = max(started, ?), faults = ? WHERE seq = ?",
            (Outcome.INTERRUPTED.value, rows.micros(now), rows.from_faults(told), seq),
        )
    choose(connection, "SELECT id FROM points INDEXED BY points_sending WHERE fate = 1")
    return len(active), move(connection, Fate.UNCERTAIN, "the daemon ended before the intake answered", now)


def begin(connection: sqlite3.Connection, run: Run, *, shadow: bool = False) -> None:
    if run.slot.scheduled_at:
        table = "shadow_slots" if shadow else "slots"
        connection.execute(
            # The last slot only rises: a clock that steps back can't make a slot run twice.
            f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (job) "  # noqa: S608 - constants only
            "DO UPDATE SET scheduled_at = max(scheduled_at, excluded.scheduled_at)",
            (run.job, rows.micros(run.slot.scheduled_at)),
        )
    connection.execute(
        f"INSERT INTO runs ({rows.RUN_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING",  # noqa: S608 - constant
        rows.from_run(run),
    )


def end(
    connection: sqlite3.Connection,
    run: Run,
    samples: Iterable[Sample],
    checks: Iterable[Check],
    remember: Mapping[str, bytes | None],
    *,
    shadow: bool = False,
) -> None:
    known = connection.execute("SELECT outcome FROM runs WHERE id = ?", (run.id,)).fetchone()
    if known and known[0]:
        return  # told again because the first answer was lost: the samples must not come twice
    begin(connection, run, shadow=shadow)
    seq = connection.execute("SELECT seq FROM runs WHERE id = ?", (run.id,)).fetchone()[0]
    first = _next_point(connection)
    _add(connection, samples, seq, run.job)
    _, _, _, _, _, _, ended, attempts, outcome, faults, count = rows.from_run(run)
    connection.execute(
        """
        UPDATE runs SET ended = ?, attempts = ?, outcome = ?, faults = ?, samples = ?, first_point = ?, last_point = ?
        WHERE seq = ?
        """,
        (ended, attempts, outcome, faults, count, first, _next_point(connection) - 1, seq),
    )
    connection.execute("DELETE FROM checks WHERE job = ?", (run.job,))
    connection.executemany(
        f"INSERT OR REPLACE INTO checks (job, {rows.CHECK_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
        [(run.job, *rows.from_check(check)) for check in checks],
    )
    for key, value in remember.items():
        if value is None:
            connection.execute("DELETE FROM memory WHERE job = ? AND key = ?", (run.job, key))
        else:
            connection.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", (run.job, key, value))


def put(connection: sqlite3.Connection, job: str, samples: Iterable[Sample]) -> None:
    _add(connection, samples, None, job)


def set_paused(connection: sqlite3.Connection, job: str, paused: bool) -> None:
    if paused:
        connection.execute("INSERT OR IGNORE INTO pauses VALUES (?)", (job,))
    else:
        connection.execute("DELETE FROM pauses WHERE job = ?", (job,))


def act(connection: sqlite3.Connection, action: Action) -> None:
    connection.execute(
        f"INSERT INTO actions ({rows.ACTION_COLUMNS}) VALUES (?,?,?,?,?,?,?)",  # noqa: S608 - constant
        rows.from_action(action),
    )


def settle(connection: sqlite3.Connection, ids: Sequence[int], fate: Fate, reason: str, now: datetime) -> None:
    choose(connection, "SELECT value FROM json_each(?)", orjson.dumps(ids).decode())
    move(connection, fate, reason, now)


def expire(connection: sqlite3.Connection, before: datetime, historical: Sequence[str], now: datetime) -> int:
    choose(
        connection,
        """
        SELECT points.id FROM points INDEXED BY points_waiting WHERE fate = 0 AND at < ?1 AND NOT EXISTS (
            SELECT 1 FROM series, json_each(?2) AS name
            WHERE series.id = points.series AND kind <> 'distribution'
            AND substr(metric, 1, length(name.value)) = name.value
        )
        """,
        rows.seconds(before),
        orjson.dumps(historical).decode(),
    )
    return move(connection, Fate.EXPIRED, "too old for the intake", now)


def probe(connection: sqlite3.Connection) -> None:
    """Writes a page that says what it said before, to see whether the disk takes it."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version}")


def choose(connection: sqlite3.Connection, select: str, *args: Any) -> int:
    """Chooses the points whose ids ``select`` gives; how many."""
    connection.execute("DELETE FROM chosen")
    return connection.execute(f"INSERT OR IGNORE INTO chosen {select}", args).rowcount


def move(connection: sqlite3.Connection, fate: Fate, reason: str, now: datetime) -> int:
    """Gives ``fate`` to those of the chosen points that are still due; how many.

    What is lost is counted under its job. Points of no run leave once they are settled.
    """
    due = "id IN (SELECT id FROM chosen) AND fate <= 1"
    if fate in LOST:
        connection.execute(
            f"""
            INSERT INTO losses SELECT job, ?, ?, count(*) FROM points WHERE {due} GROUP BY job
            ON CONFLICT (job, fate, at) DO UPDATE SET points = points + excluded.points
            """,  # noqa: S608 - constants only
            (fate, rows.seconds(now)),
        )
    moved = 0
    if fate not in _DUE:
        moved = connection.execute(f"DELETE FROM points WHERE {due} AND run IS NULL").rowcount  # noqa: S608
    changed = connection.execute(f"UPDATE points SET fate = ?, reason = ? WHERE {due}", (fate, rows.text(reason)))  # noqa: S608
    return moved + changed.rowcount


def _add(connection: sqlite3.Connection, samples: Iterable[Sample], run: int | None, job: str) -> None:
    left = iter(samples)
    while chunk := list(islice(left, _CHUNK)):
        series: list[Any] = []
        points: list[Any] = []
        for sample in chunk:
            row = rows.to_series(sample)
            series += row
            points += (row[0], run, job, rows.seconds(sample.at), float(sample.value))
        connection.execute(_insert("OR IGNORE INTO series (id, metric, kind, interval, tags)", len(chunk)), series)
        connection.execute(_insert("INTO points (series, run, job, at, value)", len(chunk)), points)


@cache
def _insert(into: str, count: int) -> str:
    return f"INSERT {into} VALUES {','.join(['(?,?,?,?,?)'] * count)}"  # noqa: S608 - constants only


def _next_point(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'points'").fetchone()
    return int(row[0]) + 1 if row else 1
