"""Which state of each check was notified last, and which changes wait to be sent as events."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.domain.alerts import NotifiedState, StateChange
from service.domain.checks import CheckKey
from service.store.fallback import Failover
from service.store.tables import events, from_row, notified, to_row, upsert


@dataclass(frozen=True, slots=True)
class PendingChange:
    """``at``: when the change was noticed."""

    id: int
    at: datetime
    change: StateChange


class Notifications:
    """A part of the Store."""

    def __init__(self, database: Failover) -> None:
        self._database = database

    async def notified(self, collector: str) -> dict[CheckKey, NotifiedState]:
        rows = await self._database.fetch(sa.select(notified).where(notified.c.collector == collector))
        return {row.key: from_row(NotifiedState, row) for row in rows}

    async def record(
        self, collector: str, changes: Iterable[StateChange], states: Mapping[CheckKey, NotifiedState], now: datetime
    ) -> None:
        """Keeps in one transaction what is notified from now on (all of the collector's) and the changes to send."""
        known = [{"collector": collector, "key": key, **to_row(state)} for key, state in states.items()]
        new = [{"owner": "", "at": now, "change": change} for change in changes]

        def work(connection: sa.Connection) -> None:
            connection.execute(notified.delete().where(notified.c.collector == collector))
            upsert(notified, known, connection)
            if new:
                connection.execute(events.insert(), new)

        await self._database.write(work)

    async def pending(self) -> list[PendingChange]:
        """Oldest first."""
        return await self._database.load(PendingChange, sa.select(events).order_by(events.c.id))

    async def settle(self, ids: Iterable[int]) -> None:
        """Forgets changes: they were sent, or dropped."""
        await self._database.execute(events.delete().where(events.c.id.in_(list(ids))))
