"""What the board draws: the last cycles of each collector, and each check's values by the hour."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import sqlalchemy as sa

from service.domain.checks import CHECK_STATE, Check, CheckKey, check_id, check_key
from service.domain.runs import Run
from service.domain.samples import Sample, Status
from service.store.fallback import Failover
from service.store.tables import cells, cycles, hours, insert, to_micros, upsert
from service.store.tables import checks as known

_HOUR = 3600
_STATUSES = {0: Status.PASS, 1: Status.FAIL, 2: Status.UNKNOWN}
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
    """A check's values within one hour of the clock. ``failed``: in at least one cycle of it."""

    at: datetime
    low: float
    high: float
    last: float
    failed: bool


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """``cells``: by the number of the cycle; ``hours``: oldest first, hours without a value left out."""

    cells: Mapping[int, Cell] = field(default_factory=dict)
    hours: tuple[Hour, ...] = ()


_CYCLES = sa.select(cycles.c.collector, *(cycles.c[name] for name in Cycle._fields))


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
        of_hour = sa.select(hours.c.hour, hours.c.low, hours.c.high, hours.c.last, hours.c.failed)
        of_hour = of_hour.where(hours.c.hour >= int(since.timestamp()) // _HOUR).order_by(hours.c.hour)

        def work(connection: sa.Connection) -> None:
            for number in numbers:  # each is a short walk along the key; one query of all of them is not
                for row in connection.execute(sa.select(cells).where(cells.c.cycle == number)):
                    if row.check_id in in_cells:
                        in_cells[row.check_id][number] = Cell(row.status, row.carried, row.value)
            for check, found in in_hours.items():
                for hour, *fields in connection.execute(of_hour.where(hours.c.check_id == check)):
                    found.append(Hour(datetime.fromtimestamp(hour * _HOUR, UTC), *fields))

        await self._database.read(work)
        return {each: CheckHistory(in_cells[each], tuple(in_hours[each])) for each in in_cells}


def find_statuses(samples: Iterable[Sample]) -> dict[CheckKey, Status]:
    """What was sent of each check: a value that is too old counts as unknown there."""
    found = {}
    for sample in samples:
        if sample.metric.name == CHECK_STATE.name and (key := check_key(sample.tags)):
            found[key] = _STATUSES[int(sample.value)]
    return found


def add_cycle(
    connection: sa.Connection,
    run: Run,
    checks: Iterable[Check] = (),
    sent: Mapping[CheckKey, Status] = MappingProxyType({}),
) -> None:
    """Keeps an ended run as a cycle, before its checks take the place of those on record. ``sent``: find_statuses."""
    ended = to_micros(run.ended or run.started)
    # The instant of the end, so that no sequence has to agree with another store's; it rises, whatever the clock does.
    number = max(ended, (connection.execute(sa.select(sa.func.max(cycles.c.number))).scalar() or 0) + 1)
    cycle = Cycle(number, run.id, run.started.timestamp(), run.seconds or 0.0, run.outcome or "")
    connection.execute(cycles.insert().values(collector=run.collector, **cycle._asdict()))
    old = sa.select(cycles.c.number).where(cycles.c.collector == run.collector).order_by(cycles.c.number.desc())
    gone = connection.execute(old.offset(CYCLES)).scalars().all()
    connection.execute(cells.delete().where(cells.c.cycle.in_(gone)))
    connection.execute(cycles.delete().where(cycles.c.number.in_(gone)))

    query = sa.select(known.c.key, known.c.measured_at).where(known.c.collector == run.collector)
    before = dict(map(tuple, connection.execute(query)))
    new_cells, new_hours = [], []
    for check in checks:
        status, value = sent.get(check.key, check.status), check.value
        is_carried = check.measured_at is not None and before.get(check.key) == check.measured_at
        # Of a check without a threshold every value is unknown; only an old one says nothing of this cycle.
        if status is Status.UNKNOWN and is_carried:
            value = None
        of_check = {"check_id": check_id(run.collector, check.key)}
        new_cells.append({**of_check, "cycle": number, "status": status, "carried": is_carried, "value": value})
        if value is not None:
            bounds = {"low": value, "high": value, "last": value, "failed": status is Status.FAIL}
            new_hours.append({**of_check, "hour": ended // 1_000_000 // _HOUR, **bounds})
    upsert(cells, new_cells, connection)
    if new_hours:
        merge = insert(connection, hours)
        new = merge.excluded
        merge = merge.on_conflict_do_update(
            index_elements=["check_id", "hour"],
            set_={
                "low": sa.case((new.low < hours.c.low, new.low), else_=hours.c.low),
                "high": sa.case((new.high > hours.c.high, new.high), else_=hours.c.high),
                "last": new.last,
                "failed": sa.or_(hours.c.failed, new.failed),
            },
        )
        connection.execute(merge, new_hours)
