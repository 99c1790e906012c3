"""Checks: as they are, what is known of their past, and the changes of their states that are to be notified."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain import conditions
from service.domain.alerts import NotifiedState, StateChange
from service.domain.checks import Check, CheckKey, check_id, status_at
from service.domain.runs import Cause, Run
from service.domain.samples import Status
from service.store.fallback import Failover
from service.store.states import States, write_state
from service.store.tables import checks, cycles, events, from_row, hours, insert, to_json, to_micros, to_row, upsert

CYCLES = 100  # so many of a collector are kept one by one; before that, an hour of a check is one row
_HOUR = 3600
_MAX_EVIDENCE = 50  # of a check; newest first, so the oldest go
_NOTIFIED = "$notified"  # a key of our own among the collector's state
_decode_notified = msgspec.json.Decoder(list[tuple[CheckKey, NotifiedState]]).decode


class Cycle(NamedTuple):
    """One ended run; it outlives the run's record.

    A board holds tens of thousands, so the fields are as the store has them: ``start`` is in seconds since the epoch,
    ``seconds`` what the run took, ``outcome`` an ``Outcome``'s text. ``number`` rises from cycle to cycle.
    """

    number: int
    run: str
    start: float
    seconds: float
    outcome: str

    @property
    def started(self) -> datetime:
        return datetime.fromtimestamp(self.start, UTC)

    @property
    def ended(self) -> datetime:
        return datetime.fromtimestamp(self.start + self.seconds, UTC)


class Cell(NamedTuple):
    """A check at the end of one cycle.

    ``status``: a ``Status``'s text. ``carried``: the value is the one of the cycle before, not measured anew.
    """

    status: str
    carried: bool
    value: float | None


class Hour(NamedTuple):
    """A check's values within one hour of the clock. ``failed``: in at least one cycle of it.

    ``threshold``, ``threshold_low``: of the condition (domain.conditions) when it judged the last one, if any.
    """

    at: datetime
    low: float
    high: float
    last: float
    failed: bool
    threshold: float | None = None
    threshold_low: float | None = None


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """``cells``: by the number of the cycle; ``hours``: oldest first, hours without a value left out."""

    cells: Mapping[int, Cell] = field(default_factory=dict)
    hours: tuple[Hour, ...] = ()


@dataclass(frozen=True, slots=True)
class PendingChange:
    """``at``: when the change was noticed."""

    id: int
    at: datetime
    change: StateChange


_IN_NAMES: sa.BindParameter[Any] = bindparam("names", expanding=True)
_CHECKS = sa.select(checks).where(checks.c.collector.in_(_IN_NAMES)).order_by(checks.c.collector, checks.c.key)
_FORGET = checks.delete().where(checks.c.collector == bindparam("name")).returning(checks.c.key, checks.c.measured_at)
_CYCLES = sa.select(cycles.c.collector, *(cycles.c[name] for name in Cycle._fields)).order_by(cycles.c.number)
_LAST_NUMBER = sa.select(sa.func.max(cycles.c.number)).where(cycles.c.collector == bindparam("name"))
_ADD_CYCLE = insert(cycles).on_conflict_do_nothing().returning(cycles.c.number)
_of_collector = cycles.c.collector == bindparam("name")
_older = sa.select(cycles.c.number).where(_of_collector).order_by(cycles.c.number.desc())
_DELETE_OLD = cycles.delete().where(_of_collector, cycles.c.number.in_(_older.limit(1_000).offset(bindparam("kept"))))
_merge = insert(hours)
_new = _merge.excluded
_MERGE_HOUR = _merge.on_conflict_do_update(
    index_elements=["check_id", "hour"],
    set_={
        "low": sa.case((_new.low < hours.c.low, _new.low), else_=hours.c.low),
        "high": sa.case((_new.high > hours.c.high, _new.high), else_=hours.c.high),
        "last": _new.last,
        "threshold": _new.threshold,
        "threshold_low": _new.threshold_low,
        "failed": hours.c.failed | _new.failed,
    },
)


class Checks:
    """A part of the Store. What each ended run says of its collector's checks is written by ``Runs.end``."""

    def __init__(self, database: Failover) -> None:
        self._database = database
        self._states = States(database)

    async def read(self, collector: str) -> list[Check]:
        """The collector's, by their keys."""
        return (await self.read_all([collector])).get(collector, [])

    async def read_all(self, collectors: Sequence[str]) -> dict[str, list[Check]]:
        """Those of each of these collectors that has any."""

        def work(connection: sa.Connection) -> dict[str, list[Check]]:
            found: dict[str, list[Check]] = defaultdict(list)
            for row in connection.execute(_CHECKS, {"names": collectors}):
                found[row.collector].append(from_row(Check, row))
            return dict(found)

        return await self._database.read(work)

    async def cycle(self, run_id: str) -> tuple[str, Cycle] | None:
        """The collector and the cycle of a run, whether its record is kept or not."""
        for collector, *fields in await self._database.fetch(_CYCLES.where(cycles.c.run == run_id)):
            return collector, Cycle(*fields)
        return None

    async def histories(
        self, collectors: Collection[str], wanted: Mapping[str, Collection[int]], since: datetime, limit: int = CYCLES
    ) -> tuple[dict[str, list[Cycle]], dict[int, CheckHistory]]:
        """The last ``limit`` cycles of each collector, oldest first, and what is known of the checks ``wanted`` in them
        (domain.checks.check_id, by collector), their hours from ``since`` on."""
        of_collectors = _CYCLES.where(cycles.c.collector.in_(collectors))
        of_cycles = sa.select(cycles.c.collector, cycles.c.number, cycles.c.cells)
        of_cycles = of_cycles.where(cycles.c.collector.in_(wanted))
        ids = {id for each in wanted.values() for id in each}
        of_checks = sa.select(hours).where(hours.c.check_id.in_(ids), hours.c.hour >= int(since.timestamp()) // _HOUR)

        def work(connection: sa.Connection) -> tuple[dict[str, list[Cycle]], dict[int, CheckHistory]]:
            found: dict[str, list[Cycle]] = defaultdict(list)
            for collector, *fields in connection.execute(of_collectors):
                found[collector].append(Cycle(*fields))
            found = {collector: of_it[-limit:] for collector, of_it in found.items()}
            first = min((of_it[0].number for of_it in found.values()), default=0)
            in_cells: dict[int, dict[int, Cell]] = {each: {} for each in ids}
            for collector, number, cells in connection.execute(of_cycles.where(cycles.c.number >= first)):
                for check in wanted[collector]:
                    if check in cells:
                        in_cells[check][number] = Cell(*cells[check])
            in_hours: dict[int, list[Hour]] = {each: [] for each in ids}
            for check, hour, *values in connection.execute(of_checks.order_by(hours.c.hour)):
                in_hours[check].append(Hour(datetime.fromtimestamp(hour * _HOUR, UTC), *values))
            return found, {each: CheckHistory(in_cells[each], tuple(in_hours[each])) for each in ids}

        return await self._database.read(work)

    async def notified(self, collector: str) -> tuple[dict[CheckKey, NotifiedState], int]:
        """Which state of each check was notified last, and the revision of that."""
        value, revision = await self._states.read(collector, _NOTIFIED)
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
        new = [{"owner": self._database.owner, "at": now, "change": change} for change in changes]

        def work(connection: sa.Connection) -> None:
            if write_state(connection, collector, notified, {_NOTIFIED: revision}) and new:
                connection.execute(events.insert(), new)

        await self._database.write(work)

    async def pending_changes(self) -> list[PendingChange]:
        """Those that this replica is to send: that it noticed, or inherited. Oldest first."""
        owned = sa.select(events).where(events.c.owner == self._database.owner)
        return await self._database.load(PendingChange, owned.order_by(events.c.id))

    async def settle_changes(self, ids: Iterable[int]) -> None:
        """Forgets changes: they were sent, or dropped."""
        await self._database.execute(events.delete().where(events.c.id.in_(list(ids))))


def add_cycle(
    connection: sa.Connection, run: Run, of_run: Sequence[Check] | None = None, max_age: timedelta = timedelta.max
) -> None:
    """Keeps an ended run as a cycle, and ``of_run`` as all of its collector's checks from now on; None leaves them.

    ``max_age``: a value that is older says nothing. Of a run by webhook, which comes between the cycles, only the hours
    are kept.
    """
    ended = run.ended or run.started
    cells: dict[int, Cell] = {}
    new_hours = []
    if of_run is not None:
        measured_before = dict(map(tuple, connection.execute(_FORGET, {"name": run.collector})))
        if of_run:
            connection.execute(upsert(checks), [_to_row(run.collector, check) for check in of_run])
        for check in of_run:
            number = check_id(run.collector, check.key)
            status, value = status_at(check, ended, max_age), check.value
            is_carried = check.measured_at is not None and measured_before.get(check.key) == check.measured_at
            # Of a check without a threshold every value is unknown; only an old one says nothing of this cycle.
            if status is Status.UNKNOWN and is_carried:
                value = None
            cells[number] = Cell(status, is_carried, value)
            if value is not None:
                new_hours.append(_to_hour(check, number, ended, failed=status is Status.FAIL))
    if new_hours:
        connection.execute(_MERGE_HOUR, new_hours)
    if run.cause is Cause.WEBHOOK:
        return
    # The instant of the end, so that no sequence has to agree with another store's; it rises, whatever the clock does.
    number = max(to_micros(ended), (connection.execute(_LAST_NUMBER, {"name": run.collector}).scalar() or 0) + 1)
    facts = {"collector": run.collector, "cells": cells, "run": run.id, "start": run.started.timestamp()}
    facts |= {"seconds": run.seconds or 0.0, "outcome": run.outcome or ""}
    while connection.execute(_ADD_CYCLE, {"number": number, **facts}).first() is None:
        number += 1  # another collector's run ended in the same microsecond
    connection.execute(_DELETE_OLD, {"name": run.collector, "kept": CYCLES})


def _to_row(collector: str, check: Check) -> dict[str, Any]:
    return {**to_row(check), "collector": collector, "evidence": check.evidence[:_MAX_EVIDENCE]}


def _to_hour(check: Check, number: int, at: datetime, *, failed: bool) -> dict[str, Any]:
    condition = conditions.parse(check.limit)
    return {
        "check_id": number,
        "hour": int(at.timestamp()) // _HOUR,
        **dict.fromkeys(("low", "high", "last"), check.value),
        "failed": failed,
        "threshold": condition and condition.threshold,
        "threshold_low": condition and condition.low,
    }
