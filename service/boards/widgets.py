"""Widgets as the dashboards API takes them: plain dictionaries, each shape in one place."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from service.domain import conditions
from service.domain.naming import kept_value

Widget = dict[str, Any]

PASS, FAIL, UNKNOWN, CARRIED = "white_on_green", "white_on_red", "white_on_gray", "white_on_yellow"
# 0 pass, 1 fail, 2 unknown; in between lies what is drawn between two points.
STATE_COLOURS = [
    {"comparator": ">", "value": 1.0, "palette": UNKNOWN},
    {"comparator": ">", "value": 0.0, "palette": FAIL},
    {"comparator": "<=", "value": 0.0, "palette": PASS},
]
_SPANS = {"1h": 1, "4h": 4, "1d": 24, "2d": 48, "1w": 168, "1mo": 720, "3mo": 2160}
_OPPOSITE = {">": ("<=",), ">=": ("<",), "<": (">=",), "<=": (">",), "=": ("<", ">")}
COLUMNS = 12


def span(shown: timedelta) -> dict[str, str]:
    """The shortest of Datadog's live spans that holds ``shown``."""
    hours = shown / timedelta(hours=1)
    return {"live_span": next((name for name, length in _SPANS.items() if length >= hours), "3mo")}


def condition_colours(text: str) -> list[dict[str, Any]]:
    """Green where the condition holds, red where not; nothing for a condition that is no comparison."""
    condition = conditions.parse(text)
    if condition is None:
        return []
    holds = condition.operator if condition.operator != "==" else "="
    red = [{"comparator": each, "value": condition.threshold, "palette": FAIL} for each in _OPPOSITE[holds]]
    return [{"comparator": holds, "value": condition.threshold, "palette": PASS}, *red]


def threshold_markers(text: str) -> list[dict[str, str]]:
    condition = conditions.parse(text)
    if condition is None:
        return []
    return [{"value": f"y = {condition.threshold:g}", "display_type": "error dashed", "label": f"passes {text}"}]


def _queries(queries: Mapping[str, str], aggregator: str | None = None) -> list[dict[str, str]]:
    how = {"aggregator": aggregator} if aggregator else {}
    return [{"data_source": "metrics", "name": name, "query": query, **how} for name, query in queries.items()]


def number(
    title: str,
    query: str,
    colours: Sequence[Mapping[str, Any]],
    shown: timedelta,
    *,
    formula: str = "value",
    size: str = "16",
    precision: int = 2,
    unit: str = "",
) -> Widget:
    """One number, the latest, on a coloured ground."""
    request: dict[str, Any] = {
        "response_format": "scalar",
        "queries": _queries({"value": query}, "last"),
        "formulas": [{"formula": formula}],
    }
    if colours:
        request["conditional_formats"] = [dict(each) for each in colours]
    return {
        "type": "query_value",
        "title": title,
        "title_size": size,
        "title_align": "left",
        "autoscale": True,
        "precision": precision,
        "time": span(shown),
        "requests": [request],
        **({"custom_unit": unit, "autoscale": False} if unit else {}),
    }


def lines(
    title: str,
    queries: Mapping[str, str],
    shown: timedelta,
    *,
    formulas: Iterable[Mapping[str, str]] = (),
    markers: Sequence[Mapping[str, str]] = (),
) -> Widget:
    """Lines over time. ``formulas``: each with a formula over the queries' names and an alias."""
    widget: Widget = {
        "type": "timeseries",
        "title": title,
        "title_size": "16",
        "title_align": "left",
        "show_legend": True,
        "legend_layout": "auto",
        "time": span(shown),
        "requests": [
            {
                "response_format": "timeseries",
                "display_type": "line",
                "queries": _queries(queries),
                "formulas": [dict(each) for each in formulas] or [{"formula": name} for name in queries],
            }
        ],
    }
    if markers:
        widget["markers"] = [dict(each) for each in markers]
    return widget


def table(title: str, queries: Mapping[str, str], formulas: Sequence[Mapping[str, Any]], shown: timedelta) -> Widget:
    """The latest values by the queries' groups, a column a formula."""
    return {
        "type": "query_table",
        "title": title,
        "title_size": "16",
        "title_align": "left",
        "has_search_bar": "auto",
        "time": span(shown),
        "requests": [
            {
                "response_format": "scalar",
                "queries": _queries(queries, "last"),
                "formulas": [dict(each) for each in formulas],
            }
        ],
    }


def heat(title: str, query: str, shown: timedelta, *, size: str = "16") -> Widget:
    """How many series have which value, over time."""
    return {
        "type": "heatmap",
        "title": title,
        "title_size": size,
        "title_align": "left",
        "time": span(shown),
        "yaxis": {"include_zero": True, "min": "0", "max": "2", "scale": "linear"},
        "requests": [
            {
                "response_format": "timeseries",
                "queries": _queries({"state": query}),
                "formulas": [{"formula": "state"}],
                "style": {"palette": "dog_classic"},
            }
        ],
    }


def note(content: str) -> Widget:
    return {
        "type": "note",
        "content": content,
        "background_color": "white",
        "font_size": "14",
        "text_align": "left",
        "vertical_align": "top",
        "show_tick": False,
        "tick_edge": "left",
        "tick_pos": "50%",
        "has_padding": True,
    }


def group(title: str, colour: str, placed: Sequence[Widget]) -> Widget:
    """``placed``: widgets with their layout inside the group."""
    return {
        "type": "group",
        "title": title,
        "layout_type": "ordered",
        "background_color": colour,
        "show_title": True,
        "widgets": list(placed),
    }


def placed(widget: Widget, x: int, y: int, width: int, height: int) -> Widget:
    return {"definition": widget, "layout": {"x": x, "y": y, "width": width, "height": height}}


class Grid:
    """Fills rows from the left; a widget that does not fit begins a new row below the highest of the last."""

    def __init__(self, columns: int = COLUMNS) -> None:
        self.widgets: list[Widget] = []
        self.height = 0
        self._columns = columns
        self._x = self._y = 0

    def add(self, widget: Widget, width: int, height: int) -> None:
        if self._x + width > self._columns:
            self._x, self._y = 0, self.height
        self.widgets.append(placed(widget, self._x, self._y, width, height))
        self._x += width
        self.height = max(self.height, self._y + height)

    def add_group(self, title: str, colour: str, inner: "Grid") -> None:
        # The group's title takes one row.
        self.add(group(title, colour, inner.widgets), self._columns, inner.height + 1)


def variables(env: str, *names: str) -> list[dict[str, Any]]:
    """Template variables: the environment of this installation, everything of the others."""
    here = {"env": [kept_value("env", env)]}
    return [{"name": name, "prefix": name, "defaults": here.get(name, ["*"])} for name in ("env", *names)]
