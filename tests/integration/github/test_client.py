"""The GitHub client: what it sends, what it makes of each answer, ETags, redirects, and GitHub's limits: obeyed,
remembered, never slept out inside a call, and a reserve that is left to others."""

from datetime import datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest

from service.config.masking import mask
from service.config.secrets import Secret, Source
from service.demo.github import Asked, Reply
from service.demo.recording import create_app
from service.domain.errors import Rejected, Unavailable
from service.github.client import Github, NotFound, Refused
from service.github.usage import count_usage
from tests.integration.github.conftest import RUNS, WORKFLOWS, Total
from tests.world import MINUTE, TOKEN, InProcess, Simulated, faults
from tests.world.faults import constant, redirect

BUGS = 'query { repository(owner: "Metta-AI", name: "metta") { issues(labels: ["bug"], first: 1) { totalCount } } }'
PAGE = Reply(404, b"<html>", {"content-type": "text/html"})


@pytest.mark.parametrize(
    ("base", "graphql"), [("", "/graphql"), ("/api/v3", "/api/graphql"), ("/proxy", "/proxy/graphql")]
)
async def test_requests_carry_what_github_asks_of_its_clients_wherever_it_is(
    server: Simulated, http: httpx.AsyncClient, base: str, graphql: str
) -> None:
    server.app.base = base
    github = server.client(http)
    assert (await github.get(RUNS, Total, params={"per_page": 100})).total_count == 0
    assert (await github.graphql(BUGS, dict))["repository"]
    assert [asked.line for asked in server.app.asked] == [f"GET {base}{RUNS}?per_page=100", f"POST {graphql}"]
    for asked in server.app.asked:
        assert (asked.token, asked.headers["x-github-api-version"]) == (TOKEN, "2022-11-28")
        assert asked.headers["accept"] == "application/vnd.github+json"


@pytest.mark.parametrize(
    "fault",
    [
        faults.bad_gateway,
        faults.html,
        faults.other_shape,
        faults.half_json,
        faults.cut_off,
        constant(Reply(200, b"no gzip", {"content-type": "application/json", "content-encoding": "gzip"})),
        constant(Reply(200, b'{"total_count": ' + b"[" * 100_000)),
        constant(Reply(200, b'{"total_count": "\xff"}')),
        constant(Reply(304)),
    ],
)
async def test_an_answer_that_a_moment_mends_is_asked_for_again(
    server: Simulated, github: Github, fault: faults.Fault
) -> None:
    server.fail(RUNS, fault, times=2)
    assert (await github.get(RUNS, Total)).total_count == 0
    assert len(server.app.asked) == 3
    server.fail(RUNS, fault)
    with pytest.raises(Unavailable, match=RUNS) as raised:
        await github.get(RUNS, Total)
    assert len(server.app.asked) == 6
    assert RUNS in (github.trouble or "")
    assert ("is GITHUB_API_URL the address of the API" in str(raised.value)) == (fault is faults.html)


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply.of({"message": "Nope", "errors": [{"message": "Bad q"}]}, 422), Refused, "answered 422: Nope Bad q"),
        (Reply.of({"message": "Nope"}, 404), NotFound, "answered 404: Nope .* the token may not see it"),
        (Reply.of({"message": "Nope"}, 410), NotFound, "answered 410: Nope"),
        (PAGE, NotFound, "is GITHUB_API_URL the address of the API"),
        (Reply.of({}, 403, x_accepted_github_permissions="actions=read"), Refused, "the permission actions=read"),
        (Reply.of({}, 403, x_github_sso="url=https://g.test/sso?a=b"), Refused, "the token at https://g.test/sso$"),
    ],
)
async def test_a_refusal_names_the_way_out_and_is_not_asked_for_again(
    server: Simulated, github: Github, reply: Reply, error: type[Refused], says: str
) -> None:
    server.fail(RUNS, constant(reply))
    with pytest.raises(Refused, match=says) as raised:
        await github.get(RUNS, Total)
    assert (type(raised.value), raised.value.status) == (error, reply.status)
    assert len(server.app.asked) == 1
    assert (await github.get(WORKFLOWS, Total)).total_count == 0


async def test_what_never_ends_is_left_and_no_error_shows_the_token(server: Simulated, github: Github) -> None:
    mask([TOKEN])
    server.fail(RUNS, faults.hang, times=1)
    with pytest.raises(TimeoutError), anyio.fail_after(0.2):
        await github.get(RUNS, Total)
    server.fail(RUNS, constant(Reply.of({"total_count": 7, "pad": "x" * 200_000})), times=1)
    assert (await github.get(RUNS, Total)).total_count == 7
    server.fail(RUNS, constant(Reply(200, b" " * (33 * 1024 * 1024))), times=1)
    server.fail(RUNS, constant(Reply.of({"message": f"{TOKEN} may not"}, 403)), times=1)
    server.fail(RUNS, constant(Reply(200, b"{}", {"content-type": TOKEN})))
    for error, says in ((Rejected, "longer than"), (Refused, "may not"), (Unavailable, "what it should be")):
        with pytest.raises(error, match=says) as raised:
            await github.get(RUNS, Total)
        assert TOKEN not in str(raised.value)


# ETags and what requests cost


async def test_an_unchanged_answer_costs_nothing_and_usage_is_counted_where_it_arises(
    server: Simulated, http: httpx.AsyncClient, github: Github
) -> None:
    with count_usage() as usage:
        for _ in range(2):
            assert (await github.get(RUNS, Total, params={"page": 1}, cached=True)).total_count == 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(github.get, WORKFLOWS, Total)
        with count_usage() as part:
            await github.graphql(BUGS, dict)
    assert [asked.status for asked in server.app.asked] == [200, 304, 200, 200]
    assert github.requests == {"200": 3, "304": 1}
    server.world.add_run(1, server.world.now, "success")
    assert (await github.get(RUNS, Total, params={"page": 1}, cached=True)).total_count == 1
    small = server.client(http, cache_bytes=500)
    for page in (*range(1, 31), 30, 1):  # what was used longest ago is forgotten
        await small.get(RUNS, Total, params={"page": page}, cached=True)
    assert [asked.status for asked in server.app.asked][-2:] == [304, 200]
    assert (usage.requests, usage.points) == (4, {"core": 2, "graphql": 1})
    assert (part.requests, part.points) == (1, {"graphql": 1})


async def test_an_etag_is_shown_to_nobody_but_the_token_it_was_given_to(
    server: Simulated, http: httpx.AsyncClient
) -> None:
    held = {"token": "ghp_first"}
    rotating = Secret("GitHub token", "set it", sources=[Source("token", 60.0, held.__getitem__)])
    github = server.client(http, rotating)
    await github.get(RUNS, Total, cached=True)
    held["token"] = "ghp_second"
    await rotating.ask_again()
    await github.get(RUNS, Total, cached=True)
    assert [asked.token for asked in server.app.asked] == ["ghp_first", "ghp_second"]
    assert all("if-none-match" not in asked.headers for asked in server.app.asked)


# GraphQL


async def test_graphql_gives_the_data_and_names_what_is_not_there(server: Simulated, github: Github) -> None:
    assert await github.graphql(BUGS, dict) == {"repository": {"issues": {"totalCount": 0}}}
    with pytest.raises(NotFound, match="Could not resolve to a Repository"):
        await github.graphql(BUGS.replace('"metta"', '"meta"'), dict)
    partly = {"repository": {"issues": None}}  # a part that could not be answered, beside the others
    server.fail("graphql", constant(Reply.of({"data": partly, "errors": [{"message": "timeout"}]})), times=1)
    assert await github.graphql(BUGS, dict) == partly
    unknown = {"message": "Field 'issues' doesn't exist", "extensions": {"code": "undefinedField"}}
    forbidden = {"data": {"repository": None}, "errors": [{"type": "FORBIDDEN", "message": "no"}]}
    for answer, status in (({"errors": [unknown]}, 422), (forbidden, 403)):
        server.fail("graphql", constant(Reply.of(answer)), times=1)
        with pytest.raises(Refused) as raised:
            await github.graphql(BUGS, dict)
        assert raised.value.status == status
    without_data: list[Any] = [{"data": None, "errors": [{"message": "Something went wrong"}]}, {}, []]
    for empty in without_data:
        server.fail("graphql", constant(Reply.of(empty)), times=3)
        with pytest.raises(Unavailable):
            await github.graphql(BUGS, dict)


# Redirects


async def test_a_rename_is_followed_and_remembered_until_it_leads_nowhere(server: Simulated, github: Github) -> None:
    def moved(asked: Asked, true: Reply) -> Reply:
        return redirect(f"{RUNS}?{asked.target.partition('?')[2]}")(asked, true)

    old = "/repos/old/name/actions/runs"
    renamed = server.fail(old, moved)
    for page in (1, 2):
        assert (await github.get(old, Total, params={"page": page})).total_count == 0
    asked = [each.target for each in server.app.asked]
    assert asked == [f"{old}?page=1", f"{RUNS}?page=1", f"{RUNS}?page=2"]
    server.fail(RUNS, faults.not_found)
    server.faults.remove(renamed)
    server.fail(old, redirect(WORKFLOWS))
    with pytest.raises(NotFound):
        await github.get(old, Total)
    assert (await github.get(old, Total)).total_count == 0


@pytest.mark.parametrize(
    "location", ["http://evil.example/repos", "//evil.example/", "https://github.test/", "http://github.test:1/", ""]
)
async def test_no_redirect_leads_to_another_server_or_turns_a_post_into_a_get(
    server: Simulated, github: Github, location: str
) -> None:
    server.fail(RUNS, redirect(location))
    with pytest.raises(Rejected, match="another server"):
        await github.get(RUNS, Total)
    server.fail("POST /graphql", redirect("/elsewhere", 302))
    with pytest.raises(Rejected, match="redirects"):
        await github.graphql(BUGS, dict)
    assert [asked.method for asked in server.app.asked] == ["GET", "POST"]


# Limits


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
    server.app.used["graphql"] = 5000  # which a 200 tells
    for _ in range(2):
        with pytest.raises(Unavailable, match="graphql limit"):
            await github.graphql("query { }", dict)
    assert len(server.app.asked) == 3
    query = {"q": "repo:Metta-AI/metta is:pr is:merged merged:>=2026-01-01T00:00:00Z label:a"}
    assert (await github.get("/search/issues", Total, params=query)).total_count == 0
    server.world.now += timedelta(seconds=2402)
    assert (await github.get(RUNS, Total)).total_count == 0
    assert github.trouble is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "60"}, 60),
        # A date counts from GitHub's own clock.
        ({"date": "Wed, 04 Mar 2020 05:06:07 GMT", "retry_after": "Wed, 04 Mar 2020 05:07:07 GMT"}, 60),
        # A proxy with a broken clock would stop the numbers until the daemon is restarted.
        ({"retry_after": "999999999"}, 3600),
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
    waits: list[float] = []

    async def ask() -> None:
        with pytest.raises(Unavailable) as raised:
            await github.get(RUNS, Total)
        waits.append(raised.value.retry_after or 0)

    for expected in (60, 120, 240, 60):
        server.fail(RUNS, faults.secondary, times=5)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):  # refused together
                tasks.start_soon(ask)
        assert max(waits[-5:]) == expected
        server.clock.passed += expected
        if expected == 240:
            assert (await github.get(RUNS, Total)).total_count == 0


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


async def test_at_most_twenty_requests_are_in_flight_and_no_more_a_minute_than_are_allowed(
    server: Simulated, http: httpx.AsyncClient
) -> None:
    github = server.client(http, points_a_minute=60)
    server.app.latency = 0.02
    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(github.get, RUNS, Total)
    assert 1 < server.app.most_in_flight <= 20
    assert (server.clock.slept, github.spare) == ([], 0)
    with anyio.fail_after(5), pytest.raises(Unavailable, match="requests a minute") as raised:
        await github.get(WORKFLOWS, Total)
    assert (len(server.app.asked), raised.value.retry_after is None) == (60, False)
    await github.get(WORKFLOWS, Total)
    assert server.clock.passed == pytest.approx(60)


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


async def test_the_demo_shows_recorded_runs_as_of_now_and_how_earlier_attempts_ended() -> None:
    url = "http://github.test/repos/ionic-team/ionic-framework/actions/runs"
    async with httpx.AsyncClient(transport=InProcess(create_app())) as http:
        answer = await http.get(url)
        runs = answer.json()["workflow_runs"]
        while "next" in answer.links:
            answer = await http.get(answer.links["next"]["url"])
            runs += answer.json()["workflow_runs"]
        assert len(runs) == 101
        newest = max(datetime.fromisoformat(run["updated_at"]) for run in runs)
        assert 3 * MINUTE < datetime.now(newest.tzinfo) - newest < 6 * MINUTE
        first = [await http.get(f"{url}/{run['id']}/attempts/1") for run in runs if run["run_attempt"] == 2]
        assert [attempt.json()["conclusion"] for attempt in first] == ["failure"] * 5
