"""Runs as GitHub wrote them: recorded answers, and the odd ones."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.collectors import ci_runs
from service.collectors.ci_runs import Run, to_page, to_run, to_time
from tests.github_world import NOW, SimRun, World

PAYLOADS = Path(__file__).parents[2] / "payloads" / "github"


def recorded(name: str) -> Any:
    return json.loads((PAYLOADS / name).read_text())


def test_a_recorded_page_is_read_whole() -> None:
    page = to_page(1, recorded("ionic_nightly_runs.json"), "main")
    assert (page.total, len(page.runs)) == (101, 40)
    assert page.newest == datetime(2024, 2, 22, 15, 3, 40, tzinfo=UTC)
    assert not page.runs[0].on_branch
    assert page.runs[1].on_branch
    assert sum(run.is_conclusive for run in page.runs) + sum(run.conclusion == "cancelled" for run in page.runs) == 40


def test_a_recorded_rerun_keeps_its_place_and_tells_its_last_attempt() -> None:
    run = to_run(recorded("pygithub_rerun.json")[0]["body"], "main")
    assert run.attempt == 2
    assert run.created == datetime(2026, 5, 24, 15, 20, 4, tzinfo=UTC)
    assert run.updated - run.started == timedelta(seconds=102)
    # The repository is a fork of another one, but this is a run of its own branch.
    assert run.on_branch


def test_the_first_attempt_may_start_after_the_run_was_created() -> None:
    runs = to_page(1, recorded("phishbench_runs.json")[0]["body"], "master").runs
    assert all(run.created <= run.started <= run.updated for run in runs)


def row(**changes: Any) -> dict[str, Any]:
    world = World()
    return world.run_json(world.add_run(1, NOW, "success")) | changes


@pytest.mark.parametrize(
    ("changes", "on_branch"),
    [
        ({}, True),
        ({"head_branch": "topic"}, False),
        ({"head_branch": None}, False),
        ({"head_repository": {"id": 2}}, False),
        ({"head_repository": None}, False),  # a fork that is gone
        ({"repository": {}, "head_repository": None}, True),
        ({"repository": {}, "head_repository": {}}, True),
        ({"repository": {"full_name": "a/b"}, "head_repository": {"full_name": "c/b"}}, False),
    ],
)
def test_a_run_is_on_the_branch_unless_a_forks_branch_has_its_name(changes: dict[str, Any], on_branch: bool) -> None:
    assert to_run(row(**changes), "main").on_branch is on_branch


def test_what_old_servers_leave_out_has_a_meaning() -> None:
    run = to_run(row(run_started_at=None, run_attempt=None, updated_at=None, event=None), "main")
    assert (run.started, run.updated, run.attempt, run.event) == (run.created, run.created, 1, "")


def test_a_run_that_goes_on_has_no_conclusion() -> None:
    assert to_run(row(conclusion=None, status="queued"), "main").conclusion is None
    assert to_run(row(conclusion="success", status="in_progress"), "main").conclusion is None
    assert to_run(row(conclusion="", status="completed"), "main").conclusion is None


@pytest.mark.parametrize("missing", ["id", "workflow_id", "created_at"])
def test_a_run_without_its_identity_is_none(missing: str) -> None:
    broken = row()
    del broken[missing]
    with pytest.raises((KeyError, TypeError, ValueError)):
        to_run(broken, "main")


@pytest.mark.parametrize(
    "text",
    ["2026-03-04T05:06:07Z", "2026-03-04T05:06:07.000Z", "2026-03-04T06:06:07+01:00", "2026-03-04T05:06:07"],
)
def test_times_are_read_with_fractions_and_offsets(text: str) -> None:
    assert to_time(text) == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def test_of_two_answers_the_one_that_knows_more_counts() -> None:
    world = World()
    run = world.add_run(1, NOW - timedelta(hours=2), "failure", "success")
    first, second = to_run(world.run_json(run, run.attempts[:1]), "main"), to_run(world.run_json(run), "main")
    assert ci_runs.later(second, first) is second
    assert ci_runs.later(first, second) is second
    assert ci_runs.later(None, first) is first


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_the_90th_percentile_lies_within_the_values(values: list[float]) -> None:
    found = ci_runs.quantile(values, 0.9)
    assert min(values) <= found <= max(values)
    assert sum(value <= found + 1e-6 for value in values) >= 0.9 * (len(values) - 1)


def test_a_percentile_is_interpolated_between_the_closest_ranks() -> None:
    assert ci_runs.quantile([4, 1, 3, 2], 0.9) == pytest.approx(3.7)
    assert ci_runs.quantile([5], 0.9) == 5


def test_an_attempt_that_failed_is_enough_and_all_others_are_needed_for_no() -> None:
    world = World()
    run: Run = to_run(world.run_json(world.add_run(1, NOW, "cancelled", "failure", "success")), "main")
    assert ci_runs.has_failed_attempt(run, {}) is None
    assert ci_runs.has_failed_attempt(run, {2: "failure"}) is True
    assert ci_runs.has_failed_attempt(run, {1: "cancelled"}) is None
    assert ci_runs.has_failed_attempt(run, {1: "cancelled", 2: "skipped"}) is False


def test_the_world_of_the_tests_writes_runs_as_github_does() -> None:
    world = World()
    ours = world.run_json(SimRun(1, 1, NOW, world.add_run(1, NOW, "success").attempts))
    assert ours.keys() <= recorded("ionic_nightly_runs.json")["workflow_runs"][0].keys()
