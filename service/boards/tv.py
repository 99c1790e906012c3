"""Infra health TV: few large tiles and the heat map, for a screen of 1920x1080 read from five metres.

A free layout has no fixed size: TV mode stretches it to the screen, so what counts is 16:9. Its units are some 12
pixels, and 160 by 90 of them fill 1920x1080.
"""

from datetime import timedelta
from typing import Any

from service.boards import queries, widgets
from service.boards.health import CHECK_GROUPS
from service.boards.subjects import Catalogue
from service.domain.checks import CHECK_AGE, CHECK_STATE

WIDTH, HEIGHT = 160, 90
_TOP, _MIDDLE = 30, 24
_ACROSS = 4  # tiles in a row of workflows: a tile is 480 pixels wide
_ROWS = 1
_SHOWN = timedelta(hours=1)
_SIZE = "48"
# Groups whose state is exactly 1: pass is 0 and not counted, unknown is 2 and cut off.
_FAILING = "count_nonzero(cutoff_max(value, 1))"
_UNKNOWN = "count_nonzero(cutoff_min(value, 2))"
_NOT_PASSING = "count_nonzero(value)"
_NONE_IS_GOOD = [
    {"comparator": ">", "value": 0.0, "palette": widgets.FAIL},
    {"comparator": "<=", "value": 0.0, "palette": widgets.PASS},
]
_NONE_IS_KNOWN = [
    {"comparator": ">", "value": 0.0, "palette": widgets.UNKNOWN},
    {"comparator": "<=", "value": 0.0, "palette": widgets.PASS},
]


def board(catalogue: Catalogue) -> dict[str, Any]:
    """The dashboard without its mark."""
    groups = (*CHECK_GROUPS, *sorted({name for each in catalogue.subjects for name in each.groups}))
    everything = queries.series("max", CHECK_STATE.name, queries.scope(["env"]), groups, hold=True)
    third = WIDTH // 3
    tiles = [
        ("Checks failing", everything, _FAILING, _NONE_IS_GOOD),
        ("Checks unknown", everything, _UNKNOWN, _NONE_IS_KNOWN),
    ]
    found = [
        widgets.placed(_count(title, query, formula, colours), place * third, 0, third, _TOP)
        for place, (title, query, formula, colours) in enumerate(tiles)
    ]
    found.append(widgets.placed(_freshness(catalogue), 2 * third, 0, WIDTH - 2 * third, _TOP))
    wide = WIDTH // _ACROSS
    areas = _areas(catalogue)
    for place, (title, tags) in enumerate(areas):
        query = queries.series("max", CHECK_STATE.name, queries.scope(["env"], tags), groups, hold=True)
        tile = _count(title, query, _NOT_PASSING, _NONE_IS_GOOD)
        found.append(widgets.placed(tile, place * wide, _TOP, wide, _MIDDLE))
    y = _TOP + (_MIDDLE if areas else 0)
    heat = widgets.heat("States of all checks: 0 pass, 1 fail, 2 unknown", everything, timedelta(days=1), size="32")
    found.append(widgets.placed(heat, 0, y, WIDTH, HEIGHT - y))
    return {
        "title": f"Infra health TV{catalogue.place}",
        "description": "For an office screen of 1920x1080 (docs/office-screen.md).",
        "layout_type": "free",
        "template_variables": widgets.variables(catalogue.env),
        "widgets": found,
    }


def _areas(catalogue: Catalogue) -> list[tuple[str, dict[str, str]]]:
    """What gets a tile of its own: the workflows, where there are few, else the categories."""
    workflows = {(each.category, each.workflow_name): None for each in catalogue.subjects}
    if len(workflows) <= _ACROSS * _ROWS:
        return [(_words(name), {"workflow_category": category, "workflow_name": name}) for category, name in workflows]
    return [(_words(name), {"workflow_category": name}) for name in catalogue.categories[:_ACROSS]]


def _words(name: str) -> str:
    return "CI: not passing" if name == "ci" else f"{name.replace('_', ' ').capitalize()[:28]}: not passing"


def _count(title: str, query: str, formula: str, colours: list[dict[str, Any]]) -> widgets.Widget:
    return widgets.number(title, query, colours, _SHOWN, formula=formula, size=_SIZE, precision=0)


def _freshness(catalogue: Catalogue) -> widgets.Widget:
    """How old the oldest of the freshest news is: what tells a quiet screen from a dead one."""
    late = 2 * max((each.every for each in catalogue.collectors), default=timedelta(hours=1))
    colours = [
        {"comparator": ">", "value": late / timedelta(minutes=1), "palette": widgets.UNKNOWN},
        {"comparator": "<=", "value": late / timedelta(minutes=1), "palette": widgets.PASS},
    ]
    query = queries.series("min", CHECK_AGE.name, queries.scope(["env"]), hold=True)
    return widgets.number(
        "Last measured, minutes ago", query, colours, _SHOWN, formula="value / 60", size=_SIZE, precision=0, unit="min"
    )
