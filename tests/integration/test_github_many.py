"""Many repositories in one github_ci: each right by itself, in turn, and none at another's expense."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest

from service.collectors import ci_fleet
from service.collectors.ci_fleet import Fleet
from service.domain.errors import Unavailable
from service.domain.runs import Collected
from tests.github_world import NOW, Asked, random_world, truth
from tests.integration.github_server import Reply
from tests.integration.test_github_ci import JOBS, NAMESPACE, Stage, staged

NAMES = [f"acme/service-{number}x" for number in range(8)]
INTERVAL = timedelta(minutes=10)


@asynccontextmanager
async def many(names: list[str]) -> AsyncIterator[Stage]:
    worlds = [random_world(seed, workflows=4, runs_a_day=6, days=20) for seed in range(len(names))]
    for world, name in zip(worlds, names, strict=True):
        world.repo, world.now = name, NOW
    async with staged(worlds[0], repositories=names) as stage:
        stage.server.others = worlds
        yield stage


def by_repository(collected: Collected) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in collected.samples:
        if sample.metric.kind.value == "gauge":
            found[sample.tags["repo"]][sample.metric.name.removeprefix(NAMESPACE)] = sample.value
    return found


async def test_each_repository_has_its_own_numbers_and_they_outlive_a_restart() -> None:
    async with many(NAMES) as stage:
        for _ in range(2):
            collected = await stage.collect()
            expected = {world.repo: truth(world, Asked()) for world in stage.server.others}
            assert by_repository(collected) == expected
            assert stage.server.most_in_flight <= 20
            stage.restart()
        stage.server.take_asked()
        await stage.collect()
        assert sum(each.cost for each in stage.server.take_asked()) <= 2 * len(NAMES)


async def test_a_repository_that_is_broken_fails_no_other() -> None:
    async with many(NAMES) as stage:
        stage.server.fail(NAMES[2], Reply.of({"message": "Not Found"}, 404))
        stage.server.fail("graphql", lambda line: Reply.of({"message": "Not Found"}, 404), times=1)
        collected = await stage.collect()
        assert {name for name, values in by_repository(collected).items() if JOBS in values} == set(NAMES) - {NAMES[2]}
        assert {fault.part.partition(":")[0].partition(",")[0] for fault in collected.faults} == {NAMES[2]}
        stage.server.faults.clear()
        stage.server.fail(".", Reply(502))
        with pytest.raises(Unavailable):
            await stage.collect()


async def test_a_slow_repository_is_left_out_when_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.collectors.github_ci._STRAGGLE", 0.5)
    async with many(NAMES) as stage:
        stage.server.fail(NAMES[5], Reply(502, delay=60))
        with anyio.fail_after(30):
            collected = await stage.collect()
        assert set(by_repository(collected)) == set(NAMES) - {NAMES[5]}
        assert [fault.part for fault in collected.faults] == [NAMES[5]]


async def test_what_is_configured_no_more_is_forgotten() -> None:
    async with many(NAMES) as stage:
        await stage.collect()
        stage.settings["repositories"] = NAMES[:3]
        stage.restart()
        collected = await stage.collect()
        assert {key for key, value in collected.remember.items() if value is None} == {f"ci {n}" for n in NAMES[3:]}


def test_a_thousand_repositories_take_turns_and_none_waits_for_ever() -> None:
    from service.adapters.github import Quota

    names = [f"acme/{number}" for number in range(1000)]
    fleet, now = Fleet(), NOW
    asked: list[str] = []
    for cycle in range(12):
        quota = Quota(5000, 5000 - 800 * (cycle % 6), NOW + timedelta(hours=1 + cycle // 6), 0)
        turn = ci_fleet.turn(fleet, names, quota, INTERVAL, now)
        assert sum(map(fleet.cost, turn.repositories)) <= quota.remaining
        for name in turn.repositories:
            fleet.asked[name] = now
        asked += turn.repositories
        now += INTERVAL
    assert set(asked[:1000]) == set(names)
    text = ci_fleet.sweep_text(len(turn.repositories), turn.cycles, 1000, INTERVAL)
    assert "a sweep of all takes about" in (text or "")


def test_a_hundred_repositories_fit_a_cycle() -> None:
    from service.adapters.github import Quota

    names = [f"acme/{number}" for number in range(100)]
    quota = Quota(5000, 4000, NOW + timedelta(minutes=40), 1000)
    turn = ci_fleet.turn(Fleet(), names, quota, INTERVAL, NOW)
    assert len(turn.repositories) == 100
    assert ci_fleet.sweep_text(100, turn.cycles, 100, INTERVAL) is None


async def test_the_first_cycle_of_many_does_not_burn_the_quota() -> None:
    names = [f"acme/service-{number}x" for number in range(60)]
    async with many(names) as stage:
        stage.server.limit = 600
        collected = await stage.collect()
        # Where what is new costs more than was known, the least urgent question of the last repositories waits.
        assert all("quota does not allow" in fault.reason for fault in collected.faults)
        assert 10 <= len(by_repository(collected)) < len(names)
        assert stage.server.used["core"] < 600
        assert stage.collector.note
        assert "of 60 repositories in this cycle" in stage.collector.note
