"""Minutes in which the branch was red, and the shares of its commits: as the repository's history has them."""

import random
from datetime import timedelta

import pytest

from service.collectors.github_ci import GithubCi
from tests.integration.github_ci.stage import DAY, HOUR, RED_MINUTES, staged, values_of
from tests.world import NOW, World, generate

MINUTE, START = timedelta(minutes=1), NOW.replace(microsecond=0)
CHECK = f"metta.infra.cron.{RED_MINUTES}"


@pytest.mark.parametrize("seed", [1, 4])
async def test_they_equal_the_truth_and_who_has_watched_for_a_day_knows_them(seed: int) -> None:
    rng = random.Random(seed)
    world = generate(seed, workflows=6, runs_a_day=12, days=33, ahead=2 * DAY)
    async with staged(world, tests_blocking_merge=["1", "2"]) as stage:
        for number in range(60):
            value = values_of(await stage.collect()).get(RED_MINUTES)
            assert value in {stage.truth()[RED_MINUTES], *([None] if number < 40 else [])}
            stage.pass_time(timedelta(minutes=rng.choice([20, 40, 55])))
            if rng.random() < 0.1:
                stage.restart()


def broken_world() -> World:
    """Three commits: green since yesterday, broken for 25 minutes, mended by a re-run; one topic branch."""
    world = World.empty()
    world.add_workflow(1)
    world.add_run(1, START - 2 * DAY, "success", sha="a")
    world.add_run(1, START - 3 * HOUR, "failure", sha="b")
    world.add_run(1, START - 3 * HOUR + 25 * MINUTE, "success", sha="c")
    world.add_run(1, START - HOUR, "failure", "success", sha="d")
    world.add_run(1, START - HOUR, "failure", branch="topic", sha="e")
    return world


async def test_a_check_without_a_threshold_has_no_verdict_and_each_number_says_what_is_behind_it() -> None:
    async with staged(broken_world(), tests_blocking_merge=[1]) as stage:
        result = await stage.collect()
        told = {each.metric.name: each for each in result.samples}
        found = told[CHECK]
        assert (found.value, found.tags["condition"], found.tags["status"]) == (30, "none", "unknown")
        assert found.summary == "main was red for 30 min of the last 24 h, by w1.yml"
        assert [each.commit for each in found.evidence] == ["d", "b"]
        red, flaky = (told[f"metta.infra.cron.ci.branch.{name}_share"] for name in ("red", "flaky"))
        assert (red.value, flaky.value) == (1 / 3, 1 / 3)
        assert red.summary == "1 of 3 commits on main failed in the last 24 h"
        assert flaky.summary == "1 of 3 commits on main failed first and succeeded when run again in the last 24 h"
        assert [each.commit for each in flaky.evidence] == ["d"]
        assert "check" not in {*red.tags, *flaky.tags}


async def test_a_threshold_makes_a_verdict_and_a_list_makes_the_check() -> None:
    async with staged(broken_world(), tests_blocking_merge=[1], thresholds={"red_minutes": 30}) as stage:
        (found,) = [each for each in (await stage.collect()).samples if each.metric.name == CHECK]
        assert (found.tags["condition"], found.tags["status"]) == ("< 30", "fail")
        assert (CHECK, "< 30") in GithubCi.expected_checks(stage.asked)
        stage.settings.pop("tests_blocking_merge")
        stage.restart()
        assert CHECK not in {each.metric.name for each in (await stage.collect()).samples}
        assert CHECK not in dict(GithubCi.expected_checks(stage.asked))


@pytest.mark.parametrize("threshold", [None, 30])
async def test_what_nobody_saw_is_missing_and_said(threshold: float | None) -> None:
    world = broken_world()
    world.add_run(1, START - 2 * HOUR, "failure", "failure", "success")
    async with staged(world, tests_blocking_merge=[1], thresholds={"red_minutes": threshold}) as stage:
        result = await stage.collect()
        assert RED_MINUTES not in values_of(result)
        missing = [each.summary for each in result.no_data if each.tags["check"] == "red_minutes"]
        why = "when an attempt on main of the last 24 h ended, or what was before it, is not known"
        assert missing == ([why] if threshold else [])
        assert (stage.collector.note or "").endswith(f"Metta-AI/metta: {why}") != bool(threshold)
