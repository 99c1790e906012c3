"""What the templates are given of the board: rows of the heat map and tiles, drawn once a cycle, not once a reader."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from service.domain.history import Cell, Cycle
from service.web import charts
from service.web.board import CheckBoard, CheckCounts, CollectorBoard
from service.web.check_views import CheckView

# More than this and a page is no board any more: the worst are shown, the others are on their collectors' pages.
_MOST_ROWS = 200
_MOST_TILES = 120
# What the office screen holds in letters that are read from five metres.
_TV_TILES = 20
_TV_CELLS = 24
Item = TypeVar("Item")

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


class Drawing:
    """Draws boards, and remembers what it drew of each cycle."""

    def __init__(self) -> None:
        self._bars: dict[str, tuple[object, Text]] = {}
        self._rows: dict[str, tuple[object, Text]] = {}
        self._sparks: dict[str, tuple[object, Text, str]] = {}

    def index(self, boards: Sequence[CollectorBoard]) -> Drawn:
        self._forget(boards)
        rows = [(board, checks) for board in boards for checks in _by_task(board.checks).values()]
        shown = _worst(rows, _MOST_ROWS, lambda row: min(_SEVERITY[check.view.status] for check in row[1]))
        groups: dict[str, list[Row]] = {}
        for board, checks in shown:
            groups.setdefault(board.name, []).append(self._row(board, checks))
        tiles = [(board, check) for board in boards for check in board.checks]
        worst = sorted(tiles, key=lambda tile: _SEVERITY[tile[1].view.status])[:_MOST_TILES]
        return Drawn(
            bars={board.name: self._bars_of(board) for board in boards},
            groups=[Group(name, each) for name, each in groups.items()],
            tiles=[self._tile(board, check, 0) for board, check in worst],
            counts=counted(check for _, check in tiles),
            rows_left=len(rows) - len(shown),
            tiles_left=len(tiles) - len(worst),
        )

    def tv(self, boards: Sequence[CollectorBoard]) -> Drawn:
        """So many tiles that all of them fit the screen."""
        tiles = [(board, check) for board in boards for check in board.checks]
        worst = sorted(tiles, key=lambda tile: _SEVERITY[tile[1].view.status])[:_TV_TILES]
        columns, lines = next((size for size in _TV_GRIDS if size[0] * size[1] >= len(worst)), _TV_GRIDS[-1])
        return Drawn(
            bars={},
            groups=[],
            tiles=[self._tile(board, check, _TV_CELLS) for board, check in worst],
            counts=counted(check for _, check in tiles),
            tiles_left=len(tiles) - len(worst),
            columns=columns,
            lines=lines,
        )

    def check(self, board: CollectorBoard, check: CheckBoard) -> "CheckDrawn":
        cells = list(zip(board.cycles, check.cells, strict=True))
        curve = charts.points(cells, check.hours)
        view = check.view
        return CheckDrawn(
            self._tile(board, check, charts.BARS),
            Text(charts.trend(curve, view.condition, view.status), charts.curve_in_words(curve)),
            [(cycle, cell) for cycle, cell in reversed(cells) if cell],
        )

    def _forget(self, boards: Sequence[CollectorBoard]) -> None:
        """What is drawn of collectors that are gone."""
        if len(self._bars) > 2 * len(boards) + 100:
            self._bars.clear()
            self._rows.clear()
            self._sparks.clear()

    def _bars_of(self, board: CollectorBoard) -> Text:
        known = self._bars.get(board.name)
        if known is None or known[0] != board.stamp:
            text = Text(charts.bars(board.cycles), charts.bars_in_words(board.cycles))
            known = self._bars[board.name] = board.stamp, text
        return known[1]

    def _row(self, board: CollectorBoard, checks: Sequence[CheckBoard]) -> Row:
        first = min(checks, key=lambda check: _SEVERITY[check.view.status])
        return Row(
            name=_title(first.view, "workflow_name"),
            task=_title(first.view, "task"),
            href=_address(board, first),
            status=first.view.status,
            cells=self._cells(board, checks, charts.CELLS),
        )

    def _cells(self, board: CollectorBoard, checks: Sequence[CheckBoard], columns: int) -> Text:
        key, stamp = f"{columns} {board.name} {checks[0].id}", (board.stamp, len(checks))
        known = self._rows.get(key)
        if known is None or known[0] != stamp:
            merged = [charts.worst(each) for each in zip(*(check.cells for check in checks), strict=True)]
            cells = list(zip(board.cycles, merged, strict=True))
            drawn = charts.heat_row(cells, columns, links=columns != _TV_CELLS)
            known = self._rows[key] = stamp, Text(drawn, charts.cells_in_words(cells, columns))
        return known[1]

    def _tile(self, board: CollectorBoard, check: CheckBoard, columns: int) -> Tile:
        view = check.view
        # A status that changes with age alone changes the colour of the line.
        stamp = board.stamp, view.status
        known = self._sparks.get(f"{board.name} {check.id}")
        if known is None or known[0] != stamp:
            curve = charts.points(list(zip(board.cycles, check.cells, strict=True)), check.hours)
            drawn = Text(charts.sparkline(curve, view.condition, view.status), charts.curve_in_words(curve))
            known = self._sparks[f"{board.name} {check.id}"] = stamp, drawn, charts.reach(curve)
        cells = self._cells(board, [check], columns) if columns else Text("", "")
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


def _title(view: CheckView, tag: str) -> str:
    return view.tags.get(tag, "") or "none"


def _detail(view: CheckView, *names: str) -> str:
    """What tells the check from its neighbours, by these tags; a check that is named as its task says nothing new."""
    tags = view.tags
    told = [tags.get(name, "") for name in names]
    return " · ".join(text for text in told if text and text != tags.get("task"))


def _address(board: CollectorBoard, check: CheckBoard) -> str:
    return f"/checks/{quote(board.name, safe='')}/{check.id}"
