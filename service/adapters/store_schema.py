"""The store's tables, and how a file of an older version becomes one of this version."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from service.adapters import store_changes
from service.adapters.store_file import copy, transaction
from service.domain.errors import ConfigError

log = structlog.get_logger(__name__)

Step = Callable[[sqlite3.Connection], None]

# Instants are microseconds since the epoch in UTC; the "at" of a point or a loss is in whole seconds.
_TABLES = (
    # The id is a hash of the content (store_rows.series_id): a point's row is small, and no look-up precedes it.
    """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        metric TEXT NOT NULL,
        kind TEXT NOT NULL,
        interval INTEGER NOT NULL,
        tags TEXT NOT NULL           -- JSON list of "name:value", as the intake takes it
    ) STRICT
    """,
    # AUTOINCREMENT: an id is never used twice, so a late answer can't settle somebody else's point.
    """
    CREATE TABLE points (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        series INTEGER NOT NULL,
        run INTEGER,                 -- runs.seq; NULL: belongs to none and leaves once it is settled
        job TEXT NOT NULL,
        at INTEGER NOT NULL,
        value REAL NOT NULL,
        fate INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT ''
    ) STRICT
    """,
    # Only what is due is indexed, so the cost of a point does not grow with the history.
    "CREATE INDEX points_waiting ON points (id, at) WHERE fate = 0",
    "CREATE INDEX points_sending ON points (id) WHERE fate = 1",
    # The points of a run are inserted in one transaction, so first_point to last_point is all of them: no index.
    """
    CREATE TABLE runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL,
        scheduled_at INTEGER,
        cause TEXT NOT NULL,
        source TEXT NOT NULL,
        started INTEGER NOT NULL,
        ended INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        outcome TEXT,                -- NULL: active
        faults TEXT NOT NULL DEFAULT '[]',
        samples INTEGER NOT NULL DEFAULT 0,
        first_point INTEGER,
        last_point INTEGER
    ) STRICT
    """,
    "CREATE INDEX runs_by_start ON runs (started, id)",
    "CREATE INDEX runs_by_job ON runs (job, started, id)",
    # What came of the points of a run whose rows were pruned.
    """
    CREATE TABLE tallies (
        run INTEGER NOT NULL,
        fate INTEGER NOT NULL,
        points INTEGER NOT NULL,
        PRIMARY KEY (run, fate)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE losses (
        job TEXT NOT NULL,
        fate INTEGER NOT NULL,
        at INTEGER NOT NULL,         -- when the points were lost
        points INTEGER NOT NULL,
        PRIMARY KEY (job, fate, at)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE TABLE slots (job TEXT PRIMARY KEY, scheduled_at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE pauses (job TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE checks (
        job TEXT NOT NULL,
        key TEXT NOT NULL,           -- JSON list of [name, value]
        status TEXT NOT NULL,
        condition TEXT NOT NULL,
        since INTEGER NOT NULL,
        value REAL,
        measured_at INTEGER,
        metric TEXT NOT NULL,
        PRIMARY KEY (job, key)
    ) STRICT
    """,
    """
    CREATE TABLE memory (
        job TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (job, key)
    ) STRICT
    """,
    """
    CREATE TABLE actions (
        id INTEGER PRIMARY KEY,
        time INTEGER NOT NULL,
        what TEXT NOT NULL,
        target TEXT NOT NULL,
        source TEXT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        run TEXT NOT NULL
    ) STRICT
    """,
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)


def _run_logs(connection: sqlite3.Connection) -> None:
    # One row a run, not one a line: they are only ever written and read together. ``run``: runs.seq
    connection.execute("CREATE TABLE run_logs (run INTEGER PRIMARY KEY, lines TEXT NOT NULL) STRICT")


def _evidence(connection: sqlite3.Connection) -> None:
    # JSON list of [title, url, at, conclusion, workflow]
    connection.execute("ALTER TABLE checks ADD COLUMN evidence TEXT NOT NULL DEFAULT '[]'")


# What the board is drawn from. It is small and bounded by itself, so it outlives the runs and points that it came from.
_HISTORY_TABLES = (
    """
    CREATE TABLE cycles (
        number INTEGER PRIMARY KEY,  -- runs.seq
        job TEXT NOT NULL,
        run TEXT NOT NULL,           -- runs.id
        started INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        outcome TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX cycles_by_job ON cycles (job, number)",
    # check_id: domain.history.check_id
    """
    CREATE TABLE cells (
        cycle INTEGER NOT NULL,      -- cycles.number
        check_id INTEGER NOT NULL,
        status TEXT NOT NULL,
        carried INTEGER NOT NULL,
        value REAL,
        PRIMARY KEY (cycle, check_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE hours (
        check_id INTEGER NOT NULL,
        hour INTEGER NOT NULL,       -- hours since the epoch
        low REAL NOT NULL,
        high REAL NOT NULL,
        last REAL NOT NULL,
        failed INTEGER NOT NULL,
        PRIMARY KEY (check_id, hour)
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO cycles SELECT seq, job, id, started, coalesce(ended, started), outcome FROM runs
    WHERE outcome IS NOT NULL
    """,
)


def _history(connection: sqlite3.Connection) -> None:
    for statement in _HISTORY_TABLES:
        connection.execute(statement)


def _samples_evidence(connection: sqlite3.Connection) -> None:
    # Apart from the points: few have any, and the delivery reads points all the time.
    connection.execute("CREATE TABLE evidence (point INTEGER PRIMARY KEY, items BLOB NOT NULL) STRICT")


def _shadow_slots(connection: sqlite3.Connection) -> None:
    # Apart from the live ones: what was run in shadow mode was run by the CronJob, too, or by nobody.
    connection.execute(
        "CREATE TABLE shadow_slots (job TEXT PRIMARY KEY, scheduled_at INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )


def _last_of_job(connection: sqlite3.Connection) -> None:
    # Each page asks for a job's last success and failure; without these all runs of a job that is well are walked over.
    connection.execute("CREATE INDEX runs_good ON runs (job, ended) WHERE outcome IN ('Complete', 'Partial')")
    connection.execute("CREATE INDEX runs_bad ON runs (job, started, id) WHERE outcome NOT IN ('Complete', 'Partial')")


# Step n (from 1) makes version n out of version n - 1. A released step is never changed: a change is one more step.
STEPS: tuple[Step, ...] = (
    _first,
    _run_logs,
    _evidence,
    _history,
    _samples_evidence,
    store_changes.create,
    _shadow_slots,
    _last_of_job,
)


def version_of(connection: sqlite3.Connection) -> int:
    """0 is a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS, *, backup: bool = True) -> None:
    """Brings the database to this version, after a copy of an older one to ``state.db.vN.bak`` beside it.

    Each step is one transaction, so a crash leaves a whole version, which the next start takes further.
    Raises ConfigError when the file is of a newer version.
    """
    version = version_of(connection)
    refuse_newer(version, path, len(steps))
    if backup and 0 < version < len(steps):
        kept = path.with_name(f"{path.name}.v{version}.bak")
        copy(connection, kept)
        log.info("state database migrates", file=str(path), version=version, to=len(steps), backup=str(kept))
    for number, step in enumerate(steps[version:], version + 1):
        with transaction(connection, "IMMEDIATE"):
            step(connection)
            connection.execute(f"PRAGMA user_version = {number}")


def refuse_newer(version: int, path: Path, known: int = len(STEPS)) -> None:
    """Raises ConfigError when ``version`` is beyond ``known``."""
    if version > known:
        raise ConfigError(
            f"{path} was written by a newer infra-health (schema {version}, this one knows {known}): "
            "run that version again, or set state_dir to another directory"
        )
