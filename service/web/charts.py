"""Charts as inline SVG: pure functions from values to markup, drawn with classes and attributes (the page's policy
forbids inline style). Each chart has its words, for who does not see it; so it holds no tab stops.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import quote

from service.domain import conditions
from service.domain.samples import Status, format_number
from service.store.checks import Cell, Cycle, Hour
from service.web.formats import format_clock, tone

BARS = 60
_BAR, _BAR_HEIGHT = 5, 30
_SHORTEST = 3  # a run of no time at all is still to be seen, and hit
CELLS = 40
_CELL, _CELL_HEIGHT = 9, 16
# From a day of hours on, an hour is a point; before that, a cycle is.
_DAY = timedelta(hours=24)
_GAP = timedelta(hours=3)
_MARGIN = 5
_WORST_LAST = (Status.PASS, Status.UNKNOWN, Status.FAIL)


class Chart(NamedTuple):
    """Markup of ours, and the same in words."""

    svg: str
    words: str


Cells = Sequence[tuple[Cycle, Cell | None]]


class Point(NamedTuple):
    """One place of a curve; ``low`` and ``high`` are what the value was between this point and the next."""

    at: datetime
    low: float
    high: float
    last: float
    failed: bool


def bars(cycles: Sequence[Cycle]) -> Chart:
    """The last runs, newest at the right: height is duration, colour is outcome, a click opens the run."""
    shown = cycles[-BARS:]
    longest = max((cycle.seconds for cycle in shown), default=0.0) or 1.0
    width = BARS * _BAR
    parts = [f'<path class="ground" d="M0 {_BAR_HEIGHT - 1}h{width}v1h-{width}z"/>']
    for column, cycle in enumerate(shown, BARS - len(shown)):
        height = max(_SHORTEST, round(cycle.seconds / longest * _BAR_HEIGHT))
        parts.append(f'<a transform="translate({column * _BAR})"{_bar(height, cycle)}</a>')
    counts = Counter(cycle.outcome for cycle in reversed(shown))
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return Chart(
        _draw("bars", width, _BAR_HEIGHT, parts), f"last {len(shown)} runs: {words}" if shown else "no runs yet"
    )


def heat_row(cells: Cells, columns: int = CELLS, *, links: bool = True) -> Chart:
    """One square a cycle, newest at the right: what the check said, and whether the value was measured anew."""
    shown = cells[-columns:]
    width, first = columns * _CELL, columns - len(shown)
    parts = [f'<path class="ground" d="M{first * _CELL} {_CELL_HEIGHT // 2}H{width}v1H{first * _CELL}z"/>']
    tag = "a" if links else "g"
    for column, (cycle, cell) in enumerate(shown, first):
        if cell:
            parts.append(f'<{tag} transform="translate({column * _CELL})"{_square(cycle, cell, links)}</{tag}>')
    return Chart(_draw("heat", width, _CELL_HEIGHT, parts), _describe_cells([cell for _, cell in shown if cell]))


def _draw(kind: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">'
    return f"{head}{''.join(parts)}</svg>"


def worst(cells: Sequence[Cell | None]) -> Cell | None:
    """One cell for several checks: a failure shows, and only a value that is old everywhere counts as carried."""
    known = [cell for cell in cells if cell]
    if len(known) < 2:
        return known[0] if known else None
    status = max((Status(cell.status) for cell in known), key=_WORST_LAST.index)
    alike = [cell for cell in known if cell.status == status]
    return Cell(status, all(cell.carried for cell in alike), alike[0].value if len(alike) == 1 else None)


def to_curve(cells: Cells, hours: Sequence[Hour]) -> list[Point]:
    """What a curve is drawn from: hours where there is a day of them, single cycles before that."""
    if len(hours) > 1 and hours[-1].at - hours[0].at >= _DAY:
        return [Point(hour.at, hour.low, hour.high, hour.last, hour.failed) for hour in hours]
    return [
        Point(cycle.ended, cell.value, cell.value, cell.value, cell.status == Status.FAIL)
        for cycle, cell in cells
        if cell and cell.value is not None
    ]


def sparkline(curve: Sequence[Point], condition: str, classes: str, width: int = 160, height: int = 34) -> Chart:
    """The values of seven days (as far as there are any), the threshold dashed, failures ticked at the bottom."""
    parsed = conditions.parse(condition)
    threshold = parsed.threshold if parsed else None
    place = _scale(curve, threshold, width, height)
    parts = []
    if threshold is not None and curve:
        parts.append(f'<path class="threshold" d="M0 {place(None, threshold)[1]}H{width}"/>')
    parts.append(f'<path class="line" d="{_line(curve, place)}"/>')
    if ticks := "".join(f"M{place(point.at, 0)[0]} {height}v-4" for point in curve if point.failed):
        parts.append(f'<path class="ticks" d="{ticks}"/>')
    head = f'<svg class="spark {classes}" viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return Chart(f'{head} aria-hidden="true">{"".join(parts)}</svg>', _describe_curve(curve))


def trend(curve: Sequence[Point], condition: str, status: str) -> Chart:
    """The same, large, with its scale in words (numbers in a chart that stretches would stretch with it)."""
    return sparkline(curve, condition, f"trend {status}", 900, 160)


def _describe_cells(cells: Sequence[Cell]) -> str:
    """``last 40 cycles: 38 pass (12 carried), 2 fail``."""
    words = []
    for status in Status:
        alike = [cell for cell in cells if cell.status == status]
        carried = sum(cell.carried for cell in alike) if status is Status.PASS else 0
        if alike:
            words.append(f"{len(alike)} {status.value}" + (f" ({carried} carried)" if carried else ""))
    return f"last {len(cells)} cycles: {', '.join(words)}" if cells else "no cycle yet"


def _describe_curve(curve: Sequence[Point]) -> str:
    """``7 d: 0 to 12, last 3``."""
    if not curve:
        return "no values yet"
    seconds = (curve[-1].at - curve[0].at).total_seconds()
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    reach = next((f"{seconds / size:.0f} {unit}" for size, unit in units if seconds >= 0.95 * size), "now")
    low, high = min(point.low for point in curve), max(point.high for point in curve)
    return f"{reach}: {format_number(low)} to {format_number(high)}, last {format_number(curve[-1].last)}"


# Of a chart that goes on, all but the newest pieces are drawn already: each begins within its tag, and stands at 0.
@lru_cache(maxsize=8192)
def _bar(height: int, cycle: Cycle) -> str:
    # The whole column is the target; the bar in it may be a few pixels high.
    return (
        f'{_link(cycle)}><path class="hit" d="M0 0h{_BAR}v{_BAR_HEIGHT}h-{_BAR}z"/>'
        f'<path class="{tone(cycle.outcome)}" d="M0 {_BAR_HEIGHT}v-{height}h{_BAR - 1}v{height}z">'
        f"<title>{format_clock(cycle.started)} UTC {escape(cycle.outcome)} "
        f"{format_number(round(cycle.seconds, 1))} s</title></path>"
    )


@lru_cache(maxsize=8192)
def _square(cycle: Cycle, cell: Cell, links: bool) -> str:
    # A failure is larger, too, for who sees no red.
    inset = 0 if cell.status == Status.FAIL else 2
    side, height = _CELL - 1, _CELL_HEIGHT - 2 * inset
    status = str(cell.status)
    kind = "carried" if cell.carried and status == "pass" else status
    value = "" if cell.value is None else f" {format_number(cell.value)}"
    carried = ", carried" if cell.carried else ""
    return (
        f'{_link(cycle) if links else ""}><path class="{kind}" d="M0 {inset}h{side}v{height}h-{side}z">'
        f"<title>{format_clock(cycle.ended)} UTC {status}{value}{carried}</title></path>"
    )


def _link(cycle: Cycle) -> str:
    return f' href="/runs/{quote(cycle.run, safe="")}" tabindex="-1"'


Place = Callable[[datetime | None, float], tuple[float, float]]


def _scale(curve: Sequence[Point], threshold: float | None, width: int, height: int) -> Place:
    """Where a value at an instant is drawn. A line that never moves runs through the middle."""
    values = [value for point in curve for value in (point.low, point.high)]
    if threshold is not None:
        values.append(threshold)
    low, high = min(values, default=0.0), max(values, default=0.0)
    begin = curve[0].at if curve else None
    span = (curve[-1].at - curve[0].at).total_seconds() if curve else 0.0

    def place(at: datetime | None, value: float) -> tuple[float, float]:
        x = width * (at - begin).total_seconds() / span if at and begin and span else float(width)
        # Halved first: the two ends of the floats are further apart than a float can say.
        half = high / 2 - low / 2
        share = (value / 2 - low / 2) / half if half else 0.5
        return round(x, 1), round(height - _MARGIN - share * (height - 2 * _MARGIN), 1)

    return place


def _line(curve: Sequence[Point], place: Place) -> str:
    steps = sorted(later.at - earlier.at for earlier, later in pairwise(curve))
    # Where nothing was measured for some cycles of the collector, however rare it runs, nothing is drawn.
    gap = max(_GAP, 3 * steps[len(steps) // 2]) if steps else _GAP
    parts: list[str] = []
    before: datetime | None = None
    for at, point in enumerate(curve):
        x, y = place(point.at, point.last)
        move = "M" if before is None or point.at - before > gap else "L"
        if point.low != point.high:
            parts.append(f"{move}{x} {place(point.at, point.low)[1]}V{place(point.at, point.high)[1]}V{y}")
        elif move == "M" or not _is_level(curve[at - 1 : at + 2], gap):
            parts.append(f"{move}{x} {y}")
        before = point.at
    return "".join(parts) + ("h-3" if len(curve) == 1 else "")


def _is_level(points: Sequence[Point], gap: timedelta) -> bool:
    """Whether the middle one of three adds nothing to a level line."""
    values = {value for point in points for value in (point.low, point.high)}
    return len(points) == 3 and len(values) == 1 and points[2].at - points[1].at <= gap
