"""The monitors: whom they wake, when, and what they say."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.boards.catalogue import CollectorPanel
from service.boards.monitors import build_monitors
from service.domain.samples import normalize_tag
from tests.unit.boards.shapes import HOUR, TEN, catalogue, ci_checks, snapshot_check


def test_there_are_monitors_of_all_checks_and_of_the_daemon_s_own_faults() -> None:
    found = build_monitors(catalogue())
    of_collectors = {"collector-down.ci", "collector-down.training", "points-lost.ci", "points-lost.training"}
    of_checks = {f"{kind}.{category}" for kind in ("checks", "missing") for category in ("ci", "training")}
    assert set(found) == {"nothing-received", "quota-low.ci", *of_checks, *of_collectors}
    silent = found["nothing-received"]["options"]
    assert silent["notify_no_data"] is True
    assert silent["no_data_timeframe"] >= 20
    assert build_monitors(catalogue(snapshot_check(), collectors=())).keys() == {"checks.training", "missing.training"}


def test_each_check_alerts_on_its_own_and_each_repository_of_it() -> None:
    found = build_monitors(catalogue())
    assert "by {workflow_name,task,check,repo}" in found["checks.ci"]["query"]
    assert "{{repo.name}}" in found["checks.ci"]["message"]
    mixed = build_monitors(catalogue(*ci_checks(), replace(ci_checks()[0], groups=set())))
    assert "by {workflow_name,task,check} " in mixed["checks.ci"]["query"], "without the tag it would be in no group"


def test_a_window_holds_two_intervals_and_the_threshold_is_the_query_s() -> None:
    for key, content in build_monitors(catalogue()).items():
        (minutes,) = re.findall(r"last_(\d+)m\)", content["query"])
        every = timedelta(minutes=5) if "success_age" in content["query"] else HOUR if "training" in key else TEN
        assert timedelta(minutes=int(minutes)) >= 2 * every, content["query"]
        assert float(content["query"].rpartition(" ")[2]) == content["options"]["thresholds"]["critical"]
        # A check that is new gets its time; without groups there are no new ones.
        delay = int(minutes) * 60 if key.startswith(("checks", "missing")) else None
        assert content["options"].get("new_group_delay") == delay


def alerts(query: str, state: float, age: float) -> bool:
    """What Datadog would make of one point of each series."""
    series = r"max:metta\.infra\.check\.(\w+)\{[^}]*\}( by \{[^}]*\})?"
    return bool(
        eval(re.sub(series, r"\1", query.partition(":")[2]), {"abs": abs, "clamp_min": max, "state": state, "age": age})
    )


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


@pytest.mark.parametrize(("slow", "minutes"), [({"every": timedelta(days=7)}, 120), ({"notify_after": 3}, 240)])
def test_a_category_waits_for_its_most_frequent_check_and_for_as_many_cycles_as_one_asks(
    slow: dict[str, Any], minutes: int
) -> None:
    found = build_monitors(catalogue(replace(snapshot_check(workflow="Soak Test"), **slow), snapshot_check()))
    for kind in ("checks", "missing"):
        assert f"last_{minutes}m" in found[f"{kind}.training"]["query"]
        assert found[f"{kind}.training"]["options"]["new_group_delay"] == minutes * 60


def test_keys_fit_into_a_tag_and_are_told_apart() -> None:
    names = ("a/b", "a_b", "A_b", "a__b", "x" * 250)
    found = build_monitors(catalogue(collectors=[CollectorPanel(name, TEN) for name in names]))
    assert sum(key.startswith("points-lost.") for key in found) == len(names)
    for key in found:
        assert normalize_tag("infra_health_key", key) == f"infra_health_key:{key}"


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
