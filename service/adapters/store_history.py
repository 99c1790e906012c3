"""The history behind the board: written with each ended run, read for whole collectors at once.

A board of a hundred checks over seven days is 17,000 small rows in the order of their key, whatever the schedules are.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from service.adapters import store_rows as rows
from service.domain.checks import CHECK_STATE, Check, CheckKey, key_of
from service.domain.history import CYCLES, Cell, CheckHistory, Cycle, Hour, JobHistory, check_id
from service.domain.runs import Outcome, Run
from service.domain.samples import Sample, Status

_HOUR = 3600
_STATUSES = {0.0: Status.PASS, 1.0: Status.FAIL, 2.0: Status.UNKNOWN}
_BY_TEXT = {status.value: status for status in Status}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def measured_before(connection: sqlite3.Connection, job: str) -> Mapping[str, int | None]:
    """When each check of the job was measured, by the text of its key: to be asked before the checks are replaced."""
    return dict(connection.execute("SELECT key, measured_at FROM checks WHERE job = ?", (job,)))


def write(
    connection: sqlite3.Connection,
    number: int,
    run: Run,
    checks: Iterable[Check],
    samples: Iterable[Sample],
    before: Mapping[str, int | None],
) -> None:
    """Keeps an ended run as a cycle. ``number``: its runs.seq; ``before``: see ``measured_before``."""
    ended = run.ended or run.started
    _add_cycle(
        connection, run.job, [(number, run.job, run.id, rows.micros(run.started), rows.micros(ended), run.outcome)]
    )
    sent = _statuses(samples)
    cells: list[Any] = []
    hours: list[Any] = []
    for check in checks:
        row = rows.from_check(check)
        key, value, measured = row[0], row[4], row[5]
        status = sent.get(check.key, check.status)
        number_of_check = check_id(run.job, check.key)
        is_known = status is not Status.UNKNOWN
        carried = measured is not None and before.get(key) == measured
        cells.append((number, number_of_check, status.value, carried, value if is_known else None))
        if value is not None and is_known:
            hour = rows.seconds(ended) // _HOUR
            hours.append((number_of_check, hour, value, value, value, status is Status.FAIL))
    connection.executemany("INSERT OR REPLACE INTO cells VALUES (?,?,?,?,?)", cells)
    connection.executemany(
        """
        INSERT INTO hours VALUES (?,?,?,?,?,?) ON CONFLICT (check_id, hour) DO UPDATE SET
        low = min(low, excluded.low), high = max(high, excluded.high), last = excluded.last,
        failed = max(failed, excluded.failed)
        """,
        hours,
    )


def write_interrupted(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Keeps runs that an earlier daemon left open, once they are ended in ``runs``."""
    for number in numbers:
        query = "SELECT seq, job, id, started, ended, outcome FROM runs WHERE seq = ?"
        row = connection.execute(query, (number,)).fetchone()
        _add_cycle(connection, row[1], [row])


def last_cycles(connection: sqlite3.Connection, jobs: Sequence[str]) -> dict[str, int]:
    query = "SELECT wanted.value, (SELECT max(number) FROM cycles WHERE job = wanted.value) AS newest FROM json_each(?) AS wanted"
    found = connection.execute(query, (orjson.dumps(jobs).decode(),))
    return {job: newest for job, newest in found if newest is not None}


def histories(
    connection: sqlite3.Connection, jobs: Sequence[str], cycles: int, since: datetime
) -> dict[str, JobHistory]:
    """The last ``cycles`` of each job, and its checks with their hours from ``since`` on."""
    asked = orjson.dumps(jobs).decode()
    runs = _cycles(connection, asked, cycles)
    cells = _cells(connection, [cycle.number for each in runs.values() for cycle in each])
    checks: dict[str, list[Check]] = {job: [] for job in jobs}
    query = f"SELECT job, {rows.CHECK_COLUMNS} FROM checks WHERE job IN (SELECT value FROM json_each(?)) ORDER BY rowid"  # noqa: S608 - constants only
    for job, *row in connection.execute(query, (asked,)):
        checks[job].append(rows.to_check(row))
    ids = {(job, check.key): check_id(job, check.key) for job, each in checks.items() for check in each}
    hours = _hours(connection, ids.values(), since)
    return {
        job: JobHistory(
            tuple(runs[job]),
            tuple(
                CheckHistory(check, cells.get(ids[job, check.key], {}), tuple(hours.get(ids[job, check.key], ())))
                for check in each
            ),
        )
        for job, each in checks.items()
    }


def prune(connection: sqlite3.Connection, before: datetime) -> None:
    """Removes hours that are over, and cycles older than that of jobs that run no more."""
    connection.execute("DELETE FROM hours WHERE hour < ?", (rows.seconds(before) // _HOUR,))
    old = "SELECT number FROM cycles WHERE ended < ?"
    connection.execute(f"DELETE FROM cells WHERE cycle IN ({old})", (rows.micros(before),))  # noqa: S608 - constant
    connection.execute("DELETE FROM cycles WHERE ended < ?", (rows.micros(before),))


def _add_cycle(connection: sqlite3.Connection, job: str, cycle: Sequence[Any]) -> None:
    connection.executemany("INSERT OR REPLACE INTO cycles VALUES (?,?,?,?,?,?)", cycle)
    query = "SELECT number FROM cycles WHERE job = ? ORDER BY number DESC LIMIT -1 OFFSET ?"
    gone = connection.execute(query, (job, CYCLES)).fetchall()
    connection.executemany("DELETE FROM cells WHERE cycle = ?", gone)
    connection.executemany("DELETE FROM cycles WHERE number = ?", gone)


def _statuses(samples: Iterable[Sample]) -> dict[CheckKey, Status]:
    """What was sent of each check: a value that is too old counts as unknown there."""
    found = {}
    for sample in samples:
        if sample.metric.name == CHECK_STATE.name and (key := key_of(sample.tags)):
            found[key] = _STATUSES[sample.value]
    return found


def _cycles(connection: sqlite3.Connection, asked: str, most: int) -> dict[str, list[Cycle]]:
    query = """
        SELECT cycles.job, number, run, cycles.started, cycles.ended, cycles.outcome,
            EXISTS (SELECT 1 FROM runs WHERE seq = number)
        FROM json_each(?) AS wanted CROSS JOIN cycles ON number IN (
            SELECT number FROM cycles WHERE job = wanted.value ORDER BY number DESC LIMIT ?
        ) ORDER BY number
        """
    found: dict[str, list[Cycle]] = defaultdict(list)
    for job, number, run, started, ended, outcome, kept in connection.execute(query, (asked, most)):
        times = rows.from_micros(started), rows.from_micros(ended)
        found[job].append(Cycle(number, run, *times, _OUTCOMES[outcome], bool(kept)))
    return found


def _cells(connection: sqlite3.Connection, cycles: Sequence[int]) -> dict[int, dict[int, Cell]]:
    query = """
        SELECT cycle, check_id, status, carried, cells.value FROM json_each(?) AS wanted
        CROSS JOIN cells ON cycle = wanted.value
        """
    found: dict[int, dict[int, Cell]] = defaultdict(dict)
    for cycle, check, status, carried, value in connection.execute(query, (orjson.dumps(cycles).decode(),)):
        found[check][cycle] = Cell(_BY_TEXT[status], bool(carried), value)
    return found


def _hours(connection: sqlite3.Connection, ids: Iterable[int], since: datetime) -> dict[int, list[Hour]]:
    query = """
        SELECT check_id, hour, low, high, last, failed FROM json_each(?) AS wanted
        CROSS JOIN hours ON check_id = wanted.value AND hour >= ?
        """
    asked = orjson.dumps(list(ids)).decode(), rows.seconds(since) // _HOUR
    found: dict[int, list[Hour]] = defaultdict(list)
    for check, hour, low, high, last, failed in connection.execute(query, asked):
        found[check].append(Hour(rows.from_seconds(hour * _HOUR), low, high, last, bool(failed)))
    return found
