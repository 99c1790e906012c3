"""The four dashboards: Infra health (checks), Trends (of CI), TV (a screen on the wall), Collectors (the daemon)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from service.boards import widgets
from service.boards.catalogue import Catalogue, CheckPanel, group_tags
from service.boards.widgets import NONE_IS_GOOD, PASS, UNKNOWN, Colours, Widget, query
from service.domain.alerts import escape_markdown
from service.domain.checks import CHECK_AGE, CHECK_METRICS, CHECK_STATE, CHECK_VALUE
from service.domain.samples import Metric, normalize_tag_value
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
# What Trends is about, by the names that github_ci gives them.
_DURATION = "metta.infra.cron.ci.workflow.duration"
_PLAIN = {
    "Minutes of the window in which a blocking workflow was red": ("branch.red_minutes",),
    "Share of the branch's commits that failed, and of those that passed when run again": (
        "branch.red_share",
        "branch.flaky_share",
    ),
    "Longest wait of a run now waiting (minutes)": ("queue.oldest_minutes",),
}
# What ended so says nothing about health.
_INCONCLUSIVE = ("cancelled", "skipped", "neutral", "stale", "action_required")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
# A state is 0 pass, 1 fail, 2 unknown. What is not counted becomes 0 and is not cut off: without any value left
# Datadog would show "no data" where the number is 0.
_FAILING = "count_nonzero(1 - abs(value - 1))"
_UNKNOWN = "count_nonzero(clamp_min(value, 1) - 1)"
_NOT_PASSING = "count_nonzero(value)"


def build_health(catalogue: Catalogue) -> dict[str, Any]:
    """For people who want to know what is red, since when, and what it means."""
    grid = widgets.Grid()
    text = (
        "**How to read this.** Tiles show the latest value, green where the condition holds and red where not;"
        " tables show each check's state, which is sent again every few minutes, so a hole means that the daemon"
        f" is gone. Why a check is red, with links to the runs behind it: {catalogue.page_link()}. What to do:"
        f" {catalogue.runbook_link('monitors')}."
    )
    grid.add(widgets.note(text), 12, 2)
    for category in catalogue.categories:
        title, colour = _heading(category)
        inner = _category(catalogue, category)
        group = {"type": "group", "title": title, "layout_type": "ordered", "widgets": inner.widgets}
        # The group's title takes one row.
        grid.add({**group, "background_color": colour, "show_title": True}, widgets.COLUMNS, inner.height + 1)
    description = "What the checks of CI, training and evaluations say, with their values and thresholds."
    return _board(catalogue, "", description, _VARIABLES, grid.widgets)


def build_trends(catalogue: Catalogue) -> dict[str, Any] | None:
    """For those who ask whether CI gets worse, and by which workflows. None where nothing measures CI."""
    duration = next((each for each in catalogue.distributions if each.name == _DURATION), None)
    if duration is None:
        return None
    grid, week, month = widgets.Grid(), 7 * _DAY, 30 * _DAY
    ci = [each for each in catalogue.checks if each.category == "ci"]
    repo = ["repo"] if any("repo" in each.groups for each in ci) else []
    variables, of_all, by = ("env", "repo"), ("env", "repo", "kind"), [*repo, "workflow"]
    text = (
        "**Does CI get worse, and by what?** The lists count attempts that ended, on the branch (kind main) or before a"
        " merge (kind pre_merge), without cancelled and skipped ones. Which workflows were run again, and the runs"
        f" behind each number: {catalogue.page_link()}, where each CI collector has a table of the week."
    )
    grid.add(widgets.note(text), 12, 2)

    def asked(space: str, by: Sequence[str], *without: str) -> str:
        excluded = [("conclusion", each) for each in (*_INCONCLUSIVE, *without)]
        return query(space, duration, of_all, by=by, without=excluded)

    counts = {"failed": f"{asked('count', by, 'success')}.as_count()", "ended": f"{asked('count', by)}.as_count()"}
    lists = (
        widgets.toplist("Most failed attempts, 7 days", {"failed": counts["failed"]}, week, "failed"),
        widgets.toplist("Largest share of failed attempts (%), 7 days", counts, week, "100 * failed / ended"),
        widgets.toplist("Longest p90 (minutes), 7 days", {"p90": asked("p90", by)}, week, "p90", "percentile"),
    )
    for each in lists:
        grid.add(each, 4, 5)
    graphs = {
        title: {
            name.rpartition(".")[2]: query("max", Metric(f"metta.infra.cron.ci.{name}"), variables, by=repo)
            for name in names
        }
        for title, names in _PLAIN.items()
    }
    graphs["Failed attempts a day"] = {"failed": f"{asked('count', repo, 'success')}.as_count().rollup(sum, 86400)"}
    graphs["p90 (minutes), by kind"] = {"p90": asked("p90", ["kind"])}
    if flaky := next((each for each in ci if each.tags["check"] == "flaky_tests"), None):
        value = query("max", CHECK_VALUE, variables, flaky.tags, repo, hold=True)
        graphs["Flaky runs: succeeded only when run again"] = {"flaky": value}
    for title, queries in graphs.items():
        grid.add(widgets.lines(title, queries, month), 6, 3)
    return _board(catalogue, ": Trends", "Whether CI gets worse, and by which workflows.", of_all, grid.widgets)


def build_collectors(catalogue: Catalogue) -> dict[str, Any]:
    """For the operator: do the collectors run, in time, and do their points arrive?"""
    grid, variables = widgets.Grid(), ("env", "collector")
    text = (
        f"**The daemon itself.** Runs, their faults and log, points that wait or were lost: {catalogue.page_link()}."
        f" What to do when a collector is down: {catalogue.runbook_link('collector-down')}."
    )
    grid.add(widgets.note(text), 12, 2)
    rows: list[tuple[str, str, Metric, Colours]] = [
        ("Up: 1 the last run succeeded, 0 not", "min", UP, [("<", 1.0, widgets.FAIL), (">=", 1.0, PASS)]),
        ("Last success, seconds ago", "max", SUCCESS_AGE, []),
        ("Duration of a run (s)", "max", DURATION, []),
        ("Samples collected by a run", "max", SAMPLES, []),
        ("Points lost within 24 hours", "max", POINTS_LOST, NONE_IS_GOOD),
    ]
    columns = {
        _last_word(metric): (title, query(space, metric, variables, by=["collector"]), colours)
        for title, space, metric, colours in rows
    }
    longest = max((each.every for each in catalogue.collectors), default=_HOUR)
    grid.add(widgets.table("Collectors", columns, max(4 * _HOUR, 3 * longest)), 12, 3)
    graphs = {title: text for title, text, _ in columns.values()}
    if quota := next((each.quota for each in catalogue.collectors if each.quota), None):
        graphs["Requests left of GitHub's quota"] = query("min", quota[0], variables, by=["collector"])
    for title, text in graphs.items():
        grid.add(widgets.lines(title, {"value": text}, _DAY), 6, 3)
    description = "The daemon itself: do its collectors run, in time, and do their points arrive?"
    return _board(catalogue, ": Collectors", description, variables, grid.widgets)


def build_tv(catalogue: Catalogue) -> dict[str, Any]:
    """Few large tiles and the heat map, for a screen of 1920x1080 read from five metres."""
    everything = _states(catalogue.checks)
    unknown = [(">", 0.0, UNKNOWN), ("<=", 0.0, PASS)]
    # How old the newest value is tells a quiet screen from a dead one. The most frequent collector brings it.
    late = 2 * min((each.every for each in catalogue.collectors), default=_HOUR) / timedelta(minutes=1)
    age = query("min", CHECK_AGE, ["env"], hold=True)
    top = [
        _count("Checks failing", everything, _FAILING, NONE_IS_GOOD),
        _count("Checks unknown", everything, _UNKNOWN, unknown),
        _count("Last measured, minutes ago", age, "value / 60", [(">", late, UNKNOWN), ("<=", late, PASS)]),
    ]
    areas = [name for name in catalogue.categories if catalogue.checks_of(name)][:_TV_TILES]
    middle = [
        _count(
            f"{_heading(name)[0]}: not passing",
            _states(catalogue.checks_of(name), {"workflow_category": name}),
            _NOT_PASSING,
            NONE_IS_GOOD,
        )
        for name in areas
    ]
    heatmap = widgets.heatmap("States of all checks: 0 pass, 1 fail, 2 unknown", everything, _DAY, title_size="32")
    found, y = [], 0
    for row, height in ((top, _TV_TOP), (middle, _TV_MIDDLE if middle else 0), ([heatmap], TV_HEIGHT)):
        width = TV_WIDTH // max(1, len(row))
        found += [widgets.placed(each, x * width, y, width, min(height, TV_HEIGHT - y)) for x, each in enumerate(row)]
        y += height
    return _board(
        catalogue, " TV", "For an office screen of 1920x1080 (docs/office-screen.md).", ["env"], found, "free"
    )


DASHBOARDS: Mapping[str, Callable[[Catalogue], dict[str, Any] | None]] = {
    "health": build_health,
    "trends": build_trends,
    "tv": build_tv,
    "collectors": build_collectors,
}


def _board(
    catalogue: Catalogue,
    about: str,
    description: str,
    variables: Iterable[str],
    found: Sequence[Widget],
    layout: str = "ordered",
) -> dict[str, Any]:
    # The environment of this installation, everything of the others.
    defaults = {"env": normalize_tag_value("env", catalogue.env)}
    return {
        "title": f"Infra health{about}{catalogue.place}",
        "description": description,
        "layout_type": layout,
        **({"reflow_type": "fixed"} if layout == "ordered" else {}),
        "template_variables": [
            {"name": name, "prefix": name, "defaults": [defaults.get(name, "*")]} for name in variables
        ],
        "widgets": found,
    }


def _last_word(metric: Metric) -> str:
    return metric.name.rpartition(".")[2]


def _heading(category: str) -> tuple[str, str]:
    """Title and colour."""
    return _HEADINGS.get(category, (category.replace("_", " ").capitalize()[:28] or "Other", "vivid_orange"))


# Infra health


def _category(catalogue: Catalogue, category: str) -> widgets.Grid:
    grid, checks = widgets.Grid(), catalogue.checks_of(category)
    tags = {"workflow_category": category} if category else {}
    if checks:
        by, every = group_tags(checks), max(each.every for each in checks)
        carried: Colours = [(">", (1.5 * every).total_seconds(), widgets.CARRIED)]
        state, threshold, value, age = (
            query("max", metric, _VARIABLES, tags, by, hold=True) for metric in CHECK_METRICS
        )
        columns: dict[str, tuple[str, str, Colours]] = {
            "state": ("state: 0 pass, 1 fail, 2 unknown", state, widgets.STATE_COLOURS),
            "value": ("value", value, []),
            "threshold": ("threshold", threshold, []),
            "age": ("age of the value (yellow: carried)", age, carried),
        }
        height = min(8, 3 + len({each.tags["check"] for each in checks}) // 3)
        grid.add(widgets.table("Status by workflow and task", columns, 4 * _HOUR), 12, height)
        shown = max(_DAY, 48 * every)
        grid.add(widgets.lines("Values and thresholds", {"value": value}, shown, dashed=threshold), 12, 4)
    for check in checks[:_MAX_TILES]:
        latest = query(check.worst, check.metric, _VARIABLES, check.tags)
        colours = widgets.condition_colours(check.condition)
        grid.add(widgets.number(check.title, latest, colours, max(4 * _HOUR, 3 * check.every)), 2, 2)
    for metric in [metric for metric, where in catalogue.distributions.items() if where == category]:
        found = {space: query(space, metric, _VARIABLES, tags, ["kind"]) for space in ("p50", "p90", "p99")}
        what = "Duration of runs" if metric.name.endswith(".duration") else _last_word(metric)
        grid.add(widgets.lines(f"{what} ({metric.unit or 'value'})", found, 7 * _DAY), 12, 3)
    grid.add(widgets.note(_explain(catalogue, checks)), 12, max(2, min(len(checks), _MAX_TILES) // 2 + 1))
    return grid


def _explain(catalogue: Catalogue, checks: Sequence[CheckPanel]) -> str:
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


def _states(checks: Iterable[CheckPanel], tags: Mapping[str, str] | None = None) -> str:
    """The state of each of the checks by itself."""
    return query("max", CHECK_STATE, ["env"], tags, group_tags(checks), hold=True)


def _count(title: str, value: str, formula: str, colours: Colours) -> Widget:
    return widgets.number(title, value, colours, _HOUR, formula, title_size="48", precision=0)
