"""The GitHub client against a real server: what it sends, what it makes of each answer, ETags and redirects."""

import time

import anyio
import httpx
import pytest

from service.config.masking import mask
from service.config.secrets import Secret, Source
from service.demo.github import Asked, Reply
from service.domain.errors import Rejected, Unavailable
from service.github.client import Github, NotFound, Refused
from service.github.usage import count_usage
from tests.integration.github.conftest import RUNS, WORKFLOWS, Total
from tests.world import TOKEN, Simulated, faults
from tests.world.faults import constant, redirect

BUGS = 'query { repository(owner: "Metta-AI", name: "metta") { issues(labels: ["bug"], first: 1) { totalCount } } }'
HTML = {"content-type": "text/html"}


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
        (Reply(404, b"<html>", HTML), NotFound, "is GITHUB_API_URL the address of the API"),
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


async def test_the_callers_deadline_ends_an_answer_that_never_comes(server: Simulated, github: Github) -> None:
    server.fail(RUNS, faults.hang)
    began = time.monotonic()
    with pytest.raises(TimeoutError), anyio.fail_after(0.2):
        await github.get(RUNS, Total)
    assert time.monotonic() - began < 10
    assert (await github.get(WORKFLOWS, Total)).total_count == 0


async def test_large_bodies_are_read_whole_and_endless_ones_are_refused(server: Simulated, github: Github) -> None:
    server.fail(RUNS, constant(Reply.of({"total_count": 7, "pad": "x" * 200_000})))
    assert (await github.get(RUNS, Total)).total_count == 7
    server.fail(WORKFLOWS, constant(Reply(200, b" " * (33 * 1024 * 1024))))
    with pytest.raises(Rejected, match="longer than"):
        await github.get(WORKFLOWS, Total)


async def test_no_error_shows_the_token(server: Simulated, github: Github) -> None:
    mask([TOKEN])
    server.fail(RUNS, constant(Reply.of({"message": f"{TOKEN} may not"}, 403)), times=1)
    server.fail(RUNS, constant(Reply(200, b"{}", {"content-type": TOKEN})))
    for _ in range(2):
        with pytest.raises((Refused, Unavailable)) as raised:
            await github.get(RUNS, Total)
        assert TOKEN not in str(raised.value)


# ETags and what requests cost


async def test_an_unchanged_answer_costs_nothing(server: Simulated, github: Github) -> None:
    with count_usage() as usage:
        for _ in range(3):
            assert (await github.get(RUNS, Total, params={"page": 1}, cached=True)).total_count == 0
    assert [asked.status for asked in server.app.asked] == [200, 304, 304]
    assert github.requests == {"200": 1, "304": 2}
    assert (usage.requests, usage.points) == (3, {"core": 1})
    server.world.add_run(1, server.world.now, "success")
    assert (await github.get(RUNS, Total, params={"page": 1}, cached=True)).total_count == 1


async def test_usage_counts_what_tasks_ask_and_nothing_from_outside(server: Simulated, github: Github) -> None:
    with count_usage() as cycle:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(github.get, RUNS, Total)
        with count_usage() as part:
            await github.graphql(BUGS, dict)
    await github.get(RUNS, Total)
    assert (cycle.requests, cycle.points) == (2, {"core": 1, "graphql": 1})
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


async def test_the_cache_forgets_what_was_used_longest_ago(server: Simulated, http: httpx.AsyncClient) -> None:
    github = server.client(http, cache_bytes=500)
    for page in (*range(1, 31), 30, 1):
        await github.get(RUNS, Total, params={"page": page}, cached=True)
    assert [asked.status for asked in server.app.asked][-2:] == [304, 200]


# GraphQL


async def test_graphql_gives_the_data_and_names_what_is_not_there(server: Simulated, github: Github) -> None:
    assert await github.graphql(BUGS, dict) == {"repository": {"issues": {"totalCount": 0}}}
    with pytest.raises(NotFound, match="Could not resolve to a Repository"):
        await github.graphql(BUGS.replace('"metta"', '"meta"'), dict)
    unknown = [{"message": "Field 'issues' doesn't exist", "extensions": {"code": "undefinedField"}}]
    server.fail("graphql", constant(Reply.of({"errors": unknown})), times=1)
    with pytest.raises(Refused, match="doesn't exist") as raised:
        await github.graphql(BUGS, dict)
    assert raised.value.status == 422
    # A part that could not be answered is null beside the others.
    partly = {"repository": {"issues": None}}
    server.fail("graphql", constant(Reply.of({"data": partly, "errors": [{"message": "timeout"}]})))
    assert await github.graphql(BUGS, dict) == partly


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"data": {"repository": None}, "errors": [{"type": "FORBIDDEN", "message": "no"}]}, Refused),
        ({"data": None, "errors": [{"message": "Something went wrong"}]}, Unavailable),
        ({}, Unavailable),
        ([], Unavailable),
    ],
)
async def test_graphql_without_data_is_an_error(
    server: Simulated, github: Github, answer: object, error: type[Exception]
) -> None:
    server.fail("graphql", constant(Reply.of(answer)))
    with pytest.raises(error):
        await github.graphql(BUGS, dict)


# Redirects


async def test_a_permanent_redirect_is_remembered_until_it_leads_nowhere(server: Simulated, github: Github) -> None:
    def moved(asked: Asked, true: Reply) -> Reply:
        """A repository that was renamed: its runs have another address, the query stays."""
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
    "location",
    ["http://evil.example/repos", "//evil.example/", "https://127.0.0.1/", "http://127.0.0.1:1/", "ftp://x", ""],
)
async def test_no_redirect_leads_to_another_server(server: Simulated, github: Github, location: str) -> None:
    server.fail(RUNS, redirect(location))
    with pytest.raises(Rejected, match="another server"):
        await github.get(RUNS, Total)
    assert len(server.app.asked) == 1


async def test_a_question_in_a_post_is_not_turned_into_a_get(server: Simulated, github: Github) -> None:
    server.fail("POST /graphql", redirect("/elsewhere", 302))
    with pytest.raises(Rejected, match="redirects"):
        await github.graphql(BUGS, dict)
    assert [asked.method for asked in server.app.asked] == ["POST"]
