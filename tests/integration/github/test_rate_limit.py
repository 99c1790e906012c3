"""GitHub's limits: obeyed, remembered, never slept out inside a call, and a reserve that is left to others."""

from datetime import timedelta

import anyio
import httpx
import pytest

from service.demo.github import Reply
from service.domain.errors import Unavailable
from service.github.client import Github
from tests.integration.github.conftest import RUNS, WORKFLOWS, Total
from tests.world import Simulated, faults
from tests.world.faults import constant


async def test_a_used_up_primary_limit_closes_its_resource_until_the_reset(server: Simulated, github: Github) -> None:
    await github.get(RUNS, Total)
    server.app.used["core"] = 5000
    server.world.now += timedelta(minutes=20)
    with pytest.raises(Unavailable, match="rate limit exceeded") as raised:
        await github.get(RUNS, Total)
    assert raised.value.retry_after == pytest.approx(2400, abs=2)
    with pytest.raises(Unavailable, match="core limit is reached"):
        await github.get(WORKFLOWS, Total)
    assert len(server.app.asked) == 2
    quota = github.quota["core"]
    assert (quota.limit, quota.remaining, quota.used) == (5000, 0, 5000)
    assert github.trouble
    query = {"q": "repo:Metta-AI/metta is:pr is:merged merged:>=2026-01-01T00:00:00Z label:a"}
    assert (await github.get("/search/issues", Total, params=query)).total_count == 0
    server.world.now += timedelta(seconds=2402)
    assert (await github.get(RUNS, Total)).total_count == 0
    assert github.trouble is None


async def test_graphql_tells_its_limit_in_a_200(server: Simulated, github: Github) -> None:
    server.app.used["graphql"] = 5000
    for _ in range(2):
        with pytest.raises(Unavailable, match="graphql limit") as raised:
            await github.graphql("query { }", dict)
        assert 3500 < (raised.value.retry_after or 0) <= 3600
    assert len(server.app.asked) == 1
    assert (await github.get(RUNS, Total)).total_count == 0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "60"}, 60),
        # A date counts from GitHub's own clock.
        ({"date": "Wed, 04 Mar 2020 05:06:07 GMT", "retry_after": "Wed, 04 Mar 2020 05:07:07 GMT"}, 60),
        # A proxy with a broken clock would stop the numbers until the daemon is restarted.
        ({"retry_after": "999999999"}, 3600),
        ({"retry_after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600),
    ],
)
async def test_a_secondary_limit_closes_everything_for_as_long_as_it_says_but_no_longer_than_an_hour(
    server: Simulated, github: Github, headers: dict[str, str], wait: float
) -> None:
    server.fail(RUNS, constant(Reply.of({"message": "Too many requests"}, 429, **headers)), times=1)
    with pytest.raises(Unavailable) as raised:
        await github.get(RUNS, Total)
    assert raised.value.retry_after == wait
    with pytest.raises(Unavailable, match="secondary limit is reached"):
        await github.graphql("query { }", dict)
    assert len(server.app.asked) == 1
    server.clock.passed += wait
    assert (await github.get(RUNS, Total)).total_count == 0


async def test_a_limit_that_names_no_time_waits_a_minute_doubled_each_time(server: Simulated, github: Github) -> None:
    server.app.latency = 0.05  # so that all are under way before the first refusal comes
    server.fail(RUNS, faults.secondary)
    waits: list[float] = []

    async def ask() -> None:
        with pytest.raises(Unavailable) as raised:
            await github.get(RUNS, Total)
        waits.append(raised.value.retry_after or 0)

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):  # refused together
                tasks.start_soon(ask)
        server.clock.passed += max(waits[-5:])
    assert [max(waits[place : place + 5]) for place in (0, 5, 10)] == [60, 120, 240]
    server.faults.clear()
    assert (await github.get(RUNS, Total)).total_count == 0
    server.fail(RUNS, faults.secondary)
    await ask()
    assert waits[-1] == 60


@pytest.mark.parametrize("value", ["", "many", "-1", "99999999999999", "1" * 5000])
async def test_limits_and_waits_that_can_not_be_read_are_none(server: Simulated, github: Github, value: str) -> None:
    for header in ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"):
        reply = Reply.of({"total_count": 1})
        reply.headers[header] = value
        server.fail(RUNS, constant(reply), times=1)
        assert (await github.get(RUNS, Total)).total_count == 1
    for wait in ("Mon, 01 Jan 99999999999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300", "soon", "1" * 5000):
        server.fail(WORKFLOWS, constant(Reply.of({}, 503, retry_after=wait)), times=3)
        with pytest.raises(Unavailable, match="503") as raised:
            await github.get(WORKFLOWS, Total)
        assert raised.value.retry_after is None


async def test_a_short_wait_is_sat_out_but_none_beyond_the_callers_deadline(server: Simulated, github: Github) -> None:
    server.fail(RUNS, constant(Reply.of({"message": "Too many"}, 429, retry_after="4")), times=2)
    with anyio.fail_after(3), pytest.raises(Unavailable) as raised:
        await github.get(RUNS, Total)
    assert (raised.value.retry_after, server.clock.slept) == (4, [])
    server.clock.passed += 4
    assert (await github.get(RUNS, Total)).total_count == 0
    assert 4 <= server.clock.slept[0] <= 5


async def test_at_most_twenty_requests_are_in_flight(server: Simulated, github: Github) -> None:
    server.app.latency = 0.02
    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(github.get, RUNS, Total)
    assert 1 < server.app.most_in_flight <= 20


async def test_no_minute_has_more_than_the_allowed_requests(server: Simulated, http: httpx.AsyncClient) -> None:
    github = server.client(http, points_a_minute=10)
    for _ in range(10):
        await github.get(WORKFLOWS, Total)
    assert (server.clock.slept, github.spare) == ([], 0)
    await github.get(WORKFLOWS, Total)
    assert server.clock.passed == pytest.approx(60)
    for _ in range(9):
        await github.get(WORKFLOWS, Total)
    with anyio.fail_after(5), pytest.raises(Unavailable, match="requests a minute") as raised:
        await github.get(WORKFLOWS, Total)
    assert raised.value.retry_after is not None
    assert len(server.app.asked) == 20


async def test_what_can_wait_leaves_a_reserve_and_what_others_will_need(server: Simulated, github: Github) -> None:
    assert github.spare == 900
    server.app.used["core"] = 4399
    await github.get(RUNS, Total)
    assert github.spare == 100  # 600 left, a tenth of 5,000 is kept back
    assert github.shortage is None
    github.expect("ci", 48)
    server.world.now += timedelta(minutes=30)
    assert github.spare == 76
    github.expect("ci", 4_000)
    assert github.spare == 0
    assert "will not last until 06:06 UTC (600 of 5000" in (github.shortage or "")
    github.expect("ci", 0)
    assert github.spare == 100
    server.world.now += timedelta(minutes=31)
    assert (github.spare, github.shortage) == (900, None)
