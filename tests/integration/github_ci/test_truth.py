"""``github_ci`` against simulated repositories: every value equals the truth, cycle after cycle, whatever moves."""

import random
from datetime import timedelta
from typing import Any

import pytest

from service.demo.github import Asked
from service.demo.github_rows import Attempt
from tests.integration.github_ci.stage import JOBS, RED_MINUTES, durations_of, parts_of, small_world, staged, values_of
from tests.world import DAY, HOUR, MINUTE, NOW, faults, generate
from tests.world.judge import complaints
from tests.world.truth import durations, week


@pytest.mark.parametrize(
    ("seed", "workflows", "runs_a_day", "days", "cycles"),
    [(1, 6, 0.3, 70, 3), (6, 40, 150, 33, 3), (9, 110, 40, 70, 3), (11, 1, 6, 2, 3), (4, 6, 12, 33, 60)],
)
async def test_all_that_is_told_equals_the_truth_cycle_after_cycle(
    seed: int, workflows: int, runs_a_day: float, days: int, cycles: int
) -> None:
    """Each value, the table of the week, and each duration once."""
    rng = random.Random(seed)
    world = generate(seed, workflows=workflows, runs_a_day=runs_a_day, days=days, ahead=2 * DAY)
    ids = [str(each.id) for each in world.repository.workflows]
    lists: dict[str, Any] = {
        "tests_blocking_merge": rng.sample(ids, min(2, workflows)),
        "benchmarks": rng.sample(ids, min(2, workflows)),
        "expected": {f"w{id}.yml": "26h" for id in ids},
    }
    told, ended = list[tuple[Any, ...]](), set[tuple[Any, ...]]()
    async with staged(world, **lists, bug_sub_labels=("crash",)) as stage:
        for number in range(cycles):
            result = await stage.collect()
            values = values_of(result)
            assert set(parts_of(result)) <= {"expected"}  # some are disabled
            assert values == stage.truth(values)
            assert RED_MINUTES in values or number < 40  # who has watched for a day knows it
            assert stage.week() == (world.now, week(world.repository, world.now))
            told += durations_of(result)
            ended.update(durations(world.repository, world.now))
            stage.pass_time(rng.choice([10, 20, 40, 55]) * MINUTE)
            if rng.random() < 0.4:
                stage.restart()
    assert sorted(told) == sorted(ended)


async def test_what_came_during_a_silence_of_any_length_is_read() -> None:
    world = generate(2, workflows=9, runs_a_day=60, days=40, ahead=6 * DAY)
    async with staged(world) as stage:
        for hours in (0, 2, 24, 2, 30, 72):
            stage.pass_time(hours * HOUR)
            stage.restart()
            await stage.collect_truth()
            assert stage.week() == (world.now, week(world.repository, world.now))


async def test_github_describes_every_request_that_is_made() -> None:
    world = generate(4, workflows=9, runs_a_day=60, ahead=2 * HOUR)
    asked: dict[str, Asked] = {}
    async with staged(world, tests_blocking_merge=["1"], bug_sub_labels=["crash"]) as stage:
        for outage in ("nothing", "actions/workflows", "graphql", "graphql", "graphql", "graphql"):
            stage.github.faults.clear()
            stage.github.fail(outage, faults.not_found)
            await stage.collect()
            asked |= {each.document or each.line: each for each in stage.github.app.asked}
            stage.pass_time()
    assert [found for each in asked.values() for found in complaints(each)] == []
    assert any(each.document for each in asked.values())


async def test_the_windows_are_exact_to_the_second() -> None:
    world = small_world()
    world.now = NOW.replace(microsecond=0)
    for seconds in (-1, 0, 1):
        world.add_run(1, world.now - DAY + timedelta(seconds=seconds), "cancelled")
        world.repository.pulls[seconds + 1].merged = world.now - 7 * DAY + timedelta(seconds=seconds)
        world.repository.pulls[seconds + 1].labels = ("hotfix",)
    async with staged(world) as stage:
        for cancelled, hotfixes in ((3, 2), (2, 1)):  # one of the former a few hours ago
            values = await stage.collect_truth()
            assert values["ci.workflow.cancelled"] == cancelled
            assert values["github.hotfix.count"] == hotfixes
            world.now += timedelta(milliseconds=1)


# What moves in the list of all runs


async def test_no_run_is_missed_while_new_ones_come_and_old_ones_go_between_the_requests() -> None:
    rng = random.Random(1)
    world = generate(1, runs_a_day=300, days=3)
    repository = world.repository
    async with staged(world) as stage:

        def disturb(line: str) -> None:
            if "actions/runs?" not in line:
                return
            for _ in range(rng.choice([0, 0, 1, 3])):
                # Skipped runs change no number, but shift all pages.
                world.add_run(rng.choice(repository.workflows).id, NOW.replace(microsecond=0), "skipped")
            # A cold start can't know what a deletion moved out of its sight.
            if stage.state.kept and rng.random() < 0.3:
                runs = repository.newest_first(world.now)
                repository.runs.remove(next(run for run in runs if run.attempts[-1].conclusion == "skipped"))

        stage.github.app.before = disturb
        stage.github.fail(r"actions/runs\?", faults.wrong_total())
        for _ in range(5):
            await stage.collect_truth()
            stage.pass_time(timedelta(seconds=1))


async def test_a_rerun_of_an_old_run_is_found_by_a_cold_start_or_else_within_six_hours() -> None:
    world = small_world()
    for hours in range(1, 800):
        world.add_run(2, NOW - hours * HOUR, "success")
    oldest = world.add_run(1, NOW - 30 * DAY - 20 * HOUR, "success")  # that GitHub lets run again
    oldest.attempts.append(Attempt(NOW - 21 * HOUR, NOW - 20 * HOUR, "cancelled"))
    old = world.add_run(1, NOW - 20 * DAY, "success")
    async with staged(world) as stage:
        await stage.collect_truth()
        await stage.collect_until_whole()
        old.attempts.append(Attempt(world.now - 8 * MINUTE, world.now - 6 * MINUTE, "cancelled"))
        for _ in range(36):
            stage.pass_time()
            if await stage.values() == stage.truth():
                return
    pytest.fail("the re-run was not found within six hours")


async def test_deleted_runs_are_forgotten_and_their_jobs_waited_for_no_longer() -> None:
    world = generate(5, workflows=9, runs_a_day=60)
    runs = world.repository.runs
    async with staged(world) as stage:
        outage = stage.github.fail(r"runs/\d+/jobs", faults.bad_gateway)
        await stage.collect()
        failed = (run for run in runs if run.created > NOW - 4 * DAY and run.attempts[-1].conclusion == "failure")
        runs.remove(next(failed))
        stage.github.faults.remove(outage)
        values: dict[str, float] = {}
        for _ in range(36):  # until its page is read
            if JOBS not in values:
                stage.pass_time()
                values = await stage.values()
                assert values == stage.truth(values)
        assert JOBS in values
        # A third of the day's, and of the busiest workflow all but those far behind the window.
        busiest = max({run.workflow_id for run in runs}, key=[run.workflow_id for run in runs].count)
        gone = [run for run in runs if run.created > NOW - DAY][::3]
        gone += [run for run in runs if run.workflow_id == busiest and run.created > NOW - 2 * DAY]
        world.repository.runs = [run for run in runs if run not in gone]
        stage.pass_time()
        # A deleted run's jobs were ended by their limit all the same.
        assert await stage.values() | {JOBS: 0} == stage.truth() | {JOBS: 0}


@pytest.mark.parametrize(
    ("fault", "times"), [(None, 0), (faults.not_found, 1), (faults.not_found, 100), (faults.nothing_found, 100)]
)
async def test_a_workflow_that_ran_long_ago_is_known_from_its_own_list_though_that_lags_or_is_empty(
    fault: faults.Fault | None, times: int
) -> None:
    world = small_world()
    world.add_workflow(3, "Yearly")
    for number in range(30):
        world.add_run(3, NOW - 180 * DAY + number * HOUR, "skipped")
    world.add_run(3, NOW - 190 * DAY, "failure")
    for hours in range(1, 900):
        world.add_run(2, NOW - hours * HOUR, "success")
    async with staged(world) as stage:
        if fault:
            outage = stage.github.fail(r"workflows/\d+/runs", fault, times)
            assert (await stage.values()).get("ci.workflow.other_failing", 1) == 1
            stage.github.faults.remove(outage)
            stage.pass_time()
        await stage.collect_truth()
        stage.pass_time()
        world.add_run(3, world.now - 6 * MINUTE, "success")  # which its own list does not show yet
        assert (await stage.collect_truth())["ci.workflow.other_failing"] == 0


async def test_stuck_runs_are_told_apart_and_never_asked_for() -> None:
    start = NOW.replace(microsecond=0)
    world = generate(8, workflows=6, runs_a_day=30, days=33, ahead=4 * HOUR)
    runs = [world.add_run(1, NOW - age, None) for age in (25 * HOUR, 26 * HOUR, 3 * DAY, 9 * DAY, 28 * DAY)]
    rerun = world.add_run(1, NOW - 12 * DAY, "success")
    rerun.attempts.append(Attempt(start - 25 * HOUR, status="queued"))
    for run in runs:
        run.attempts = [Attempt(run.created, status="queued")]
    for hours, status in enumerate(("queued", "waiting", "pending", "requested"), 20):
        world.add_run(1, start - hours * HOUR, None).attempts = [Attempt(start - hours * HOUR, status=status)]
    async with staged(world) as stage:
        await stage.collect_until_whole()
        before = stage.cost
        assert "stuck, waiting for more than a day and not counted as queued: " in stage.note
        assert f"the oldest since 2026-02-04 https://github.com/Metta-AI/metta/actions/runs/{runs[-1].id}" in stage.note
        # Deleted, or left out by a list that lags: nothing waits for them.
        world.repository.runs = [run for run in world.repository.runs if run not in runs[:2]]
        for _ in range(3):
            stage.pass_time()
            await stage.collect_truth()
            assert not any(stage.was_asked(f"/runs/{run.id}?") for run in (*runs, rerun))
            assert stage.cost <= before
