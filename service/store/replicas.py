"""The processes that share one PostgreSQL: who is alive, and what becomes of what the dead leave behind.

No leader and no lock that a session holds: the database decides, and its clock says who is silent for too long.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from service.domain.delivery import DeliveryStatus
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Mode, Outcome, Pause, Run, new_run_id
from service.store import tables
from service.store.chunks import DUE, recover_sending
from service.store.fallback import Failover
from service.store.runs import begin_run, interrupt_active
from service.store.tables import database_now, events, from_row, outbox, replicas, runs, slots

log = structlog.get_logger(__name__)

BEATS = 4  # within the time after which a silent replica is dead


@dataclass(frozen=True, slots=True)
class Replica:
    """``seen``: its last beat by the database's clock. ``active``: how many runs, ``pending``: how many samples."""

    id: str
    name: str
    version: str
    started: datetime
    seen: datetime
    active: int
    pending: int


@dataclass(frozen=True, slots=True)
class Beat:
    """What a replica saw when it last showed that it lives.

    ``replicas``: the ids of all. ``is_new``: this one had been taken for dead and goes on under another id; its runs
    are interrupted. ``active``: the runs of the others. ``own``: the ids of this one's that are active on record.
    ``cancelled``: with which outcome some of them are to end.
    ``repeats``: runs that are this one's now, begun already, in place of a dead replica's.
    """

    replicas: tuple[str, ...]
    is_new: bool
    slots: Mapping[tuple[str, Mode], datetime]
    pauses: Mapping[str, Pause]
    active: tuple[Run, ...]
    own: frozenset[str]
    cancelled: Mapping[str, Outcome]
    repeats: tuple[Run, ...]


class Replicas:
    """A part of the Store. ``name``: of the pod, for people. Each method raises Unavailable."""

    def __init__(self, database: Failover, name: str, version: str, *, dead_after: timedelta) -> None:
        self._database = database
        self._name, self._version = name, version
        self._dead_after = dead_after
        self._beaten = float("-inf")  # monotonic time of the last beat

    @property
    def interval(self) -> float:
        """Seconds between two beats."""
        return self._dead_after.total_seconds() / BEATS

    @property
    def id(self) -> str:
        """This process's, another one at each start; empty until ``join``."""
        return self._database.owner

    async def join(self) -> None:
        """From here on this process is one of the replicas."""
        id_ = f"{self._name}-{secrets.token_hex(3)}"
        facts = {"id": id_, "name": self._name, "version": self._version, "started": database_now()}
        await self._database.execute(replicas.insert().values(**facts, seen=database_now()))
        self._database.owner = id_

    async def beat(self, may_repeat: Callable[[Run], bool], lost: Collection[str] = ()) -> Beat:
        """Shows that this process lives, and takes over what the dead left, all in one transaction.

        ``may_repeat``: whether a scheduled run that a dead replica began may still be begun again. ``lost``: the ids of
        this one's runs that nobody carries out, because the answer to their claim, or their end, was lost.
        """
        if not self.id:
            raise Unavailable("this process has not joined the store's replicas yet")
        # After a pause of its own, or of the database, everybody looks dead for a moment: they get one beat's time.
        may_inherit = time.monotonic() - self._beaten < 2 * self.interval

        def work(connection: sa.Connection) -> Beat | None:
            alive = replicas.update().where(replicas.c.id == self.id).values(seen=database_now())
            if not connection.execute(alive).rowcount:
                return None
            if may_inherit:
                self._bury(connection)
            repeats = self._inherit(connection, may_repeat, lost)
            return self._look(connection, repeats)

        seen = await self._database.write(work)
        if seen is None:
            log.warning("this replica was silent for too long and taken for dead: it goes on as a new one")
            await self.join()
            seen = replace(await self._database.write(lambda tx: self._look(tx, ())), is_new=True)
        self._beaten = time.monotonic()
        return seen

    async def leave(self) -> None:
        """What waits is anybody's from here on, at once."""
        await self._database.execute(replicas.delete().where(replicas.c.id == self.id))

    async def list(self) -> list[Replica]:
        """Those that are not known to be dead, the oldest first."""
        active = sa.select(sa.func.count()).where(runs.c.owner == replicas.c.id, runs.c.outcome.is_(None))
        waiting = sa.select(sa.func.coalesce(sa.func.sum(outbox.c.samples), 0))
        waiting = waiting.where(outbox.c.owner == replicas.c.id, outbox.c.status.in_(DUE))
        facts = (active.scalar_subquery().label("active"), waiting.scalar_subquery().label("pending"))
        return await self._database.load(Replica, sa.select(replicas, *facts).order_by(replicas.c.started))

    def _bury(self, connection: sa.Connection) -> None:
        """Removes the replicas that are silent for too long. One that claims something at this moment is alive."""
        silent = replicas.c.seen < database_now() - self._dead_after // timedelta(microseconds=1)
        dead = sa.select(replicas.c.id).where(silent).with_for_update(skip_locked=True)
        buried = connection.execute(replicas.delete().where(replicas.c.id.in_(dead)).returning(replicas.c.name))
        if names := buried.scalars().all():
            log.warning("replicas are dead: what they left is taken over", names=", ".join(names))

    def _inherit(
        self, connection: sa.Connection, may_repeat: Callable[[Run], bool], lost: Collection[str]
    ) -> tuple[Run, ...]:
        """Takes over whatever belongs to nobody. The runs that are to be carried out again."""
        now = self._database.clock()
        living = sa.select(replicas.c.id)
        orphaned = runs.c.owner.not_in(living)
        ended = interrupt_active(connection, now, orphaned, "the replica that carried it out died")
        if lost:
            is_lost = (runs.c.owner == self.id) & runs.c.id.in_(lost)
            ended += interrupt_active(connection, now, is_lost, "its replica lost it while the store was away")
        recover_sending(connection, now, "its replica died before the intake answered", outbox.c.owner.not_in(living))
        waits = outbox.c.status == DeliveryStatus.PENDING
        connection.execute(outbox.update().where(waits, outbox.c.owner.not_in(living)).values(owner=self.id))
        connection.execute(events.update().where(events.c.owner.not_in(living)).values(owner=self.id))
        repeats = []
        for run, forbids in ended:
            # A repeat is never repeated: at the end at most one run of a slot completes.
            if run.slot is None or run.cause is Cause.RETRY or not may_repeat(run):
                continue
            id_ = new_run_id(run.collector, now)
            again = Run(id_, run.collector, Cause.RETRY, now, run.slot, mode=run.mode, owner=self.id)
            if begin_run(connection, again, forbids):
                repeats.append(again)
        return tuple(repeats)

    def _look(self, connection: sa.Connection, repeats: tuple[Run, ...]) -> Beat:
        active = connection.execute(sa.select(runs).where(runs.c.outcome.is_(None))).all()
        own = [row for row in active if row.owner == self.id]
        return Beat(
            replicas=tuple(connection.scalars(sa.select(replicas.c.id).order_by(replicas.c.id))),
            is_new=False,
            slots={(row.collector, row.mode): row.at for row in connection.execute(sa.select(slots))},
            pauses={row.collector: from_row(Pause, row) for row in connection.execute(sa.select(tables.pauses))},
            active=tuple(from_row(Run, row) for row in active if row.owner != self.id),
            own=frozenset(row.id for row in own),
            cancelled={row.id: row.cancel for row in own if row.cancel},
            repeats=repeats,
        )
