"""The pace of requests, the quota that will not last, and the forecast of what is asked."""

from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from service.collectors import ci_fleet
from service.domain.checks import Check
from service.domain.errors import Unavailable
from service.domain.samples import Evidence, Sample, Status
from tests.github_world import random_world
from tests.integration.github_server import FakeClock, client_of, github_at
from tests.integration.store_cases import GAUGE, NOW, keep, opened, over, started
from tests.integration.test_github_ci import JOBS, staged, values_of

WORKFLOWS = "/repos/Metta-AI/metta/actions/workflows"


async def test_no_minute_has_more_than_the_allowed_requests_however_they_come() -> None:
    clock = FakeClock()
    async with (
        github_at(random_world(1, workflows=1, runs_a_day=1)) as server,
        client_of(server, clock=clock, most_a_minute=30) as github,
    ):
        for _ in range(30):
            await github.get(WORKFLOWS, read=dict)
        assert clock.slept == []
        assert github.room == 0
        await github.get(WORKFLOWS, read=dict)
        assert clock.passed == pytest.approx(60)
        for _ in range(29):
            await github.get(WORKFLOWS, read=dict)
        with anyio.fail_after(5), pytest.raises(Unavailable, match="requests a minute") as raised:
            await github.get(WORKFLOWS, read=dict)
        assert raised.value.retry_after is not None
        assert len(server.asked) == 60


async def test_a_quota_that_will_not_last_makes_the_least_urgent_questions_wait() -> None:
    world = random_world(2, workflows=6, runs_a_day=40)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        await stage.collect()
        assert stage.collector.note is None
        stage.server.limit, stage.server.used["core"] = 5000, 4490
        stage.pass_time()
        await stage.collect()
        for _ in range(3):
            world.add_run(1, world.now.replace(microsecond=0) - timedelta(minutes=8), "cancelled")
        stage.pass_time()
        stage.server.take_asked()
        values = values_of(await stage.collect())
        assert not [
            each for each in stage.server.take_asked() if "/jobs" in each.target or "annotations" in each.target
        ]
        assert JOBS not in values
        assert values == stage.truth()
        assert "will not last" in (stage.collector.note or "")
        stage.server.used["core"] = 100
        stage.server.reset += 3600
        stage.pass_time(timedelta(minutes=40))
        await stage.collect()
        assert JOBS in values_of(await stage.collect())
        assert stage.collector.note is None


async def test_the_forecast_is_what_the_steady_cycles_cost() -> None:
    world = random_world(1, workflows=40, runs_a_day=300)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        for _ in range(20):
            stage.pass_time()
            await stage.collect()
        fleet = ci_fleet.load(stage.memory.kept["fleet"])
        points = fleet.by_question([world.repo])
        assert points["pull requests and issues"] == pytest.approx(1, abs=0.01)
        assert points["runs"] <= 4
        assert 4 < sum(points.values()) <= 8.5
        hourly = ci_fleet.an_hour(points, timedelta(minutes=10))
        assert sum(hourly.values()) == pytest.approx(6 * sum(points.values()))


@pytest.mark.parametrize(
    "stored", [None, b"", b"{", b'{"version": 1}', b"[]", b'{"version": 1, "asked": 3, "costs": 1}']
)
def test_a_forecast_that_can_not_be_read_is_none(stored: bytes | None) -> None:
    assert ci_fleet.load(stored) == ci_fleet.Fleet()


async def test_evidence_is_kept_with_the_run_and_with_the_check(tmp_path: Path) -> None:
    behind = (
        Evidence("Fix \N{SNOWMAN}", "https://github.com/o/r/actions/runs/1", NOW, "failure", "Tests"),
        Evidence("No time"),
    )
    check = Check((("check", "count"),), Status.FAIL, "< 1", NOW, 2.0, NOW, GAUGE.name, behind)
    brought = [Sample(GAUGE, 1, NOW, {"index": "0"}), Sample(GAUGE, 2, NOW, {"index": "1"}, evidence=behind)]
    async with opened(tmp_path) as store:
        await keep(store, started(1), [Sample(GAUGE, 0, NOW)])
        run = started(2)
        await store.begin(run)
        await store.end(over(run, count=2), brought, [check], {})
    async with opened(tmp_path) as store:
        assert await store.checks("ci") == [check]
        found, _ = await store.samples(run.id)
        assert [each.evidence for each in found] == [(), behind]
