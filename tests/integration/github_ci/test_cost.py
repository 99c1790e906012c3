"""What a cycle costs: requests and points of GitHub's quota, and what is kept for the next one."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from service.collectors.github_ci import repository
from service.demo.github_rows import Attempt
from tests.integration.github_ci.stage import BRANCH, HOUR, JOBS, PULLS, staged, values_of
from tests.world import World, generate


def usual_world(runs_a_day: int, ahead: timedelta) -> World:
    """Fewer failures and re-runs than the generator makes: as a healthy repository has them."""
    rng = random.Random(1)
    world = generate(1, workflows=40, runs_a_day=runs_a_day, days=9, ahead=ahead)
    for run in world.repository.runs:
        if rng.random() < 0.7:
            first = run.attempts[0]
            run.attempts = [replace(first, conclusion=first.conclusion and "success", jobs=None)]
    return world


async def test_a_steady_cycle_costs_ten_requests_and_eight_points_at_most() -> None:
    world = usual_world(300, 5 * HOUR)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        stage.github.app.secondary = 10**6
        for _ in range(4):
            values = await stage.values()
            assert values == stage.truth(values)
            assert stage.cost[1] <= 250
            if JOBS in values:
                break
            stage.pass_time()
        told = 0
        for number in range(8):
            stage.pass_time()
            if number % 3 == 0:
                stage.restart()
            values = await stage.values()
            assert values == stage.truth(values)
            told += JOBS in values
            requests, points = stage.cost
            assert (requests <= 10, points <= 8) == (True, True), stage.cost
        assert told >= 6
        assert stage.github.app.most_in_flight <= 20
        assert sum(map(len, stage.state.kept.values())) < 40_000


async def test_a_week_of_jobs_at_1100_runs_a_day_is_read_within_an_hour_of_cycles() -> None:
    world = usual_world(1100, HOUR)
    async with staged(world) as stage:
        stage.github.app.secondary = 10**6
        for _ in range(6):
            values = await stage.values()
            assert values == stage.truth(values)
            assert stage.cost[1] <= 250
            if JOBS in values:
                break
            stage.pass_time()
        assert JOBS in values


async def test_a_cold_start_sends_no_number_that_older_runs_may_still_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "CYCLE_POINTS", 24)
    world = generate(7, workflows=6, runs_a_day=60, days=38)
    old = world.add_run(1, world.now - timedelta(days=20), "success")
    old.attempts.append(Attempt(world.now - HOUR, world.now - timedelta(minutes=50), "cancelled"))
    async with staged(world) as stage:
        sent = []
        while JOBS not in (values := await stage.values()):
            assert values.items() <= stage.truth().items()
            sent.append("ci.workflow.cancelled" in values)
            assert (stage.collector.note or "").count("still to be read") == 1
            stage.pass_time()
        assert values == stage.truth()
        assert sent[:2] == [False, True]


async def test_a_small_quota_is_not_burned() -> None:
    world = generate(2, workflows=12, runs_a_day=60)
    async with staged(world, token=None) as stage:
        for _ in range(6):
            values = await stage.values()
            assert values.keys() >= PULLS | (BRANCH - {"ci.workflow.other_failing"})
            stage.pass_time()
        assert stage.github.app.used["core"] <= 60


async def test_a_quota_that_will_not_last_is_left_to_what_can_not_wait() -> None:
    world = generate(2, workflows=6, runs_a_day=40, ahead=2 * HOUR)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        stage.github.app.used["core"] = 4497
        stage.pass_time()
        await stage.collect()
        for _ in range(3):
            world.add_run(1, world.now.replace(microsecond=0) - timedelta(minutes=8), "cancelled")
        stage.pass_time()
        values = values_of(await stage.collect())
        assert not [each for each in stage.github.app.asked if "/jobs" in each.target or "annotations" in each.target]
        assert JOBS not in values
        assert values == stage.truth(values)
        assert "will not last" in (stage.collector.note or "")


@pytest.mark.parametrize("stored", [b"", b"no zstd", b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x80"])
async def test_a_state_that_can_not_be_decoded_is_a_cold_start(stored: bytes) -> None:
    world = generate(2, workflows=3, runs_a_day=6, days=3)
    async with staged(world) as stage:
        stage.state.kept = {world.repository.name: stored, "rotation": stored}
        values = await stage.values()
        assert values == stage.truth(values)


async def test_the_whole_list_is_read_again_after_a_long_silence() -> None:
    world = generate(4, workflows=9, runs_a_day=60, ahead=80 * HOUR)
    async with staged(world) as stage:
        await stage.collect()
        stage.pass_time(72 * HOUR)
        values = await stage.values()
        assert values == stage.truth(values)


async def test_a_workflow_that_is_always_skipped_is_read_through_once() -> None:
    world = generate(2, workflows=3, runs_a_day=6, days=38)
    world.add_workflow(4, "Forks only")
    for number in range(450):
        world.add_run(4, world.now - timedelta(minutes=37 * number + 30), "skipped")
    async with staged(world) as stage:
        for at_most in (6, 0, 0, 0):
            values = await stage.values()
            assert values == stage.truth(values)
            assert len([each for each in stage.github.app.asked if "/workflows/4/" in each.target]) <= at_most
            stage.pass_time(timedelta(minutes=20))
