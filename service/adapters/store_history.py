"""The history behind the board: written with each ended run, read for whole collectors at once.

A board of a hundred checks over seven days is 17,000 small rows in the order of their key, whatever the schedules are.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson

from service.adapters import store_rows as rows
from service.domain.checks import CHECK_STATE, Check, CheckKey, key_of
from service.domain.history import CYCLES, Cell, CheckHistory, Cycle, Hour, check_id
from service.domain.runs import Run
from service.domain.samples import Sample, Status

_HOUR = 3600
_first, _second = itemgetter(0), itemgetter(1)
_STATUSES = {0.0: Status.PASS, 1.0: Status.FAIL, 2.0: Status.UNKNOWN}


def measured_before(connection: sqlite3.Connection, job: str) -> Mapping[str, int | None]:
    """When each check of the job was measured, by the text of its key: to be asked before the checks are replaced."""
    return dict(connection.execute("SELECT key, measured_at FROM checks WHERE job = ?", (job,)))


def write(
    connection: sqlite3.Connection,
    number: int,
    run: Run,
    checks: Iterable[tuple[Check, rows.Row]],
    samples: Iterable[Sample],
    before: Mapping[str, int | None],
) -> None:
    """Keeps an ended run as a cycle. ``number``: its runs.seq; ``before``: see ``measured_before``.

    ``checks``: each with its row (``store_rows.from_check``).
    """
    ended = run.ended or run.started
    _add_cycle(
        connection, run.job, [(number, run.job, run.id, rows.micros(run.started), rows.micros(ended), run.outcome)]
    )
    sent = _statuses(samples)
    cells: list[Any] = []
    hours: list[Any] = []
    hour = rows.seconds(ended) // _HOUR
    for check, row in checks:
        key, value, measured = row[0], row[4], row[5]
        status = sent.get(check.key, check.status)
        number_of_check = check_id(run.job, check.key)
        carried = measured is not None and before.get(key) == measured
        # Of a check without a threshold every value is unknown; only an old one says nothing of this cycle.
        if status is Status.UNKNOWN and carried:
            value = None
        cells.append((number, number_of_check, status.value, carried, value))
        if value is not None:
            hours.append((number_of_check, hour, value, value, value, status is Status.FAIL))
    cells.sort(key=_second)  # in the order of the tables: half the time where there are many
    hours.sort(key=_first)
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
    query = """
        SELECT wanted.value, (SELECT max(number) FROM cycles WHERE job = wanted.value) FROM json_each(?) AS wanted
        """
    found = connection.execute(query, (orjson.dumps(jobs).decode(),))
    return {job: newest for job, newest in found if newest is not None}


def cycles(connection: sqlite3.Connection, after: Mapping[str, int], most: int) -> dict[str, list[Cycle]]:
    """The last ``most`` cycles of each job that are newer than the number that ``after`` gives for it, oldest first."""
    query = """
        SELECT cycles.job, number, run, cycles.started / 1e6, (cycles.ended - cycles.started) / 1e6, cycles.outcome
        FROM json_each(?) AS wanted CROSS JOIN cycles ON number IN (
            SELECT number FROM cycles WHERE job = wanted.key AND number > wanted.value ORDER BY number DESC LIMIT ?
        )
        """
    # An IN list is walked in order, so the cycles of a job come oldest first, and its rows together.
    found = groupby(connection.execute(query, (orjson.dumps(dict(after)).decode(), most)), itemgetter(0))
    return {job: [Cycle._make(row[1:]) for row in of_job] for job, of_job in found}


def cycle(connection: sqlite3.Connection, run_id: str) -> tuple[str, Cycle] | None:
    """The job and the cycle of a run."""
    query = """
        SELECT job, number, run, started / 1e6, (ended - started) / 1e6, outcome FROM cycles WHERE run = ? LIMIT 1
        """
    row = connection.execute(query, (run_id,)).fetchone()
    return (row[0], Cycle._make(row[1:])) if row else None


def checks_of(connection: sqlite3.Connection, jobs: Sequence[str]) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = defaultdict(list)
    query = f"""
        SELECT job, {rows.CHECK_COLUMNS} FROM checks WHERE job IN (SELECT value FROM json_each(?)) ORDER BY rowid
        """  # noqa: S608 - constants only
    for job, *row in connection.execute(query, (orjson.dumps(jobs).decode(),)):
        found[job].append(rows.to_check(row))
    return found


def check_histories(
    connection: sqlite3.Connection, ids: Collection[int], numbers: Sequence[int], since: datetime
) -> dict[int, CheckHistory]:
    """What is known of these checks in the cycles of these ``numbers``, and their hours from ``since`` on."""
    cells = _cells(connection, set(ids), numbers)
    hours = _hours(connection, ids, since)
    return {each: CheckHistory(cells.get(each, {}), tuple(hours.get(each, ()))) for each in ids}


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


def _cells(connection: sqlite3.Connection, ids: Set[int], numbers: Sequence[int]) -> dict[int, dict[int, Cell]]:
    query = """
        SELECT check_id, cycle, status, carried, cells.value FROM json_each(?) AS wanted
        CROSS JOIN cells ON cycle = wanted.value
        """
    found: dict[int, dict[int, Cell]] = defaultdict(dict)
    for check, number, *cell in connection.execute(query, (orjson.dumps(numbers).decode(),)):
        if check in ids:
            found[check][number] = Cell._make(cell)
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
