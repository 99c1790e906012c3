"""What the store writes: each function is the work of one transaction.

Points move in sets. A function that moves some first chooses them (their ids in the temporary table ``chosen``); then
``move`` is the one place where fates change and losses are counted.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import chain, islice
from typing import Any

import orjson

from service.adapters import store_history as history
from service.adapters import store_rows as rows
from service.adapters.store_series import RecentSeries
from service.domain import naming
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.points import LOST, Fate
from service.domain.runs import Fault, Outcome, Run
from service.domain.samples import Kind, Metric, Sample

_DUE = (Fate.WAITING, Fate.SENDING)
# Rows an INSERT. SQLite lets go of the GIL at each statement, and with a busy event loop it takes up to 5 ms to get it
# back: row by row, 500 rows took 3.5 s beside a busy thread; by the hundred, 0.1 s.
_CHUNK = 200
_MOST_FRESH = 20_000_000  # characters of new series that wait for the others to be sorted with
_NAMELESS = "the metric's name does not begin with a letter"
_POINT = "series, run, job, at, value"


@dataclass(frozen=True, slots=True)
class Remarks:
    """What became of samples that the intake would not take as they are: how many by their fate, and why."""

    fates: Counter[Fate] = field(default_factory=Counter)
    causes: set[str] = field(default_factory=set)


def prepare(connection: sqlite3.Connection) -> None:
    """What a connection needs before any other function here."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (id INTEGER PRIMARY KEY) STRICT")
    # KiB, used when a run is that large. Series are in the order of hashes, so with SQLite's 2 MiB a run of 100,000
    # samples writes each page many times over: 1 s instead of 0.8.
    connection.execute("PRAGMA cache_size = -16384")


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
    history.write_interrupted(connection, [seq for seq, _ in active])
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
    samples: Sequence[Sample],
    checks: Sequence[Check],
    remember: Mapping[str, bytes | None],
    now: datetime,
    fates: Mapping[int, Fate],
    recent: RecentSeries,
    *,
    shadow: bool = False,
) -> Remarks:
    """``fates``: of the samples that came to theirs before they could be kept, by their place among ``samples``."""
    known = connection.execute("SELECT outcome, first_point FROM runs WHERE id = ?", (run.id,)).fetchone()
    if known and known[0]:
        # Told again because the first answer was lost: the samples must not come twice, nor be sent twice.
        connection.executemany(
            "UPDATE points SET fate = ? WHERE id = ? AND fate <= 1",
            [(fate, known[1] + place) for place, fate in fates.items()],
        )
        return Remarks()
    begin(connection, run, shadow=shadow)
    seq = connection.execute("SELECT seq FROM runs WHERE id = ?", (run.id,)).fetchone()[0]
    first = _next_point(connection)
    remarks = _add(connection, samples, seq, run.job, now, fates, recent)
    connection.executemany(
        "INSERT INTO evidence VALUES (?, ?)",  # the ids of points rise one by one within a transaction
        [(first + place, rows.pack_evidence(each.evidence)) for place, each in enumerate(samples) if each.evidence],
    )
    _, _, _, _, _, _, ended, attempts, outcome, faults, count = rows.from_run(run)
    connection.execute(
        """
        UPDATE runs SET ended = ?, attempts = ?, outcome = ?, faults = ?, samples = ?, first_point = ?, last_point = ?
        WHERE seq = ?
        """,
        (ended, attempts, outcome, faults, count, first, _next_point(connection) - 1, seq),
    )
    before = history.measured_before(connection, run.job)
    stored = [rows.from_check(check) for check in checks]
    history.write(connection, seq, run, zip(checks, stored, strict=True), samples, before)
    connection.execute("DELETE FROM checks WHERE job = ?", (run.job,))
    connection.executemany(
        f"INSERT OR REPLACE INTO checks (job, {rows.CHECK_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
        [(run.job, *row) for row in stored],
    )
    remember_for(connection, run.job, remember)
    return remarks


def remember_for(connection: sqlite3.Connection, job: str, remember: Mapping[str, bytes | None]) -> None:
    for key, value in remember.items():
        if value is None:
            connection.execute("DELETE FROM memory WHERE job = ? AND key = ?", (job, key))
        else:
            connection.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", (job, key, value))


def put(
    connection: sqlite3.Connection, job: str, samples: Iterable[Sample], now: datetime, recent: RecentSeries
) -> Remarks:
    return _add(connection, samples, None, job, now, {}, recent)


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
    ordered = sorted(ids)
    if ordered and ordered[-1] - ordered[0] + 1 == len(ordered):
        move(connection, fate, reason, now, f"BETWEEN {ordered[0]} AND {ordered[-1]}")
        return
    choose(connection, "SELECT value FROM json_each(?)", orjson.dumps(ordered).decode())
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


def move(
    connection: sqlite3.Connection, fate: Fate, reason: str, now: datetime, ids: str = "IN (SELECT id FROM chosen)"
) -> int:
    """Gives ``fate`` to those of the chosen points that are still due; how many.

    What is lost is counted under its job. Points of no run leave once they are settled.
    """
    due = f"id {ids} AND fate <= 1"
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


def _add(
    connection: sqlite3.Connection,
    samples: Iterable[Sample],
    run: int | None,
    job: str,
    now: datetime,
    fates: Mapping[int, Fate],
    recent: RecentSeries,
) -> Remarks:
    left, remarks, place = iter(samples), Remarks(), 0
    refused: list[str] = []
    fresh: list[tuple[int, str, str, int, str]] = []
    text = 0
    at, second = None, 0
    told: Mapping[str, str] | None = None
    tags = ""
    named: dict[tuple[int, int | None], _Named] = {}  # by the identity of a metric, and the interval
    while chunk := list(islice(left, _CHUNK)):
        points: list[Any] = []
        settled: dict[int, tuple[Fate, str]] = {}  # by the place in the chunk
        for number, sample in enumerate(chunk, place):
            names = named.get((id(sample.metric), sample.interval))
            if names is None:
                names = named[id(sample.metric), sample.interval] = _named(sample, remarks, recent)
            _, metric, kind, is_nameless, written = names
            if sample.tags is not told:  # the stable series of one check share theirs
                told, tags = sample.tags, naming.encode_tags(sample.tags, refused)
            if is_nameless:
                settled[number - place] = (Fate.REJECTED, _NAMELESS)
            elif number in fates:
                settled[number - place] = (fates[number], "")
            if refused:
                causes = [f"{metric}: tag {each[:80]!r} is left out, Datadog could not take it" for each in refused]
                remarks.causes.update(causes)
                refused.clear()
            row = written.get(tags)
            if row is None:
                interval = sample.interval or 0
                row = recent.number((metric, kind, interval, tags))
                fresh.append((row, metric, kind.value, interval, tags))
                text += len(metric) + len(tags)
            if sample.at is not at:  # most samples of a run have the same
                at, second = sample.at, rows.seconds(sample.at)
            points += (row, run, job, second, float(sample.value))
        remarks.fates.update(fate for fate, _ in settled.values())
        if settled and run is None:
            points = [value for number in range(len(chunk)) if number not in settled for value in _row(points, number)]
        if points:
            connection.execute(_insert(f"INTO points ({_POINT})", len(points) // 5), points)
        if settled and run is not None:
            last = _next_point(connection) - 1
            connection.executemany(
                "UPDATE points SET fate = ?, reason = ? WHERE id = ?",
                [(fate, why, last - len(chunk) + 1 + number) for number, (fate, why) in settled.items()],
            )
        place += len(chunk)
        if text >= _MOST_FRESH:
            _add_series(connection, fresh)
            text = 0
    _add_series(connection, fresh)
    _count_losses(connection, job, remarks.fates, now)
    return remarks


def _add_series(connection: sqlite3.Connection, fresh: list[tuple[int, str, str, int, str]]) -> None:
    """Keeps series and empties the list. In the order of their ids, which costs a third of any other one."""
    fresh.sort()
    for first in range(0, len(fresh), _CHUNK):
        chunk = fresh[first : first + _CHUNK]
        into = "OR IGNORE INTO series (id, metric, kind, interval, tags)"
        connection.execute(_insert(into, len(chunk)), list(chain.from_iterable(chunk)))
    fresh.clear()


_Named = tuple[Metric, str, Kind, bool, dict[str, int]]


def _named(sample: Sample, remarks: Remarks, recent: RecentSeries) -> _Named:
    """The metric (held, so that its identity stays its own), its name as stored, its kind, whether it has no name
    that the intake could take, and the numbers of its series that the table has."""
    metric, name = sample.metric, sample.metric.name
    taken = naming.metric_name(name)
    if taken is None:
        remarks.causes.add(f"{name[:80]!r} is not sent: {_NAMELESS}")
    elif taken != name:
        remarks.causes.add(f"{name[:80]!r} is sent as {taken[:80]}")
    stored = taken or rows.text(name)[: naming.LONGEST]
    return metric, stored, metric.kind, taken is None, recent.written(stored, metric.kind, sample.interval or 0)


def _row(points: Sequence[Any], number: int) -> Sequence[Any]:
    return points[5 * number : 5 * number + 5]


def _count_losses(connection: sqlite3.Connection, job: str, fates: Mapping[Fate, int], now: datetime) -> None:
    connection.executemany(
        "INSERT INTO losses VALUES (?, ?, ?, ?) "
        "ON CONFLICT (job, fate, at) DO UPDATE SET points = points + excluded.points",
        [(job, fate, rows.seconds(now), count) for fate, count in fates.items() if fate in LOST],
    )


@cache
def _insert(into: str, count: int) -> str:
    return f"INSERT {into} VALUES {','.join(['(?,?,?,?,?)'] * count)}"  # noqa: S608 - constants only


def _next_point(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'points'").fetchone()
    return int(row[0]) + 1 if row else 1
