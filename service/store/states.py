"""What collectors want to know next time, and snapshots that were pushed until a run has read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import sqlalchemy as sa

from service.domain.errors import Unavailable
from service.store.fallback import Failover
from service.store.tables import insert, pushes, state

# A run that writes this key says with it which push it has read last (``str(push.id).encode()``): in the transaction
# of the run's end, older ones leave. The newest one stays, read or not.
READ_PUSH = "push"
MAX_PUSHES = 50  # unread ones, of a collector
_RETRY_AFTER = 5.0


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
        query = sa.select(state.c.value, state.c.revision).where(state.c.collector == collector, state.c.key == key)
        rows = await self._database.fetch(query)
        return (rows[0].value, rows[0].revision) if rows else (None, 0)

    async def write(self, collector: str, values: Mapping[str, bytes | None]) -> None:
        """Writes state outside of a run, whatever its revision; None deletes."""
        await self._database.write(lambda connection: write_state(connection, collector, values))

    async def add_push(self, collector: str, key: str, body: bytes, at: datetime, *, max_bytes: int) -> Push:
        """Keeps a pushed snapshot until a run has read it; it takes the place of an unread one with the same key.

        Raises Unavailable (with ``retry_after``) when too many, or more than ``max_bytes`` are unread.
        """
        row = {"collector": collector, "key": key, "at": at, "is_read": False, "body": body}

        def work(connection: sa.Connection) -> int | None:
            is_unread = (pushes.c.collector == collector) & ~pushes.c.is_read
            facts = sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(pushes.c.body)), 0)
            count, size = connection.execute(sa.select(*facts).where(is_unread, pushes.c.key != key)).one()
            if count >= MAX_PUSHES or size > max_bytes:
                return None
            connection.execute(pushes.delete().where(is_unread, pushes.c.key == key))
            return int(connection.execute(pushes.insert().values(row).returning(pushes.c.id)).scalar_one())

        if (push_id := await self._database.write(work)) is None:
            raise Unavailable("too many pushed snapshots wait for a run to read them", retry_after=_RETRY_AFTER)
        return Push(push_id, key, at, body, is_read=False)

    async def pushes(self, collector: str) -> list[Push]:
        """Those that no run has read and the newest one, oldest first."""
        newest = sa.select(sa.func.max(pushes.c.id)).where(pushes.c.collector == collector).scalar_subquery()
        wanted = (pushes.c.collector == collector) & (~pushes.c.is_read | (pushes.c.id == newest))
        return await self._database.load(Push, sa.select(pushes).where(wanted).order_by(pushes.c.id))


def write_state(
    connection: sa.Connection,
    collector: str,
    values: Mapping[str, bytes | None],
    revisions: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Writes ``values``; what has a revision in ``revisions`` only if it still has that one."""
    for key, value in values.items():
        row = {"collector": collector, "key": key, "revision": 1, "value": value}
        write = insert(connection, state).values(row)
        is_unchanged = state.c.revision == revisions[key] if key in revisions else None
        write = write.on_conflict_do_update(
            index_elements=["collector", "key"],
            set_={"value": write.excluded.value, "revision": state.c.revision + 1},
            where=is_unchanged,
        )
        connection.execute(write)
        if key == READ_PUSH and value:
            of_collector = pushes.c.collector == collector
            connection.execute(pushes.update().where(of_collector, pushes.c.id <= int(value)).values(is_read=True))
            newest = sa.select(sa.func.max(pushes.c.id)).where(of_collector).scalar_subquery()
            connection.execute(pushes.delete().where(of_collector, pushes.c.is_read, pushes.c.id < newest))
