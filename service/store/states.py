"""Collector state with its revisions, from one run to the next; and snapshots that were pushed to a collector."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain.errors import Unavailable
from service.store.fallback import Failover
from service.store.tables import insert, pushes, state

# A run that writes this key says with it which push it has read last (``str(push.id).encode()``): in the transaction
# of the run's end, older ones leave. The newest one stays, read or not.
READ_PUSH = "push"
MAX_PUSHES = 50  # unread ones, of a collector
_RETRY_AFTER = 5.0

_OF_COLLECTOR = pushes.c.collector == bindparam("name")
_NEWEST = sa.select(sa.func.max(pushes.c.id)).where(_OF_COLLECTOR).scalar_subquery()
_READ = sa.select(state.c.value, state.c.revision).where(
    state.c.collector == bindparam("name"), state.c.key == bindparam("key_")
)
_write = insert(state)
_WRITE = _write.on_conflict_do_update(
    index_elements=["collector", "key"],
    set_={"value": _write.excluded.value, "revision": state.c.revision + 1},
    where=sa.func.coalesce(bindparam("expected", type_=sa.BigInteger), state.c.revision) == state.c.revision,
).returning(state.c.key)


@dataclass(frozen=True, slots=True)
class Push:
    """A pushed snapshot. ``key`` tells one publication from another; ``id`` rises."""

    id: int
    key: str
    at: datetime
    body: bytes
    is_read: bool


class States:
    """A part of the Store."""

    def __init__(self, database: Failover) -> None:
        self._database = database

    async def read(self, collector: str, key: str) -> tuple[bytes | None, int]:
        """The value and its revision, which the end of a run wants back; None and 0 where there is none."""
        rows = await self._database.fetch(_READ, {"name": collector, "key_": key})
        return (rows[0].value, rows[0].revision) if rows else (None, 0)

    async def read_all(self, collector: str, prefix: str) -> dict[str, bytes]:
        """The values of the keys that begin with ``prefix``, by key."""
        wanted = (state.c.collector == collector) & state.c.key.startswith(prefix, autoescape=True)
        rows = await self._database.fetch(sa.select(state.c.key, state.c.value).where(wanted))
        return {row.key: row.value for row in rows if row.value}

    async def write(self, collector: str, values: Mapping[str, bytes | None]) -> None:
        """Writes state outside of a run, whatever its revision; None deletes."""
        await self._database.write(lambda connection: write_state(connection, collector, values))

    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> None:
        """Keeps a pushed snapshot until a run has read it; it takes the place of an unread one with the same key.

        Raises Unavailable (with ``retry_after``) when too many, or more than ``max_bytes`` are unread.
        """
        row = {"collector": collector, "key": key, "at": at, "is_read": False, "body": body}

        def work(connection: sa.Connection) -> bool:
            is_unread = (pushes.c.collector == collector) & ~pushes.c.is_read
            facts = sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(pushes.c.body)), 0)
            count, size = connection.execute(sa.select(*facts).where(is_unread, pushes.c.key != key)).one()
            if count >= MAX_PUSHES or size > max_bytes:
                return False
            connection.execute(pushes.delete().where(is_unread, pushes.c.key == key))
            connection.execute(pushes.insert(), row)
            return True

        if not await self._database.write(work):
            raise Unavailable("too many pushed snapshots wait for a run to read them", retry_after=_RETRY_AFTER)

    async def pushes(self, collector: str) -> list[Push]:
        """Those that no run has read and the newest one, oldest first."""
        wanted = sa.select(pushes).where(_OF_COLLECTOR, ~pushes.c.is_read | (pushes.c.id == _NEWEST))
        return await self._database.load(Push, wanted.order_by(pushes.c.id), {"name": collector})


def write_state(
    connection: sa.Connection,
    collector: str,
    values: Mapping[str, bytes | None],
    revisions: Mapping[str, int] = MappingProxyType({}),
) -> bool:
    """Writes ``values``; what has a revision in ``revisions`` only if it still has that one. Whether all could be."""
    is_whole = True
    for key, value in values.items():
        row = {"collector": collector, "key": key, "revision": 1, "value": value, "expected": revisions.get(key)}
        is_whole &= connection.execute(_WRITE, row).first() is not None
        if key == READ_PUSH and value:
            name, is_older = {"name": collector}, pushes.c.id <= int(value)
            connection.execute(pushes.update().where(_OF_COLLECTOR, is_older).values(is_read=True), name)
            connection.execute(pushes.delete().where(_OF_COLLECTOR, pushes.c.is_read, pushes.c.id < _NEWEST), name)
    return is_whole
