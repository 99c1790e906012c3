"""The board: which checks a page shows, and their charts, each drawn once a cycle of its collector."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from service.domain.samples import Status
from service.store.checks import CheckHistory, Cycle
from service.web import charts
from service.web.charts import Cells, Chart
from service.web.context import AppContext
from service.web.overview import CurrentCheck
from service.web.schemas import CheckView

Item = TypeVar("Item")

REACH = timedelta(days=7)
_SEVERITY = {Status.FAIL: 0, Status.UNKNOWN: 1, Status.PASS: 2}
_TASK = ("workflow_category", "workflow_name", "task", "repo")  # what the checks of one row have in common
_SCREEN_CELLS = 24
_MAX_COLUMN = 100_000  # browsers draw with few digits
_MAX_KNOWN = 256  # collectors whose charts are kept


class Picture(NamedTuple):
    """One chart: of which checks of a collector (ids), and for a curve its threshold and colour.

    ``bars``: its runs; ``heat``: its last cycles; ``screen``: those that the office screen has room for.
    """

    kind: Literal["bars", "heat", "screen", "curve"]
    collector: str
    ids: tuple[int, ...] = ()
    condition: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """What a page shows of checks, worst first; the templates call its methods.

    ``rows``: of the heat map, the checks of one task each. ``rows_left``, ``tiles_left``: how many are not shown.
    """

    rows: Sequence[Sequence[CheckView]]
    tiles: Sequence[CheckView]
    rows_left: int
    tiles_left: int
    charts: Mapping[Picture, Chart]

    @property
    def groups(self) -> dict[str, list[Sequence[CheckView]]]:
        """The rows by collector."""
        groups: dict[str, list[Sequence[CheckView]]] = {}
        for row in self.rows:
            groups.setdefault(row[0].collector, []).append(row)
        return groups

    def bars(self, collector: str) -> Chart:
        return self.charts[Picture("bars", collector)]

    def heat(self, row: Sequence[CheckView]) -> Chart:
        return self.charts[_to_heat(row)]

    def screen(self, check: CheckView) -> Chart:
        return self.charts[_to_screen(check)]

    def curve(self, check: CheckView) -> Chart:
        return self.charts[_to_curve(check)]


async def read_board(
    context: AppContext,
    checks: Sequence[CurrentCheck],
    full: Iterable[str] = (),
    *,
    rows: int = 0,
    tiles: int = 0,
    is_screen: bool = False,
) -> Board:
    """The worst of these checks, so many rows and tiles of them, and the runs of the collectors ``full``."""

    def pick() -> tuple[Board, list[Picture]]:
        by_task: dict[tuple[str, ...], list[CurrentCheck]] = {}
        for each in checks if rows else ():
            tags = each.check.tags
            by_task.setdefault((each.collector, *(tags.get(name, "") for name in _TASK)), []).append(each)
        worst_rows = find_worst(list(by_task.values()), rows, lambda row: min(map(_severity, row)))
        shown_rows = [_view(sorted(row, key=_severity)) for row in worst_rows]
        shown_tiles = _view(sorted(checks, key=_severity)[:tiles])
        pictures = [*(Picture("bars", name) for name in full), *map(_to_heat, shown_rows)]
        pictures += map(_to_screen if is_screen else _to_curve, shown_tiles)
        left = len(by_task) - len(shown_rows), len(checks) - len(shown_tiles)
        return Board(shown_rows, shown_tiles, *left, {}), pictures

    board, pictures = await anyio.to_thread.run_sync(pick, limiter=context.threads)
    return Board(board.rows, board.tiles, board.rows_left, board.tiles_left, await _draw_all(context, pictures))


async def read_history(context: AppContext, name: str, check: int) -> tuple[list[Cycle], CheckHistory]:
    """The collector's last cycles, and what is known of its check. Raises Unavailable."""
    cycles, found = await context.store.checks.histories([name], {name: [check]}, context.clock.now() - REACH)
    return cycles.get(name, []), found[check]


def find_worst(items: Sequence[Item], most: int, severity: Callable[[Item], int]) -> list[Item]:
    """At most so many of ``items``, the worst, in the order in which they were."""
    kept = sorted(range(len(items)), key=lambda at: severity(items[at]))[:most]
    return [items[at] for at in sorted(kept)]


def to_cells(cycles: Iterable[Cycle], histories: Sequence[CheckHistory]) -> Cells:
    """The worst cell of the checks in each cycle of their collector."""
    return [(cycle, charts.worst([each.cells.get(cycle.number) for each in histories])) for cycle in cycles]


def _view(checks: Iterable[CurrentCheck]) -> list[CheckView]:
    return [CheckView.model_validate(each) for each in checks]


def _severity(check: CurrentCheck) -> int:
    """Less is worse."""
    return _SEVERITY[check.status]


def _to_heat(row: Sequence[CheckView]) -> Picture:
    return Picture("heat", row[0].collector, tuple(check.id for check in row))


def _to_screen(check: CheckView) -> Picture:
    return Picture("screen", check.collector, (check.id,))


def _to_curve(check: CheckView) -> Picture:
    return Picture("curve", check.collector, (check.id,), check.limit, check.status)


async def _draw_all(context: AppContext, pictures: Iterable[Picture]) -> dict[Picture, Chart]:
    """From memory where the collector had no cycle since. Raises Unavailable."""
    drawn: dict[Picture, Chart] = {}
    missing: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        name, checks = picture.collector, context.checks.get(picture.collector)
        cycle, known = context.charts.pop(name, (None, {}))
        if checks is None or checks.cycle != cycle:
            cycle, known = checks.cycle if checks else None, {}
        context.charts[name] = cycle, known  # those that were used last stand at the end
        if picture in known:
            drawn[picture] = known[picture]
        else:
            missing[name].append(picture)
    if missing:
        drawn |= await _draw_missing(context, missing)
    for name, wanted in missing.items():
        if name in context.charts:
            context.charts[name][1].update({picture: drawn[picture] for picture in wanted})
    for name in list(context.charts)[:-_MAX_KNOWN]:
        del context.charts[name]
    return drawn


async def _draw_missing(context: AppContext, wanted: Mapping[str, Sequence[Picture]]) -> dict[Picture, Chart]:
    checks = {name: {id for each in pictures for id in each.ids} for name, pictures in wanted.items()}
    asked = {name: ids for name, ids in checks.items() if ids}
    cycles, histories = await context.store.checks.histories(wanted, asked, context.clock.now() - REACH, charts.BARS)

    def draw() -> dict[Picture, Chart]:
        first = {name: _find_column(context, name, each) for name, each in cycles.items()}
        return {
            picture: _draw(picture, cycles.get(name, ()), [histories[id] for id in picture.ids], first.get(name, 0))
            for name, pictures in wanted.items()
            for picture in pictures
        }

    return await anyio.to_thread.run_sync(draw, limiter=context.threads)


def _find_column(context: AppContext, name: str, cycles: Sequence[Cycle]) -> int:
    """Of the first of these cycles: each keeps the column that it had in the charts before."""
    known = context.columns.get(name, {})
    first = next((known[cycle.number] - place for place, cycle in enumerate(cycles) if cycle.number in known), 0)
    first = first if first < _MAX_COLUMN else 0
    context.columns[name] = {cycle.number: first + place for place, cycle in enumerate(cycles)}
    return first


def _draw(picture: Picture, cycles: Sequence[Cycle], histories: Sequence[CheckHistory], first: int) -> Chart:
    match picture.kind:
        case "bars":
            return charts.bars(cycles, first)
        case "heat":
            return charts.heat_row(to_cells(cycles, histories), first=first)
        case "screen":
            return charts.heat_row(to_cells(cycles, histories), _SCREEN_CELLS, first, links=False)
        case "curve":
            curve = charts.to_curve(to_cells(cycles, histories), histories[0].hours)
            return charts.sparkline(curve, picture.condition, picture.status)
