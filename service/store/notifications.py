"""Which state of each check was notified last, which changes wait to be sent as events, and what was sent lately."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.domain.alerts import NotifiedState, StateChange
from service.domain.checks import CheckKey
from service.store.fallback import Failover
from service.store.tables import events, notified, sent_events, to_row, upsert

MAX_PENDING = 1_000  # changes; one more pushes out the oldest


@dataclass(frozen=True, slots=True)
class PendingChange:
    """``at``: when the change was noticed. ``held``: it goes with others, in one event."""

    id: int
    at: datetime
    held: bool
    change: StateChange


class Notifications:
    """A part of the Store."""

    def __init__(self, database: Failover) -> None:
        self._database = database

    async def notified(self, collector: str) -> dict[CheckKey, NotifiedState]:
        rows = await self._database.fetch(sa.select(notified).where(notified.c.collector == collector))
        return {row.key: NotifiedState(row.status, row.since) for row in rows}

    async def record(
        self, collector: str, changes: Iterable[StateChange], states: Mapping[CheckKey, NotifiedState], now: datetime
    ) -> int:
        """Keeps in one transaction what is notified from now on (all of the collector's) and the changes to send.

        How many changes fell out, oldest first, because too many wait.
        """
        known = [{"collector": collector, "key": key, **to_row(state)} for key, state in states.items()]
        new = [{"owner": "", "held": False, "at": now, "change": change} for change in changes]

        def work(connection: sa.Connection) -> int:
            connection.execute(notified.delete().where(notified.c.collector == collector))
            upsert(notified, known, connection)
            if not new:
                return 0
            connection.execute(events.insert(), new)
            last = sa.select(events.c.id).order_by(events.c.id.desc()).offset(MAX_PENDING).limit(1).scalar_subquery()
            return connection.execute(events.delete().where(events.c.id <= last)).rowcount

        return await self._database.write(work)

    async def pending(self) -> list[PendingChange]:
        """Oldest first."""
        return await self._database.load(PendingChange, sa.select(events).order_by(events.c.id))

    async def hold(self, ids: Iterable[int]) -> None:
        await self._database.execute(events.update().where(events.c.id.in_(list(ids))).values(held=True))

    async def settle(self, ids: Iterable[int], sent_at: datetime | None, *, is_summary: bool = False) -> None:
        """Forgets changes; ``sent_at`` counts as one event of that instant, None as none (they were dropped)."""

        def work(connection: sa.Connection) -> None:
            connection.execute(events.delete().where(events.c.id.in_(list(ids))))
            if sent_at:
                connection.execute(sent_events.insert().values(at=sent_at, is_summary=is_summary))

        await self._database.write(work)

    async def sent_since(self, at: datetime) -> tuple[int, bool]:
        """How many events were sent since then for one change each, and whether one summed up several."""
        query = sa.select(sent_events.c.is_summary, sa.func.count()).where(sent_events.c.at > at)
        counts = {row[0]: row[1] for row in await self._database.fetch(query.group_by(sent_events.c.is_summary))}
        return counts.get(False, 0), True in counts
