"""Charts as inline SVG: pure functions from values to markup, drawn with classes and attributes (the page's policy
forbids inline style). What they say is said in words beside them or in their label, so they hold no tab stops.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import quote

from service.domain import conditions
from service.domain.history import Cell, Cycle, Hour
from service.domain.runs import Outcome
from service.domain.samples import Status

BARS = 60
_BAR, _BAR_GAP, _BAR_HEIGHT = 4, 1, 30
_SHORTEST = 3  # a run of no time at all is still to be seen, and hit
CELLS = 40
_CELL, _CELL_HEIGHT = 9, 16
# From a day of hours on, an hour is a point; before that, a cycle is.
_DAY = timedelta(hours=24)
_GAP = timedelta(hours=3)

_WORST_LAST: list[str] = [status.value for status in (Status.PASS, Status.UNKNOWN, Status.FAIL)]

OUTCOME_CLASSES = {
    Outcome.COMPLETE.value: "good",
    Outcome.PARTIAL.value: "warn",
    Outcome.REPLACED.value: "warn",
    Outcome.INTERRUPTED.value: "warn",
}


class Point(NamedTuple):
    """One place of a curve; ``low`` and ``high`` are what the value was between this point and the next."""

    at: datetime
    low: float
    high: float
    last: float
    failed: bool


def bars(cycles: Sequence[Cycle]) -> str:
    """The last runs, newest at the right: height is duration, colour is outcome, a click opens the run."""
    shown = cycles[-BARS:]
    longest = max((cycle.seconds for cycle in shown), default=0.0) or 1.0
    step = _BAR + _BAR_GAP
    width = BARS * step
    parts = [
        f'<svg class="bars" viewBox="0 0 {width} {_BAR_HEIGHT}" aria-hidden="true" focusable="false">'
        f'<path class="ground" d="M0 {_BAR_HEIGHT - 1}h{width}v1H0z"/>'
    ]
    x = width - len(shown) * step
    for cycle in shown:
        height = max(_SHORTEST, round(cycle.seconds / longest * _BAR_HEIGHT))
        tone = OUTCOME_CLASSES.get(cycle.outcome, "bad")
        # The whole column is the target; the bar in it may be a few pixels high.
        bar = (
            f'<path class="hit" d="M{x} 0h{step}v{_BAR_HEIGHT}h-{step}z"/>'
            f'<path class="{tone}" d="M{x} {_BAR_HEIGHT}v-{height}h{_BAR}v{height}z">'
            f"<title>{cycle.started:%m-%d %H:%M:%S} {cycle.outcome} {cycle.seconds:.3g} s</title></path>"
        )
        parts.append(_linked(cycle, bar))
        x += step
    parts.append("</svg>")
    return "".join(parts)


def bars_in_words(cycles: Sequence[Cycle]) -> str:
    """``last 60 runs: 57 Complete, 3 Failed``."""
    shown = cycles[-BARS:]
    counts: dict[str, int] = {}
    for cycle in reversed(shown):
        counts[cycle.outcome] = counts.get(cycle.outcome, 0) + 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"last {len(shown)} runs: {told}" if shown else "no runs yet"


def heat_row(cells: Sequence[tuple[Cycle, Cell | None]], columns: int = CELLS, *, links: bool = True) -> str:
    """A row of the heat map, newest at the right; a cycle in which the check did not exist is left free."""
    shown = cells[-columns:]
    width = columns * _CELL
    parts = [
        f'<svg class="heat" viewBox="0 0 {width} {_CELL_HEIGHT}" preserveAspectRatio="xMaxYMid" aria-hidden="true" '
        f'focusable="false">'
        f'<path class="ground" d="M0 {_CELL_HEIGHT // 2}h{width - len(shown) * _CELL}v1H0z"/>'
    ]
    x = width - len(shown) * _CELL
    for cycle, cell in shown:
        if cell:
            square = _square(x, cycle, cell)
            parts.append(_linked(cycle, square) if links else square)
        x += _CELL
    parts.append("</svg>")
    return "".join(parts)


def cells_in_words(cells: Sequence[tuple[Cycle, Cell | None]], columns: int = CELLS) -> str:
    """``last 40 cycles: 38 pass (12 carried), 2 fail``."""
    shown = [cell for _, cell in cells[-columns:] if cell]
    told = []
    for status in Status:
        of_it = [cell for cell in shown if cell.status == status]
        carried = sum(cell.carried for cell in of_it) if status is Status.PASS else 0
        if of_it:
            told.append(f"{len(of_it)} {status.value}" + (f" ({carried} carried)" if carried else ""))
    return f"last {len(shown)} cycles: {', '.join(told)}" if shown else "no cycle yet"


def worst(cells: Sequence[Cell | None]) -> Cell | None:
    """One cell for several checks: a failure shows, and only a value that is old everywhere counts as carried."""
    known = [cell for cell in cells if cell]
    if len(known) < 2:
        return known[0] if known else None
    status = max((cell.status for cell in known), key=_WORST_LAST.index)
    of_it = [cell for cell in known if cell.status == status]
    return Cell(status, all(cell.carried for cell in of_it), of_it[0].value if len(of_it) == 1 else None)


def points(cells: Sequence[tuple[Cycle, Cell | None]], hours: Sequence[Hour]) -> list[Point]:
    """What a curve is drawn from: hours where there is a day of them, single cycles before that."""
    if len(hours) > 1 and hours[-1].at - hours[0].at >= _DAY:
        return [Point(*hour) for hour in hours]
    return [
        Point(cycle.ended, cell.value, cell.value, cell.value, cell.status == Status.FAIL)
        for cycle, cell in cells
        if cell and cell.value is not None
    ]


def sparkline(curve: Sequence[Point], condition: str, status: str, width: int = 160, height: int = 34) -> str:
    """The values of seven days (as far as there are any), the threshold dashed, failures ticked at the bottom."""
    threshold = _threshold(condition)
    place = _scale(curve, threshold, width, height)
    label = escape(curve_in_words(curve), quote=True)
    parts = [
        f'<svg class="spark {status}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">'
    ]
    if threshold is not None and curve:
        parts.append(f'<path class="threshold" d="M0 {place(None, threshold)[1]}H{width}"/>')
    parts.append(f'<path class="line" d="{_line(curve, place)}"/>')
    if ticks := "".join(f"M{place(point.at, 0)[0]} {height}v-4" for point in curve if point.failed):
        parts.append(f'<path class="ticks" d="{ticks}"/>')
    parts.append("</svg>")
    return "".join(parts)


def trend(curve: Sequence[Point], condition: str, status: str) -> str:
    """The same, large, with its scale in words (numbers in a chart that stretches would stretch with it)."""
    return sparkline(curve, condition, f"trend {status}", 900, 160)


def curve_in_words(curve: Sequence[Point]) -> str:
    """``7 d: 0 to 12, last 3``."""
    if not curve:
        return "no values yet"
    low, high = min(point.low for point in curve), max(point.high for point in curve)
    return f"{reach(curve)}: {low:.4g} to {high:.4g}, last {curve[-1].last:.4g}"


def reach(curve: Sequence[Point]) -> str:
    """How far back a curve goes: ``7 d``, ``3 h``, ``20 min``."""
    seconds = (curve[-1].at - curve[0].at).total_seconds() if curve else 0.0
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 0.95 * size:
            return f"{seconds / size:.0f} {unit}"
    return "now" if len(curve) < 2 else f"{seconds:.0f} s"


def meter(share: float, tone: str) -> str:
    """How full something is, 0 to 1."""
    filled = round(100 * min(max(share, 0.0), 1.0), 1)
    return (
        '<svg class="meter" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<path class="ground" d="M0 0h100v6H0z"/><path class="{tone}" d="M0 0h{filled}v6H0z"/></svg>'
    )


def _linked(cycle: Cycle, drawn: str) -> str:
    return f'<a href="/runs/{quote(cycle.run, safe="")}" tabindex="-1">{drawn}</a>'


def _square(x: int, cycle: Cycle, cell: Cell) -> str:
    # A failure is larger, too, for who sees no red.
    inset = 0 if cell.status == Status.FAIL else 2
    side, height = _CELL - 1, _CELL_HEIGHT - 2 * inset
    kind = "carried" if cell.carried and cell.status == Status.PASS else cell.status
    value = "" if cell.value is None else f" {cell.value:.6g}"
    carried = ", carried" if cell.carried else ""
    return (
        f'<path class="{kind}" d="M{x} {inset}h{side}v{height}h-{side}z">'
        f"<title>{cycle.ended:%m-%d %H:%M:%S} {cell.status}{value}{carried}</title></path>"
    )


def _threshold(condition: str) -> float | None:
    parsed = conditions.parse(condition)
    return parsed.threshold if parsed else None


Place = Callable[[datetime | None, float], tuple[float, float]]


def _scale(curve: Sequence[Point], threshold: float | None, width: int, height: int) -> Place:
    """Where a value at an instant is drawn. A line that never moves runs through the middle."""
    values = [value for point in curve for value in (point.low, point.high)]
    if threshold is not None:
        values.append(threshold)
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    begin = curve[0].at if curve else None
    span = (curve[-1].at - curve[0].at).total_seconds() if curve else 0.0
    margin = 5

    def place(at: datetime | None, value: float) -> tuple[float, float]:
        x = float(width)
        if at and begin and span:
            x = width * (at - begin).total_seconds() / span
        # Halved first: the two ends of the floats are further apart than a float can say.
        half = high / 2 - low / 2
        share = (value / 2 - low / 2) / half if half else 0.5
        return round(x, 1), round(height - margin - share * (height - 2 * margin), 1)

    return place


def _widest(curve: Sequence[Point]) -> timedelta:
    """The longest time between two points that a line bridges: some cycles of a collector, however rare it runs."""
    steps = sorted(later.at - earlier.at for earlier, later in pairwise(curve))
    return max(_GAP, 3 * steps[len(steps) // 2]) if steps else _GAP


def _line(curve: Sequence[Point], place: Place) -> str:
    parts: list[str] = []
    before: datetime | None = None
    gap = _widest(curve)
    for point in curve:
        x, y = place(point.at, point.last)
        # Where nothing was measured for hours, nothing is drawn.
        move = "M" if before is None or point.at - before > gap else "L"
        if point.low != point.high:
            parts.append(f"{move}{x} {place(point.at, point.low)[1]}V{place(point.at, point.high)[1]}V{y}")
        else:
            parts.append(f"{move}{x} {y}")
        before = point.at
    if len(curve) == 1:
        parts.append("h-3")
    return "".join(parts)
