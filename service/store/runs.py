"""Runs: claimed, begun and ended; and what is kept beside them: slots, pauses, logs, the audit log."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain.checks import Check
from service.domain.errors import Unavailable
from service.domain.runs import AuditEntry, Cause, LogLine, Mode, Outcome, PartialFailure, Pause, Run
from service.domain.samples import Sample
from service.store import tables
from service.store.checks import add_cycle
from service.store.chunks import DUE, Batch, insert_batch, to_batch
from service.store.fallback import Failover
from service.store.states import write_state
from service.store.tables import database_now, from_row, insert, outbox, replicas, runs, slots, to_row, upsert

HistoryLimits = Mapping[str, tuple[int | None, int | None]]  # of a collector: failed runs, successful runs

_CLOCK_SKEW = timedelta(seconds=1)
_STEP = 500  # runs that one transaction deletes
_SLOTS_LOCK = 0x1F4EA19  # replicas give collectors their first slots one after the other
_NOTHING: Mapping[str, Any] = MappingProxyType({})

_BEGIN = insert(runs).on_conflict_do_nothing().returning(runs.c.id)
_FIND = sa.select(runs).where(runs.c.id == bindparam("run"))
_FIND_BUSY = sa.select(runs.c.id).where(
    runs.c.collector == bindparam("name"),
    runs.c.mode == bindparam("of_mode", type_=runs.c.mode.type),
    runs.c.outcome.is_(None) & runs.c.forbids,
)
_IN_NAMES: sa.BindParameter[Any] = bindparam("names", expanding=True)
# In one order, or two replicas would wait for each other's rows.
_LOCK_SLOTS = sa.select(slots).where(slots.c.collector.in_(_IN_NAMES)).order_by(slots.c.collector).with_for_update()
_PAUSED = sa.select(tables.pauses.c.collector).where(tables.pauses.c.collector.in_(_IN_NAMES))
_end = insert(runs)
_END = _end.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _end.excluded[name] for name in ("outcome", "ended", "attempts", "errors", "samples")},
    where=runs.c.outcome.is_(None) & (runs.c.owner == _end.excluded.owner),
).returning(runs.c.id)


class Busy(Exception):
    """A run of the collector is active, and its policy allows no second one."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id or 'of another replica'} is active and the concurrency policy is Forbid")
        self.run_id = run_id


class Claim(NamedTuple):
    """``run`` wants its slot. ``known``: the slot on record as the scheduler knows it.

    ``forbids``: no other run of the collector may be active that forbids as well.
    """

    run: Run
    known: datetime | None
    forbids: bool


class Runs:
    """A part of the Store. Writes are durable when they return."""

    def __init__(self, database: Failover) -> None:
        self._database = database

    async def slots(self, mode: Mode) -> dict[str, datetime]:
        """The last slot of each collector that was claimed in ``mode``."""
        query = sa.select(slots.c.collector, slots.c.at).where(slots.c.mode == mode, ~slots.c.collector.startswith("$"))
        return dict(map(tuple, await self._database.fetch(query)))

    async def claim_slots(self, claims: Sequence[Claim]) -> list[bool | Busy]:
        """Whether each slot is its run's, or what was in the way; in one transaction.

        A slot is won when the one on record is still ``known`` and rises; then the run is begun. False: somebody else
        had it. A repeat with the same run is a win.
        """
        names = {"names": [claim.run.collector for claim in claims]}

        def work(connection: sa.Connection) -> list[bool | Busy]:
            _require_replica(connection, claims[0].run.owner)
            if any(claim.known is None for claim in claims):  # there may be no row yet that could be locked
                tables.lock(connection, _SLOTS_LOCK)
            held = {(row.collector, row.mode): row.at for row in connection.execute(_LOCK_SLOTS, names)}
            paused, latest = set(connection.scalars(_PAUSED, names)), _find_latest_slot(connection)

            def is_open(run: Run, known: datetime | None) -> bool:
                # Without what is known two replicas that count @every from their own start would claim for ever.
                is_due = run.slot is not None and (known is None or known < run.slot) and run.slot <= latest
                return is_due and held.get((run.collector, run.mode)) == known and run.collector not in paused

            # The runs come first, because a run that is active must cost none its slot; and in one statement, because
            # 200 slots of a minute start at once.
            wanted = [(run, forbids) for run, known, forbids in claims if is_open(run, known)]
            rows = [{**to_row(run), "forbids": forbids} for run, forbids in wanted]
            begun = set(connection.scalars(_BEGIN, rows)) if rows else set()
            won = [
                {"collector": run.collector, "mode": run.mode, "at": run.slot} for run, _ in wanted if run.id in begun
            ]
            if won:
                connection.execute(upsert(slots), won)
            results = {run.id: run.id in begun or _find_busy(connection, run) for run, _ in wanted}
            return [results[run.id] if run.id in results else _is_on_record(connection, run) for run, _, _ in claims]

        return await self._database.write(work)

    async def begin(self, run: Run, *, forbids: bool) -> None:
        """Keeps a run that no slot asked for. Raises Busy."""

        def work(connection: sa.Connection) -> Busy | None:
            _require_replica(connection, run.owner)
            return None if begin_run(connection, run, forbids) else _find_busy(connection, run)

        if busy := await self._database.write(work):
            raise busy

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample] = (),
        checks: Sequence[Check] | None = None,
        state: Mapping[str, bytes | None] = _NOTHING,
        revisions: Mapping[str, int] = _NOTHING,
        max_age: timedelta = timedelta.max,
    ) -> bool:
        """Keeps an ended run, its samples (pending), the collector's checks and state, in one transaction.

        ``checks``: all of the collector's from now on; None leaves them. ``max_age``: of their values, for the history.
        ``state``: None deletes; what has a revision in ``revisions`` is written only if it still has that one. A run
        that is not on record is kept as well; one that has ended on record stays as it is: a repeat changes nothing.
        False: it has another outcome there, because its replica was taken for dead.
        """

        def work(batch: Batch, connection: sa.Connection) -> bool:
            if connection.execute(_END, {**to_row(run), "forbids": False}).first() is None:
                known = connection.execute(_FIND, {"run": run.id}).one()
                return bool(known.outcome == run.outcome)
            insert_batch(connection, batch)
            add_cycle(connection, run, checks, max_age)
            write_state(connection, run.collector, state, revisions)
            return True

        facts = {"run": run.id, "collector": run.collector, "mode": run.mode.value, "owner": run.owner}
        batch = await self._database.compute(partial(to_batch, samples, facts))
        return await self._database.write(partial(work, batch))

    async def request_cancel(self, run_id: str) -> bool:
        """Asks the replica of a run to cancel it: it sees that with its next beat. Whether the run is active."""
        return await self._request_end(Outcome.CANCELLED, runs.c.id == run_id)

    async def request_replace(self, run: Run) -> bool:
        """Asks the replicas that carry out earlier runs of the collector to end them. Whether any is active."""
        is_other = (runs.c.collector == run.collector) & (runs.c.mode == run.mode) & (runs.c.owner != run.owner)
        return await self._request_end(Outcome.REPLACED, is_other & (runs.c.started <= run.started))

    async def _request_end(self, outcome: Outcome, wanted: sa.ColumnElement[bool]) -> bool:
        cancel = sa.func.coalesce(runs.c.cancel, outcome.value)
        update = runs.update().where(runs.c.outcome.is_(None), wanted).values(cancel=cancel)
        return await self._database.write(lambda connection: connection.execute(update).rowcount > 0)

    async def claim_turn(self, name: str, interval: timedelta) -> bool:
        """Whether what one of all replicas does every ``interval`` is this one's to do now."""
        if not self._database.is_shared:
            return True
        turn = insert(slots).values(collector=f"${name}", mode=Mode.LIVE, at=database_now())  # no collector's name
        # A little less than the interval: replicas don't sleep equally long.
        is_due = slots.c.at <= database_now() - (0.9 * interval) // timedelta(microseconds=1)
        turn = turn.on_conflict_do_update(index_elements=slots.primary_key, set_={"at": database_now()}, where=is_due)
        won = turn.returning(slots.c.at)
        return await self._database.write(lambda connection: connection.execute(won).first() is not None)

    async def run(self, run_id: str) -> Run | None:
        found = await self._database.load(Run, _FIND, {"run": run_id})
        return found[0] if found else None

    async def latest(self, collector: str | None = None) -> dict[str, Run]:
        """The last run of each collector (or of this one), active or ended. Here and in the next two methods runs by
        webhook are left out: they say nothing of a collector's health."""
        return await self._newest(sa.true(), collector)

    async def last_successes(self, collector: str | None = None) -> dict[str, datetime]:
        """When the last run of each collector (or of this one) that succeeded ended."""
        query = sa.select(runs.c.collector, runs.c.ended).where(_is_newest(tables.SUCCEEDED, collector))
        return dict(map(tuple, await self._database.fetch(query)))

    async def last_failures(self, collector: str | None = None) -> dict[str, Run]:
        """The last run of each collector (or of this one) that ended without success."""
        return await self._newest(tables.FAILED, collector)

    async def pauses(self) -> dict[str, Pause]:
        return {pause.collector: pause for pause in await self._database.load(Pause, sa.select(tables.pauses))}

    async def pause(self, pause: Pause) -> None:
        await self._database.execute(upsert(tables.pauses), to_row(pause))

    async def resume(self, collector: str) -> None:
        await self._database.execute(tables.pauses.delete().where(tables.pauses.c.collector == collector))

    async def save_log(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keeps a run's log lines in place of those before."""
        await self._database.execute(upsert(tables.run_logs), {"run": run_id, "lines": lines})

    async def log(self, run_id: str) -> list[LogLine]:
        rows = await self._database.fetch(sa.select(tables.run_logs.c.lines).where(tables.run_logs.c.run == run_id))
        return rows[0].lines if rows else []

    async def audit(self, entry: AuditEntry) -> None:
        await self._database.execute(tables.audit.insert(), to_row(entry))

    async def audit_entries(self, limit: int = 100) -> list[AuditEntry]:
        """Newest first."""
        newest = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(limit)
        return await self._database.load(AuditEntry, newest)

    async def _newest(self, wanted: sa.ColumnElement[bool] | sa.TextClause, collector: str | None) -> dict[str, Run]:
        found = await self._database.load(Run, sa.select(runs).where(_is_newest(wanted, collector)))
        return {run.collector: run for run in found}

    async def list(
        self,
        collector: str | None = None,
        *,
        outcome: Outcome | None = None,
        since: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Run]:
        """Newest first. ``since``: started then or later. ``before``: older than this run, the last of a page."""
        query = sa.select(runs).order_by(runs.c.started.desc(), runs.c.id.desc()).limit(limit)
        for column, value in ((runs.c.collector, collector), (runs.c.outcome, outcome)):
            if value is not None:
                query = query.where(column == value)
        if since is not None:
            query = query.where(runs.c.started >= since)
        if before is not None:
            last = sa.select(runs.c.started, runs.c.id).where(runs.c.id == before)
            query = query.where(sa.tuple_(runs.c.started, runs.c.id) < last.scalar_subquery())
        return await self._database.load(Run, query)


def _is_newest(wanted: sa.ColumnElement[bool] | sa.TextClause, collector: str | None) -> sa.ColumnElement[bool]:
    """Each collector's newest run that is ``wanted``: a look into the index for each, no walk over all."""
    is_asked = sa.true() if collector is None else runs.c.collector == collector
    names = sa.select(runs.c.collector).where(is_asked).distinct().subquery()
    each = runs.alias()
    newest = sa.select(each.c.id).where(each.c.collector == names.c.collector, wanted, each.c.cause != Cause.WEBHOOK)
    newest = newest.order_by(each.c.started.desc(), each.c.id.desc()).limit(1).correlate(names)
    return runs.c.id.in_(sa.select(newest.scalar_subquery()).select_from(names))


def begin_run(connection: sa.Connection, run: Run, forbids: bool) -> bool:
    """Whether the run is on record now: it was there already, or no other one is in its way."""
    is_new = connection.execute(_BEGIN, {**to_row(run), "forbids": forbids}).first()
    return bool(is_new) or _is_on_record(connection, run)


def _is_on_record(connection: sa.Connection, run: Run) -> bool:
    return connection.execute(_FIND, {"run": run.id}).first() is not None


def interrupt_active(
    connection: sa.Connection, now: datetime, abandoned: sa.ColumnElement[bool], reason: str
) -> list[tuple[Run, bool]]:
    """Ends the active runs that are ``abandoned``. Those that nobody had asked to end, each with its ``forbids``."""
    query = sa.select(runs).where(runs.c.outcome.is_(None), abandoned).with_for_update(skip_locked=True)
    unasked = []
    for row in connection.execute(query).all():
        run = from_row(Run, row)
        ended = max(run.started, now)  # whatever the clock did
        done = replace(run, outcome=Outcome.INTERRUPTED, ended=ended, errors=(*run.errors, PartialFailure(reason)))
        connection.execute(_END, {**to_row(done), "forbids": False})
        add_cycle(connection, done)
        if row.cancel is None:
            unasked.append((run, row.forbids))
    return unasked


def delete_runs(connection: sa.Connection, keep_failed: int, keep_ended: int, own: HistoryLimits) -> int:
    """Deletes ended runs beyond the newest that are kept, with chunks and logs; how many, at most so many a call.

    The newest of each kind stays in any case, so does a run with samples that wait. Runs by webhook are counted apart,
    for they are many.
    """
    is_good = sa.case((tables.SUCCEEDED, 1), else_=0).label("is_good")
    kind, newest = (runs.c.collector, is_good, runs.c.cause == Cause.WEBHOOK), (runs.c.started.desc(), runs.c.id.desc())
    place = sa.func.row_number().over(partition_by=kind, order_by=newest).label("place")
    ranked = sa.select(runs.c.id, runs.c.collector, is_good, place).where(runs.c.outcome.is_not(None)).subquery()
    least = min([keep_failed, keep_ended, *(limit for pair in own.values() for limit in pair if limit is not None)])
    waits = sa.exists().where(outbox.c.run == ranked.c.id, outbox.c.status.in_(DUE))
    gone = []
    for row in connection.execute(sa.select(ranked).where(ranked.c.place > max(1, least), ~waits)):
        limit = own.get(row.collector, (None, None))[row.is_good]
        if row.place > max(1, (keep_failed, keep_ended)[row.is_good] if limit is None else limit):
            gone.append(row.id)
    for column in (outbox.c.run, tables.run_logs.c.run, runs.c.id):
        connection.execute(column.table.delete().where(column.in_(gone[:_STEP])))
    return len(gone[:_STEP])


def _require_replica(connection: sa.Connection, owner: str) -> None:
    """Raises Unavailable where a replica begins a run that nobody would end for it: it was taken for dead meanwhile.

    It can't be, either, until this transaction ends.
    """
    if owner:
        query = sa.select(replicas.c.id).where(replicas.c.id == owner).with_for_update(read=True, key_share=True)
        if connection.execute(query).first() is None:
            raise Unavailable("this replica was taken for dead; it goes on as a new one with its next beat")


def _find_latest_slot(connection: sa.Connection) -> datetime:
    """No slot beyond this one can have come. Replicas' clocks differ: the database's decides."""
    if connection.dialect.name == "sqlite":
        return datetime.max.replace(tzinfo=UTC)
    now: datetime = connection.execute(sa.select(sa.type_coerce(database_now(), tables.INSTANT))).scalar_one()
    return now + _CLOCK_SKEW


def _find_busy(connection: sa.Connection, run: Run) -> Busy:
    """What is in the way of ``run``."""
    busy = connection.execute(_FIND_BUSY, {"name": run.collector, "of_mode": run.mode}).first()
    return Busy(busy.id if busy else "")
