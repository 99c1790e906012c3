"""Conditions from public bug reports: contradicted negative answers, times that move, names that mean nothing."""

from datetime import timedelta

import pytest

from service.demo.github_rows import Attempt
from service.domain.runs import CollectResult
from tests.integration.github_ci.stage import (
    BRANCH,
    DAY,
    HOUR,
    JOBS,
    PULLS,
    parts_of,
    small_world,
    staged,
    values_of,
)
from tests.world import NOW, World, faults, generate

P90 = "ci.workflow.duration.p90"


def durations_of(result: CollectResult) -> list[float]:
    return [each.value for each in result.samples if each.metric.name.endswith("ci.workflow.duration")]


# A negative answer that others contradict is no lasting fact


@pytest.mark.parametrize("fault", [faults.not_found, faults.nothing_found])
async def test_a_404_of_a_run_that_the_list_still_shows_is_no_deletion(fault: faults.Fault) -> None:
    world = generate(7, workflows=12, runs_a_day=30, days=8)
    for run in world.repository.runs:  # a cancelled run may have no jobs; none that failed can
        for attempt in run.attempts:
            if attempt.conclusion == "cancelled":
                attempt.conclusion = attempt.jobs = None
                attempt.ended = None
                break
    async with staged(world) as stage:
        outage = stage.github.fail(r"actions/runs/\d+", fault)
        for _ in range(4):
            assert JOBS not in await stage.values()
            stage.pass_time()
        stage.github.faults.remove(outage)
        for _ in range(8):
            values = await stage.values()
            stage.pass_time()
            if JOBS in values:
                break
        stage.pass_time(-timedelta(minutes=10))
        assert values == stage.truth()


@pytest.mark.parametrize("fault", [faults.not_found, faults.nothing_found])
@pytest.mark.parametrize("times", [1, 100])
async def test_an_empty_list_of_a_workflow_does_not_hide_its_failure(fault: faults.Fault, times: int) -> None:
    world = small_world()
    world.add_workflow(3, "Yearly")
    world.add_run(3, NOW - 190 * DAY, "failure")
    for hours in range(1, 900):
        world.add_run(2, NOW - hours * HOUR, "success")
    async with staged(world) as stage:
        outage = stage.github.fail(r"workflows/\d+/runs", fault, times)
        assert (await stage.values()).get("ci.workflow.other_failing", 1) == 1
        stage.github.faults.remove(outage)
        stage.pass_time()
        assert (await stage.values())["ci.workflow.other_failing"] == 1


async def test_a_run_that_is_gone_and_comes_back_is_no_second_duration() -> None:
    """A copy that lags knows it neither in the list nor by its id."""
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        stage.pass_time()
        world.add_run(1, world.now.replace(microsecond=0) - timedelta(minutes=7), "success")
        assert durations_of(await stage.collect()) == [5.0]
        hidden = world.repository.runs.pop()
        stage.pass_time()
        assert (await stage.collect()).failures == ()
        world.repository.runs.append(hidden)
        stage.pass_time()
        assert durations_of(await stage.collect()) == []


# A time that the source can move


async def test_a_run_that_github_touches_hours_after_its_end_is_as_long_as_it_was() -> None:
    world = small_world()
    old = [world.add_run(1, NOW - hours * HOUR, "success", event="pull_request", branch="f") for hours in (3, 5, 8, 20)]
    async with staged(world) as stage:
        first = await stage.collect()
        stage.pass_time()
        for run in old:
            run.touched = world.now.replace(microsecond=0)
        second = await stage.collect()
        assert durations_of(second) == []
        assert values_of(second)[P90] == values_of(first)[P90] == 5


async def test_a_run_that_was_touched_before_it_was_first_seen_is_as_long_as_its_jobs_say() -> None:
    world = small_world()
    for hours in (3, 5, 8, 20):
        run = world.add_run(1, NOW - hours * HOUR, "success", event="pull_request", branch="f")
        run.touched = NOW.replace(microsecond=0)
    async with staged(world) as stage:
        result = await stage.collect()
        assert values_of(result)[P90] == 5
        assert durations_of(result) == []


async def test_a_long_run_that_was_seen_running_is_believed() -> None:
    world = small_world()
    start = NOW.replace(microsecond=0) - 5 * HOUR
    run = world.add_run(1, start, None)
    run.attempts[0] = Attempt(start, start + 5 * HOUR + timedelta(minutes=7), "success")
    async with staged(world) as stage:
        await stage.collect()
        stage.pass_time()
        assert durations_of(await stage.collect()) == [307.0]
        assert not [each for each in stage.github.app.asked if "/jobs" in each.target]


# Names in the settings that mean nothing


async def test_a_branch_that_is_not_there_gives_no_made_up_zero() -> None:
    for pattern in ("nothing", "graphql"):
        async with staged(small_world(), branch="master") as stage:
            stage.github.fail(pattern, faults.not_found)
            result = await stage.collect()
            assert "branch" in parts_of(result)
            assert "correct branch" in str(result.failures)
            assert not BRANCH & values_of(result).keys()


async def test_a_branch_that_is_renamed_is_noticed_in_the_next_cycle() -> None:
    world = small_world()
    async with staged(world) as stage:
        assert (await stage.collect()).failures == ()
        world.repository.branch, world.repository.branches = "trunk", {"trunk"}
        stage.pass_time()
        result = await stage.collect()
        assert parts_of(result) == ["branch"]
        assert not BRANCH & values_of(result).keys()


@pytest.mark.parametrize("has_graphql", [True, False])
async def test_labels_that_are_not_there_count_nothing_and_one_of_a_group_is_enough(has_graphql: bool) -> None:
    world = World.empty(lag=timedelta(0))
    world.add_workflow(1, "Tests")
    world.add_run(1, NOW - HOUR, "success")
    world.repository.labels = {"force_merge", "bug"}
    async with staged(world, hotfix_labels=["fix", "urgent"], bug_sub_labels=["crash"]) as stage:
        if not has_graphql:
            stage.github.fail("graphql", faults.not_found)
            await stage.collect_until_counted_by_search()
        result = await stage.collect()
        values = values_of(result)
        assert values.keys() & (PULLS | {"github.bugs.count:crash"}) == {
            "github.force_merge.count",
            "github.bugs.count",
        }
        assert {"pull requests, hotfix", "pull requests, bugs_1"} == set(parts_of(result))
        assert "'fix' or 'urgent': correct hotfix_labels" in str(result.failures)
        # A default that this repository does not use is said, but is no failure.
        assert "'revert'" in (stage.collector.note or "")
        world.repository.labels.add("urgent")
        stage.pass_time(HOUR)
        assert (await stage.values())["github.hotfix.count"] == 0


async def test_an_entry_that_means_no_workflow_is_a_failure_with_a_remedy() -> None:
    for entry in ("Tets", "999"):
        async with staged(small_world(), tests_blocking_merge=["Tests", entry]) as stage:
            result = await stage.collect()
            assert "ci.workflow.tests_blocking_merge" not in values_of(result)
            (failure,) = result.failures
            assert failure.part == "tests_blocking_merge"
            assert f'"{entry}"' in failure.reason
            assert "infra-health list-workflows" in failure.reason


async def test_a_repository_without_runs_is_told() -> None:
    async with staged(World.empty()) as stage:
        assert not BRANCH & (await stage.values()).keys()
        assert "is Actions enabled there?" in (stage.collector.note or "")
