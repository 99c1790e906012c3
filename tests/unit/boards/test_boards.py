"""Dashboards and monitors: what they show is true; whom monitors wake, when, and what they say."""

import re
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

from service.boards import dashboards, widgets
from service.boards.catalogue import DISTRIBUTION_TAGS, CollectorPanel
from service.boards.monitors import build_monitors
from service.boards.sync import build
from service.collectors.github_ci.catalogue import METRICS
from service.collectors.github_ci.models import CONCLUSIVE, FAILED
from service.domain.checks import CHECK_METRICS
from service.domain.samples import normalize_tag
from service.pipeline.job import COLLECTOR_METRICS
from tests.unit.boards.shapes import DURATION, QUOTA, board, catalogue, ci_checks, definitions, snapshot_check, texts

# https://docs.datadoghq.com/metrics/units/
UNITS = {"second", "minute", "fraction", "execution", "job", ""}
GREEN, RED = "white_on_green", "white_on_red"


def test_no_query_uses_a_tag_that_flips_and_states_come_from_the_stable_series() -> None:
    own = {metric.name for metric in (*CHECK_METRICS, *COLLECTOR_METRICS, *QUOTA)}
    for each in build(catalogue()):
        for query in texts(each.content):
            assert not re.search(r"\b(status|condition|version)\b", query), query
        has_tiles = each.kind == "dashboards" and each.key != "tv"
        tables = [one for one in definitions(each.content) if one["type"] == "query_table"] if has_tiles else []
        for query in texts(tables if has_tiles else each.content):
            assert set(re.findall(r"metta\.[\w.]+", query)) <= own, query


def test_each_check_has_a_tile_in_the_colours_of_its_condition_up_to_a_bound() -> None:
    content = board("health", catalogue(*ci_checks(flaky_tests="< 3", failing_count="in [1, 4]")))
    tiles = {one["title"]: one for one in definitions(content) if one["type"] == "query_value"}
    assert len(tiles) == len(ci_checks())
    assert "metta.infra.cron.ci.workflow.flaky_tests{" in next(texts(tiles["tests_blocking_merge / flaky_tests"]))
    for name, colours in {
        "tests_blocking_merge / flaky_tests": [("<", 3, GREEN), (">=", 3, RED)],
        "tests_blocking_merge / success_ratio": [("=", 1, GREEN), ("<", 1, RED), (">", 1, RED)],
        "other_workflows / failing_count": [("<", 1, RED), (">", 4, RED), ("<=", 4, GREEN)],
        "open_bugs / count": [],
    }.items():
        formats = tiles[name]["requests"][0].get("conditional_formats", [])
        assert [(each["comparator"], each["value"], each["palette"]) for each in formats] == colours
    many = list(definitions(board("health", catalogue(*(snapshot_check(f"metric_{i}") for i in range(1000))))))
    assert sum(one["type"] == "query_value" for one in many) == 24
    assert any("and 976 more" in one.get("content", "") for one in many)


def test_trends_ranks_workflows_by_attempts_that_failed_and_by_the_p90_of_all_that_say_something() -> None:
    lists = [one for one in definitions(board("trends")) if one["type"] == "toplist"]
    asked = {each["name"]: each for one in lists for each in one["requests"][0]["queries"]}
    known = CONCLUSIVE | {"cancelled", "skipped", "neutral", "stale", "action_required"}
    counted = {"failed": (FAILED, "sum"), "ended": (CONCLUSIVE, "sum"), "p90": (CONCLUSIVE, "percentile")}
    for name, (conclusions, aggregator) in counted.items():
        query = asked[name]["query"]
        assert known - set(re.findall(r"!conclusion:(\w+)", query)) == conclusions
        assert asked[name]["aggregator"] == aggregator
        assert "by {repo,workflow}" in query
    assert {"kind", "conclusion", "workflow"} <= set(DISTRIBUTION_TAGS), "what is not configured can't be asked for"
    drawn = {name for query in texts(board("trends")) for name in re.findall(r"metta\.[\w.]+", query)}
    assert drawn <= {each.name for each in (*METRICS, *CHECK_METRICS)}
    without = build(catalogue(snapshot_check(), distributions={}))
    assert [each.key for each in without if each.kind == "dashboards"] == ["health", "tv", "collectors"]


def judge_layout(holder: dict[str, Any], columns: int, rows: int | None = None) -> None:
    """No two widgets overlap, and none leaves the board or its group, whose title takes a row."""
    cells: list[tuple[int, int]] = []
    for widget in holder["widgets"]:
        at, definition = widget["layout"], widget["definition"]
        cells += product(range(at["x"], at["x"] + at["width"]), range(at["y"], at["y"] + at["height"]))
        if definition["type"] == "group":
            judge_layout(definition, columns, at["height"] - 1)
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < columns
    assert rows is None or max(y for _, y in cells) < rows


def test_no_two_widgets_overlap_and_none_leaves_the_board() -> None:
    for key in ("health", "trends", "collectors"):
        judge_layout(board(key), widgets.COLUMNS)
    judge_layout(board("tv"), dashboards.TV_WIDTH, dashboards.TV_HEIGHT)


def test_the_screen_counts_failing_and_unknown_checks_also_where_there_are_none() -> None:
    tiles = [one for one in definitions(board("tv")) if one["type"] == "query_value"]
    formulas = {one["title"]: one["requests"][0]["formulas"][0]["formula"] for one in tiles}
    # Datadog's arithmetic goes group by group.
    known = {"abs": abs, "clamp_min": max, "count_nonzero": bool}
    for states, failing, unknown in (((0, 0, 0), 0, 0), ((0, 1, 2, 2), 1, 2), ((2, 2), 0, 2), ((1, 1), 2, 0)):
        for title, expected in (("Checks failing", failing), ("Checks unknown", unknown)):
            assert sum(eval(formulas[title], known, {"value": state}) for state in states) == expected, (title, states)


def test_foreign_words_make_no_link_in_a_note_and_are_filtered_by_as_datadog_keeps_tags() -> None:
    odd = snapshot_check(workflow="Arena  (v2) [free](https://evil.example) ![x](https://evil.example/i)")
    health = board("health", catalogue(odd, env="Prod (EU)"))
    notes = "".join(one["content"] for one in definitions(health) if one["type"] == "note")
    assert "free" in notes
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(https://evil", notes)
    assert health["template_variables"][0]["defaults"] == ["prod_eu"]
    (asked,) = {query for query in texts(health) if "hearts" in query}
    assert "workflow_name:arena_v2_free_https://evil.example_x_https://evil.example/i," in asked


def test_metadata_says_type_unit_and_meaning_of_every_metric() -> None:
    facts = {each.key: each.content["metadata"] for each in build(catalogue()) if each.kind == "metadata"}
    assert {each.metric.name for each in catalogue().checks} <= set(facts)
    for name, metadata in facts.items():
        assert metadata["type"] == ("distribution" if name == DURATION.name else "gauge")
        assert metadata["description"], name
        assert metadata.get("unit", "") in UNITS, name


# Monitors


def test_all_checks_and_the_daemon_s_own_faults_have_monitors_and_each_repository_alerts_on_its_own() -> None:
    found = build_monitors(catalogue())
    of_collectors = {"collector-down.ci", "collector-down.training", "points-lost.ci", "points-lost.training"}
    of_checks = {"checks.ci", "checks.training", "missing.ci", "missing.training"}
    assert set(found) == {"nothing-received", "quota-low.ci", *of_checks, *of_collectors}
    silent = found["nothing-received"]["options"]
    assert (silent["notify_no_data"], silent["no_data_timeframe"]) == (True, 20)
    assert "by {workflow_name,task,check,repo}" in found["checks.ci"]["query"]
    assert "{{repo.name}}" in found["checks.ci"]["message"]
    mixed = build_monitors(catalogue(*ci_checks(), replace(ci_checks()[0], groups=set())))
    assert "by {workflow_name,task,check} " in mixed["checks.ci"]["query"], "without the tag it would be in no group"


def test_a_window_holds_two_intervals_or_as_many_cycles_as_a_check_asks_and_the_threshold_is_the_query_s() -> None:
    for key, content in build_monitors(catalogue()).items():
        (minutes,) = re.findall(r"last_(\d+)m\)", content["query"])
        every = 5 if "success_age" in content["query"] else 60 if "training" in key else 10
        assert int(minutes) >= 2 * every, content["query"]
        assert float(content["query"].rpartition(" ")[2]) == content["options"]["thresholds"]["critical"]
        # A check that is new gets its time; without groups there are no new ones.
        delay = int(minutes) * 60 if key.startswith(("checks", "missing")) else None
        assert content["options"].get("new_group_delay") == delay
    # A category waits for its most frequent check.
    slow, patient = replace(snapshot_check(), every=timedelta(days=7)), replace(snapshot_check(), notify_after=3)
    for other, length in ((slow, 120), (patient, 240)):
        found = build_monitors(catalogue(replace(other, title="soak"), snapshot_check()))
        assert f"last_{length}m" in found["checks.training"]["query"]
        assert f"last_{length}m" in found["missing.training"]["query"]


def alerts(query: str, state: float, age: float) -> bool:
    """What Datadog would make of one point of each series."""
    series = r"max:metta\.infra\.check\.(\w+)\{[^}]*\}( by \{[^}]*\})?"
    known = {"abs": abs, "clamp_min": max, "state": state, "age": age}
    return bool(eval(re.sub(series, r"\1", query.partition(":")[2]), known))


def test_a_check_that_fails_alerts_and_so_does_one_that_is_unknown_or_old_each_its_own_monitor() -> None:
    found = build_monitors(catalogue())
    for state, age, fails, is_missing in (
        (0, 599, False, False),
        (1, 0, True, False),
        (2, 0, False, True),
        (0, 1800, False, True),
        (1, 1801, True, True),
    ):
        assert alerts(found["checks.ci"]["query"], state, age) is fails
        assert alerts(found["missing.ci"]["query"], state, age) is is_missing
    # A value at its source's own pace may be as old as max_age.
    nightly = replace(snapshot_check(), max_age=timedelta(hours=24))
    query = build_monitors(catalogue(nightly))["missing.training"]["query"]
    assert [alerts(query, 0, hours * 3600) for hours in (4, 23, 24)] == [False, False, True]
    assert query.count("by {workflow_name,task,check}") == 2, "series of other groups would make no sum"


def test_keys_fit_into_a_tag_and_are_told_apart() -> None:
    names = ("a/b", "a_b", "A_b", "a__b", "x" * 250)
    found = build_monitors(catalogue(collectors=[CollectorPanel(name, timedelta(minutes=1)) for name in names]))
    assert sum(key.startswith("points-lost.") for key in found) == len(names)
    assert all(normalize_tag("infra_health_key", key) == f"infra_health_key:{key}" for key in found)


def test_each_monitor_says_what_is_wrong_what_is_right_again_whom_it_tells_and_what_to_do() -> None:
    runbook = (Path(__file__).parents[3] / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^### ([\w-]+)\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL))
    for content in build_monitors(catalogue(notify=("@slack-infra",))).values():
        for block in ("is_alert", "is_recovery"):
            assert re.search(rf"{{{{#{block}}}}}\n.+\n{{{{/{block}}}}}", content["message"])
        assert content["message"].endswith("@slack-infra")
        (section,) = re.findall(r"docs/runbook\.md#([\w-]+)", content["message"])
        for part in ("**Meaning", "**First look", "**Usual causes", "**Remedy"):
            assert part in sections[section], (section, part)
