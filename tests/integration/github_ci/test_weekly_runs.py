"""The table of the week equals the truth through re-runs, restarts and gaps, and is missing where it could not."""

from datetime import timedelta

import pytest

from service.collectors.github_ci.state import decode
from service.collectors.github_ci.weekly_runs import KEY, WeeklyRuns
from tests.integration.github_ci.stage import DAY, HOUR, Stage, small_world, staged
from tests.world import NOW, faults, generate
from tests.world.truth import week


def told(stage: Stage, repo: str = "Metta-AI/metta") -> list[tuple[str, int, int, float | None, int]]:
    found = kept(stage, repo).summarize()
    assert all(each.repo == repo and each.failure_share == each.failures / each.runs for each in found)
    return sorted(
        (each.workflow, each.runs, each.failures, each.p90_minutes and round(each.p90_minutes, 6), each.reruns)
        for each in found
    )


def kept(stage: Stage, repo: str = "Metta-AI/metta") -> WeeklyRuns:
    found = decode(stage.state.kept[KEY + repo], WeeklyRuns)
    assert found
    return found


@pytest.mark.parametrize("seed", [2, 5])
async def test_the_table_equals_the_truth_while_time_passes(seed: int) -> None:
    world = generate(seed, workflows=9, runs_a_day=60, days=40, ahead=3 * DAY)
    async with staged(world) as stage:
        for pause in (timedelta(0), timedelta(minutes=10), HOUR, 2 * HOUR, DAY, 2 * HOUR, 30 * HOUR):
            stage.pass_time(pause)
            if pause > HOUR:
                stage.restart()
            await stage.collect()
            assert told(stage) == week(world.repository, world.now)
            assert kept(stage).since == world.now - 7 * DAY
            assert kept(stage).until == world.now


async def test_a_rerun_takes_the_place_of_what_was_before_and_counts_as_one_once_it_has_ended() -> None:
    world = small_world()
    run = world.add_run(1, NOW - 2 * DAY, "failure")
    async with staged(world) as stage:
        await stage.collect()
        assert told(stage) == [("Nightly", 1, 0, 5.0, 1), ("Tests", 2, 1, 5.0, 0)]
        again = world.add_run(1, NOW, "success")
        world.repository.runs.remove(again)
        run.attempts.append(again.attempts[0])
        stage.pass_time(timedelta(minutes=2))
        assert told(stage)[1] == ("Tests", 2, 1, 5.0, 0)
        stage.deliver(run, run.attempts[-1])
        stage.pass_time(timedelta(minutes=3))
        await stage.collect_changes()
        after = [("Nightly", 1, 0, 5.0, 1), ("Tests", 2, 0, 5.0, 1)]
        assert told(stage) == after
        stage.pass_time(6 * HOUR)
        await stage.collect()
        assert told(stage) == week(world.repository, world.now) == after


async def test_p90_is_missing_while_an_end_is_not_known_and_stays_what_was_seen_first() -> None:
    world = small_world()
    long = world.add_run(1, NOW - 2 * DAY, "success")
    long.attempts[0].ended = long.created + 2 * HOUR
    short = world.add_run(2, NOW - HOUR, "success")
    async with staged(world) as stage:
        await stage.collect()
        assert told(stage) == [("Nightly", 2, 0, 5.0, 1), ("Tests", 2, 0, None, 0)]
        short.touched = short.created + 50 * timedelta(minutes=1)  # an annotation moves updated_at
        for _ in range(5):
            stage.pass_time(2 * HOUR + DAY)
            await stage.collect()
        assert told(stage) == [("Nightly", 2, 0, 5.0, 1), ("Tests", 1, 0, 5.0, 0)]


async def test_no_table_while_older_runs_are_to_be_read_and_none_anew_while_github_is_away() -> None:
    world = generate(8, workflows=4, runs_a_day=100, days=40, ahead=DAY)
    async with staged(world) as stage:
        stage.github.fail("page=[3-9]", faults.bad_gateway)
        await stage.collect()
        assert kept(stage).until is None
        assert told(stage) == []
        stage.github.faults.clear()
        await stage.collect()
        before = told(stage)
        assert before == week(world.repository, world.now)
        stage.pass_time()
        stage.github.fail("actions/runs", faults.bad_gateway)
        result = await stage.collect()
        assert "runs" in [each.part for each in result.failures]
        assert told(stage) == before
