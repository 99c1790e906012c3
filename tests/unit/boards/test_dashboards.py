"""The dashboards: valid by the official description, and true."""

import re
from itertools import product
from typing import Any

from service.boards import dashboards, widgets
from service.boards.catalogue import DISTRIBUTION_TAGS
from service.boards.sync import build
from service.collectors.github_ci.catalogue import METRICS
from service.collectors.github_ci.models import CONCLUSIVE, FAILED
from service.domain.checks import CHECK_METRICS
from service.pipeline.job import COLLECTOR_METRICS
from tests.datadog_openapi import faults
from tests.unit.boards.shapes import (
    DURATION,
    HOUR,
    QUOTA,
    board,
    catalogue,
    ci_checks,
    definitions,
    snapshot_check,
    texts,
)

# https://docs.datadoghq.com/metrics/units/
UNITS = {"second", "minute", "fraction", "execution", "job", ""}


def test_every_object_fits_the_official_description() -> None:
    paths = {"dashboards": "/api/v1/dashboard", "monitors": "/api/v1/monitor"}
    for each in build(catalogue()):
        if each.kind == "metadata":
            assert faults("PUT", f"/api/v1/metrics/{each.key}", each.content["metadata"]) == []
        else:
            assert faults("POST", paths[each.kind], each.content) == [], each.key


def test_no_query_uses_a_tag_that_flips_and_states_come_from_the_stable_series() -> None:
    own = {metric.name for metric in (*CHECK_METRICS, *COLLECTOR_METRICS, *QUOTA)}
    for each in build(catalogue()):
        for query in texts(each.content):
            assert not re.search(r"\b(status|condition|version)\b", query), query
        if each.kind == "dashboards" and each.key != "tv":
            stable = texts([one for one in definitions(each.content) if one["type"] == "query_table"])
        else:
            stable = texts(each.content)
        for query in stable:
            assert set(re.findall(r"metta\.[\w.]+", query)) <= own, query


def test_each_check_has_a_tile_in_the_colours_of_its_condition() -> None:
    content = board("health", catalogue(*ci_checks(flaky_tests="< 3", failing_count="in [1, 4]")))
    tiles = {one["title"]: one for one in definitions(content) if one["type"] == "query_value"}

    def colours(name: str) -> list[tuple[str, float, str]]:
        formats = tiles[name]["requests"][0].get("conditional_formats", [])
        return [(each["comparator"], each["value"], each["palette"].removeprefix("white_on_")) for each in formats]

    assert len(tiles) == len(ci_checks())
    name = "tests_blocking_merge / flaky_tests"
    assert "metta.infra.cron.ci.workflow.flaky_tests{" in next(texts(tiles[name]))
    assert colours(name) == [("<", 3, "green"), (">=", 3, "red")]
    assert colours("tests_blocking_merge / success_ratio") == [("=", 1, "green"), ("<", 1, "red"), (">", 1, "red")]
    assert colours("other_workflows / failing_count") == [("<", 1, "red"), (">", 4, "red"), ("<=", 4, "green")]
    assert colours("open_bugs / count") == []


def test_the_table_marks_carried_values_and_durations_are_percentiles_by_kind() -> None:
    found = list(definitions(board("health", catalogue(snapshot_check(), distributions={DURATION: "training"}))))
    table = next(one for one in found if one["type"] == "query_table")
    assert "by {workflow_name,task,check}" in next(texts(table))
    ages = next(each for each in table["requests"][0]["formulas"] if each["formula"] == "age")["conditional_formats"]
    assert [(each["value"], each["palette"]) for each in ages] == [(1.5 * HOUR.total_seconds(), "white_on_yellow")]
    (graph,) = [one for one in found if one.get("title", "").startswith("Duration of runs")]
    assert [query.partition(":")[0] for query in texts(graph)] == ["p50", "p90", "p99"]
    assert all(query.endswith("by {kind}") for query in texts(graph))


def test_trends_ranks_workflows_by_attempts_that_failed_and_by_the_p90_of_all_that_say_something() -> None:
    lists = [one for one in definitions(board("trends")) if one["type"] == "toplist"]
    asked = {each["name"]: each for one in lists for each in one["requests"][0]["queries"]}
    known = CONCLUSIVE | {"cancelled", "skipped", "neutral", "stale", "action_required"}
    for name, counted in (("failed", FAILED), ("ended", CONCLUSIVE), ("p90", CONCLUSIVE)):
        query = asked[name]["query"]
        assert known - set(re.findall(r"!conclusion:(\w+)", query)) == counted
        assert "by {repo,workflow}" in query
    assert [asked[name]["aggregator"] for name in ("failed", "ended", "p90")] == ["sum", "sum", "percentile"]
    assert all(one["requests"][0]["formulas"][0]["limit"] == {"count": 10, "order": "desc"} for one in lists)
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
    formulas = {
        one["title"]: one["requests"][0]["formulas"][0]["formula"]
        for one in definitions(board("tv"))
        if one["type"] == "query_value"
    }
    # Datadog's arithmetic goes group by group.
    known = {"abs": abs, "clamp_min": max, "count_nonzero": bool}
    for states, failing, unknown in (((0, 0, 0), 0, 0), ((0, 1, 2, 2), 1, 2), ((2, 2), 0, 2), ((1, 1), 2, 0)):
        for title, expected in (("Checks failing", failing), ("Checks unknown", unknown)):
            assert sum(eval(formulas[title], known, {"value": state}) for state in states) == expected, (title, states)


def test_a_thousand_checks_of_a_snapshot_stay_one_board() -> None:
    content = board("health", catalogue(*(snapshot_check(f"metric_{number}") for number in range(1000))))
    assert sum(one["type"] == "query_value" for one in definitions(content)) == 24
    assert any("and 976 more" in one.get("content", "") for one in definitions(content))


def test_foreign_words_make_no_link_in_a_note_and_are_filtered_by_as_datadog_keeps_tags() -> None:
    odd = catalogue(
        snapshot_check(workflow="Arena  (v2) [free](https://evil.example) ![x](https://evil.example/i)"),
        env="Prod (EU)",
    )
    notes = "".join(one["content"] for one in definitions(board("health", odd)) if one["type"] == "note")
    assert "free" in notes
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(https://evil", notes)
    assert board("health", odd)["template_variables"][0]["defaults"] == ["prod_eu"]
    asked = [query for each in build(odd) for query in texts(each.content) if "hearts" in query]
    assert asked
    assert all("workflow_name:arena_v2_free_https://evil.example_x_https://evil.example/i," in query for query in asked)


def test_metadata_says_type_unit_and_meaning_of_every_metric() -> None:
    facts = {each.key: each.content for each in build(catalogue()) if each.kind == "metadata"}
    assert {each.metric.name for each in catalogue().checks} <= set(facts)
    for name, content in facts.items():
        assert content["metadata"]["type"] in ("gauge", "count", "distribution")
        assert content["metadata"]["description"], name
        assert content["metadata"].get("unit", "") in UNITS, name
    assert facts[DURATION.name]["tags"] == {
        "metric_type": "distribution",
        "include_percentiles": True,
        "tags": ["conclusion", "env", "kind", "repo", "workflow", "workflow_category", "workflow_name"],
    }
    assert [name for name, content in facts.items() if "tags" in content] == [DURATION.name]
