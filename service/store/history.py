"""What the board draws: the last cycles of each collector, and each check's values by the hour."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from service.domain import conditions
from service.domain.checks import Check, CheckKey, check_id, status_at
from service.domain.runs import Cause, Run
from service.domain.samples import Status
from service.store.fallback import Failover
from service.store.tables import cycles, hours, insert, to_micros

_HOUR = 3600
CYCLES = 100  # so many of a collector are kept one by one; before that, an hour of a check is one row


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


_CYCLES = sa.select(cycles.c.collector, *(cycles.c[name] for name in Cycle._fields))
_LAST_NUMBER = sa.select(sa.func.max(cycles.c.number)).where(cycles.c.collector == bindparam("name"))
_of_collector = cycles.c.collector == bindparam("name")
_older = sa.select(cycles.c.number).where(_of_collector).order_by(cycles.c.number.desc())
_ADD_CYCLE = insert(cycles).on_conflict_do_nothing().returning(cycles.c.number)
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


class History:
    """A part of the Store; written with each ended run, read for whole collectors at once."""

    def __init__(self, database: Failover) -> None:
        self._database = database

    async def last_cycles(self, collectors: Sequence[str]) -> dict[str, int]:
        """The number of each collector's last cycle: what was read since then is still all there is."""
        query = sa.select(cycles.c.collector, sa.func.max(cycles.c.number)).where(cycles.c.collector.in_(collectors))
        return dict(map(tuple, await self._database.fetch(query.group_by(cycles.c.collector))))

    async def cycles(self, after: Mapping[str, int], limit: int = CYCLES) -> dict[str, list[Cycle]]:
        """The last ``limit`` cycles of each collector that are newer than the number given for it, oldest first."""
        query = _CYCLES.where(cycles.c.number > min(after.values(), default=0), cycles.c.collector.in_(after))
        found: dict[str, list[Cycle]] = defaultdict(list)
        for collector, *fields in await self._database.fetch(query.order_by(cycles.c.number)):
            if (cycle := Cycle(*fields)).number > after[collector]:
                found[collector].append(cycle)
        return {collector: of_it[-limit:] for collector, of_it in found.items()}

    async def cycle(self, run_id: str) -> tuple[str, Cycle] | None:
        """The collector and the cycle of a run, whether its record is kept or not."""
        for collector, *fields in await self._database.fetch(_CYCLES.where(cycles.c.run == run_id)):
            return collector, Cycle(*fields)
        return None

    async def check_histories(
        self, ids: Collection[int], numbers: Sequence[int], since: datetime
    ) -> dict[int, CheckHistory]:
        """What is known of these checks (domain.checks.check_id) in the cycles of these numbers, and their hours from
        ``since`` on."""
        in_cells: dict[int, dict[int, Cell]] = {each: {} for each in ids}
        in_hours: dict[int, list[Hour]] = {each: [] for each in ids}
        of_cycles = sa.select(cycles.c.number, cycles.c.cells).where(cycles.c.number.in_(numbers))
        for row in await self._database.fetch(of_cycles):
            for check in in_cells.keys() & row.cells.keys():
                in_cells[check][row.number] = Cell(*row.cells[check])
        of_checks = sa.select(hours).where(hours.c.check_id.in_(ids), hours.c.hour >= int(since.timestamp()) // _HOUR)
        for row in await self._database.fetch(of_checks.order_by(hours.c.hour)):
            at = datetime.fromtimestamp(row.hour * _HOUR, UTC)
            in_hours[row.check_id].append(Hour(at, *row[2:]))
        return {each: CheckHistory(in_cells[each], tuple(in_hours[each])) for each in in_cells}


def add_cycle(
    connection: sa.Connection,
    run: Run,
    checks: Iterable[Check] = (),
    measured_before: Mapping[CheckKey, datetime | None] = MappingProxyType({}),
    max_age: timedelta = timedelta.max,
) -> None:
    """Keeps an ended run as a cycle. ``measured_before``: when the values before it were; ``max_age``: a value that is
    older says nothing. Of a run by webhook, which comes between the cycles, only the hours are kept."""
    ended = run.ended or run.started
    cells: dict[int, Cell] = {}
    new_hours = []
    for check in checks:
        status, value, check_number = status_at(check, ended, max_age), check.value, check_id(run.collector, check.key)
        is_carried = check.measured_at is not None and measured_before.get(check.key) == check.measured_at
        # Of a check without a threshold every value is unknown; only an old one says nothing of this cycle.
        if status is Status.UNKNOWN and is_carried:
            value = None
        cells[check_number] = Cell(status, is_carried, value)
        if value is not None:
            bounds: dict[str, Any] = {"low": value, "high": value, "last": value, "failed": status is Status.FAIL}
            condition = conditions.parse(check.limit)
            bounds |= {"threshold": condition and condition.threshold, "threshold_low": condition and condition.low}
            new_hours.append({"check_id": check_number, "hour": int(ended.timestamp()) // _HOUR, **bounds})
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
