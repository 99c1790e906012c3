"""Runs: claimed, begun and ended; and what is kept beside them: slots, pauses, logs, checks, the audit log."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from service.domain.checks import Check
from service.domain.delivery import DeliveryStatus
from service.domain.runs import AuditEntry, LogLine, Mode, Outcome, PartialFailure, Pause, Run
from service.domain.samples import Sample
from service.store import tables
from service.store.chunks import Batch
from service.store.fallback import Failover
from service.store.history import add_cycle, find_statuses
from service.store.outbox import Outbox, insert_batch
from service.store.states import write_state
from service.store.tables import from_row, insert, outbox, runs, slots, to_row, upsert

_MAX_EVIDENCE = 50  # of a check; newest first, so the oldest go
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Busy(Exception):
    """A run of the collector is active, and its policy allows no second one."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"{run_id} is active")
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

    def __init__(self, database: Failover, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def slots(self, mode: Mode) -> dict[str, datetime]:
        """The last slot of each collector that was claimed in ``mode``."""
        query = sa.select(slots.c.collector, slots.c.at).where(slots.c.mode == mode)
        return dict(map(tuple, await self._database.fetch(query)))

    async def claim_slots(self, claims: Sequence[Claim]) -> list[bool | Busy]:
        """Whether each slot is its run's, or what was in the way; in one transaction.

        A slot is won when the one on record is still ``known`` and rises; then the run is begun. False: somebody else
        had it. A repeat with the same run is a win.
        """

        return await self._database.write(partial(_claim_slots, claims))

    async def begin(self, run: Run, *, forbids: bool) -> None:
        """Keeps a run that no slot asked for. Raises Busy."""
        try:
            await self._database.write(lambda connection: _insert_run(connection, run, forbids))
        except sa.exc.IntegrityError:
            raise await self._database.read(partial(_find_busy, run)) from None

    async def end(
        self,
        run: Run,
        samples: Sequence[Sample] = (),
        checks: Sequence[Check] | None = None,
        state: Mapping[str, bytes | None] = _NOTHING,
        revisions: Mapping[str, int] = _NOTHING,
    ) -> None:
        """Keeps an ended run, its samples (pending), the collector's checks and state, in one transaction.

        ``checks``: all of the collector's from now on; None leaves them. ``state``: None deletes; what has a revision
        in ``revisions`` is written only if it still has that one. A run that is not on record is kept as well; one that
        has ended on record stays as it is, so that a repeat changes nothing.
        """

        def work(batch: Batch, connection: sa.Connection) -> None:
            ended = insert(connection, runs).values(**to_row(run), forbids=False)
            changed = {name: ended.excluded[name] for name in ("outcome", "ended", "attempts", "errors", "samples")}
            is_active = runs.c.outcome.is_(None) & (runs.c.owner == ended.excluded.owner)
            ended = ended.on_conflict_do_update(index_elements=["id"], set_=changed, where=is_active)
            if connection.execute(ended.returning(runs.c.id)).first() is None:
                return
            insert_batch(batch, connection)
            add_cycle(connection, run, checks or (), find_statuses(samples))
            if checks is not None:
                connection.execute(tables.checks.delete().where(tables.checks.c.collector == run.collector))
                upsert(tables.checks, [_to_check_row(run.collector, check) for check in checks], connection)
            write_state(connection, run.collector, state, revisions)

        facts = {"run": run.id, "collector": run.collector, "mode": run.mode.value, "owner": run.owner}
        await self._outbox.put_with(samples, facts, work)

    async def run(self, run_id: str) -> Run | None:
        found = await self._database.load(Run, sa.select(runs).where(runs.c.id == run_id))
        return found[0] if found else None

    async def latest(self, collector: str | None = None) -> dict[str, Run]:
        """The last run of each collector (or of this one), active or ended."""
        return await self._of_each(newest_runs(sa.true(), collector))

    async def last_successes(self, collector: str | None = None) -> dict[str, datetime]:
        """When the last run of each collector (or of this one) that succeeded ended."""
        query = sa.select(runs.c.collector, sa.func.max(runs.c.ended)).where(tables.SUCCEEDED)
        if collector is not None:
            query = query.where(runs.c.collector == collector)
        return dict(map(tuple, await self._database.fetch(query.group_by(runs.c.collector))))

    async def last_failures(self, collector: str | None = None) -> dict[str, Run]:
        """The last run of each collector (or of this one) that ended without success."""
        return await self._of_each(newest_runs(tables.FAILED, collector))

    async def lost(self, collector: str, since: datetime) -> dict[DeliveryStatus, int]:
        """How many samples of the collector were lost since then, by the status that says how; those that shadow mode
        withheld are none."""
        is_withheld = (outbox.c.status == DeliveryStatus.THROTTLED) & (outbox.c.mode == Mode.SHADOW)
        query = sa.select(outbox.c.status, sa.func.sum(outbox.c.samples)).group_by(outbox.c.status)
        query = query.where(tables.LOST, outbox.c.collector == collector, outbox.c.settled_at >= since, ~is_withheld)
        return {status: int(lost) for status, lost in await self._database.fetch(query)}

    async def checks(self, collector: str) -> list[Check]:
        return (await self.checks_of([collector])).get(collector, [])

    async def checks_of(self, collectors: Sequence[str]) -> dict[str, list[Check]]:
        found: dict[str, list[Check]] = {}

        def work(connection: sa.Connection) -> None:
            query = sa.select(tables.checks).where(tables.checks.c.collector.in_(collectors))
            for row in connection.execute(query.order_by(tables.checks.c.collector, tables.checks.c.key)):
                found.setdefault(row.collector, []).append(from_row(Check, row))

        await self._database.read(work)
        return found

    async def pauses(self) -> dict[str, Pause]:
        return {pause.collector: pause for pause in await self._database.load(Pause, sa.select(tables.pauses))}

    async def pause(self, pause: Pause) -> None:
        await self._database.write(partial(upsert, tables.pauses, [to_row(pause)]))

    async def resume(self, collector: str) -> None:
        await self._database.execute(tables.pauses.delete().where(tables.pauses.c.collector == collector))

    async def save_log(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keeps a run's log lines in place of those before."""
        await self._database.write(partial(upsert, tables.run_logs, [{"run": run_id, "lines": list(lines)}]))

    async def log(self, run_id: str) -> list[LogLine]:
        rows = await self._database.fetch(sa.select(tables.run_logs.c.lines).where(tables.run_logs.c.run == run_id))
        return list(rows[0].lines) if rows else []

    async def audit(self, entry: AuditEntry) -> None:
        await self._database.execute(tables.audit.insert().values(to_row(entry)))

    async def audit_entries(self, limit: int = 100) -> list[AuditEntry]:
        """Newest first."""
        newest = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(limit)
        return await self._database.load(AuditEntry, newest)

    async def _of_each(self, ids: sa.Select[Any]) -> dict[str, Run]:
        found = await self._database.load(Run, sa.select(runs).where(runs.c.id.in_(ids)))
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
        if collector is not None:
            query = query.where(runs.c.collector == collector)
        if outcome is not None:
            query = query.where(runs.c.outcome == outcome)
        if since is not None:
            query = query.where(runs.c.started >= since)
        if before is not None:
            last = sa.select(runs.c.started, runs.c.id).where(runs.c.id == before)
            query = query.where(sa.tuple_(runs.c.started, runs.c.id) < last.scalar_subquery())
        return await self._database.load(Run, query)


def newest_runs(wanted: sa.ColumnElement[bool] | sa.TextClause, collector: str | None = None) -> sa.Select[Any]:
    """The ids of each collector's newest run that is ``wanted``: a look into the index for each, no walk over all."""
    is_asked = sa.true() if collector is None else runs.c.collector == collector
    names = sa.select(runs.c.collector).where(is_asked).distinct().subquery()
    each = runs.alias()
    newest = sa.select(each.c.id).where(each.c.collector == names.c.collector, wanted)
    newest = newest.order_by(each.c.started.desc(), each.c.id.desc()).limit(1).correlate(names)
    return sa.select(newest.scalar_subquery()).select_from(names)


def interrupt_active(connection: sa.Connection, now: datetime) -> int:
    """Ends the runs that a dead process left active; how many."""
    rows = connection.execute(sa.select(runs).where(runs.c.outcome.is_(None))).all()
    for run in [from_row(Run, row) for row in rows]:
        errors = (*run.errors, PartialFailure("the daemon ended before the run did"))
        ended = max(run.started, now)  # whatever the clock did
        done = replace(run, outcome=Outcome.INTERRUPTED, ended=ended, errors=errors)
        connection.execute(runs.update().where(runs.c.id == run.id).values(to_row(done)))
        add_cycle(connection, done)
    return len(rows)


def _claim_slots(claims: Sequence[Claim], connection: sa.Connection) -> list[bool | Busy]:
    """A handful of statements however many the claims are: 200 slots of one minute must start within a moment."""
    results: dict[str, bool | Busy] = {claim.run.id: False for claim in claims}
    for again in connection.scalars(sa.select(runs.c.id).where(runs.c.id.in_(results))):
        results[again] = True
    # Locked in one order, or two replicas would wait for each other's rows.
    ours = slots.c.collector.in_([claim.run.collector for claim in claims])
    query = sa.select(slots).where(ours).order_by(slots.c.collector, slots.c.mode).with_for_update()
    last = {(row.collector, row.mode): row.at for row in connection.execute(query)}
    open_ = [claim for claim in claims if not results[claim.run.id] and _is_open(claim, last)]
    if open_:
        # The runs first: one that is in the way must not cost its collector the slot.
        begin = insert(connection, runs).on_conflict_do_nothing().returning(runs.c.id)
        begun = set(connection.scalars(begin, [{**to_row(claim.run), "forbids": claim.forbids} for claim in open_]))
        won = _raise_slots(connection, [claim for claim in open_ if claim.run.id in begun])
        if lost := begun - won:
            connection.execute(runs.delete().where(runs.c.id.in_(lost)))
        results |= dict.fromkeys(won, True)
        results |= {run.id: _find_busy(run, connection) for run, _, _ in open_ if run.id not in begun}
    return list(results.values())


def _is_open(claim: Claim, last: Mapping[tuple[str, Mode], datetime]) -> bool:
    """Whether the slot on record is the one that the claim knows. It must rise: two replicas that count @every from
    their own start would each see a later one for ever."""
    at = last.get((claim.run.collector, claim.run.mode))
    return at == claim.known and (at is None or (claim.run.slot is not None and claim.run.slot > at))


def _raise_slots(connection: sa.Connection, claims: Sequence[Claim]) -> set[str]:
    """Keeps the slots; the ids of the runs that have them now. A collector's first slot may be another replica's."""
    rows = {
        claim.run.id: {"collector": claim.run.collector, "mode": claim.run.mode, "at": claim.run.slot}
        for claim in claims
    }
    first = [rows[claim.run.id] for claim in claims if claim.known is None]
    upsert(slots, [rows[claim.run.id] for claim in claims if claim.known is not None], connection)
    if not first:
        return set(rows)
    put = insert(connection, slots).on_conflict_do_nothing().returning(slots.c.collector)
    lost = {row["collector"] for row in first} - set(connection.scalars(put, first))
    return {id_ for id_, row in rows.items() if row["collector"] not in lost}


def _find_busy(run: Run, connection: sa.Connection) -> Busy:
    is_other = runs.c.outcome.is_(None) & runs.c.forbids
    query = sa.select(runs.c.id).where(runs.c.collector == run.collector, runs.c.mode == run.mode, is_other)
    row = connection.execute(query).first()
    return Busy(row.id if row else "")


def _insert_run(connection: sa.Connection, run: Run, forbids: bool) -> None:
    begun = insert(connection, runs).values(**to_row(run), forbids=forbids)
    connection.execute(begun.on_conflict_do_nothing(index_elements=["id"]))


def _to_check_row(collector: str, check: Check) -> dict[str, Any]:
    evidence = check.evidence[:_MAX_EVIDENCE]
    return {**to_row(check), "collector": collector, "evidence": evidence}
