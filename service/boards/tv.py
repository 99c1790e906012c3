"""Infra health TV: few large tiles and the heat map, for a screen of 1920x1080 read from five metres.

A free layout has no fixed size: TV mode stretches it to the screen, so what counts is 16:9. Its units are some 12
pixels, and 160 by 90 of them fill 1920x1080.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from service.boards import queries, widgets
from service.boards.health import CHECK_GROUPS
from service.boards.subjects import Catalogue, Subject
from service.domain.checks import CHECK_AGE, CHECK_STATE

WIDTH, HEIGHT = 160, 90
_TOP, _MIDDLE = 30, 24
_ACROSS = 4  # tiles in a row of workflows: a tile is 480 pixels wide
_SHOWN = timedelta(hours=1)
_SIZE = "48"
# A state is 0 pass, 1 fail, 2 unknown. What is not counted becomes 0 and is not cut off: without any value left
# Datadog would show "no data" where the number is 0.
_FAILING = "count_nonzero(1 - abs(value - 1))"
_UNKNOWN = "count_nonzero(clamp_min(value, 1) - 1)"
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
    everything = _states(catalogue.subjects, {})
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
    for place, (title, tags, subjects) in enumerate(areas):
        tile = _count(title, _states(subjects, tags), _NOT_PASSING, _NONE_IS_GOOD)
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


def _states(subjects: Iterable[Subject], tags: Mapping[str, str]) -> str:
    """The state of each of the checks by itself."""
    groups = (*CHECK_GROUPS, *sorted({name for each in subjects for name in each.groups}))
    return queries.series("max", CHECK_STATE.name, queries.scope(["env"], tags), groups, hold=True)


def _areas(catalogue: Catalogue) -> list[tuple[str, dict[str, str], list[Subject]]]:
    """What gets a tile of its own, with tags and checks: the workflows, where there are few, else the categories."""
    workflows: dict[tuple[str, str], list[Subject]] = {}
    for each in catalogue.subjects:
        workflows.setdefault((each.category, each.workflow_name), []).append(each)
    if len(workflows) <= _ACROSS:
        return [
            (_words(name), {"workflow_category": category, "workflow_name": name}, subjects)
            for (category, name), subjects in workflows.items()
        ]
    shown = [name for name in catalogue.categories if catalogue.of(name)][:_ACROSS]
    return [(_words(name), {"workflow_category": name}, catalogue.of(name)) for name in shown]


def _words(name: str) -> str:
    return "CI: not passing" if name == "ci" else f"{name.replace('_', ' ').capitalize()[:28]}: not passing"


def _count(title: str, query: str, formula: str, colours: list[dict[str, Any]]) -> widgets.Widget:
    return widgets.number(title, query, colours, _SHOWN, formula=formula, size=_SIZE, precision=0)


def _freshness(catalogue: Catalogue) -> widgets.Widget:
    """How old the newest value is: what tells a quiet screen from a dead one. The most frequent collector brings it."""
    late = 2 * min((each.every for each in catalogue.collectors), default=timedelta(hours=1))
    colours = [
        {"comparator": ">", "value": late / timedelta(minutes=1), "palette": widgets.UNKNOWN},
        {"comparator": "<=", "value": late / timedelta(minutes=1), "palette": widgets.PASS},
    ]
    query = queries.series("min", CHECK_AGE.name, queries.scope(["env"]), hold=True)
    return widgets.number(
        "Last measured, minutes ago", query, colours, _SHOWN, formula="value / 60", size=_SIZE, precision=0, unit="min"
    )
