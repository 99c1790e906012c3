"""The board: which checks a page shows, and their charts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

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


@dataclass(frozen=True, slots=True)
class Board:
    """What a page shows of checks, worst first; the templates call its methods.

    ``rows``: of the heat map, the checks of one task each. ``rows_left``, ``tiles_left``: how many are not shown.
    """

    rows: Sequence[Sequence[CheckView]]
    tiles: Sequence[CheckView]
    rows_left: int
    tiles_left: int
    cycles: Mapping[str, Sequence[Cycle]]
    histories: Mapping[int, CheckHistory]

    @property
    def groups(self) -> dict[str, list[Sequence[CheckView]]]:
        """The rows by collector."""
        groups: dict[str, list[Sequence[CheckView]]] = {}
        for row in self.rows:
            groups.setdefault(row[0].collector, []).append(row)
        return groups

    def bars(self, collector: str) -> Chart:
        """Its last runs."""
        return charts.bars(self.cycles.get(collector, ()))

    def heat(self, row: Sequence[CheckView]) -> Chart:
        """Their last cycles."""
        return charts.heat_row(self._cells(row))

    def screen(self, check: CheckView) -> Chart:
        """Those that the office screen has room for."""
        return charts.heat_row(self._cells([check]), _SCREEN_CELLS, links=False)

    def curve(self, check: CheckView) -> Chart:
        curve = charts.to_curve(self._cells([check]), self.histories[check.id].hours)
        return charts.sparkline(curve, check.limit, check.status)

    def _cells(self, row: Sequence[CheckView]) -> Cells:
        return to_cells(self.cycles.get(row[0].collector, ()), [self.histories[check.id] for check in row])


async def read_board(
    context: AppContext, checks: Sequence[CurrentCheck], full: Iterable[str] = (), *, rows: int = 0, tiles: int = 0
) -> Board:
    """The worst of these checks, so many rows and tiles of them, and the runs of the collectors ``full``.

    Raises Unavailable.
    """

    def pick() -> tuple[list[list[CheckView]], list[CheckView], int]:
        by_task: dict[tuple[str, ...], list[CurrentCheck]] = {}
        for each in checks if rows else ():
            tags = each.check.tags
            by_task.setdefault((each.collector, *(tags.get(name, "") for name in _TASK)), []).append(each)
        worst = find_worst(list(by_task.values()), rows, lambda row: min(map(_severity, row)))
        shown = [_view(sorted(row, key=_severity)) for row in worst]
        return shown, _view(sorted(checks, key=_severity)[:tiles]), len(by_task) - len(shown)

    shown_rows, shown_tiles, rows_left = await anyio.to_thread.run_sync(pick, limiter=context.threads)
    ids: dict[str, set[int]] = {}
    for check in (*(check for row in shown_rows for check in row), *shown_tiles):
        ids.setdefault(check.collector, set()).add(check.id)
    names = {*full, *ids}
    cycles, histories = await context.store.checks.histories(names, ids, context.clock.now() - REACH, charts.BARS)
    return Board(shown_rows, shown_tiles, rows_left, len(checks) - len(shown_tiles), cycles, histories)


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
