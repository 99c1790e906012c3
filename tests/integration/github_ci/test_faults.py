"""Whatever GitHub answers in place of the truth: a number is right or missing, and whole again once it is over."""

from datetime import timedelta

import pytest

from service.domain.errors import Rejected, Unavailable
from tests.integration.github_ci.stage import (
    HOUR,
    JOBS,
    parts_of,
    staged,
    values_of,
)
from tests.world import faults, generate

FAULTS = {
    "bad gateway": faults.bad_gateway,
    "cut off": faults.cut_off,
    "half json": faults.half_json,
    "page": faults.html,
    "other shape": faults.other_shape,
    "forbidden": faults.forbidden,
    "not found": faults.not_found,
    "empty, not by its count": faults.empty_list,
    "empty": faults.nothing_found,
    "secondary limit": faults.too_many,
    "primary limit": faults.exhausted,
    "other host": faults.redirect("https://evil.example/"),
    "moved": faults.redirect("/elsewhere"),
}
PARTS = {
    "everything": ".",
    "runs": r"actions/runs\?",
    "first page": r"actions/runs\?.*page=1$",
    "a page of the window": r"actions/runs\?.*page=2$",
    "an older page": r"actions/runs\?.*page=4$",
    "workflows": r"actions/workflows\?",
    "runs of a workflow": r"actions/workflows/\d+/runs",
    "below a run": r"actions/runs/\d+",
    "annotations": "annotations",
    "pull requests": "graphql|search/issues",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_leaves_right_numbers_or_none_and_the_next_cycle_is_whole(fault: str) -> None:
    world = generate(7, workflows=12, runs_a_day=110, days=4, ahead=12 * HOUR)
    for run in world.repository.runs:
        if run.id % 5:  # with few jobs to look into, so that it is quick
            run.attempts = [run.attempts[-1]]
            run.attempts[0].conclusion, run.attempts[0].jobs = run.attempts[0].conclusion and "success", None
    start = world.now
    async with staged(world, tests_blocking_merge=["1"], benchmarks=["12"]) as stage:
        stage.github.app.secondary = 10**6
        for part, pattern in PARTS.items():
            world.now = start
            stage.github.app.resets.clear()
            stage.client = stage.github.client(stage.http)
            stage.state.kept.clear()
            stage.restart()
            for cycle in ("cold", "steady"):
                where = f"{fault}, {part}, {cycle}"
                planned = stage.github.fail(pattern, FAULTS[fault])
                try:
                    result = await stage.collect()
                except (Unavailable, Rejected):
                    assert part == "everything" or "limit" in fault, where
                else:
                    values = values_of(result)
                    assert values.items() <= stage.truth().items(), where
                    assert result.failures or values == stage.truth(values), where
                    assert len(set(parts_of(result))) == len(result.failures), where
                stage.github.faults.remove(planned)
                stage.pass_time(timedelta(hours=1, minutes=1))
                result = await stage.collect()
                assert (values_of(result), result.failures) == (stage.truth(values_of(result)), ()), where
                assert JOBS in values_of(result), where
                stage.pass_time()
