"""Infra health: the board for people who want to know what is red, since when, and what it means."""

from datetime import timedelta
from typing import Any

from service.boards import queries, widgets
from service.boards.subjects import UNSAID, Catalogue, Rhythm, Spread, Subject, rhythms
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD
from service.domain.naming import plain

VARIABLES = ("env", "repo", "workflow_name")
CHECK_GROUPS = ("workflow_name", "task", "check")
# A snapshot may have a thousand checks: the matrix shows them all, tiles only the first.
TILES = 24
_HEADINGS = {
    "ci": ("CI", "vivid_blue"),
    "training": ("Training", "vivid_purple"),
    "evaluation": ("Evaluation", "vivid_green"),
    UNSAID: ("Other", "vivid_orange"),
}
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


def board(catalogue: Catalogue) -> dict[str, Any]:
    """The dashboard without its mark."""
    grid = widgets.Grid()
    grid.add(widgets.note(_introduction(catalogue)), 12, 2)
    for category in catalogue.categories:
        heading, colour = _HEADINGS.get(category, (category, "vivid_orange"))
        grid.add_group(heading, colour, _category(catalogue, category))
    return {
        "title": f"Infra health{catalogue.place}",
        "description": "What the checks of CI, training and evaluations say, with their values and thresholds.",
        "layout_type": "ordered",
        "reflow_type": "fixed",
        "template_variables": widgets.variables(catalogue.env, *VARIABLES[1:]),
        "widgets": grid.widgets,
    }


def _category(catalogue: Catalogue, category: str) -> widgets.Grid:
    grid = widgets.Grid()
    subjects = catalogue.of(category)
    tiled = [each for each in subjects if each.is_catalogued]
    tiled += [each for each in subjects if not each.is_catalogued][: max(0, TILES - len(tiled))]
    for rhythm in rhythms(subjects):
        grid.add(_matrix(category, rhythm), 12, min(8, 3 + len({each.check for each in rhythm.subjects}) // 3))
    for subject in tiled:
        grid.add(_tile(subject), 2, 2)
        grid.add(_trend(subject), 4, 2)
    for spread in catalogue.spreads:
        if spread.category == category:
            for widget in _durations(spread):
                grid.add(widget, 6, 3)
    grid.add(widgets.note(_explained(catalogue, tiled, len(subjects) - len(tiled))), 12, max(2, len(tiled) // 2 + 1))
    return grid


def _matrix(category: str, rhythm: Rhythm) -> widgets.Widget:
    """Status by workflow, task and check; a value that was carried over is yellow, a stale one grey."""
    groups = list(CHECK_GROUPS) + sorted({name for each in rhythm.subjects for name in each.groups})
    without = [("workflow_name", name) for name in rhythm.without]
    within = queries.scope(VARIABLES, {"workflow_category": category, **rhythm.tags}, without)
    carried = rhythm.every * 1.5
    stale = max(each.max_age for each in rhythm.subjects)
    ages = [
        {"comparator": ">", "value": stale.total_seconds(), "palette": widgets.UNKNOWN},
        {"comparator": ">", "value": carried.total_seconds(), "palette": widgets.CARRIED},
    ]
    columns = {
        "state": queries.series("max", CHECK_STATE.name, within, groups, hold=True),
        "threshold": queries.series("max", CHECK_THRESHOLD.name, within, groups, hold=True),
        "age": queries.series("max", CHECK_AGE.name, within, groups, hold=True),
    }
    formulas: list[dict[str, Any]] = [
        {"formula": "state", "alias": "state: 0 pass, 1 fail, 2 unknown", "conditional_formats": widgets.STATE_COLOURS},
        {"formula": "threshold", "alias": "threshold"},
        {"formula": "age", "alias": "age of the value (yellow: carried, grey: stale)", "conditional_formats": ages},
    ]
    title = "Status by workflow and task" + (f": {rhythm.workflow}" if rhythm.workflow else "")
    return widgets.table(title, columns, formulas, 4 * _HOUR)


def _scope(subject: Subject) -> str:
    return queries.scope(VARIABLES, {"workflow_category": subject.category, **subject.tags})


def _tile(subject: Subject) -> widgets.Widget:
    query = queries.series(subject.worst, subject.metric.name, _scope(subject))
    colours = widgets.condition_colours(subject.condition)
    return widgets.number(subject.title, query, colours, max(4 * _HOUR, 3 * subject.every))


def _trend(subject: Subject) -> widgets.Widget:
    query = queries.series(subject.worst, subject.metric.name, _scope(subject), subject.groups)
    return widgets.lines(
        subject.title,
        {"value": query},
        max(_DAY, 48 * subject.every),
        markers=widgets.threshold_markers(subject.condition),
    )


def _durations(spread: Spread) -> list[widgets.Widget]:
    """p50, p90 and p99 of a distribution, a graph a kind."""
    found = []
    for kind in spread.kinds or ("",):
        within = queries.scope(VARIABLES, {"workflow_category": spread.category} | ({"kind": kind} if kind else {}))
        lines = {name: queries.series(name, spread.metric.name, within) for name in ("p50", "p90", "p99")}
        name = spread.metric.name.rsplit(".", 1)[-1]
        what = "Duration of runs" if name == "duration" else name
        title = f"{what}{f', {kind}' if kind else ''} ({spread.metric.unit or 'value'})"
        found.append(widgets.lines(title, lines, 7 * _DAY))
    return found


def _introduction(catalogue: Catalogue) -> str:
    return (
        "**How to read this.** Tiles show the latest value, green where the condition holds and red where not; the"
        " tables show each check's state, which is sent again every few minutes, so a hole means that the daemon is"
        f" gone. Why a check is red, with links to the runs behind it: {catalogue.page_link()}. "
        f"What to do: {catalogue.section('monitors')}."
    )


def _passes(subject: Subject) -> str:
    if widgets.condition_colours(subject.condition):
        return f"Passes: {subject.condition}"
    return "Without a threshold it has no verdict" if subject.is_catalogued else "Passes: as its record says"


def _explained(catalogue: Catalogue, subjects: list[Subject], more: int) -> str:
    lines = [
        f"- **{plain(each.title)}**: {each.metric.help or 'as its snapshot record says'}. {_passes(each)}."
        for each in subjects
    ]
    if more > 0:
        lines.append(f"- and {more} more, in the table above.")
    where = f"Where to look: {catalogue.page_link()}; {catalogue.section('check-failing')}."
    return "\n".join(["**What the checks mean**", *lines, "", where])
