import random
import pytest
from tests.integration.github_ci.stage import *
from tests.world import generate


@pytest.mark.parametrize("seed", range(12))
async def test_every_value_equals_the_truth_cycle_after_cycle(seed: int) -> None:
    rng = random.Random(seed)
    rate = rng.choice([0.3, 6, 40, 150])
    world = generate(
        seed, workflows=rng.choice([1, 6, 40, 110]), runs_a_day=rate, days=rng.choice([2, 33, 70]), ahead=3 * HOUR
    )
    ids = [str(each.id) for each in world.repository.workflows]
    lists = {
        key: tuple(rng.sample(ids, rng.randint(0, min(2, len(ids))))) for key in ("tests_blocking_merge", "benchmarks")
    }
    async with staged(world, **lists) as stage:
        for cycle in range(5):
            result = await stage.collect()
            values = values_of(result)
            print(seed, cycle, stage.cost, stage.collector.note, result.failures)
            assert values == stage.truth(values)
            assert result.failures == ()
            stage.pass_time()
            if rng.random() < 0.5:
                stage.restart()
