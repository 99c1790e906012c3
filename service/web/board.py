"""The board of a page: which checks are shown, worst first, and their charts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

from service.store import CheckHistory, Cycle
from service.web import charts
from service.web.charts import Cells, Chart
from service.web.context import AppContext
from service.web.overview import CollectorChecks
from service.web.schemas import CheckView, CollectorView, tone

# More than this and a page is no board any more: the worst are shown, the others are on their collectors' pages.
_MAX_ROWS, _MAX_TILES = 100, 80
# With more collectors than the first, only so many as the second are shown in full, and as few rows and tiles.
_MANY, _MAX_FULL = 100, 40
# What the office screen holds in letters that are read from five metres: columns and lines, from few checks to many.
_TV_GRIDS = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (5, 4))
_TV_TILES, _TV_CELLS = 20, 24
_REACH = timedelta(days=7)
_SEVERITY = {"fail": 0, "unknown": 1, "pass": 2}

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Place:
    """A check and where it belongs. ``id``: see domain.checks.check_id; it stands in addresses as hexadecimal."""

    collector: str
    id: int
    view: CheckView

    @property
    def href(self) -> str:
        return f"/checks/{quote(self.collector, safe='')}/{self.id:x}"

    @property
    def severity(self) -> int:
        return _SEVERITY[self.view.status]

    def detail(self, *names: str) -> str:
        """What tells the check from its neighbours, by these tags; one that is named as its task says nothing new."""
        tags = self.view.tags
        return " · ".join(text for name in names if (text := tags.get(name, "")) and text != tags.get("task"))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the heat map: the checks of a workflow_name and task."""

    places: Sequence[Place]
    chart: Chart

    @property
    def worst(self) -> Place:
        return min(self.places, key=lambda place: place.severity)


@dataclass(frozen=True, slots=True)
class Tile:
    """One check. ``detail``: what tells it from its neighbours, beyond its task."""

    place: Place
    detail: str
    chart: Chart

    @property
    def view(self) -> CheckView:
        return self.place.view


@dataclass(frozen=True, slots=True)
class Board:
    """What a page draws. ``full``: the collectors shown in full. ``rows_left``, ``tiles_left``: how many are not shown.

    Before ``draw`` it holds what will be drawn and the history to draw it from.
    """

    full: Sequence[str]
    rows: Sequence[Sequence[Place]]
    tiles: Sequence[Place]
    rows_left: int
    tiles_left: int
    cycles: Mapping[str, Sequence[Cycle]]
    histories: Mapping[int, CheckHistory]

    def bars(self) -> dict[str, Chart]:
        return {name: charts.bars(self.cycles.get(name, ())) for name in self.full}

    def heat_rows(self) -> dict[str, list[Row]]:
        """By collector."""
        groups: dict[str, list[Row]] = {}
        for places in self.rows:
            groups.setdefault(places[0].collector, []).append(Row(places, charts.heat_row(self.cells(*places))))
        return groups

    def spark_tiles(self) -> list[Tile]:
        names = ("check", "workflow_name", "label", "repo")
        return [
            Tile(
                place,
                place.detail(*names),
                charts.sparkline(self.curve(place), place.view.condition, place.view.status),
            )
            for place in self.tiles
        ]

    def heat_tiles(self) -> list[Tile]:
        names = ("check", "label", "repo")
        return [
            Tile(place, place.detail(*names), charts.heat_row(self.cells(place), _TV_CELLS, links=False))
            for place in self.tiles
        ]

    def curve(self, place: Place) -> list[charts.Point]:
        return charts.to_curve(self.cells(place), self.histories[place.id].hours)

    def cells(self, *places: Place) -> Cells:
        """The worst cell of the checks in each cycle of their collector."""
        known = [self.histories[place.id].cells for place in places]
        cycles = self.cycles.get(places[0].collector, ())
        return [(cycle, charts.worst([cells.get(cycle.number) for cells in known])) for cycle in cycles]

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and lines of the office screen."""
        return next((each for each in _TV_GRIDS if each[0] * each[1] >= len(self.tiles)), _TV_GRIDS[-1])


async def read_board(
    context: AppContext,
    checks: Iterable[CollectorChecks],
    collectors: Sequence[CollectorView] = (),
) -> Board:
    """The board of these checks, and the bars of these collectors. Raises Unavailable."""
    is_large = len(collectors) > _MANY
    places = [Place(each.name, id, view) for each in checks for id, view in each.checks]
    rows = list(_by_task(places).values())
    shown = _worst(rows, _MAX_FULL if is_large else _MAX_ROWS, lambda row: min(place.severity for place in row))
    most = _MAX_FULL if is_large else _MAX_TILES
    tiles = sorted(places, key=lambda place: place.severity)[:most]
    full = [each.name for each in (_worst(collectors, _MAX_FULL, _concern) if is_large else collectors)]
    picked = [*tiles, *(place for row in shown for place in row)]
    left = len(rows) - len(shown), len(places) - len(tiles)
    return Board(full, shown, tiles, *left, *await _read_history(context, full, picked))


async def read_screen(context: AppContext, checks: Iterable[CollectorChecks]) -> Board:
    """So many tiles that all of them fit the office screen. Raises Unavailable."""
    places = [Place(each.name, id, view) for each in checks for id, view in each.checks]
    tiles = sorted(places, key=lambda place: place.severity)[:_TV_TILES]
    return Board((), (), tiles, 0, len(places) - len(tiles), *await _read_history(context, (), tiles))


async def read_check(context: AppContext, place: Place) -> Board:
    """What one check's page draws. Raises Unavailable."""
    return Board((), (), [place], 0, 0, *await _read_history(context, (), [place]))


async def _read_history(
    context: AppContext, collectors: Iterable[str], places: Sequence[Place]
) -> tuple[Mapping[str, Sequence[Cycle]], Mapping[int, CheckHistory]]:
    history = context.store.history
    names = {*collectors, *(place.collector for place in places)}
    cycles = await history.cycles(dict.fromkeys(names, 0), charts.BARS)
    numbers = [cycle.number for name in {place.collector for place in places} for cycle in cycles.get(name, ())]
    ids = {place.id for place in places}
    return cycles, await history.check_histories(ids, numbers, context.clock.now() - _REACH)


def _by_task(places: Iterable[Place]) -> dict[tuple[str, ...], list[Place]]:
    found: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        tags = place.view.tags
        names = ("workflow_category", "workflow_name", "task", "repo")
        found.setdefault((place.collector, *(tags.get(name, "") for name in names)), []).append(place)
    return found


def _worst(items: Sequence[Item], most: int, severity: Callable[[Item], int]) -> Sequence[Item]:
    """At most so many of ``items``, the worst, in the order in which they were."""
    kept = sorted(range(len(items)), key=lambda at: severity(items[at]))[:most]
    return [items[at] for at in sorted(kept)]


def _concern(collector: CollectorView) -> int:
    """Less is worse."""
    if collector.is_failing:
        return 0
    return {"warn": 1, "busy": 2}.get(describe_state(collector)[1], 3)


def describe_state(collector: CollectorView) -> tuple[str, str]:
    """What to call the collector's state, and its tone."""
    last = collector.last_run
    if collector.running:
        return "Running", "busy"
    if not collector.enabled:
        return "Disabled", "idle"
    if collector.paused:
        return "Paused", "warn"
    if last is None:
        return "No run yet", "idle"
    colour = tone(last.outcome)
    return {"good": "Healthy", "bad": "Failing"}.get(colour, last.outcome), colour
