"""How the store stays bounded: what has had its time leaves, in steps that keep no other writer waiting for long.

A point that is still due never leaves for its age or its run's: only delivery, expiry or a full store end it. A point
whose answer is due (SENDING) does not leave at all.
"""

import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson
import structlog

from service.adapters import store_history as history
from service.adapters import store_reads as reads
from service.adapters import store_rows as rows
from service.adapters.store_lane import Lane
from service.adapters.store_reads import SUCCEEDED
from service.adapters.store_series import RecentSeries
from service.adapters.store_writes import choose, move
from service.domain.points import Fate

log = structlog.get_logger(__name__)

# Rows that one transaction removes: some 15 ms.
_STEP = 5_000
_RUNS = 200
_ACTIONS = 10_000
# Pages that one step gives back to the file system.
_PAGES = 500
_DAY = 24 * 60 * 60
# History leaves a full store to this share of its bound, so that it is not full again with the next run.
_ROOMY = 0.9
_LEAST_SHARE = 0.05

# Removes up to so many rows; how many.
Removal = Callable[[sqlite3.Connection, int], int]


@dataclass(frozen=True, slots=True)
class Limits:
    """``keep_failed`` and ``keep_ended``: runs a job that did not succeed and that did. ``retention``: of samples.

    ``own``: the same two, failed first, of the jobs that have limits of their own; None where only the other is set.
    """

    retention: timedelta = timedelta(days=7)
    keep_failed: int = 3
    keep_ended: int = 100
    max_bytes: int = 256 * 2**20
    own: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)


class Pruning:
    """One pass over the store."""

    def __init__(self, writer: Lane, reader: Lane, limits: Limits, now: datetime, recent: RecentSeries) -> None:
        self._writer = writer
        self._reader = reader
        self._limits = limits
        self._now = now
        self._recent = recent

    async def run(self) -> int:
        """How many waiting points a full store had to discard."""
        gone = await self._in_steps(lambda connection, count: outlived_runs(connection, self._limits, count))
        before = self._now - self._limits.retention
        gone += await self._in_steps(lambda connection, count: outlived_points(connection, before, count))
        if gone:
            await self._sweep()
        discarded = await self._fit()
        await self._writer.run(condense_losses, before)
        await self._writer.run(outlived_actions)
        await self._writer.run(history.prune, before)
        while await self._writer.run(give_back):
            pass
        return discarded

    async def _fit(self) -> int:
        before = await self._reader.run(reads.size)
        if before <= self._limits.max_bytes:
            return 0
        await self._sweep()
        await self._writer.run(oldest_logs)
        history = await self._shrink(oldest_history, int(self._limits.max_bytes * _ROOMY))
        discarded = await self._shrink(
            lambda connection, count: oldest_waiting(connection, count, self._now), self._limits.max_bytes
        )
        log.warning(
            "the store was full: its oldest points left",
            bytes_before=before,
            bytes=await self._reader.run(reads.size),
            history=history,
            undelivered=discarded,
        )
        return discarded

    async def _shrink(self, remove: Removal, goal: int) -> int:
        """Removes points until the store takes ``goal`` bytes or no more leave; how many."""
        removed = 0
        while (size := await self._reader.run(reads.size)) > goal:
            # Series stay until their last point leaves, so the size does not fall in step: hence a least share.
            share = max(1 - goal / size, _LEAST_SHARE)
            count = int(await self._reader.run(reads.count_points) * share) + 1
            if not (gone := await self._in_steps(remove, count)):
                break
            removed += gone
            await self._sweep()
        return removed

    async def _in_steps(self, remove: Removal, most: float = math.inf) -> int:
        """Removes up to ``most`` rows, some a transaction; how many."""
        gone = 0
        while gone < most and (left := await self._writer.run(remove, int(min(most - gone, _STEP)))):
            gone += left
        return gone

    async def _sweep(self) -> None:
        # The search reads beside the writers; only the removal keeps them waiting.
        ids, known = await self._reader.run(unused_series)
        for start in range(0, len(ids), _STEP):
            await self._writer.run(remove_series, ids[start : start + _STEP], known, self._recent)


def outlived_runs(connection: sqlite3.Connection, limits: Limits, count: int) -> int:
    """Removes runs beyond the newest that are kept, with their points; how many rows left.

    The newest of each kind stays in any case: the age of the last success is counted from it.
    """
    found = connection.execute(
        f"""
        SELECT seq, first_point, last_point FROM (
            SELECT seq, job, first_point, last_point, outcome IN ({SUCCEEDED}) AS good,
                row_number() OVER (PARTITION BY job, outcome IN ({SUCCEEDED}) ORDER BY started DESC, id DESC) AS place
            FROM runs WHERE outcome IS NOT NULL
        )
        LEFT JOIN json_each(?) AS own ON own.key = job
        WHERE place > max(1, coalesce(json_extract(own.value, CASE good WHEN 1 THEN '$[1]' ELSE '$[0]' END),
            CASE good WHEN 1 THEN ? ELSE ? END)) AND NOT EXISTS (
            SELECT 1 FROM points WHERE points.id BETWEEN first_point AND last_point AND fate <= 1
        )
        LIMIT ?
        """,  # noqa: S608 - constants only
        (orjson.dumps(limits.own).decode(), limits.keep_ended, limits.keep_failed, _RUNS),
    ).fetchall()
    left = 0
    for seq, first, last in found:
        choose(connection, "SELECT id FROM points WHERE id BETWEEN ? AND ? LIMIT ?", first, last, count - left)
        left += _remove(connection)
        if left >= count:
            break
        connection.execute("DELETE FROM tallies WHERE run = ?", (seq,))
        connection.execute("DELETE FROM run_logs WHERE run = ?", (seq,))
        left += connection.execute("DELETE FROM runs WHERE seq = ?", (seq,)).rowcount
    return left


def outlived_points(connection: sqlite3.Connection, before: datetime, count: int) -> int:
    """Removes settled points of runs that ended before then; how many left."""
    choose(
        connection,
        """
        SELECT points.id FROM runs CROSS JOIN points ON points.id BETWEEN first_point AND last_point
        WHERE ended < ? AND fate > 1 LIMIT ?
        """,
        rows.micros(before),
        count,
    )
    return _remove(connection)


def oldest_history(connection: sqlite3.Connection, count: int) -> int:
    """Removes the oldest points that are settled; how many left."""
    choose(connection, "SELECT id FROM points WHERE fate > 1 ORDER BY id LIMIT ?", count)
    return _remove(connection)


def oldest_logs(connection: sqlite3.Connection) -> None:
    """Removes the log lines of the older half of the runs that have some."""
    connection.execute(
        "DELETE FROM run_logs WHERE run <= (SELECT run FROM run_logs ORDER BY run LIMIT 1 OFFSET "
        "(SELECT count(*) / 2 FROM run_logs))"
    )


def oldest_waiting(connection: sqlite3.Connection, count: int, now: datetime) -> int:
    """Discards the oldest points that wait; how many."""
    choose(connection, "SELECT id FROM points INDEXED BY points_waiting WHERE fate = 0 ORDER BY id LIMIT ?", count)
    moved = move(connection, Fate.DISCARDED, "the store was full", now)
    _remove(connection)
    return moved


def unused_series(connection: sqlite3.Connection) -> tuple[list[int], int]:
    """Series without a point, and the last point that this knows of."""
    query = "SELECT id FROM series WHERE id NOT IN (SELECT series FROM points)"
    found = [number for (number,) in connection.execute(query)]
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'points'").fetchone()
    return found, row[0] if row else 0


def remove_series(connection: sqlite3.Connection, ids: Sequence[int], known: int, recent: RecentSeries) -> None:
    """Removes the series that ``unused_series`` found, but for those that points after ``known`` use."""
    recent.forget()
    connection.execute(
        """
        DELETE FROM series WHERE id IN (SELECT value FROM json_each(?))
        AND id NOT IN (SELECT series FROM points WHERE id > ?)
        """,
        (orjson.dumps(ids).decode(), known),
    )


def condense_losses(connection: sqlite3.Connection, before: datetime) -> None:
    """Losses before then go on as one number a day."""
    old = f"at < {rows.seconds(before)} AND at % {_DAY} <> 0"
    connection.execute(
        f"""
        INSERT INTO losses SELECT job, fate, at / {_DAY} * {_DAY} AS day, sum(points) FROM losses WHERE {old}
        GROUP BY job, fate, day ON CONFLICT (job, fate, at) DO UPDATE SET points = points + excluded.points
        """  # noqa: S608 - numbers only
    )
    connection.execute(f"DELETE FROM losses WHERE {old}")  # noqa: S608 - numbers only


def outlived_actions(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM actions WHERE id <= (SELECT max(id) FROM actions) - ?", (_ACTIONS,))


def give_back(connection: sqlite3.Connection) -> bool:
    """Returns free pages to the file system, where many are free; True while there are more."""
    pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    if free < max(_PAGES, pages // 4):
        return False
    for _ in range(_PAGES):
        connection.execute("PRAGMA incremental_vacuum(1)")  # one a call, whatever the number: sqlite3 steps it once
    return True


def _remove(connection: sqlite3.Connection) -> int:
    """Deletes the chosen points; the runs that they belong to keep the tally of their fates."""
    connection.execute(
        """
        INSERT INTO tallies SELECT run, fate, count(*) FROM points
        WHERE id IN (SELECT id FROM chosen) AND run IS NOT NULL GROUP BY run, fate
        ON CONFLICT (run, fate) DO UPDATE SET points = points + excluded.points
        """
    )
    connection.execute("DELETE FROM evidence WHERE point IN (SELECT id FROM chosen)")
    return connection.execute("DELETE FROM points WHERE id IN (SELECT id FROM chosen)").rowcount
