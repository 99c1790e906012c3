"""The three dashboards: Infra health (checks), TV (a screen on the wall), Collectors (the daemon itself)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from service.boards import widgets
from service.boards.catalogue import Catalogue, CheckPanel, DistributionPanel, Interval, group_tags
from service.boards.widgets import NONE_IS_GOOD, PASS, UNKNOWN, Widget, compare, query, scope
from service.domain.alerts import escape_markdown
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE
from service.domain.samples import Metric
from service.pipeline.job import DURATION, POINTS_LOST, SAMPLES, SUCCESS_AGE, UP

# A free layout has no fixed size: TV mode stretches it to the screen, so what counts is 16:9. Its units are some 12
# pixels, and 160 by 90 of them fill 1920x1080.
TV_WIDTH, TV_HEIGHT = 160, 90
_TV_TOP, _TV_MIDDLE = 30, 24
_TV_TILES = 4  # in the middle row at most: a tile is 480 pixels wide
_VARIABLES = ("env", "repo", "workflow_name")
# A snapshot may have a thousand checks: the tables show them all, tiles only the first.
_MAX_TILES = 24
_HEADINGS = {
    "ci": ("CI", "vivid_blue"),
    "training": ("Training", "vivid_purple"),
    "evaluation": ("Evaluation", "vivid_green"),
}
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
# A state is 0 pass, 1 fail, 2 unknown. What is not counted becomes 0 and is not cut off: without any value left
# Datadog would show "no data" where the number is 0.
_FAILING = "count_nonzero(1 - abs(value - 1))"
_UNKNOWN = "count_nonzero(clamp_min(value, 1) - 1)"
_NOT_PASSING = "count_nonzero(value)"


def build_health(catalogue: Catalogue) -> dict[str, Any]:
    """For people who want to know what is red, since when, and what it means."""
    text = (
        "**How to read this.** Tiles show the latest value, green where the condition holds and red where not;"
        " tables show each check's state, which is sent again every few minutes, so a hole means that the daemon"
        f" is gone. Why a check is red, with links to the runs behind it: {catalogue.page_link()}. What to do:"
        f" {catalogue.runbook_link('monitors')}."
    )
    grid = _grid(text)
    for category in catalogue.categories:
        grid.add_group(*_heading(category), _category(catalogue, category))
    description = "What the checks of CI, training and evaluations say, with their values and thresholds."
    return _board(catalogue, "", description, _VARIABLES[1:], grid)


def build_collectors(catalogue: Catalogue) -> dict[str, Any]:
    """For the operator: do the collectors run, in time, and do their points arrive?"""
    within, by = scope(("env", "collector")), ["collector"]
    grid = _grid(
        f"**The daemon itself.** Runs, their faults and log, points that wait or were lost: {catalogue.page_link()}."
        f" What to do when a collector is down: {catalogue.runbook_link('collector-down')}."
    )
    up = [compare("<", 1.0, widgets.FAIL), compare(">=", 1.0, PASS)]
    rows: list[tuple[str, str, Metric, widgets.Colours]] = [
        ("Up: 1 the last run succeeded, 0 not", "min", UP, up),
        ("Last success, seconds ago", "max", SUCCESS_AGE, []),
        ("Duration of a run (s)", "max", DURATION, []),
        ("Samples collected by a run", "max", SAMPLES, []),
        ("Points lost within 24 hours", "max", POINTS_LOST, NONE_IS_GOOD),
    ]
    columns = {
        metric.name.rpartition(".")[2]: (title, query(space, metric.name, within, by), colours)
        for title, space, metric, colours in rows
    }
    longest = max((each.every for each in catalogue.collectors), default=_HOUR)
    grid.add(widgets.table("Collectors", columns, max(4 * _HOUR, 3 * longest)), 12, 3)
    quota = next((each.quota for each in catalogue.collectors if each.quota), None)
    rows += [("Requests left of GitHub's quota", "min", quota[0], [])] if quota else []
    for title, space, metric, _ in rows:
        grid.add(widgets.lines(title, {"value": query(space, metric.name, within, by)}, _DAY), 6, 3)
    description = "The daemon itself: do its collectors run, in time, and do their points arrive?"
    return _board(catalogue, ": Collectors", description, by, grid)


def build_tv(catalogue: Catalogue) -> dict[str, Any]:
    """Few large tiles and the heat map, for a screen of 1920x1080 read from five metres."""
    everything = _states(catalogue.checks, {})
    third = TV_WIDTH // 3
    unknown = [compare(">", 0.0, UNKNOWN), compare("<=", 0.0, PASS)]
    found = [
        widgets.placed(_count("Checks failing", everything, _FAILING, NONE_IS_GOOD), 0, 0, third, _TV_TOP),
        widgets.placed(_count("Checks unknown", everything, _UNKNOWN, unknown), third, 0, third, _TV_TOP),
        widgets.placed(_freshness(catalogue), 2 * third, 0, TV_WIDTH - 2 * third, _TV_TOP),
    ]
    areas = [name for name in catalogue.categories if catalogue.checks_of(name)][:_TV_TILES]
    width = TV_WIDTH // max(1, len(areas))
    for place, name in enumerate(areas):
        value = _states(catalogue.checks_of(name), {"workflow_category": name})
        tile = _count(f"{_heading(name)[0]}: not passing", value, _NOT_PASSING, NONE_IS_GOOD)
        found.append(widgets.placed(tile, place * width, _TV_TOP, width, _TV_MIDDLE))
    y = _TV_TOP + (_TV_MIDDLE if areas else 0)
    heatmap = widgets.heatmap("States of all checks: 0 pass, 1 fail, 2 unknown", everything, _DAY, size="32")
    found.append(widgets.placed(heatmap, 0, y, TV_WIDTH, TV_HEIGHT - y))
    return {
        "title": f"Infra health TV{catalogue.place}",
        "description": "For an office screen of 1920x1080 (docs/office-screen.md).",
        "layout_type": "free",
        "template_variables": widgets.template_variables(catalogue.env),
        "widgets": found,
    }


DASHBOARDS: Mapping[str, Callable[[Catalogue], dict[str, Any]]] = {
    "health": build_health,
    "tv": build_tv,
    "collectors": build_collectors,
}


def _heading(category: str) -> tuple[str, str]:
    """Title and colour."""
    return _HEADINGS.get(category, (category.replace("_", " ").capitalize()[:28] or "Other", "vivid_orange"))


def _grid(text: str) -> widgets.Grid:
    grid = widgets.Grid()
    grid.add(widgets.note(text), 12, 2)
    return grid


def _board(
    catalogue: Catalogue, about: str, description: str, variables: Iterable[str], grid: widgets.Grid
) -> dict[str, Any]:
    return {
        "title": f"Infra health{about}{catalogue.place}",
        "description": description,
        "layout_type": "ordered",
        "reflow_type": "fixed",
        "template_variables": widgets.template_variables(catalogue.env, *variables),
        "widgets": grid.widgets,
    }


# Infra health


def _category(catalogue: Catalogue, category: str) -> widgets.Grid:
    grid = widgets.Grid()
    checks = catalogue.checks_of(category)
    for interval in catalogue.intervals(category):
        table, graph = _status(interval)
        grid.add(table, 12, min(8, 3 + len({each.tags["check"] for each in checks}) // 3))
        grid.add(graph, 12, 4)
    for check in checks[:_MAX_TILES]:
        value = query(check.worst, check.metric.name, scope(_VARIABLES, check.tags))
        colours = widgets.condition_colours(check.condition)
        grid.add(widgets.number(check.title, value, colours, max(4 * _HOUR, 3 * check.every)), 2, 2)
    for distribution in catalogue.distributions:
        if distribution.category == category:
            grid.add(_percentiles(distribution), 12, 3)
    grid.add(widgets.note(_explain(catalogue, checks)), 12, max(2, min(len(checks), _MAX_TILES) // 2 + 1))
    return grid


def _status(interval: Interval) -> tuple[Widget, Widget]:
    """A table of the checks, in which a value that was carried over is yellow; and value and threshold over time."""
    carried = [compare(">", (1.5 * interval.every).total_seconds(), widgets.CARRIED)]
    within = scope(_VARIABLES, interval.tags, interval.without)
    columns: dict[str, tuple[str, str, widgets.Colours]] = {
        name: (heading, query("max", metric.name, within, group_tags(interval.checks), hold=True), colours)
        for name, heading, metric, colours in (
            ("state", "state: 0 pass, 1 fail, 2 unknown", CHECK_STATE, widgets.STATE_COLOURS),
            ("value", "value", CHECK_VALUE, []),
            ("threshold", "threshold", CHECK_THRESHOLD, []),
            ("age", "age of the value (yellow: carried)", CHECK_AGE, carried),
        )
    }
    about = f": {interval.tags['workflow_name']}" if "workflow_name" in interval.tags else ""
    value, threshold = columns["value"][1], columns["threshold"][1]
    title, shown = f"Values and thresholds{about}", max(_DAY, 48 * interval.every)
    return (
        widgets.table(f"Status by workflow and task{about}", columns, 4 * _HOUR),
        widgets.lines(title, {"value": value}, shown, dashed=threshold),
    )


def _percentiles(distribution: DistributionPanel) -> Widget:
    metric = distribution.metric
    within = scope(_VARIABLES, {"workflow_category": distribution.category} if distribution.category else {})
    found = {name: query(name, metric.name, within, ["kind"]) for name in ("p50", "p90", "p99")}
    name = metric.name.rpartition(".")[2]
    what = "Duration of runs" if name == "duration" else name
    return widgets.lines(f"{what} ({metric.unit or 'value'})", found, 7 * _DAY)


def _explain(catalogue: Catalogue, checks: list[CheckPanel]) -> str:
    found = ["**What the checks mean**"]
    for each in checks[:_MAX_TILES]:
        meaning = each.metric.help or "as its snapshot record says"
        passes = f". Passes: {each.condition}" if widgets.condition_colours(each.condition) else ""
        found.append(f"- **{escape_markdown(each.title)}**: {meaning}{passes}.")
    if more := len(checks[_MAX_TILES:]):
        found.append(f"- and {more} more, in the table above.")
    where = f"Where to look: {catalogue.page_link()}; {catalogue.runbook_link('check-failing')}."
    return "\n".join([*found, "", where])


# TV


def _states(checks: Iterable[CheckPanel], tags: Mapping[str, str]) -> str:
    """The state of each of the checks by itself."""
    return query("max", CHECK_STATE.name, scope(["env"], tags), group_tags(checks), hold=True)


def _count(title: str, value: str, formula: str, colours: widgets.Colours) -> Widget:
    return widgets.number(title, value, colours, _HOUR, formula=formula, size="48", precision=0)


def _freshness(catalogue: Catalogue) -> Widget:
    """How old the newest value is: what tells a quiet screen from a dead one. The most frequent collector brings it."""
    late = 2 * min((each.every for each in catalogue.collectors), default=_HOUR) / timedelta(minutes=1)
    colours = [compare(">", late, UNKNOWN), compare("<=", late, PASS)]
    age = query("min", CHECK_AGE.name, scope(["env"]), hold=True)
    return _count("Last measured, minutes ago", age, "value / 60", colours)
