"""What the templates are given of the board: rows of the heat map and tiles, drawn once a cycle, not once a reader."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from service.domain.history import Cell, Cycle
from service.web import charts, words
from service.web.board import CheckBoard, CheckCounts, CollectorBoard, Past
from service.web.check_views import CheckView
from service.web.views import CollectorView

# More than this and a page is no board any more: the worst are shown, the others are on their collectors' pages.
_MOST_ROWS = 100
_MOST_TILES = 80
# With more collectors than the first, only so many as the second are shown in full, the worst, the others as a line;
# and as few rows and tiles.
_MANY = 100
_MOST_FULL = 40
# What the office screen holds in letters that are read from five metres.
_TV_TILES = 20
_TV_CELLS = 24
Item = TypeVar("Item")
Placed = tuple[CollectorBoard, CheckBoard]

_SEVERITY = {"fail": 0, "unknown": 1, "pass": 2}


class Text(NamedTuple):
    """Markup of ours, and the same in words."""

    svg: str
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the heat map: the checks of a workflow_name and task."""

    name: str
    task: str
    href: str
    status: str
    cells: Text


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one collector."""

    collector: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Tile:
    """One check. ``detail``: what tells it from its neighbours, beyond its task."""

    view: CheckView
    href: str
    detail: str
    spark: Text
    reach: str
    cells: Text


@dataclass(frozen=True, slots=True)
class Drawn:
    """``bars``: by collector. ``rows_left`` and ``tiles_left``: how many are not shown. ``columns``: of the screen."""

    bars: Mapping[str, Text]
    groups: Sequence[Group]
    tiles: Sequence[Tile]
    counts: CheckCounts
    rows_left: int = 0
    tiles_left: int = 0
    columns: int = 0
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a page will show: of each its collector. ``rows``: of the heat map, each the checks of one task.

    ``full``: the collectors that are shown with all there is of them.
    """

    boards: Sequence[CollectorBoard]
    rows: Sequence[tuple[CollectorBoard, Sequence[CheckBoard]]]
    tiles: Sequence[Placed]
    rows_left: int
    tiles_left: int
    full: Sequence[CollectorBoard] = ()

    def checks(self) -> Iterable[Placed]:
        """Those whose history is needed."""
        yield from self.tiles
        for board, checks in self.rows:
            yield from ((board, check) for check in checks)


def planned(boards: Sequence[CollectorBoard], collectors: Sequence[CollectorView] = ()) -> Plan:
    """``collectors``: those of the boards, where their states decide which of very many are shown in full."""
    many = len(boards) > _MANY
    full = {each.name for each in (_worst(collectors, _MOST_FULL, _worry) if many else collectors)}
    rows = [(board, checks) for board in boards for checks in _by_task(board.checks).values()]
    shown = _worst(
        rows, _MOST_FULL if many else _MOST_ROWS, lambda row: min(_SEVERITY[check.view.status] for check in row[1])
    )
    tiles, tiles_left = _tiles(boards, _MOST_FULL if many else _MOST_TILES)
    in_full = [board for board in boards if board.name in full]
    return Plan(boards, shown, tiles, len(rows) - len(shown), tiles_left, in_full)


def planned_for_tv(boards: Sequence[CollectorBoard]) -> Plan:
    """So many tiles that all of them fit the screen."""
    tiles, tiles_left = _tiles(boards, _TV_TILES)
    return Plan(boards, (), tiles, 0, tiles_left)


class Drawing:
    """Draws what is planned, and remembers what it drew of each cycle."""

    def __init__(self) -> None:
        self._bars: dict[str, tuple[object, Text]] = {}
        self._rows: dict[tuple[int, int], tuple[object, Text]] = {}
        self._sparks: dict[int, tuple[object, Text, str]] = {}

    def index(self, plan: Plan, past: Past) -> Drawn:
        self._forget(len(plan.boards))
        groups: dict[str, list[Row]] = {}
        for board, checks in plan.rows:
            groups.setdefault(board.name, []).append(self._row(board, checks, past))
        return Drawn(
            bars={board.name: self._bars_of(board, past) for board in plan.full},
            groups=[Group(name, each) for name, each in groups.items()],
            tiles=[self._tile(board, check, past) for board, check in plan.tiles],
            counts=counted(check for board in plan.boards for check in board.checks),
            rows_left=plan.rows_left,
            tiles_left=plan.tiles_left,
        )

    def tv(self, plan: Plan, past: Past) -> Drawn:
        count = len(plan.tiles)
        columns, lines = next((size for size in _TV_GRIDS if size[0] * size[1] >= count), _TV_GRIDS[-1])
        return Drawn(
            bars={},
            groups=[],
            tiles=[self._tile(board, check, past, _TV_CELLS) for board, check in plan.tiles],
            counts=counted(check for board in plan.boards for check in board.checks),
            tiles_left=plan.tiles_left,
            columns=columns,
            lines=lines,
        )

    def check(self, board: CollectorBoard, check: CheckBoard, past: Past) -> "CheckDrawn":
        cells = _in_cycles(board, [check], past)
        curve = charts.points(cells, past.checks[check.id].hours)
        view = check.view
        return CheckDrawn(
            self._tile(board, check, past, charts.BARS),
            Text(charts.trend(curve, view.condition, view.status), charts.curve_in_words(curve)),
            [(cycle, cell) for cycle, cell in reversed(cells) if cell],
        )

    def _forget(self, collectors: int) -> None:
        """What was drawn of collectors and checks that are gone, once it is much."""
        if len(self._bars) > 2 * collectors + 100 or len(self._sparks) > 10 * _MOST_TILES:
            self._bars.clear()
            self._rows.clear()
            self._sparks.clear()

    def _bars_of(self, board: CollectorBoard, past: Past) -> Text:
        known = self._bars.get(board.name)
        if known is None or known[0] != board.stamp:
            cycles = past.cycles[board.name]
            known = self._bars[board.name] = board.stamp, Text(charts.bars(cycles), charts.bars_in_words(cycles))
        return known[1]

    def _row(self, board: CollectorBoard, checks: Sequence[CheckBoard], past: Past) -> Row:
        first = min(checks, key=lambda check: _SEVERITY[check.view.status])
        return Row(
            name=_title(first.view, "workflow_name"),
            task=_title(first.view, "task"),
            href=_address(board, first),
            status=first.view.status,
            cells=self._cells(board, checks, past, charts.CELLS),
        )

    def _cells(self, board: CollectorBoard, checks: Sequence[CheckBoard], past: Past, columns: int) -> Text:
        key, stamp = (columns, checks[0].id), (board.stamp, len(checks))
        known = self._rows.get(key)
        if known is None or known[0] != stamp:
            cells = _in_cycles(board, checks, past)
            drawn = charts.heat_row(cells, columns, links=columns != _TV_CELLS)
            known = self._rows[key] = stamp, Text(drawn, charts.cells_in_words(cells, columns))
        return known[1]

    def _tile(self, board: CollectorBoard, check: CheckBoard, past: Past, columns: int = 0) -> Tile:
        view = check.view
        # A status that changes with age alone changes the colour of the line.
        stamp = board.stamp, view.status
        known = self._sparks.get(check.id)
        if known is None or known[0] != stamp:
            curve = charts.points(_in_cycles(board, [check], past), past.checks[check.id].hours)
            drawn = Text(charts.sparkline(curve, view.condition, view.status), charts.curve_in_words(curve))
            known = self._sparks[check.id] = stamp, drawn, charts.reach(curve)
        cells = self._cells(board, [check], past, columns) if columns else Text("", "")
        names = ("check", "label", "repo") if columns == _TV_CELLS else ("check", "workflow_name", "label", "repo")
        return Tile(view, _address(board, check), _detail(view, *names), known[1], known[2], cells)


@dataclass(frozen=True, slots=True)
class CheckDrawn:
    """The page of one check. ``cells``: with their cycles, newest first."""

    tile: Tile
    trend: Text
    cells: Sequence[tuple[Cycle, Cell]]


# Columns and lines of the screen, from few checks to many.
_TV_GRIDS = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (5, 4))


def counted(checks: Iterable[CheckBoard]) -> CheckCounts:
    statuses = [check.view.status for check in checks]
    return CheckCounts(
        passing=statuses.count("pass"), failing=statuses.count("fail"), unknown=statuses.count("unknown")
    )


def _tiles(boards: Sequence[CollectorBoard], most: int) -> tuple[Sequence[Placed], int]:
    """The worst checks first, at most so many, and how many more there are."""
    tiles = [(board, check) for board in boards for check in board.checks]
    worst = sorted(tiles, key=lambda tile: _SEVERITY[tile[1].view.status])[:most]
    return worst, len(tiles) - len(worst)


def _in_cycles(board: CollectorBoard, checks: Sequence[CheckBoard], past: Past) -> list[tuple[Cycle, Cell | None]]:
    """The worst cell of the checks in each cycle of their collector."""
    known = [past.checks[check.id].cells for check in checks]
    return [(cycle, charts.worst([cells.get(cycle.number) for cells in known])) for cycle in past.cycles[board.name]]


def _by_task(checks: Iterable[CheckBoard]) -> dict[tuple[str, ...], list[CheckBoard]]:
    found: dict[tuple[str, ...], list[CheckBoard]] = {}
    for check in checks:
        tags = check.view.tags
        key = tuple(tags.get(name, "") for name in ("workflow_category", "workflow_name", "task", "repo"))
        found.setdefault(key, []).append(check)
    return found


def _worst(items: Sequence[Item], most: int, severity: Callable[[Item], int]) -> Sequence[Item]:
    """At most so many of ``items``, the worst, in the order in which they were."""
    if len(items) <= most:
        return items
    kept = sorted(range(len(items)), key=lambda at: severity(items[at]))[:most]
    return [items[at] for at in sorted(kept)]


def _worry(collector: CollectorView) -> int:
    """Less is worse."""
    if words.is_failing(collector):
        return 0
    return {"bad": 0, "warn": 1, "busy": 2}.get(words.state(collector)[1], 3)


def _title(view: CheckView, tag: str) -> str:
    return view.tags.get(tag, "") or "none"


def _detail(view: CheckView, *names: str) -> str:
    """What tells the check from its neighbours, by these tags; a check that is named as its task says nothing new."""
    tags = view.tags
    told = [tags.get(name, "") for name in names]
    return " · ".join(text for text in told if text and text != tags.get("task"))


def _address(board: CollectorBoard, check: CheckBoard) -> str:
    return f"/checks/{quote(board.name, safe='')}/{check.id:x}"
