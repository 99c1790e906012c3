import random
import pytest
from tests.integration.github_ci.stage import *
from tests.world import generate


@pytest.mark.parametrize("rate", [300, 1100])
async def test_cost(rate: int) -> None:
    world = generate(1, workflows=40, runs_a_day=rate, days=33, ahead=5 * HOUR)
    rng = random.Random(1)
    for run in world.repository.runs:  # 15 % suspects
        if rng.random() < 0.6:
            run.attempts = run.attempts[:1]
            run.attempts[0].conclusion = run.attempts[0].conclusion and "success"
            run.attempts[0].jobs = None
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        for cycle in range(20):
            result = await stage.collect()
            values = values_of(result)
            expected = stage.truth(values)
            print(
                rate,
                cycle,
                stage.cost,
                len(values),
                {k: (values.get(k), expected.get(k)) for k in expected if values.get(k) != expected.get(k)},
                stage.collector.note,
                result.failures,
                sum(map(len, stage.state.kept.values())),
                flush=True,
            )
            stage.pass_time()
