"""``github_ci`` over real HTTP against simulated repositories: every value equals the truth, cycle after cycle."""

import random
from typing import Any

import pytest

from service.demo.github import Asked
from tests.integration.github_ci.stage import HOUR, staged, values_of
from tests.world import faults, generate
from tests.world.judge import complaints


@pytest.mark.parametrize("seed", [1, 6, 9, 11])
async def test_every_value_equals_the_truth_cycle_after_cycle(seed: int) -> None:
    rng = random.Random(seed)
    world = generate(
        seed,
        workflows=rng.choice([1, 6, 40, 110]),
        runs_a_day=rng.choice([0.3, 6, 40, 150]),
        days=rng.choice([2, 33, 70]),
        ahead=3 * HOUR,
    )
    ids = [str(each.id) for each in world.repository.workflows]
    lists: dict[str, Any] = {
        key: tuple(rng.sample(ids, rng.randint(0, min(2, len(ids))))) for key in ("tests_blocking_merge", "benchmarks")
    }
    async with staged(world, **lists, bug_sub_labels=("crash",)) as stage:
        for _ in range(3):
            result = await stage.collect()
            values = values_of(result)
            assert [str(each) for each in result.failures] == []
            assert values == stage.truth(values)
            stage.pass_time()
            if rng.random() < 0.5:
                stage.restart()


async def test_github_describes_every_request_that_is_made() -> None:
    world = generate(4, workflows=9, runs_a_day=60, ahead=2 * HOUR)
    asked: dict[str, Asked] = {}
    async with staged(world, tests_blocking_merge=["1"], bug_sub_labels=["crash"]) as stage:
        for outage in (None, "actions/workflows", "graphql", "graphql", "graphql", "graphql"):
            stage.github.faults.clear()
            if outage:
                stage.github.fail(outage, faults.not_found)
            await stage.collect()
            asked |= {each.document or each.line: each for each in stage.github.app.asked}
            stage.pass_time()
    assert [found for each in asked.values() for found in complaints(each)] == []
    assert any(each.document for each in asked.values())
