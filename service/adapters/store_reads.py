"""What the store is asked: each function is one read transaction, so what it returns agrees with itself."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from datetime import datetime

import orjson

from service.adapters import store_rows as rows
from service.adapters.store_series import RecentSeries, Series
from service.domain.actions import Action
from service.domain.checks import Check
from service.domain.points import Fate, Point, SeenSeries, StoredSample
from service.domain.runs import Outcome, Run

SUCCEEDED = ", ".join(f"'{outcome.value}'" for outcome in Outcome if outcome.succeeded)

# One request of the intake takes 5 MB before compression; more would only wait in memory.
_ENOUGH_TEXT = 5_000_000


def waiting(connection: sqlite3.Connection, limit: int, skip: Set[int], recent: RecentSeries) -> list[Point]:
    cursor = connection.execute(
        # INDEXED BY: a walk over the table in the order of ids would pass the whole history first.
        """
        SELECT id, series, at, value FROM points INDEXED BY points_waiting
        WHERE fate = 0 ORDER BY id LIMIT ?
        """,
        (limit + len(skip),),
    )
    known = recent.by_id
    points: list[Point] = []
    size = 0
    # Row by row: ten thousand rows at once would set off the garbage collector, which stalls the event loop.
    for number, series, at, value in cursor:
        if number in skip:
            continue
        found = known.get(series) or _series(connection, series)
        metric, kind, interval, tags = found
        size += len(tags) + len(metric)
        if (size > _ENOUGH_TEXT and points) or len(points) == limit:
            break
        points.append(Point._make((number, metric, kind, interval, tags, at, value)))
    cursor.close()
    return points


def _series(connection: sqlite3.Connection, number: int) -> Series:
    query = f"SELECT {rows.SERIES_COLUMNS} FROM series WHERE id = ?"  # noqa: S608 - constants only
    return rows.to_series(connection.execute(query, (number,)).fetchone())


def count_waiting(connection: sqlite3.Connection) -> int:
    query = "SELECT count(*) FROM points INDEXED BY points_waiting WHERE fate = 0"
    return int(connection.execute(query).fetchone()[0])


def oldest_waiting(connection: sqlite3.Connection) -> datetime | None:
    query = "SELECT min(at) FROM points INDEXED BY points_waiting WHERE fate = 0"
    (at,) = connection.execute(query).fetchone()
    return None if at is None else rows.from_seconds(at)


def last_slots(connection: sqlite3.Connection) -> Mapping[str, datetime]:
    return {job: rows.from_micros(at) for job, at in connection.execute("SELECT job, scheduled_at FROM slots")}


def shadow_slots(connection: sqlite3.Connection) -> Mapping[str, datetime]:
    return {job: rows.from_micros(at) for job, at in connection.execute("SELECT job, scheduled_at FROM shadow_slots")}


def paused(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(job for (job,) in connection.execute("SELECT job FROM pauses"))


def checks(connection: sqlite3.Connection, job: str) -> list[Check]:
    query = f"SELECT {rows.CHECK_COLUMNS} FROM checks WHERE job = ? ORDER BY rowid"  # noqa: S608 - constants only
    return [rows.to_check(row) for row in connection.execute(query, (job,))]


def recall(connection: sqlite3.Connection, job: str, key: str) -> bytes | None:
    row = connection.execute("SELECT value FROM memory WHERE job = ? AND key = ?", (job, key)).fetchone()
    return row[0] if row else None


def lost(connection: sqlite3.Connection, job: str | None, since: datetime) -> dict[Fate, int]:
    query = "SELECT fate, sum(points) FROM losses WHERE at >= ?1 AND (?2 IS NULL OR job = ?2) GROUP BY fate"
    return {Fate(fate): points for fate, points in connection.execute(query, (rows.seconds(since), job))}


def last_success(connection: sqlite3.Connection, job: str) -> datetime | None:
    query = f"SELECT max(ended) FROM runs WHERE job = ? AND outcome IN ({SUCCEEDED})"  # noqa: S608 - constants only
    (ended,) = connection.execute(query, (job,)).fetchone()
    return None if ended is None else rows.from_micros(ended)


def last_successes(connection: sqlite3.Connection) -> dict[str, datetime]:
    # A look into the index for each job: as one GROUP BY it walks over all their runs.
    query = f"""
        SELECT job, (SELECT max(ended) FROM runs WHERE job = each.job AND outcome IN ({SUCCEEDED}))
        FROM (SELECT DISTINCT job FROM runs) AS each
        """  # noqa: S608 - constants only
    return {job: rows.from_micros(ended) for job, ended in connection.execute(query) if ended is not None}


def run(connection: sqlite3.Connection, run_id: str) -> Run | None:
    query = f"SELECT {rows.RUN_COLUMNS} FROM runs WHERE id = ?"  # noqa: S608 - constants only
    row = connection.execute(query, (run_id,)).fetchone()
    return rows.to_run(row) if row else None


def runs(connection: sqlite3.Connection, job: str | None, limit: int, before: str | None) -> list[Run]:
    wanted = ["(started, id) < (SELECT started, id FROM runs WHERE id = :before)"] if before else []
    wanted += ["job = :job"] if job else []
    query = f"""
        SELECT {rows.RUN_COLUMNS} FROM runs {"WHERE" if wanted else ""} {" AND ".join(wanted)}
        ORDER BY started DESC, id DESC LIMIT :limit
        """  # noqa: S608 - constants only
    named = {"job": job, "limit": limit, "before": before}
    return [rows.to_run(row) for row in connection.execute(query, named)]


def latest_runs(connection: sqlite3.Connection) -> dict[str, Run]:
    return _last_of_each_job(connection, "true")


def last_failures(connection: sqlite3.Connection) -> dict[str, Run]:
    return _last_of_each_job(connection, f"outcome NOT IN ({SUCCEEDED})")


def _last_of_each_job(connection: sqlite3.Connection, wanted: str) -> dict[str, Run]:
    query = f"""
        SELECT {rows.RUN_COLUMNS} FROM runs WHERE seq IN (
            SELECT (SELECT seq FROM runs WHERE job = each.job AND {wanted} ORDER BY started DESC, id DESC LIMIT 1)
            FROM (SELECT DISTINCT job FROM runs) AS each
        )
        """  # noqa: S608 - constants only
    return {row[1]: rows.to_run(row) for row in connection.execute(query)}


def samples(connection: sqlite3.Connection, run_id: str, offset: int, limit: int) -> tuple[list[StoredSample], int]:
    own = "runs CROSS JOIN points ON points.id BETWEEN first_point AND last_point"
    (total,) = connection.execute(f"SELECT count(*) FROM {own} WHERE runs.id = ?", (run_id,)).fetchone()  # noqa: S608
    query = f"""
        SELECT {rows.SAMPLE_COLUMNS} FROM {own} JOIN series ON series.id = series
        LEFT JOIN evidence ON evidence.point = points.id
        WHERE runs.id = ? ORDER BY points.id LIMIT ? OFFSET ?
        """  # noqa: S608 - constants only
    return [rows.to_stored_sample(row) for row in connection.execute(query, (run_id, limit, offset))], total


def fates_of(connection: sqlite3.Connection, run_ids: Iterable[str]) -> dict[str, dict[Fate, int]]:
    query = """
        WITH asked AS (SELECT seq, id, first_point, last_point FROM runs WHERE id IN (SELECT value FROM json_each(?)))
        SELECT asked.id, fate, count(*) FROM asked CROSS JOIN points ON points.id BETWEEN first_point AND last_point
        GROUP BY asked.id, fate
        UNION ALL
        SELECT asked.id, fate, points FROM asked JOIN tallies ON tallies.run = asked.seq
        """
    ids = list(run_ids)
    found: dict[str, dict[Fate, int]] = {run_id: defaultdict(int) for run_id in ids}
    for run_id, fate, points in connection.execute(query, (orjson.dumps(ids).decode(),)):
        found[run_id][Fate(fate)] += points
    return {run_id: dict(fates) for run_id, fates in found.items()}


def seen(connection: sqlite3.Connection, jobs: Iterable[str], since: datetime) -> list[SeenSeries]:
    query = """
        SELECT job, metric, kind, tags, last FROM (
            SELECT job, series, max(at) AS last FROM points
            WHERE run IS NOT NULL AND at >= ? AND job IN (SELECT value FROM json_each(?)) GROUP BY job, series
        ) JOIN series ON series.id = series
        """
    named = (rows.seconds(since), orjson.dumps(list(jobs)).decode())
    return [rows.to_seen_series(row) for row in connection.execute(query, named)]


def actions(connection: sqlite3.Connection, limit: int) -> list[Action]:
    query = f"SELECT {rows.ACTION_COLUMNS} FROM actions ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants only
    return [rows.to_action(row) for row in connection.execute(query, (limit,))]


def size(connection: sqlite3.Connection) -> int:
    pages, free, page_size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page_size)


def count_points(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])


def touch(connection: sqlite3.Connection) -> None:
    """Reads a page of the file, so that a file that can't be read shows."""
    connection.execute("SELECT count(*) FROM pauses").fetchone()
