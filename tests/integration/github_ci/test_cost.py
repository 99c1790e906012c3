"""What a cycle costs of GitHub's quota and of the store, and how one quota serves many repositories."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from service.collectors.github_ci import repository
from service.demo.github_rows import Attempt
from service.domain.errors import Unavailable
from tests.integration.github_ci.stage import BRANCH, JOBS, PULLS, Stage, parts_of, staged, values_of
from tests.world import HOUR, MINUTE, NOW, World, faults, generate, truth

NAMES = [f"acme/service-{number}x" for number in range(12)]


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
    async with staged(usual_world(300, 5 * HOUR), tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        told = 0
        for number in range(8):
            stage.pass_time()
            if number % 3 == 0:
                stage.restart()
            told += JOBS in await stage.collect_truth()
            requests, points = stage.cost
            assert (requests <= 10, points <= 8) == (True, True), stage.cost
        assert told >= 6
        assert sum(map(len, stage.state.kept.values())) < 40_000


async def test_a_week_of_jobs_at_1100_runs_a_day_is_read_within_an_hour_of_cycles() -> None:
    async with staged(usual_world(1100, HOUR)) as stage:
        for _ in range(6):
            values = await stage.values()
            assert values == stage.truth(values)
            assert stage.cost[1] <= 250
            stage.pass_time()
        assert JOBS in values


async def test_a_cold_start_sends_no_number_that_older_runs_may_still_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "CYCLE_POINTS", 24)
    world = generate(7, workflows=6, runs_a_day=60, days=38)
    old = world.add_run(1, world.now - timedelta(days=20), "success")
    old.attempts.append(Attempt(world.now - HOUR, world.now - 50 * MINUTE, "cancelled"))
    async with staged(world) as stage:
        sent = []
        while JOBS not in (values := await stage.values()):
            assert values.items() <= stage.truth().items()
            sent.append("ci.workflow.cancelled" in values)
            assert stage.note.count("still to be read") == 1
            stage.pass_time()
        assert values == stage.truth()
        assert sent[:2] == [False, True]


async def test_a_small_quota_is_not_burned() -> None:
    async with staged(generate(2, workflows=12, runs_a_day=60), token=None) as stage:
        for _ in range(6):
            assert (await stage.values()).keys() >= PULLS | (BRANCH - {"ci.workflow.other_failing"})
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
            world.add_run(1, world.now - 8 * MINUTE, "cancelled")
        stage.pass_time()
        values = await stage.values()
        assert (stage.was_asked("/jobs"), stage.was_asked("annotations")) == (0, 0)
        assert JOBS not in values
        assert values == stage.truth(values)
        assert "will not last" in stage.note


async def test_a_state_that_can_not_be_decoded_is_a_cold_start() -> None:
    async with staged(generate(2, workflows=3, runs_a_day=6, days=3)) as stage:
        for stored in (b"no zstd", b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x80"):
            stage.state.kept = {stage.world.repository.name: stored, "rotation": stored}
            await stage.collect_truth()


# Many repositories: each right by itself, in turn, and none at another's expense


@asynccontextmanager
async def many(count: int = 8) -> AsyncIterator[Stage]:
    names = NAMES[:count]
    first, *others = (generate(seed, name=name, workflows=4, runs_a_day=3, days=20) for seed, name in enumerate(names))
    first.now, first.others = NOW, [world.repository for world in others]
    async with staged(first, repositories=names) as stage:
        yield stage


async def collect_of_each(stage: Stage) -> dict[str, dict[str, float]]:
    """The values of each repository that has some."""
    result = await stage.collect()
    found = {repo: values_of(result, repo) for repo in stage.asked.repositories}
    return {repo: values for repo, values in found.items() if values}


async def test_each_repository_has_its_own_numbers_which_outlive_a_restart_but_not_its_configuration() -> None:
    async with many() as stage:
        for _ in range(3):
            found = await collect_of_each(stage)
            for each in (stage.world.repository, *stage.world.others):
                expected = truth(each, stage.world.now, stage.asked)
                assert found[each.name] | {JOBS: 0} == expected | {JOBS: 0}
            stage.restart()
        assert stage.cost[1] <= 2 * 8
        stage.settings["repositories"] = NAMES[:3]
        stage.restart()
        await stage.collect()
        assert not [key for key in stage.state.kept for name in NAMES[3:] if name in key]
        assert len([key for key in stage.state.kept if NAMES[0] in key]) == 2


async def test_a_repository_that_is_broken_fails_no_other() -> None:
    async with many() as stage:
        stage.github.fail(NAMES[2], faults.not_found)
        result = await stage.collect()
        assert {part.partition(",")[0] for part in parts_of(result)} == {NAMES[2]}
        assert all("ci.workflow.cancelled" in values_of(result, name) for name in NAMES[3:8])
        stage.github.fail(NAMES[3], faults.hang)
        with anyio.fail_after(2):
            result = await stage.collect()
        assert NAMES[3] in parts_of(result)
        assert values_of(result, NAMES[4])
        stage.github.faults.clear()
        stage.github.fail(".", faults.bad_gateway)
        with pytest.raises(Unavailable):
            await stage.collect()


async def test_a_quota_that_is_too_small_for_all_lets_them_take_turns_and_is_not_burned() -> None:
    async with many(12) as stage:
        stage.github.app.limits = {"core": 80, "search": 30, "graphql": 5000}
        seen: set[str] = set()
        for _ in range(8):
            found = set(await collect_of_each(stage))
            if not seen:
                assert 1 <= len(found) < 12
                assert "of 12 repositories in this cycle" in stage.note
            assert stage.github.app.used["core"] <= 80
            seen |= found
            stage.pass_time()
        assert seen == set(stage.asked.repositories)
