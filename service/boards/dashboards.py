"""The three dashboards: Infra health (checks), TV (a screen on the wall), Collectors (the daemon itself)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from service.boards import widgets
from service.boards.catalogue import Catalogue, CheckPanel, DistributionPanel, Interval
from service.boards.widgets import NONE_IS_GOOD, PASS, UNKNOWN, Widget, compare, query, scope
from service.domain.alerts import escape_markdown
from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE
from service.domain.samples import CHECK_TAGS
from service.pipeline.job import DURATION, POINTS_LOST, SAMPLES, SUCCESS_AGE, UP

# A free layout has no fixed size: TV mode stretches it to the screen, so what counts is 16:9. Its units are some 12
# pixels, and 160 by 90 of them fill 1920x1080.
TV_WIDTH, TV_HEIGHT = 160, 90
_TV_TOP, _TV_MIDDLE = 30, 24
_TV_TILES = 4  # in the row of workflows: a tile is 480 pixels wide
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
    grid = widgets.Grid()
    grid.add(
        widgets.note(
            "**How to read this.** Tiles show the latest value, green where the condition holds and red where not;"
            " tables show each check's state, which is sent again every few minutes, so a hole means that the daemon"
            f" is gone. Why a check is red, with links to the runs behind it: {catalogue.page_link()}. What to do:"
            f" {catalogue.runbook_link('monitors')}."
        ),
        12,
        2,
    )
    for category in catalogue.categories:
        heading, colour = _HEADINGS.get(category, (category or "Other", "vivid_orange"))
        grid.add_group(heading, colour, _category(catalogue, category))
    description = "What the checks of CI, training and evaluations say, with their values and thresholds."
    return _board(catalogue, "", description, _VARIABLES[1:], grid)


def build_collectors(catalogue: Catalogue) -> dict[str, Any]:
    """For the operator: do the collectors run, in time, and do their points arrive?"""
    within = scope(("env", "collector"))
    grid = widgets.Grid()
    grid.add(
        widgets.note(
            "**The daemon itself.** Runs, their faults and log, points that wait or were lost: "
            f"{catalogue.page_link()}. What to do when a collector is down: {catalogue.runbook_link('collector-down')}."
        ),
        12,
        2,
    )
    grid.add(_overview(catalogue, within), 12, 3)
    quota = next((each.quota for each in catalogue.collectors if each.quota), None)
    for title, space, metric in (
        ("Up: 1 the last run succeeded, 0 not", "min", UP),
        ("Duration of a run (s)", "max", DURATION),
        ("Samples collected by a run", "max", SAMPLES),
        ("Points lost within 24 hours", "max", POINTS_LOST),
        *([("Requests left of GitHub's quota", "min", quota[0])] if quota else []),
    ):
        grid.add(widgets.lines(title, {"value": query(space, metric.name, within, ["collector"])}, _DAY), 6, 3)
    grid.add(_lateness(catalogue), 6, 3)
    description = "The daemon itself: do its collectors run, in time, and do their points arrive?"
    return _board(catalogue, ": Collectors", description, ["collector"], grid)


def build_tv(catalogue: Catalogue) -> dict[str, Any]:
    """Few large tiles and the heat map, for a screen of 1920x1080 read from five metres."""
    everything = _states(catalogue.checks, {})
    third, quarter = TV_WIDTH // 3, TV_WIDTH // _TV_TILES
    unknown = [compare(">", 0.0, UNKNOWN), compare("<=", 0.0, PASS)]
    found = [
        widgets.placed(_count("Checks failing", everything, _FAILING, NONE_IS_GOOD), 0, 0, third, _TV_TOP),
        widgets.placed(_count("Checks unknown", everything, _UNKNOWN, unknown), third, 0, third, _TV_TOP),
        widgets.placed(_freshness(catalogue), 2 * third, 0, TV_WIDTH - 2 * third, _TV_TOP),
    ]
    areas = _areas(catalogue)
    for place, (title, tags, checks) in enumerate(areas):
        tile = _count(title, _states(checks, tags), _NOT_PASSING, NONE_IS_GOOD)
        found.append(widgets.placed(tile, place * quarter, _TV_TOP, quarter, _TV_MIDDLE))
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
        title = f": {interval.workflow}" if interval.workflow else ""
        grid.add(_table(category, interval, title), 12, min(8, 3 + len({each.tags["check"] for each in checks}) // 3))
        grid.add(_values(category, interval, title), 12, 4)
    tiled = sorted(checks, key=lambda each: not each.is_expected)[:_MAX_TILES]
    for check in tiled:
        grid.add(_tile(check), 2, 2)
    for distribution in catalogue.distributions:
        if distribution.category == category:
            grid.add(_percentiles(distribution), 12, 3)
    grid.add(widgets.note(_explain(catalogue, tiled, len(checks) - len(tiled))), 12, max(2, len(tiled) // 2 + 1))
    return grid


def _scope(category: str, interval: Interval) -> str:
    tags = {"workflow_category": category} | ({"workflow_name": interval.workflow} if interval.workflow else {})
    return scope(_VARIABLES, tags, [("workflow_name", name) for name in interval.without])


def _table(category: str, interval: Interval, title: str) -> Widget:
    """Each check by workflow, task and check; a value that was carried over is yellow, a stale one grey."""
    stale, carried = max(each.max_age for each in interval.checks), 1.5 * interval.every
    ages = [compare(">", stale.total_seconds(), UNKNOWN), compare(">", carried.total_seconds(), widgets.CARRIED)]
    columns = {"state": CHECK_STATE, "value": CHECK_VALUE, "threshold": CHECK_THRESHOLD, "age": CHECK_AGE}
    within = _scope(category, interval)
    queries = {name: query("max", each.name, within, interval.groups, hold=True) for name, each in columns.items()}
    formulas: list[dict[str, Any]] = [
        {"formula": "state", "alias": "state: 0 pass, 1 fail, 2 unknown", "conditional_formats": widgets.STATE_COLOURS},
        {"formula": "value", "alias": "value"},
        {"formula": "threshold", "alias": "threshold"},
        {"formula": "age", "alias": "age of the value (yellow: carried, grey: stale)", "conditional_formats": ages},
    ]
    return widgets.table(f"Status by workflow and task{title}", queries, formulas, 4 * _HOUR)


def _values(category: str, interval: Interval, title: str) -> Widget:
    """Value and threshold (dashed) of every check; the template variables narrow it down."""
    within = _scope(category, interval)
    value, threshold = (
        query("max", metric.name, within, interval.groups, hold=True) for metric in (CHECK_VALUE, CHECK_THRESHOLD)
    )
    shown = max(_DAY, 48 * interval.every)
    return widgets.lines(f"Values and thresholds{title}", {"value": value}, shown, thresholds={"threshold": threshold})


def _tile(check: CheckPanel) -> Widget:
    value = query(check.worst, check.metric.name, scope(_VARIABLES, check.tags))
    colours = widgets.condition_colours(check.condition)
    return widgets.number(check.title, value, colours, max(4 * _HOUR, 3 * check.every))


def _percentiles(distribution: DistributionPanel) -> Widget:
    metric = distribution.metric
    within = scope(_VARIABLES, {"workflow_category": distribution.category} if distribution.category else {})
    groups = [tag for tag in distribution.tags if tag == "kind"]
    found = {name: query(name, metric.name, within, groups) for name in ("p50", "p90", "p99")}
    name = metric.name.rpartition(".")[2]
    what = "Duration of runs" if name == "duration" else name
    return widgets.lines(f"{what} ({metric.unit or 'value'})", found, 7 * _DAY)


def _explain(catalogue: Catalogue, checks: list[CheckPanel], more: int) -> str:
    found = ["**What the checks mean**"]
    for each in checks:
        meaning = each.metric.help or "as its snapshot record says"
        passes = f". Passes: {each.condition}" if widgets.condition_colours(each.condition) else ""
        found.append(f"- **{escape_markdown(each.title)}**: {meaning}{passes}.")
    found += [f"- and {more} more, in the table above."] if more else []
    where = f"Where to look: {catalogue.page_link()}; {catalogue.runbook_link('check-failing')}."
    return "\n".join([*found, "", where])


# Collectors


def _overview(catalogue: Catalogue, within: str) -> Widget:
    longest = max((each.every for each in catalogue.collectors), default=_HOUR)
    columns = {"up": UP, "success_age": SUCCESS_AGE, "duration": DURATION, "samples": SAMPLES, "lost": POINTS_LOST}
    queries = {
        name: query("min" if metric is UP else "max", metric.name, within, ["collector"])
        for name, metric in columns.items()
    }
    up = [compare("<", 1.0, widgets.FAIL), compare(">=", 1.0, PASS)]
    formulas: list[dict[str, Any]] = [
        {"formula": "up", "alias": "up", "conditional_formats": up},
        {"formula": "success_age", "alias": "last success, s ago"},
        {"formula": "duration", "alias": "duration, s"},
        {"formula": "samples", "alias": "samples"},
        {"formula": "lost", "alias": "points lost within 24 h", "conditional_formats": NONE_IS_GOOD},
    ]
    return widgets.table("Collectors", queries, formulas, max(4 * _HOUR, 3 * longest))


def _lateness(catalogue: Catalogue) -> Widget:
    """How much longer ago the last success is than the schedule lets it be: each collector against its own interval."""
    queries, formulas = {}, []
    for place, each in enumerate(catalogue.collectors):
        queries[f"age{place}"] = query("max", SUCCESS_AGE.name, scope(("env", "collector"), {"collector": each.name}))
        formulas.append({"formula": f"clamp_min(age{place} - {each.every.total_seconds():g}, 0)", "alias": each.name})
    title = "Lateness: last success beyond the schedule's interval (s)"
    return widgets.lines(title, queries, _DAY, formulas=formulas)


# TV


def _states(checks: Iterable[CheckPanel], tags: Mapping[str, str]) -> str:
    """The state of each of the checks by itself."""
    groups = (*CHECK_TAGS[1:], *sorted({name for each in checks for name in each.groups}))
    return query("max", CHECK_STATE.name, scope(["env"], tags), groups, hold=True)


def _areas(catalogue: Catalogue) -> list[tuple[str, dict[str, str], list[CheckPanel]]]:
    """What gets a tile of its own, with tags and checks: the workflows, where there are few, else the categories."""
    workflows: dict[tuple[str, str], list[CheckPanel]] = {}
    for each in catalogue.checks:
        workflows.setdefault((each.category, each.workflow_name), []).append(each)
    if len(workflows) <= _TV_TILES:
        return [
            (_heading(name), {"workflow_category": category, "workflow_name": name}, checks)
            for (category, name), checks in workflows.items()
        ]
    shown = [name for name in catalogue.categories if catalogue.checks_of(name)][:_TV_TILES]
    return [(_heading(name), {"workflow_category": name}, catalogue.checks_of(name)) for name in shown]


def _heading(name: str) -> str:
    return f"{'CI' if name == 'ci' else name.replace('_', ' ').capitalize()[:28]}: not passing"


def _count(title: str, value: str, formula: str, colours: list[dict[str, Any]]) -> Widget:
    return widgets.number(title, value, colours, _HOUR, formula=formula, size="48", precision=0)


def _freshness(catalogue: Catalogue) -> Widget:
    """How old the newest value is: what tells a quiet screen from a dead one. The most frequent collector brings it."""
    late = 2 * min((each.every for each in catalogue.collectors), default=_HOUR) / timedelta(minutes=1)
    colours = [compare(">", late, UNKNOWN), compare("<=", late, PASS)]
    age = query("min", CHECK_AGE.name, scope(["env"]), hold=True)
    title, formula = "Last measured, minutes ago", "value / 60"
    return widgets.number(title, age, colours, _HOUR, formula=formula, size="48", precision=0, unit="min")
