"""What collectors want to know next time, snapshots that were pushed to them, and changes of checks to be notified."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import msgspec
import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain.alerts import NotifiedState, StateChange
from service.domain.checks import CheckKey
from service.domain.errors import Unavailable
from service.store.fallback import Failover
from service.store.tables import events, insert, pushes, state, to_json

# A run that writes this key says with it which push it has read last (``str(push.id).encode()``): in the transaction
# of the run's end, older ones leave. The newest one stays, read or not.
READ_PUSH = "push"
MAX_PUSHES = 50  # unread ones, of a collector
_NOTIFIED = "$notified"  # a key of our own among the collector's
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
_decode_notified = msgspec.json.Decoder(list[tuple[CheckKey, NotifiedState]]).decode


@dataclass(frozen=True, slots=True)
class Push:
    """A pushed snapshot. ``key`` tells one publication from another; ``id`` rises."""

    id: int
    key: str
    at: datetime
    body: bytes
    is_read: bool


@dataclass(frozen=True, slots=True)
class PendingChange:
    """``at``: when the change was noticed."""

    id: int
    at: datetime
    change: StateChange


class States:
    """A part of the Store. ``owner``: the replica that sends a change: the one that noticed it, as long as it lives."""

    def __init__(self, database: Failover, owner: Callable[[], str] = lambda: "") -> None:
        self._database = database
        self._owner = owner

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
        wanted = sa.select(pushes).where(_OF_COLLECTOR, ~pushes.c.is_read | (pushes.c.id == _NEWEST))
        return await self._database.load(Push, wanted.order_by(pushes.c.id), {"name": collector})

    async def notified(self, collector: str) -> tuple[dict[CheckKey, NotifiedState], int]:
        """Which state of each check was notified last, and the revision of that."""
        value, revision = await self.read(collector, _NOTIFIED)
        return dict(_decode_notified(value)) if value else {}, revision

    async def record_changes(
        self,
        collector: str,
        changes: Iterable[StateChange],
        states: Mapping[CheckKey, NotifiedState],
        now: datetime,
        revision: int,
    ) -> None:
        """Keeps in one transaction what is notified from now on (all of the collector's) and the changes to send.

        Where what was notified before has not that ``revision`` any more, another replica noticed them first.
        """
        notified = {_NOTIFIED: to_json(list(states.items())).encode()}
        new = [{"owner": self._owner(), "at": now, "change": change} for change in changes]

        def work(connection: sa.Connection) -> None:
            if write_state(connection, collector, notified, {_NOTIFIED: revision}) and new:
                connection.execute(events.insert(), new)

        await self._database.write(work)

    async def pending_changes(self) -> list[PendingChange]:
        """Oldest first."""
        ours = sa.select(events).where(events.c.owner == self._owner())
        return await self._database.load(PendingChange, ours.order_by(events.c.id))

    async def settle_changes(self, ids: Iterable[int]) -> None:
        """Forgets changes: they were sent, or dropped."""
        await self._database.execute(events.delete().where(events.c.id.in_(list(ids))))


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
            of_collector = {"name": collector, "last": int(value)}
            is_older = pushes.c.id <= bindparam("last")
            connection.execute(pushes.update().where(_OF_COLLECTOR, is_older).values(is_read=True), of_collector)
            connection.execute(
                pushes.delete().where(_OF_COLLECTOR, pushes.c.is_read, pushes.c.id < _NEWEST), of_collector
            )
    return is_whole
