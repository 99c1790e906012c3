"""Collectors: the daemon itself, by what it says of its own health."""

from datetime import timedelta
from typing import Any

from service.boards import queries, widgets
from service.boards.subjects import Catalogue
from service.domain.samples import Metric
from service.pipeline.job import DURATION, POINTS_LOST, QUOTA_REMAINING, SAMPLES, SUCCESS_AGE, UP

_VARIABLES = ("env", "collector")
_DAY = timedelta(days=1)
_UP = [
    {"comparator": "<", "value": 1.0, "palette": widgets.FAIL},
    {"comparator": ">=", "value": 1.0, "palette": widgets.PASS},
]
_NONE_IS_GOOD = [
    {"comparator": ">", "value": 0.0, "palette": widgets.FAIL},
    {"comparator": "<=", "value": 0.0, "palette": widgets.PASS},
]


def board(catalogue: Catalogue) -> dict[str, Any]:
    """The dashboard without its mark."""
    longest = max((each.every for each in catalogue.collectors), default=timedelta(hours=1))
    recent = max(timedelta(hours=4), 3 * longest)
    grid = widgets.Grid()
    grid.add(widgets.note(_introduction(catalogue)), 12, 2)
    grid.add(_overview(recent), 12, 3)
    grid.add(_over_time("Up: 1 the last run succeeded, 0 not", "min", UP), 6, 3)
    grid.add(_over_time("Duration of a run (s)", "max", DURATION), 6, 3)
    grid.add(_lateness(catalogue), 6, 3)
    grid.add(_over_time("Age of the last success (s)", "max", SUCCESS_AGE), 6, 3)
    grid.add(_over_time("Samples collected by a run", "max", SAMPLES), 6, 3)
    grid.add(_over_time("Points lost within 24 hours", "max", POINTS_LOST), 6, 3)
    if any(each.spends_quota for each in catalogue.collectors):
        grid.add(_over_time("Requests left of GitHub's quota", "min", QUOTA_REMAINING), 12, 3)
    return {
        "title": f"Infra health: Collectors{catalogue.place}",
        "description": "The daemon itself: do its collectors run, in time, and do their points arrive?",
        "layout_type": "ordered",
        "reflow_type": "fixed",
        "template_variables": widgets.variables(catalogue.env, *_VARIABLES[1:]),
        "widgets": grid.widgets,
    }


def _over_time(title: str, space: str, metric: Metric) -> widgets.Widget:
    query = queries.series(space, metric.name, queries.scope(_VARIABLES), ["collector"])
    return widgets.lines(title, {"value": query}, _DAY)


def _overview(recent: timedelta) -> widgets.Widget:
    columns = {"up": UP, "success_age": SUCCESS_AGE, "duration": DURATION, "samples": SAMPLES, "lost": POINTS_LOST}
    within = queries.scope(_VARIABLES)
    found = {
        name: queries.series("min" if metric is UP else "max", metric.name, within, ["collector"])
        for name, metric in columns.items()
    }
    formulas: list[dict[str, Any]] = [
        {"formula": "up", "alias": "up", "conditional_formats": _UP},
        {"formula": "success_age", "alias": "last success, s ago"},
        {"formula": "duration", "alias": "duration, s"},
        {"formula": "samples", "alias": "samples"},
        {"formula": "lost", "alias": "points lost within 24 h", "conditional_formats": _NONE_IS_GOOD},
    ]
    return widgets.table("Collectors", found, formulas, recent)


def _lateness(catalogue: Catalogue) -> widgets.Widget:
    """How much longer ago the last success is than the schedule lets it be: each collector against its own interval."""
    found, formulas = {}, []
    for place, each in enumerate(catalogue.collectors):
        within = queries.scope(_VARIABLES, {"collector": each.name})
        found[f"age{place}"] = queries.series("max", SUCCESS_AGE.name, within)
        formulas.append({"formula": f"clamp_min(age{place} - {each.every.total_seconds():g}, 0)", "alias": each.name})
    return widgets.lines("Lateness: last success beyond the schedule's interval (s)", found, _DAY, formulas=formulas)


def _introduction(catalogue: Catalogue) -> str:
    return (
        "**The daemon itself.** Runs, their faults and log, points that wait or were lost: "
        f"{catalogue.page_link()}. What to do when a collector is down: {catalogue.section('collector-down')}."
    )
