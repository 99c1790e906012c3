"""Workflows that a schedule runs: one that stopped, one that is disabled, a name that means none."""

from typing import Any

import pytest

from service.collectors.github_ci import GithubCi
from service.domain.checks import update_checks
from service.domain.runs import CollectResult
from tests.integration.github_ci.stage import DAY, HOUR, parts_of, small_world, staged
from tests.world import NOW, World, generate
from tests.world.truth import schedule_ages

GONE = {
    "expected": {"metta.infra.cron.ci.workflow.schedule_age"},
    "tests_blocking_merge": {
        "metta.infra.cron.ci.workflow.tests_blocking_merge",
        "metta.infra.cron.ci.branch.red_minutes",
    },
}
AGES = ("metta.infra.cron.ci.workflow.schedule_age", "metta.infra.cron.ci.workflow.schedule_success_age")


def ages_of(result: CollectResult, file: str) -> tuple[float | None, float | None]:
    found = {each.metric.name: each.value for each in result.samples if each.tags.get("workflow_name") == file}
    return found.get(AGES[0]), found.get(AGES[1])


def verdict_of(result: CollectResult, file: str) -> tuple[str, str, list[str]]:
    (found,) = [
        each for each in result.samples if (each.metric.name, each.tags.get("workflow_name")) == (AGES[0], file)
    ]
    return found.tags["condition"], found.tags["status"], [each.conclusion for each in found.evidence]


def nightly_world(*ages: int) -> World:
    world = small_world()
    for age in ages:
        world.add_run(2, NOW - age * HOUR, "success", event="schedule")
    return world


@pytest.mark.parametrize("seed", [1, 6])
async def test_ages_equal_the_truth_cycle_after_cycle(seed: int) -> None:
    world = generate(seed, workflows=12, runs_a_day=20, days=33, ahead=3 * HOUR)
    files = [each.path.rpartition("/")[2] for each in world.repository.workflows]
    async with staged(world, expected=dict.fromkeys(files, "26h")) as stage:
        for _ in range(4):
            result = await stage.collect()
            for file in files:
                within_reach = [age if age and age < 30 * 24 else None for age in ages_of(result, file)]
                truth = schedule_ages(world.repository, world.now, file)
                assert within_reach == [age if age and age < 30 * 24 else None for age in truth]
            stage.pass_time(HOUR)
            stage.restart()


async def test_a_nightly_that_stopped_fails_and_stays_known() -> None:
    world = nightly_world(25, 49)
    world.add_run(2, NOW - HOUR, "success")  # by hand: no schedule began it
    async with staged(world, expected={"w2.yml": "26h"}) as stage:
        result = await stage.collect()
        assert verdict_of(result, "w2.yml") == ("< 26", "pass", ["success"])
        assert parts_of(result) == []
        for _ in range(20):
            stage.pass_time(2 * DAY)
            result = await stage.collect()
            assert verdict_of(result, "w2.yml") == ("< 26", "fail", ["success"])
        assert ages_of(result, "w2.yml") == schedule_ages(world.repository, world.now, "w2.yml")


@pytest.mark.parametrize("state", ["disabled_inactivity", "disabled_manually"])
async def test_a_disabled_nightly_fails_with_that_word(state: str) -> None:
    world = nightly_world(1)
    world.repository.workflows[1].state = state
    async with staged(world, expected={"Nightly": "26h"}) as stage:
        result = await stage.collect()
        assert verdict_of(result, "w2.yml") == ("< 26", "fail", [state, "success"])
        assert [str(each) for each in result.failures] == [
            f"expected: w2.yml is {state}: enable it, or take it off expected"
        ]


async def test_what_means_no_workflow_or_never_ran_is_told() -> None:
    async with staged(small_world(), expected={"w2.yml": "26h", "gone.yml": "1d"}) as stage:
        result = await stage.collect()
        assert [each.tags["workflow_name"] for each in result.no_data if each.tags["task"] == "scheduled_runs"] == [
            "w2.yml"
        ]
        (failure,) = result.failures
        assert failure.part == "expected"
        assert 'no workflow has the name, file name, path or id "gone.yml"' in failure.reason
        assert "no schedule has run w2.yml since" in failure.reason


async def test_the_series_are_counted() -> None:
    async with staged(small_world(), expected={"w2.yml": "26h"}) as stage:
        assert (AGES[0], "< 26") in GithubCi.expected_checks(stage.asked)
        assert AGES[1] in GithubCi.expected_metrics(stage.asked)


async def test_a_check_that_the_settings_ask_for_no_more_is_no_check_of_the_collector() -> None:
    given: dict[str, Any] = {"expected": {"w2.yml": "26h"}, "tests_blocking_merge": ["1"]}
    async with staged(nightly_world(25), **given) as stage:
        result = await stage.collect()
        checks = update_checks([], result.samples, [], NOW)
        assert all(map(stage.collector.asks_for, checks))
    for key in given:
        async with staged(nightly_world(25), **{name: value for name, value in given.items() if name != key}) as stage:
            gone = {check.metric for check in checks if not stage.collector.asks_for(check)}
            assert gone == GONE[key]
