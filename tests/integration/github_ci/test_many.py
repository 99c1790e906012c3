"""Many repositories in one github_ci: each right by itself, in turn, and none at another's expense."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest

from service.collectors.github_ci.weekly_runs import KEY
from service.domain.errors import Unavailable
from tests.integration.github_ci.stage import JOBS, Stage, staged, values_by_repository
from tests.world import NOW, Questions, faults, generate, truth

NAMES = [f"acme/service-{number}x" for number in range(8)]


@asynccontextmanager
async def many(names: list[str]) -> AsyncIterator[Stage]:
    worlds = [generate(seed, name=name, workflows=4, runs_a_day=3, days=20) for seed, name in enumerate(names)]
    first = worlds[0]
    first.now, first.others = NOW, [world.repository for world in worlds[1:]]
    async with staged(first, repositories=names) as stage:
        yield stage


async def test_each_repository_has_its_own_numbers_and_they_outlive_a_restart() -> None:
    async with many(NAMES) as stage:
        repositories = [stage.world.repository, *stage.world.others]
        for _ in range(3):
            found = values_by_repository(await stage.collect())
            for repository in repositories:
                expected = truth(repository, stage.world.now, Questions())
                if JOBS not in found[repository.name]:
                    del expected[JOBS]
                assert found[repository.name] == expected
            stage.restart()
        assert stage.github.app.most_in_flight <= 20
        assert stage.cost[1] <= 2 * len(NAMES)


async def test_a_repository_that_is_broken_fails_no_other() -> None:
    async with many(NAMES) as stage:
        stage.github.fail(NAMES[2], faults.not_found)
        result = await stage.collect()
        assert {failure.part.partition(",")[0] for failure in result.failures} == {NAMES[2]}
        assert all("ci.workflow.cancelled" in values_by_repository(result)[name] for name in NAMES if name != NAMES[2])
        stage.github.faults.clear()
        stage.github.fail(".", faults.bad_gateway)
        with pytest.raises(Unavailable):
            await stage.collect()


async def test_a_slow_repository_is_left_out_when_the_others_are_done() -> None:
    first, slow, last = NAMES[:3]
    async with many([first, slow, last]) as stage:
        stage.github.fail(slow, faults.hang)
        with anyio.fail_after(2):
            result = await stage.collect()
        assert set(values_by_repository(result)) == {first, last}
        assert slow in [failure.part for failure in result.failures]


async def test_what_is_configured_no_more_is_forgotten() -> None:
    async with many(NAMES) as stage:
        await stage.collect()
        stage.settings["repositories"] = NAMES[:3]
        stage.restart()
        result = await stage.collect()
        gone = {key for key, value in result.state.items() if value is None}
        assert gone == {*NAMES[3:], *(KEY + name for name in NAMES[3:])}


async def test_a_quota_that_is_too_small_for_all_lets_them_take_turns_and_is_not_burned() -> None:
    names = [f"acme/service-{number}x" for number in range(12)]
    async with many(names) as stage:
        stage.github.app.limits = {"core": 80, "search": 30, "graphql": 5000}
        seen: set[str] = set()
        for _ in range(8):
            result = await stage.collect()
            found = set(values_by_repository(result))
            if not seen:
                assert 1 <= len(found) < len(names)
                assert "of 12 repositories in this cycle" in (stage.collector.note or "")
            assert stage.github.app.used["core"] <= 80
            seen |= found
            stage.pass_time(timedelta(minutes=10))
        assert seen == set(names)


async def test_of_a_quota_that_is_used_up_but_for_the_reserve_one_repository_is_asked() -> None:
    async with many(NAMES) as stage:
        await stage.collect()
        limit = stage.github.app.limits["core"]
        stage.github.app.used["core"] = limit - limit // 20
        stage.pass_time(timedelta(minutes=10))
        await stage.collect()  # whose answers tell the quota
        stage.pass_time(timedelta(minutes=10))
        assert len(values_by_repository(await stage.collect())) == 1
