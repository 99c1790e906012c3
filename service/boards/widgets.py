"""Widgets and metric queries as the dashboards API takes them: plain dictionaries, each shape in one place.

Tags that flip (status, condition, version) have no place in any query: each flip would leave a dead series behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from service.domain import conditions
from service.domain.samples import normalize_tag, normalize_tag_value

Widget = dict[str, Any]
Colours = Sequence[Mapping[str, Any]]

PASS, FAIL, UNKNOWN, CARRIED = "white_on_green", "white_on_red", "white_on_gray", "white_on_yellow"
# Interpolation ends after five minutes and fill reaches at most ten: a late heartbeat makes no hole.
HOLD = timedelta(seconds=600)
COLUMNS = 12
_SPANS = {"1h": 1, "4h": 4, "1d": 24, "2d": 48, "1w": 168, "1mo": 720, "3mo": 2160}
_OPPOSITES = {">": ("<=",), ">=": ("<",), "<": (">=",), "<=": (">",), "=": ("<", ">")}


def scope(
    variables: Iterable[str] = (), tags: Mapping[str, str] | None = None, without: Iterable[tuple[str, str]] = ()
) -> str:
    """``$env,task:benchmarks,!check:count``: the template variables, the fixed tags, and those that are left out."""
    parts = [f"${name}" for name in variables] + [normalize_tag(*tag) for tag in (tags or {}).items()]
    return ",".join(parts + [f"!{normalize_tag(*tag)}" for tag in without])


def query(space: str, metric: str, within: str, by: Iterable[str] = (), *, hold: bool = False) -> str:
    """``max:metric{scope} by {tags}``. ``hold``: a heartbeat's series, whose last value stands until the next."""
    groups = ",".join(by)
    fill = f".fill(last, {HOLD.total_seconds():.0f})" if hold else ""
    return f"{space}:{metric}{{{within}}}" + (f" by {{{groups}}}" if groups else "") + fill


def compare(comparator: str, value: float, palette: str) -> dict[str, Any]:
    """One colour of a conditional format."""
    return {"comparator": comparator, "value": value, "palette": palette}


NONE_IS_GOOD = [compare(">", 0.0, FAIL), compare("<=", 0.0, PASS)]
# 0 pass, 1 fail, 2 unknown; in between lies what is drawn between two points.
STATE_COLOURS = [compare(">", 1.0, UNKNOWN), *NONE_IS_GOOD]


def condition_colours(text: str) -> list[dict[str, Any]]:
    """Green where the condition holds, red where not; nothing for a condition that is no comparison."""
    condition = conditions.parse(text)
    if condition is None:
        return []
    if condition.low is not None:
        low, high = condition.low, condition.threshold
        return [compare("<", low, FAIL), compare(">", high, FAIL), compare("<=", high, PASS)]
    operator = "=" if condition.operator == "==" else condition.operator
    red = [compare(each, condition.threshold, FAIL) for each in _OPPOSITES[operator]]
    return [compare(operator, condition.threshold, PASS), *red]


def number(
    title: str,
    value: str,
    colours: Colours,
    shown: timedelta,
    *,
    formula: str = "value",
    size: str = "16",
    precision: int = 2,
) -> Widget:
    """One number, the latest of the query ``value``, on a coloured ground."""
    request = _request("scalar", {"value": value}, [{"formula": formula}])
    if colours:
        request["conditional_formats"] = colours
    return {**_graph("query_value", title, shown, [request], size), "precision": precision}


def lines(title: str, queries: Mapping[str, str], shown: timedelta, *, dashed: str = "") -> Widget:
    """A line for each group of each query, over time; those of the query ``dashed`` thin and dashed."""
    requests = [_request("timeseries", queries) | {"display_type": "line"}]
    if dashed:
        style = {"palette": "warm", "line_type": "dashed", "line_width": "thin"}
        requests.append(_request("timeseries", {"threshold": dashed}) | {"display_type": "line", "style": style})
    return {**_graph("timeseries", title, shown, requests), "show_legend": True}


def table(title: str, columns: Mapping[str, tuple[str, str, Colours]], shown: timedelta) -> Widget:
    """The latest values by the queries' groups. ``columns``: heading, query and colours by name."""
    formulas = [
        {"formula": name, "alias": heading, **({"conditional_formats": colours} if colours else {})}
        for name, (heading, _, colours) in columns.items()
    ]
    request = _request("scalar", {name: text for name, (_, text, _) in columns.items()}, formulas)
    return _graph("query_table", title, shown, [request])


def heatmap(title: str, value: str, shown: timedelta, *, size: str) -> Widget:
    """How many series have which value, over time."""
    return _graph("heatmap", title, shown, [_request("timeseries", {"value": value})], size)


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

    def add_group(self, title: str, colour: str, inner: "Grid") -> None:
        group = {"type": "group", "title": title, "layout_type": "ordered", "widgets": inner.widgets}
        # The group's title takes one row.
        self.add({**group, "background_color": colour, "show_title": True}, COLUMNS, inner.height + 1)


def template_variables(env: str, *names: str) -> list[dict[str, Any]]:
    """The environment of this installation, everything of the others."""
    defaults = {"env": [normalize_tag_value("env", env)]}
    return [{"name": name, "prefix": name, "defaults": defaults.get(name, ["*"])} for name in ("env", *names)]


def _graph(kind: str, title: str, shown: timedelta, requests: list[dict[str, Any]], size: str = "16") -> Widget:
    hours = shown / timedelta(hours=1)
    span = next((name for name, length in _SPANS.items() if length >= hours), "3mo")
    return {"type": kind, "title": title, "title_size": size, "time": {"live_span": span}, "requests": requests}


def _request(response: str, queries: Mapping[str, str], formulas: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """``formulas``: the queries themselves where there are none."""
    latest = {"aggregator": "last"} if response == "scalar" else {}
    return {
        "response_format": response,
        "queries": [
            {"data_source": "metrics", "name": name, "query": text, **latest} for name, text in queries.items()
        ],
        "formulas": formulas or [{"formula": name} for name in queries],
    }
