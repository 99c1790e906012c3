"""Widgets and metric queries as the dashboards API takes them: plain dictionaries, each shape in one place.

Tags that flip (status, condition, version) have no place in any query: each flip would leave a dead series behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from service.domain import conditions
from service.domain.samples import Metric, normalize_tag

Widget = dict[str, Any]
Colours = Sequence[tuple[str, float, str]]  # comparator, number, palette

PASS, FAIL, UNKNOWN, CARRIED = "white_on_green", "white_on_red", "white_on_gray", "white_on_yellow"
NONE_IS_GOOD: Colours = [(">", 0.0, FAIL), ("<=", 0.0, PASS)]
# 0 pass, 1 fail, 2 unknown; in between lies what is drawn between two points.
STATE_COLOURS: Colours = [(">", 1.0, UNKNOWN), *NONE_IS_GOOD]
COLUMNS = 12
_SPANS = {"1h": 1, "4h": 4, "1d": 24, "2d": 48, "1w": 168, "1mo": 720, "3mo": 2160}
_OPPOSITES = {">": ("<=",), ">=": ("<",), "<": (">=",), "<=": (">",), "=": ("<", ">")}


def query(
    space: str,
    metric: Metric,
    variables: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
    by: Sequence[str] = (),
    *,
    without: Sequence[tuple[str, str]] = (),
    hold: bool = False,
) -> str:
    """``max:metric{$env,task:benchmarks} by {check}``: template variables, fixed tags, and by what it is split.

    ``without``: tags that a series must not have; as signs, because Datadog takes no words (NOT, IN) beside commas.
    ``hold``: a heartbeat's series, whose last value stands until the next. Interpolation ends after five minutes and
    fill reaches at most ten: a late heartbeat makes no hole.
    """
    within = ",".join([f"${name}" for name in variables] + [normalize_tag(*tag) for tag in (tags or {}).items()])
    within = ",".join([within, *(f"!{normalize_tag(*tag)}" for tag in without)])
    groups = f" by {{{','.join(by)}}}" if by else ""
    return f"{space}:{metric.name}{{{within}}}{groups}{'.fill(last, 600)' if hold else ''}"


def condition_colours(text: str) -> Colours:
    """Green where the condition holds, red where not; nothing for a condition that is no comparison."""
    condition = conditions.parse(text)
    if condition is None:
        return []
    if condition.low is not None:
        low, high = condition.low, condition.threshold
        return [("<", low, FAIL), (">", high, FAIL), ("<=", high, PASS)]
    operator = "=" if condition.operator == "==" else condition.operator
    red = [(each, condition.threshold, FAIL) for each in _OPPOSITES[operator]]
    return [(operator, condition.threshold, PASS), *red]


def number(title: str, value: str, colours: Colours, shown: timedelta, formula: str = "value", **more: Any) -> Widget:
    """One number, the latest of the query ``value``, on a coloured ground."""
    request = _request("scalar", {"value": value}, [{"formula": formula}]) | _paint(colours)
    return _graph("query_value", title, shown, request, **({"precision": 2} | more))


def lines(title: str, queries: Mapping[str, str], shown: timedelta, *, dashed: str = "") -> Widget:
    """A line for each group of each query, over time; those of the query ``dashed`` thin and dashed."""
    requests = [_request("timeseries", queries) | {"display_type": "line"}]
    if dashed:
        style = {"palette": "warm", "line_type": "dashed", "line_width": "thin"}
        requests.append(_request("timeseries", {"threshold": dashed}) | {"display_type": "line", "style": style})
    return _graph("timeseries", title, shown, *requests, show_legend=True)


def table(title: str, columns: Mapping[str, tuple[str, str, Colours]], shown: timedelta) -> Widget:
    """The latest values by the queries' groups. ``columns``: heading, query and colours by name."""
    formulas = [
        {"formula": name, "alias": heading} | _paint(colours) for name, (heading, _, colours) in columns.items()
    ]
    queries = {name: text for name, (_, text, _) in columns.items()}
    return _graph("query_table", title, shown, _request("scalar", queries, formulas))


def toplist(title: str, queries: Mapping[str, str], shown: timedelta, formula: str, aggregator: str = "sum") -> Widget:
    """The ten groups in which ``formula`` is largest. ``aggregator``: how a query's points become one number: sum for a
    count, percentile for a distribution's percentile over all of the time."""
    largest = {"formula": formula, "limit": {"count": 10, "order": "desc"}}
    return _graph("toplist", title, shown, _request("scalar", queries, [largest], aggregator))


def heatmap(title: str, value: str, shown: timedelta, **more: Any) -> Widget:
    """How many series have which value, over time."""
    return _graph("heatmap", title, shown, _request("timeseries", {"value": value}), **more)


def note(content: str) -> Widget:
    """Text in Markdown."""
    return {"type": "note", "content": content, "background_color": "white", "font_size": "14"}


def placed(widget: Widget, x: int, y: int, width: int, height: int) -> Widget:
    """``widget`` at its place on a board."""
    return {"definition": widget, "layout": {"x": x, "y": y, "width": width, "height": height}}


class Grid:
    """Fills rows from the left; a widget that does not fit begins a new row below the highest of the last."""

    def __init__(self) -> None:
        self.widgets: list[Widget] = []
        self.height = 0
        self._x = self._y = 0

    def add(self, widget: Widget, width: int, height: int) -> None:
        if self._x + width > COLUMNS:
            self._x, self._y = 0, self.height
        self.widgets.append(placed(widget, self._x, self._y, width, height))
        self._x += width
        self.height = max(self.height, self._y + height)


def _graph(kind: str, title: str, shown: timedelta, *requests: Widget, **more: Any) -> Widget:
    hours = shown / timedelta(hours=1)
    span = next((name for name, length in _SPANS.items() if length >= hours), "3mo")
    graph = {"type": kind, "title": title, "title_size": "16", "time": {"live_span": span}, "requests": [*requests]}
    return graph | more


def _request(
    response: str, queries: Mapping[str, str], formulas: Sequence[Widget] = (), aggregator: str = "last"
) -> Widget:
    """``formulas``: the queries themselves where there are none."""
    reduced = {"aggregator": aggregator} if response == "scalar" else {}
    requests = [{"data_source": "metrics", "name": name, "query": text, **reduced} for name, text in queries.items()]
    return {
        "response_format": response,
        "queries": requests,
        "formulas": formulas or [{"formula": name} for name in queries],
    }


def _paint(colours: Colours) -> Widget:
    formats = [dict(zip(("comparator", "value", "palette"), each, strict=True)) for each in colours]
    return {"conditional_formats": formats} if formats else {}
