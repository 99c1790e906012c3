"""Which state of each check was told last, which changes wait to be told, and what was told within the last hour."""

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from service.adapters import store_rows as rows
from service.adapters.store_lane import Lane
from service.domain.changes import Change, Reported, WaitingChange
from service.domain.checks import CheckKey
from service.domain.samples import Evidence, Status

TABLES = (
    """
    CREATE TABLE reported (
        job TEXT NOT NULL,
        key TEXT NOT NULL,           -- as in checks
        status TEXT NOT NULL,
        since INTEGER NOT NULL,
        PRIMARY KEY (job, key)
    ) STRICT, WITHOUT ROWID
    """,
    # AUTOINCREMENT: an id is never used twice, so a late answer can't settle another change.
    """
    CREATE TABLE changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        held INTEGER NOT NULL DEFAULT 0,   -- 1: goes with the others that were held back, in one event
        at INTEGER NOT NULL,               -- when it was noticed
        change TEXT NOT NULL               -- JSON
    ) STRICT
    """,
    "CREATE TABLE announced (at INTEGER NOT NULL, is_summary INTEGER NOT NULL) STRICT",
)
_MOST = 1000  # changes that wait; one more pushes out the oldest


def create(connection: sqlite3.Connection) -> None:
    for statement in TABLES:
        connection.execute(statement)


class StoredChanges:
    """A part of the store. Every method raises Unavailable when the store is lost."""

    def __init__(self, writer: Lane, reader: Lane) -> None:
        self._writer = writer
        self._reader = reader

    async def reported(self, job: str) -> dict[CheckKey, Reported]:
        return await self._reader.run(_reported, job)

    async def note(
        self, job: str, states: Mapping[CheckKey, Reported], changes: Iterable[Change], now: datetime
    ) -> int:
        """Keeps in one transaction what is told from now on and the changes that are to be told.

        How many changes fell out, oldest first, because too many wait.
        """
        return await self._writer.run(_note, job, dict(states), list(changes), now)

    async def waiting(self) -> list[WaitingChange]:
        """The changes that are to be told, oldest first."""
        return await self._reader.run(_waiting)

    async def hold(self, ids: Iterable[int]) -> None:
        await self._writer.run(_hold, list(ids))

    async def settle(self, ids: Iterable[int], announced_at: datetime | None, *, is_summary: bool = False) -> None:
        """Forgets the changes; ``announced_at`` counts as one event of that instant, None as none."""
        await self._writer.run(_settle, list(ids), announced_at, is_summary)

    async def announced(self, since: datetime) -> tuple[int, bool]:
        """How many single events were sent since then, and whether one about held ones was."""
        return await self._reader.run(_announced, since)


def _reported(connection: sqlite3.Connection, job: str) -> dict[CheckKey, Reported]:
    found = connection.execute("SELECT key, status, since FROM reported WHERE job = ?", (job,))
    return {_to_key(key): Reported(Status(status), rows.from_micros(since)) for key, status, since in found}


def _note(
    connection: sqlite3.Connection, job: str, states: Mapping[CheckKey, Reported], changes: list[Change], now: datetime
) -> int:
    connection.execute("DELETE FROM reported WHERE job = ?", (job,))
    connection.executemany(
        "INSERT OR REPLACE INTO reported VALUES (?, ?, ?, ?)",
        [(job, _from_key(key), each.status.value, rows.micros(each.since)) for key, each in states.items()],
    )
    connection.executemany(
        "INSERT INTO changes (at, change) VALUES (?, ?)", [(rows.micros(now), _from_change(each)) for each in changes]
    )
    if not changes:
        return 0
    return connection.execute(
        "DELETE FROM changes WHERE id <= (SELECT id FROM changes ORDER BY id DESC LIMIT 1 OFFSET ?)", (_MOST,)
    ).rowcount


def _waiting(connection: sqlite3.Connection) -> list[WaitingChange]:
    found = connection.execute("SELECT id, held, at, change FROM changes ORDER BY id")
    return [
        WaitingChange(number, bool(held), rows.from_micros(at), _to_change(text)) for number, held, at, text in found
    ]


def _hold(connection: sqlite3.Connection, ids: list[int]) -> None:
    connection.execute(
        "UPDATE changes SET held = 1 WHERE id IN (SELECT value FROM json_each(?))", (orjson.dumps(ids).decode(),)
    )


def _settle(connection: sqlite3.Connection, ids: list[int], announced_at: datetime | None, is_summary: bool) -> None:
    connection.execute(
        "DELETE FROM changes WHERE id IN (SELECT value FROM json_each(?))", (orjson.dumps(ids).decode(),)
    )
    if announced_at:
        connection.execute("DELETE FROM announced WHERE at < ?", (rows.micros(announced_at - timedelta(days=1)),))
        connection.execute("INSERT INTO announced VALUES (?, ?)", (rows.micros(announced_at), is_summary))


def _announced(connection: sqlite3.Connection, since: datetime) -> tuple[int, bool]:
    single, summaries = connection.execute(
        "SELECT count(*) FILTER (WHERE NOT is_summary), count(*) FILTER (WHERE is_summary) FROM announced WHERE at > ?",
        (rows.micros(since),),
    ).fetchone()
    return single, summaries > 0


def _from_key(key: CheckKey) -> str:
    return rows.to_json([list(pair) for pair in key])


def _to_key(text: str) -> CheckKey:
    return tuple((name, value) for name, value in orjson.loads(text))


def _from_change(change: Change) -> str:
    evidence = [
        [each.title, each.url, rows.micros(each.at) if each.at else None, each.conclusion, each.workflow]
        for each in change.evidence
    ]
    facts: list[Any] = [
        rows.text(change.job),
        rows.text(change.env),
        [[rows.text(part) for part in pair] for pair in change.key],
        change.before.value,
        change.after.value,
        rows.micros(change.since),
        change.lasted.total_seconds(),
        rows.text(change.condition),
        change.value,
        rows.text(change.metric),
        [[rows.text(part) if isinstance(part, str) else part for part in each] for each in evidence],
    ]
    return orjson.dumps(facts).decode()


def _to_change(text: str) -> Change:
    job, env, key, before, after, since, lasted, condition, value, metric, evidence = orjson.loads(text)
    return Change(
        job,
        env,
        tuple((name, part) for name, part in key),
        Status(before),
        Status(after),
        rows.from_micros(since),
        timedelta(seconds=lasted),
        condition,
        value,
        metric,
        tuple(
            Evidence(title, url, None if at is None else rows.from_micros(at), conclusion, workflow)
            for title, url, at, conclusion, workflow in evidence
        ),
    )
