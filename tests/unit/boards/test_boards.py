"""What the builders make of a catalogue: valid for the client and for the official description, and true."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.metric_metadata import MetricMetadata
from datadog_api_client.v1.model.monitor import Monitor
from datadog_api_client.v2.model.metric_tag_configuration_create_request import MetricTagConfigurationCreateRequest

from service.adapters.datadog_client import model
from service.boards import tv, widgets
from service.boards.monitors import monitors
from service.boards.plan import Kind, Wanted, wanted
from service.boards.subjects import Catalogue, CollectorSubject, Spread, Subject
from service.collectors.ci_metrics import expected_lines
from service.collectors.ci_settings import GithubCiSettings
from service.domain.checks import CHECK_METRICS
from service.domain.naming import kept
from service.domain.samples import Kind as MetricKind
from service.domain.samples import Metric
from service.pipeline.job import COLLECTOR_METRICS
from tests.datadog_openapi import faults

ROOT = Path(__file__).parents[3]
TEN, HOUR, DAY = timedelta(minutes=10), timedelta(hours=1), timedelta(days=1)
DURATION = Metric("metta.infra.cron.ci.workflow.duration", MetricKind.DISTRIBUTION, "minute", "Duration of each run")
# https://docs.datadoghq.com/metrics/units/
UNITS = {"second", "minute", "fraction", "execution", "item", "job", "request", "percent", ""}


def ci_subjects(**settings: Any) -> list[Subject]:
    made = GithubCiSettings(
        type="github_ci", schedule="*/10 * * * *", tests_blocking_merge=("Tests",), benchmarks=("Bench",), **settings
    )
    return [
        Subject(
            line.metric, "ci", line.workflow_name, line.task, line.check, line.condition, TEN, DAY, groups=("repo",)
        )
        for line in expected_lines(made)
    ]


def snapshot_subject(metric: str = "hearts", condition: str = "> 0.5", workflow: str = "arena") -> Subject:
    return Subject(
        Metric(f"metta.infra.stablesuite.{metric}"), "training", workflow, "runs_successfully", "reward_threshold",
        condition, HOUR, DAY, is_catalogued=False,
    )  # fmt: skip


def catalogue(*subjects: Subject, **changes: Any) -> Catalogue:
    shown = subjects or (*ci_subjects(), snapshot_subject(), snapshot_subject("sps", "stable for a week"))
    made = Catalogue(
        env="production",
        collectors=(CollectorSubject("ci", TEN, spends_quota=True), CollectorSubject("training", HOUR)),
        subjects=shown,
        spreads=(Spread(DURATION, "ci", ("env", "repo", "kind", "workflow"), ("main", "pre_merge")),),
        metrics=(
            *{each.metric.name: each.metric for each in shown}.values(),
            DURATION,
            *CHECK_METRICS,
            *COLLECTOR_METRICS,
        ),
        heartbeat=timedelta(minutes=5),
    )
    return replace(made, **changes)


def everything() -> list[Wanted]:
    return wanted(catalogue())


def board(key: str, of: Catalogue | None = None) -> dict[str, Any]:
    return next(each.content for each in wanted(of or catalogue()) if each.key == key)


def inside(widget_holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every widget's definition, those in groups included."""
    for widget in widget_holder["widgets"]:
        definition = widget["definition"]
        yield definition
        if definition["type"] == "group":
            yield from inside(definition)


def texts(value: Any, key: str = "query") -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == key and isinstance(part, str):
                yield part
            yield from texts(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, key)


def all_queries() -> list[str]:
    return [query for each in everything() for query in texts(each.content)]


def test_every_object_is_one_that_the_client_knows_to_its_last_part() -> None:
    kinds: dict[Kind, type] = {Kind.DASHBOARD: Dashboard, Kind.MONITOR: Monitor}
    for each in everything():
        if each.kind is Kind.METRIC:
            facts = model(MetricMetadata, each.content["metadata"])
            assert facts.to_dict() == each.content["metadata"]
            if "tags" in each.content:
                data = {"type": "manage_tags", "id": each.key, "attributes": each.content["tags"]}
                assert model(MetricTagConfigurationCreateRequest, {"data": data}).to_dict()["data"] == data
        else:
            assert model(kinds[each.kind], each.content).to_dict() == each.content, each.key


def test_a_part_that_the_client_does_not_know_is_told_by_its_place() -> None:
    content = board("health")
    content["widgets"][1]["definition"]["widgets"][0]["definition"]["type"] = "query_tabel"
    with pytest.raises(ValueError, match=r"widgets\[1\]"):
        model(Dashboard, content)


def test_every_object_fits_the_official_description() -> None:
    paths = {Kind.DASHBOARD: "/api/v1/dashboard", Kind.MONITOR: "/api/v1/monitor"}
    for each in everything():
        if each.kind is Kind.METRIC:
            assert faults("PUT", f"/api/v1/metrics/{each.key}", each.content["metadata"]) == []
        else:
            assert faults("POST", paths[each.kind], each.content) == [], each.key


def test_the_judge_refuses_what_the_description_does_not_know() -> None:
    content = board("health")
    content["widgets"][0]["definition"]["font_sise"] = "14"
    assert faults("POST", "/api/v1/dashboard", content)
    assert faults("POST", "/api/v1/monitor", {"type": "query alarm", "query": "x"})


def test_no_query_uses_a_tag_that_flips() -> None:
    found = all_queries()
    assert len(found) > 60
    for query in found:
        assert not re.search(r"\b(status|condition|version)\b", query), query


def test_states_tables_and_monitors_look_at_the_stable_series_only() -> None:
    own = {metric.name for metric in (*CHECK_METRICS, *COLLECTOR_METRICS)}
    for each in everything():
        if each.kind is Kind.MONITOR:
            looked_at = [each.content["query"]]
        elif each.kind is Kind.DASHBOARD:
            tables = [one for one in inside(each.content) if one["type"] in ("query_table", "heatmap")]
            looked_at = list(texts(tables)) if each.key != "tv" else list(texts(each.content))
        else:
            continue
        for query in looked_at:
            assert set(re.findall(r"metta\.[\w.]+", query)) <= own, query


def test_each_tile_has_the_colours_and_each_trend_the_marker_of_its_condition() -> None:
    content = board("health", catalogue(*ci_subjects(thresholds={"flaky_tests": 3})))
    tiles = {one["title"]: one for one in inside(content) if one["type"] == "query_value"}
    trends = {one["title"]: one for one in inside(content) if one["type"] == "timeseries"}
    name = "tests_blocking_merge / flaky_tests"
    assert tiles[name]["requests"][0]["conditional_formats"] == [
        {"comparator": "<", "value": 3.0, "palette": "white_on_green"},
        {"comparator": ">=", "value": 3.0, "palette": "white_on_red"},
    ]
    assert trends[name]["markers"][0]["value"] == "y = 3"
    exact = tiles["tests_blocking_merge / success_ratio"]["requests"][0]["conditional_formats"]
    assert [each["comparator"] for each in exact if each["palette"] == "white_on_red"] == ["<", ">"]
    assert len(tiles) == len(ci_subjects())


def test_a_condition_that_is_no_comparison_has_neither_colours_nor_marker() -> None:
    content = board("health", catalogue(snapshot_subject(condition="stable for a week")))
    tile = next(one for one in inside(content) if one["type"] == "query_value")
    trend = next(one for one in inside(content) if one["type"] == "timeseries")
    assert "conditional_formats" not in tile["requests"][0]
    assert "markers" not in trend


def test_the_matrix_marks_carried_and_stale_values() -> None:
    content = board("health", catalogue(snapshot_subject()))
    table = next(one for one in inside(content) if one["type"] == "query_table")
    assert "by {workflow_name,task,check}" in next(texts(table))
    ages = next(each for each in table["requests"][0]["formulas"] if each["formula"] == "age")["conditional_formats"]
    assert [(each["value"], each["palette"]) for each in ages] == [
        (DAY.total_seconds(), "white_on_gray"),
        (1.5 * HOUR.total_seconds(), "white_on_yellow"),
    ]


def test_durations_are_percentiles_of_the_distribution_by_kind() -> None:
    graphs = [one for one in inside(board("health")) if one.get("title", "").startswith("Duration of runs")]
    assert len(graphs) == 2
    found = list(texts(graphs))
    assert [query.partition(":")[0] for query in found] == ["p50", "p90", "p99"] * 2
    assert "kind:main" in found[0]
    assert "kind:pre_merge" in found[3]


@pytest.mark.parametrize("key", ["health", "collectors", "tv"])
def test_no_two_widgets_overlap_and_none_leaves_the_board(key: str) -> None:
    def judge(holder: dict[str, Any], columns: int, rows: int | None) -> None:
        taken: set[tuple[int, int]] = set()
        for widget in holder["widgets"]:
            at = widget["layout"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["width"]) for y in range(at["y"], at["y"] + at["height"])
            }
            assert not cells & taken, widget["definition"].get("title")
            taken |= cells
            assert at["x"] + at["width"] <= columns
            assert rows is None or at["y"] + at["height"] <= rows
            if widget["definition"]["type"] == "group":
                inner = widget["definition"]["widgets"]
                assert at["height"] > max(each["layout"]["y"] + each["layout"]["height"] for each in inner)
                judge(widget["definition"], columns, None)

    content = board(key)
    judge(content, tv.WIDTH if key == "tv" else widgets.COLUMNS, tv.HEIGHT if key == "tv" else None)


def test_the_screen_shows_large_tiles_and_the_heat_map_and_nothing_else() -> None:
    content = board("tv")
    assert content["layout_type"] == "free"
    assert tv.WIDTH * 9 == tv.HEIGHT * 16
    assert {one["type"] for one in inside(content)} == {"query_value", "heatmap"}
    for widget in content["widgets"]:
        assert widget["layout"]["width"] * 12 >= 450, "a tile narrower than that is not read from five metres"
        assert int(widget["definition"]["title_size"]) >= 32
    crowded = board("tv", catalogue(*(snapshot_subject(workflow=f"run {number}") for number in range(50))))
    assert len(crowded["widgets"]) <= 8


def test_an_hourly_check_does_not_wait_for_a_weekly_one_of_its_category() -> None:
    weekly = replace(snapshot_subject(workflow="Soak Test"), every=timedelta(days=7))
    mixed = catalogue(snapshot_subject(), snapshot_subject("sps"), weekly)
    found = {each.key: each.content for each in monitors(mixed) if each.key.startswith("checks.")}
    usual, slow = found.values()
    assert "last_120m" in usual["query"]
    assert "!workflow_name:soak_test" in usual["query"]
    assert "last_10080m" in slow["query"]
    assert ",workflow_name:soak_test}" in slow["query"]
    tables = [one for one in inside(board("health", mixed)) if one["type"] == "query_table"]
    ages = [each for table in tables for each in table["requests"][0]["formulas"] if each["formula"] == "age"]
    carried = [each["conditional_formats"][1]["value"] for each in ages]
    assert carried == [1.5 * 3600, 1.5 * 7 * 86400]


def test_a_monitor_without_groups_has_no_delay_for_new_ones_and_a_check_gets_its_own_time() -> None:
    for each in monitors(catalogue()):
        options = each.content["options"]
        (minutes,) = re.findall(r"last_(\d+)m\)", each.content["query"])
        if each.section == "check-failing":
            assert options["new_group_delay"] == int(minutes) * 60
        elif " by {" not in each.content["query"]:
            assert "new_group_delay" not in options


def test_keys_of_monitors_fit_into_a_tag_and_are_told_apart() -> None:
    names = ("a/b", "a_b", "A_b", "a__b", "x" * 250)
    apart = [replace(each, only={"repo": name}) for each in ci_subjects() for name in names]
    keys = [each.key for each in monitors(catalogue(*apart))]
    assert len(set(keys)) == len(keys)
    for key in keys:
        tag = f"infra_health_key:{key}"
        assert kept("infra_health_key", key) == tag


def test_foreign_words_make_no_link_in_a_note() -> None:
    shown = catalogue(snapshot_subject(workflow="[free](https://evil.example) ![x](https://evil.example/i.png)"))
    notes = "".join(one["content"] for one in inside(board("health", shown)) if one["type"] == "note")
    assert "free" in notes
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(https://evil", notes)


def test_the_screen_turns_grey_in_the_time_of_the_most_frequent_collector() -> None:
    tile = next(one for one in inside(board("tv")) if one["title"].startswith("Last measured"))
    late, fresh = tile["requests"][0]["conditional_formats"]
    assert (late["comparator"], late["value"], late["palette"]) == (">", 20, "white_on_gray")
    assert fresh["palette"] == "white_on_green"


def test_a_thousand_checks_of_a_snapshot_stay_one_board() -> None:
    many = catalogue(*(snapshot_subject(f"metric_{number}") for number in range(1000)))
    content = board("health", many)
    assert sum(one["type"] == "query_value" for one in inside(content)) == 24
    assert any("and 976 more" in one.get("content", "") for one in inside(content))


def test_template_variables_are_the_environment_repo_and_workflow() -> None:
    variables = board("health")["template_variables"]
    assert [(each["name"], each["defaults"]) for each in variables] == [
        ("env", ["production"]),
        ("repo", ["*"]),
        ("workflow_name", ["*"]),
    ]
    for key in ("health", "collectors", "tv"):
        names = {each["name"] for each in board(key)["template_variables"]}
        for query in texts(board(key)):
            assert set(re.findall(r"\$(\w+)", query)) <= names


def test_the_notes_say_what_each_check_means_and_link_the_page() -> None:
    shown = catalogue(page="https://health.example/", runbook="https://git.example/runbook.md")
    notes = "\n".join(one["content"] for one in inside(board("health", shown)) if one["type"] == "note")
    for subject in ci_subjects():
        assert subject.metric.help in notes
    assert "(https://health.example/)" in notes
    assert "https://git.example/runbook.md#" in notes


def test_the_screen_counts_failing_and_unknown_checks_also_where_there_are_none() -> None:
    formulas = {
        one["title"]: one["requests"][0]["formulas"][0]["formula"]
        for one in inside(board("tv"))
        if one["type"] == "query_value"
    }
    known = {
        "abs": lambda found: Each(abs(each) for each in found),
        "clamp_min": lambda found, least: Each(max(each, least) for each in found),
        "count_nonzero": lambda found: sum(each != 0 for each in found),
    }
    for states, failing, unknown in (((0, 0, 0), 0, 0), ((0, 1, 2, 2), 1, 2), ((2, 2), 0, 2), ((1, 1), 2, 0)):
        for title, expected in (("Checks failing", failing), ("Checks unknown", unknown)):
            assert eval(formulas[title], known, {"value": Each(states)}) == expected, (title, states)


class Each(tuple[float, ...]):
    """A value for each group, with Datadog's arithmetic: one by one."""

    def __sub__(self, other: float) -> "Each":
        return Each(each - other for each in self)

    def __rsub__(self, other: float) -> "Each":
        return Each(other - each for each in self)


def test_a_monitor_s_window_holds_two_intervals_and_its_threshold_is_its_query_s() -> None:
    for each in monitors(catalogue()):
        content = each.content
        (length,) = re.findall(r"last_(\d+)m\)", content["query"])
        every = HOUR if "training" in content["query"] else TEN
        if "success_age" in content["query"]:
            every = timedelta(minutes=5)
        assert timedelta(minutes=int(length)) >= 2 * every, content["query"]
        assert float(content["query"].rsplit(" ", 1)[1]) == content["options"]["thresholds"]["critical"]


def test_there_is_a_monitor_for_each_check_and_for_the_daemon_s_own_faults() -> None:
    keys = {each.key for each in monitors(catalogue())}
    of_collectors = {"collector-down.ci", "collector-down.training", "points-lost.ci", "points-lost.training"}
    assert {"nothing-received", "quota-low.ci", *of_collectors} <= keys
    assert "quota-low.training" not in keys
    assert sum(key.startswith("check.ci.") for key in keys) == len(ci_subjects()) > 12
    assert "checks.training" in keys
    silent = next(each for each in monitors(catalogue()) if each.key == "nothing-received").content["options"]
    assert silent["notify_no_data"] is True
    assert silent["no_data_timeframe"] >= 20


def test_fail_alone_alerts_not_pass_and_not_unknown() -> None:
    query = next(each for each in monitors(catalogue()) if each.key.startswith("check.")).content["query"]
    formula = query.partition(":")[2].rpartition(">=")[0]
    for state, alerts in ((0, False), (1, True), (2, False)):
        value = eval(re.sub(r"max:metta[\w.]+\{[^}]*\}( by \{[^}]*\})?", str(state), formula), {"abs": abs})
        assert (value >= 1) is alerts


def test_each_monitor_links_a_section_of_the_runbook_that_says_what_to_do() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^### ([\w-]+)\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL))
    for each in monitors(catalogue()):
        assert f"docs/runbook.md#{each.section}" in each.content["message"]
        for part in ("**Meaning", "**First look", "**Usual causes", "**Remedy"):
            assert part in sections[each.section], (each.section, part)
    assert "## Monitors" in runbook


def test_alert_and_recovery_have_words_of_their_own_and_name_whom_to_tell() -> None:
    for each in monitors(catalogue(notify=("@slack-infra",))):
        message = each.content["message"]
        for block in ("is_alert", "is_recovery"):
            assert re.search(rf"{{{{#{block}}}}}\n.+\n{{{{/{block}}}}}", message)
        assert message.endswith("@slack-infra")


def test_metadata_says_type_unit_and_meaning_of_every_metric() -> None:
    facts = {each.key: each.content for each in everything() if each.kind is Kind.METRIC}
    assert {each.metric.name for each in catalogue().subjects} <= set(facts)
    for name, content in facts.items():
        assert content["metadata"]["type"] in ("gauge", "count", "distribution")
        assert content["metadata"]["description"], name
        assert content["metadata"].get("unit", "") in UNITS, name
    assert facts[DURATION.name]["tags"] == {
        "metric_type": "distribution",
        "include_percentiles": True,
        "tags": ["env", "kind", "repo", "workflow"],
    }
    assert [name for name, content in facts.items() if "tags" in content] == [DURATION.name]


def test_filters_are_written_as_datadog_keeps_tags() -> None:
    assert kept("repo", "Metta-AI/metta") == "repo:metta-ai/metta"
    assert kept("task", "a {b}, c*") == "task:a_b_c"
    assert kept("task", " Remote  Eval__2 ") == "task:_remote_eval_2"
    assert len(kept("task", "x" * 300)) == 200
    odd = catalogue(snapshot_subject(workflow="Arena  (v2)"), env="Prod (EU)")
    assert board("health", odd)["template_variables"][0]["defaults"] == ["prod_eu"]
    asked = [query for each in wanted(odd) for query in texts(each.content) if "hearts" in query]
    assert asked
    assert all("workflow_name:arena_v2" in query for query in asked)


def test_two_installations_are_told_apart_in_a_list_of_boards() -> None:
    assert board("health")["title"] == "Infra health"
    assert board("health", catalogue(env="staging"))["title"] == "Infra health (staging)"
