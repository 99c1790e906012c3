"""The GitHub client against a real server: limits, retries, redirects, ETags, tokens."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from service.adapters.github import Github, Refused
from service.adapters.secrets import Secret
from service.adapters.secrets_manager import SecretsManager
from service.collectors.ci_runs import to_time
from service.domain.errors import ConfigError, Rejected, Unauthorized, Unavailable
from tests.github_world import World
from tests.integration.github_server import (
    HTML,
    TOKEN,
    FakeClock,
    GithubServer,
    Reply,
    client_of,
    github_at,
    secret,
)

RUNS = "/repos/Metta-AI/metta/actions/runs"
WORKFLOWS = "/repos/Metta-AI/metta/actions/workflows"


@pytest.fixture
async def server() -> AsyncIterator[GithubServer]:
    async with github_at(World()) as serving:
        yield serving


@pytest.fixture
async def github(server: GithubServer) -> AsyncIterator[Github]:
    async with client_of(server, clock=FakeClock()) as client:
        yield client


def total(payload: Any) -> int:
    return int(payload["total_count"])


async def test_a_request_carries_what_github_asks_of_its_clients(server: GithubServer, github: Github) -> None:
    assert await github.get(RUNS, {"per_page": 100}, read=total) == 0
    headers = server.asked[0].headers
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "application/vnd.github+json"
    assert headers["x-github-api-version"] == "2022-11-28"
    assert headers["user-agent"] == "infra-health/test"


@pytest.mark.parametrize(
    ("base", "graphql"),
    [("", "/graphql"), ("/api/v3", "/api/graphql"), ("/proxy", "/proxy/graphql")],
)
async def test_the_base_address_may_have_a_path(server: GithubServer, base: str, graphql: str) -> None:
    server.base = base
    server.fail(f"POST {graphql}$", Reply.of({"data": {}}))
    async with client_of(server) as github:
        assert await github.get(RUNS, read=total) == 0
        assert await github.graphql("query { }", read=lambda payload: payload) == {"data": {}}
    assert [asked.line for asked in server.asked] == [f"GET {base}{RUNS}", f"POST {graphql}"]


@pytest.mark.parametrize("address", ["api.github.com", "ftp://api.github.com", "https://u:p@host", "https://"])
async def test_a_base_that_is_no_address_is_a_wrong_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match=r"github\.api_url"):
        Github(address, secret(), "test")


@pytest.mark.parametrize(
    "fault",
    [
        Reply(502, b"<html>", {"content-type": "text/html"}),
        Reply.of({"message": "Server Error"}, 500),
        HTML,
        Reply.of({"message": "no runs in here"}),
        Reply.of([1, 2]),
        Reply(200, b'{"total_count": 1, "workflow_', {"content-type": "application/json"}),
        Reply(200, b'{"total_count": 1}', {"content-type": "application/json"}, cut=5),
        Reply(200, b"no gzip", {"content-type": "application/json", "content-encoding": "gzip"}),
        Reply(304),
    ],
)
async def test_an_answer_that_a_moment_mends_is_asked_for_again(
    server: GithubServer, github: Github, fault: Reply
) -> None:
    server.fail(RUNS, fault, times=2)
    assert await github.get(RUNS, read=total) == 0
    assert len(server.asked) == 3
    server.fail(RUNS, fault)
    with pytest.raises(Unavailable, match=RUNS):
        await github.get(RUNS, read=total)
    assert len(server.asked) == 6


async def test_a_time_of_no_calendar_is_a_fault_of_the_answer(server: GithubServer, github: Github) -> None:
    server.fail(RUNS, Reply.of({"updated_at": "9999-12-31T23:59:59-23:00"}))
    with pytest.raises(Unavailable, match=RUNS):
        await github.get(RUNS, read=lambda payload: to_time(payload["updated_at"]))


@pytest.mark.parametrize("status", [400, 404, 410, 422, 451])
async def test_a_refusal_is_not_asked_for_again(server: GithubServer, github: Github, status: int) -> None:
    server.fail(RUNS, Reply.of({"message": "Nope", "errors": [{"message": "Bad q"}]}, status))
    with pytest.raises(Refused, match=f"GitHub answered {status}: Nope Bad q") as raised:
        await github.get(RUNS, read=total)
    assert raised.value.status == status
    assert len(server.asked) == 1


async def test_a_403_that_is_no_limit_is_a_refusal_of_this_request_alone(server: GithubServer, github: Github) -> None:
    server.fail(RUNS, Reply.of({"message": "Resource not accessible by integration"}, 403))
    with pytest.raises(Refused, match="GitHub answered 403: Resource not accessible by integration"):
        await github.get(RUNS, read=total)
    assert await github.get(WORKFLOWS, read=total) == 0


async def test_a_404_says_that_the_token_may_lack_access(github: Github) -> None:
    with pytest.raises(Refused, match="the token may not see it"):
        await github.get("/repos/no/such/actions/runs", read=total)


async def test_nobody_at_the_address_is_an_outage() -> None:
    github = Github("http://127.0.0.1:9", secret(), "test", clock=FakeClock())
    with pytest.raises(Unavailable, match="did not answer"):
        await github.get(RUNS, read=total)
    assert github.requests["error"] == 3
    await github.aclose()


async def test_a_used_up_primary_limit_closes_its_resource_until_the_reset(server: GithubServer) -> None:
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        server.used["core"] = 5000
        with pytest.raises(Unavailable, match="rate limit exceeded") as raised:
            await github.get(RUNS, read=total)
        assert raised.value.retry_after is not None
        assert 2300 < raised.value.retry_after < 2410
        with pytest.raises(Unavailable, match="core limit is reached"):
            await github.get(WORKFLOWS, read=total)
        assert len(server.asked) == 1
        quota = github.quota["core"]
        assert (quota.limit, quota.remaining, quota.used) == (5000, 0, 5000)
        query = {"q": "repo:Metta-AI/metta is:pr is:merged merged:>=2026-01-01T00:00:00Z label:a"}
        assert await github.get("/search/issues", query, read=total) == 0
        clock.passed += 2410
        server.used["core"], server.reset = 0, server.reset + 3600
        assert await github.get(RUNS, read=total) == 0
        assert github.trouble is None


async def test_the_last_request_that_a_limit_allows_closes_it(server: GithubServer, github: Github) -> None:
    server.used["core"] = 4999
    assert await github.get(RUNS, read=total) == 0
    with pytest.raises(Unavailable, match="core limit is reached"):
        await github.get(RUNS, read=total)
    assert len(server.asked) == 1


async def test_a_secondary_limit_closes_everything_for_as_long_as_it_says(server: GithubServer) -> None:
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        slow_down = {"message": "You have exceeded a secondary rate limit."}
        server.fail(RUNS, Reply.of(slow_down, 403, retry_after="60"), times=1)
        with pytest.raises(Unavailable) as raised:
            await github.get(RUNS, read=total)
        assert raised.value.retry_after == 60
        with pytest.raises(Unavailable, match="secondary limit is reached"):
            await github.graphql("query { }", read=dict)
        assert len(server.asked) == 1
        clock.passed += 60
        assert await github.get(RUNS, read=total) == 0


async def test_a_short_wait_is_sat_out(server: GithubServer) -> None:
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        server.fail(RUNS, Reply.of({"message": "Too many"}, 429, retry_after="2"), times=1)
        assert await github.get(RUNS, read=total) == 0
        assert 2 <= clock.slept[0] <= 2.5


@pytest.mark.parametrize("wait", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_wait_without_reason_closes_nothing_for_longer_than_githubs_window(
    server: GithubServer, wait: str
) -> None:
    """A proxy with a broken clock would stop the numbers until the daemon is restarted."""
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        server.fail(RUNS, Reply.of({"message": "Too many"}, 429, retry_after=wait), times=1)
        with pytest.raises(Unavailable) as raised:
            await github.get(RUNS, read=total)
        assert raised.value.retry_after == 3600
        clock.passed += 3600
        assert await github.get(RUNS, read=total) == 0


@pytest.mark.parametrize(
    "wait", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300", "soon", "1" * 5000]
)
async def test_a_wait_that_can_not_be_read_is_none(server: GithubServer, wait: str) -> None:
    async with client_of(server, clock=FakeClock()) as github:
        server.fail(RUNS, Reply.of({}, 503, retry_after=wait))
        with pytest.raises(Unavailable, match="503") as raised:
            await github.get(RUNS, read=total)
        assert raised.value.retry_after is None


async def test_no_wait_goes_beyond_the_callers_deadline(server: GithubServer) -> None:
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        server.fail(RUNS, Reply.of({"message": "Too many"}, 429, retry_after="4"))
        with anyio.fail_after(3), pytest.raises(Unavailable) as raised:
            await github.get(RUNS, read=total)
        assert raised.value.retry_after == 4
        assert clock.slept == []


async def test_a_limit_that_names_no_time_waits_a_minute_doubled_each_time(server: GithubServer) -> None:
    clock = FakeClock()
    async with client_of(server, clock=clock) as github:
        server.fail(RUNS, Reply.of({"message": "You have triggered an abuse detection mechanism"}, 403), times=3)
        waits = []
        for _ in range(3):
            with pytest.raises(Unavailable) as raised:
                await github.get(RUNS, read=total)
            waits.append(raised.value.retry_after)
            clock.passed += raised.value.retry_after or 0
        assert waits == [60, 120, 240]
        assert await github.get(RUNS, read=total) == 0


async def test_graphql_tells_its_limit_in_a_200(server: GithubServer, github: Github) -> None:
    limited = {"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}
    server.fail("graphql", Reply.of(limited, x_ratelimit_reset=str(server.reset)))
    for _ in range(2):
        with pytest.raises(Unavailable, match="graphql limit"):
            await github.graphql("query { }", read=dict)
    assert len(server.asked) == 1


async def test_an_unchanged_answer_costs_nothing(server: GithubServer, github: Github) -> None:
    for _ in range(3):
        assert await github.get(RUNS, {"page": 1}, read=total, kept=True) == 0
    assert [asked.status for asked in server.asked] == [200, 304, 304]
    assert github.requests == {"200": 1, "304": 2}
    server.world.add_run(1, server.world.now, "success")
    assert await github.get(RUNS, {"page": 1}, read=total, kept=True) == 1


async def test_an_etag_is_shown_to_nobody_but_the_token_it_was_given_to(server: GithubServer) -> None:
    tokens = iter(["first-secret", "second-secret"])

    class Rotating(SecretsManager):
        async def read(self, name: str) -> str:
            return next(tokens)

    rotating = Secret("GitHub token", "set it", manager=Rotating(), name="github/dashboard-token")
    async with client_of(server, rotating) as github:
        await github.get(RUNS, read=total, kept=True)
        await rotating.ask_again()
        await github.get(RUNS, read=total, kept=True)
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer first-secret", "Bearer second-secret"]
    assert all("if-none-match" not in asked.headers for asked in server.asked)


async def test_a_refused_token_is_not_used_again(server: GithubServer, github: Github) -> None:
    server.fail(".", Reply.of({"message": "Bad credentials"}, 401))
    for _ in range(3):
        with pytest.raises(Unauthorized, match="set GITHUB_DASHBOARD_TOKEN"):
            await github.get(RUNS, read=total)
    assert len(server.asked) == 1
    assert github.trouble


async def test_a_refused_token_is_looked_up_once_and_its_successor_used(server: GithubServer) -> None:
    found = ["old", "old", "new"]

    class Manager(SecretsManager):
        async def read(self, name: str) -> str:
            return found.pop(0) if len(found) > 1 else found[0]

    server.fail(".", lambda line: bad if server.asked[-1].headers["authorization"] == "Bearer old" else None)
    bad = Reply.of({"message": "Bad credentials"}, 401)
    clock = FakeClock()
    token = Secret("GitHub token", "set it", manager=Manager(), name="github/dashboard-token")
    async with client_of(server, token, clock=clock) as github:
        for _ in range(3):
            with pytest.raises(Unauthorized):
                await github.get(RUNS, read=total)
        assert len(server.asked) == 1
        clock.passed += 301
        assert await github.get(RUNS, read=total) == 0


async def test_without_a_token_it_is_asked_all_the_same(server: GithubServer) -> None:
    async with client_of(server, secret(None)) as github:
        assert await github.get(RUNS, read=total) == 0
        assert "authorization" not in server.asked[0].headers
        assert not await github.has_token()
        assert "60 requests an hour" in (github.trouble or "")
        with pytest.raises(Rejected):
            await github.graphql("query { }", read=dict)
        assert await github.get(RUNS, read=total) == 0


@pytest.mark.parametrize("value", ["ghp_geheim\r\nX: y", "ghp_geheim und", "ghp_geheimü"])
async def test_a_token_that_can_not_be_one_is_refused_without_being_shown(server: GithubServer, value: str) -> None:
    async with client_of(server, secret(value)) as github:
        with pytest.raises(Unauthorized) as raised:
            await github.get(RUNS, read=total)
    assert "geheim" not in str(raised.value)
    assert server.asked == []


async def test_no_error_shows_the_token(server: GithubServer, github: Github) -> None:
    server.fail(RUNS, Reply.of({"message": f"{TOKEN} may not"}, 403))
    with pytest.raises(Refused) as raised:
        await github.get(RUNS, read=total)
    assert TOKEN not in str(raised.value)


async def test_a_permanent_redirect_is_followed_and_remembered(server: GithubServer, github: Github) -> None:
    server.fail(r"/repos/old/name/actions/runs\?", lambda line: moved(f"{RUNS}?{line.partition('?')[2]}"))
    for page in (1, 2):
        assert await github.get("/repos/old/name/actions/runs", {"page": page}, read=total) == 0
    assert [asked.target for asked in server.asked] == [
        "/repos/old/name/actions/runs?page=1",
        f"{RUNS}?page=1",
        f"{RUNS}?page=2",
    ]


async def test_a_remembered_redirect_that_leads_nowhere_is_forgotten(server: GithubServer, github: Github) -> None:
    server.fail("/repos/old/name", moved(RUNS), times=1)
    await github.get("/repos/old/name/actions/runs", read=total)
    server.fail(RUNS, Reply.of({"message": "Not Found"}, 404))
    server.fail("/repos/old/name", moved(f"{WORKFLOWS}"))
    assert await github.get("/repos/old/name/actions/runs", read=total) == 0


async def test_a_temporary_redirect_is_followed_but_not_remembered(server: GithubServer, github: Github) -> None:
    server.fail("/repos/old/name", moved(RUNS, 307))
    for _ in range(2):
        assert await github.get("/repos/old/name/actions/runs", read=total) == 0
    assert len(server.asked) == 4


async def test_a_redirect_to_a_page_that_is_no_answer_is_not_remembered(server: GithubServer, github: Github) -> None:
    server.fail(RUNS, moved("/login"), times=3)
    server.fail("/login", HTML)
    with pytest.raises(Unavailable):
        await github.get(RUNS, read=total)
    assert await github.get(RUNS, read=total) == 0


@pytest.mark.parametrize(
    "location",
    ["http://evil.example/repos", "//evil.example/", "https://127.0.0.1/", "http://127.0.0.1:1/", "ftp://x", ""],
)
async def test_no_redirect_leads_to_another_server(server: GithubServer, github: Github, location: str) -> None:
    server.fail(RUNS, moved(location))
    with pytest.raises(Rejected, match="another server"):
        await github.get(RUNS, read=total)
    assert len(server.asked) == 1


async def test_redirects_in_a_circle_end(server: GithubServer, github: Github) -> None:
    server.fail(RUNS, moved(RUNS))
    with pytest.raises(Rejected, match="redirects"):
        await github.get(RUNS, read=total)
    assert len(server.asked) <= 10


async def test_at_most_twenty_requests_are_in_flight(server: GithubServer, github: Github) -> None:
    server.latency = 0.02

    async def ask(page: int) -> None:
        await github.get(RUNS, {"page": page}, read=total)

    async with anyio.create_task_group() as tasks:
        for page in range(60):
            tasks.start_soon(ask, page)
    assert 1 < server.most_in_flight <= 20


async def test_large_bodies_are_read_whole_and_endless_ones_are_refused(server: GithubServer, github: Github) -> None:
    padded = Reply.of({"total_count": 7, "pad": "x" * 200_000})
    server.fail(RUNS, padded)
    assert await github.get(RUNS, read=total) == 7
    server.fail(WORKFLOWS, Reply(200, b" " * (33 * 1024 * 1024)))
    with pytest.raises(Rejected, match="longer than"):
        await github.get(WORKFLOWS, read=total)


def moved(location: str, status: int = 301) -> Reply:
    return Reply(status, b"", {"location": location})
