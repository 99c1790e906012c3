"""The log lines of runs: kept with the run, so that its page and ``logs RUN`` need no log server."""

import sqlite3
from collections.abc import Sequence

import orjson

from service.adapters import store_rows as rows
from service.domain.logged import Logged

_MOST_BYTES = 32 * 1024


def write(connection: sqlite3.Connection, run_id: str, lines: Sequence[Logged]) -> None:
    found = [[rows.micros(line.time), line.level, line.message, dict(line.fields)] for line in lines]
    text = rows.to_json(found)
    while len(text) > _MOST_BYTES and found:
        # The first lines tell how it began, the last ones how it ended.
        found = found[: len(found) // 4] + found[len(found) // 2 + len(found) % 2 :]
        text = rows.to_json(found)
    connection.execute("INSERT OR REPLACE INTO run_logs SELECT seq, ? FROM runs WHERE id = ?", (text, run_id))


def read(connection: sqlite3.Connection, run_id: str) -> list[Logged]:
    query = "SELECT lines FROM run_logs JOIN runs ON seq = run WHERE id = ?"
    row = connection.execute(query, (run_id,)).fetchone()
    found = orjson.loads(row[0]) if row else []
    return [Logged(rows.from_micros(time), level, message, fields) for time, level, message, fields in found]
