"""The GitHub client against a real server: what it sends, what it makes of each answer, ETags and redirects."""

import time
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from service.config.masking import mask
from service.config.secrets import Secret, mounted_file
from service.demo.github import Asked, Reply
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.github.client import Github, NotFound, Refused
from service.github.usage import count_usage
from tests.integration.github.conftest import RUNS, WORKFLOWS, Total
from tests.world import TOKEN, Simulated, faults
from tests.world.faults import constant, redirect

BUGS = 'query { repository(owner: "Metta-AI", name: "metta") { issues(labels: ["bug"], first: 1) { totalCount } } }'


class Count(msgspec.Struct):
    totalCount: int


class Issues(msgspec.Struct):
    issues: Count | None


class Data(msgspec.Struct):
    repository: Issues | None


async def test_a_request_carries_what_github_asks_of_its_clients(server: Simulated, github: Github) -> None:
    assert (await github.get(RUNS, Total, params={"per_page": 100})).total_count == 0
    asked = server.app.asked[0]
    assert asked.line == f"GET {RUNS}?per_page=100"
    assert asked.token == TOKEN
    assert asked.headers["accept"] == "application/vnd.github+json"
    assert asked.headers["x-github-api-version"] == "2022-11-28"


@pytest.mark.parametrize(
    ("base", "graphql"), [("", "/graphql"), ("/api/v3", "/api/graphql"), ("/proxy", "/proxy/graphql")]
)
async def test_the_base_address_may_have_a_path(
    server: Simulated, http: httpx.AsyncClient, base: str, graphql: str
) -> None:
    server.app.base = base
    github = server.client(http)
    assert (await github.get(RUNS, Total)).total_count == 0
    assert (await github.graphql(BUGS, Data)).repository is not None
    assert [asked.line for asked in server.app.asked] == [f"GET {base}{RUNS}", f"POST {graphql}"]


@pytest.mark.parametrize(
    "fault",
    [
        faults.bad_gateway,
        faults.server_error,
        faults.html,
        faults.other_shape,
        faults.other_type,
        faults.half_json,
        faults.cut_off,
        faults.no_body,
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
    with pytest.raises(Unavailable, match=RUNS):
        await github.get(RUNS, Total)
    assert len(server.app.asked) == 6
    assert RUNS in (github.trouble or "")


@pytest.mark.parametrize("status", [400, 403, 404, 410, 422, 451])
async def test_a_refusal_is_not_asked_for_again(server: Simulated, github: Github, status: int) -> None:
    server.fail(RUNS, constant(Reply.of({"message": "Nope", "errors": [{"message": "Bad q"}]}, status)))
    with pytest.raises(Refused, match=f"GitHub answered {status}: Nope Bad q") as raised:
        await github.get(RUNS, Total)
    assert raised.value.status == status
    assert isinstance(raised.value, NotFound) == (status in (404, 410))
    assert ("the token may not see it" in str(raised.value)) == (status in (404, 410))
    assert len(server.app.asked) == 1
    assert (await github.get(WORKFLOWS, Total)).total_count == 0


@pytest.mark.parametrize(
    ("reply", "way_out"),
    [
        (Reply.of({"message": "No"}, 403, x_accepted_github_permissions="actions=read"), "the permission actions=read"),
        (
            Reply.of({}, 403, x_github_sso="required; url=https://g.test/sso?a=b"),
            "authorize the token at https://g.test/sso$",
        ),
        (Reply(404, b"<html>", {"content-type": "text/html"}), "is GITHUB_API_URL the address of the API"),
        (Reply(200, b"<html>", {"content-type": "text/html"}), "is GITHUB_API_URL the address of the API"),
    ],
)
async def test_a_refusal_names_the_way_out(server: Simulated, github: Github, reply: Reply, way_out: str) -> None:
    server.fail(RUNS, constant(reply))
    with pytest.raises((Refused, Unavailable), match=way_out):
        await github.get(RUNS, Total)


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
    async def ask() -> None:
        await github.get(RUNS, Total)

    with count_usage() as cycle:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        with count_usage() as part:
            await github.graphql(BUGS, Data)
    await ask()
    assert (cycle.requests, cycle.points) == (3, {"core": 2, "graphql": 1})
    assert (part.requests, part.points) == (1, {"graphql": 1})


async def test_an_etag_is_shown_to_nobody_but_the_token_it_was_given_to(
    server: Simulated, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("ghp_first")
    rotating = Secret("GitHub token", "set it", sources=[mounted_file(file, "GITHUB_TOKEN_FILE")])
    github = server.client(http, rotating)
    await github.get(RUNS, Total, cached=True)
    file.write_text("ghp_second")
    await rotating.ask_again()
    await github.get(RUNS, Total, cached=True)
    assert [asked.token for asked in server.app.asked] == ["ghp_first", "ghp_second"]
    assert all("if-none-match" not in asked.headers for asked in server.app.asked)


async def test_the_cache_forgets_what_was_used_longest_ago(server: Simulated, http: httpx.AsyncClient) -> None:
    github = server.client(http, cache_bytes=500)
    for page in range(1, 41):
        await github.get(RUNS, Total, params={"page": page}, cached=True)
    server.app.asked.clear()
    for page in (40, 1):
        await github.get(RUNS, Total, params={"page": page}, cached=True)
    assert [asked.status for asked in server.app.asked] == [304, 200]


async def test_graphql_gives_the_data_and_names_what_is_not_there(server: Simulated, github: Github) -> None:
    assert await github.graphql(BUGS, Data) == Data(Issues(Count(0)))
    with pytest.raises(NotFound, match="Could not resolve to a Repository"):
        await github.graphql(BUGS.replace('"metta"', '"meta"'), Data)
    server.app.unknown_fields.add("issues")
    with pytest.raises(Refused, match="doesn't exist") as raised:
        await github.graphql(BUGS, Data)
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        ({"data": {"repository": None}, "errors": [{"type": "FORBIDDEN", "message": "no"}]}, Refused, 403),
        ({"data": None, "errors": [{"message": "Something went wrong"}]}, Unavailable, None),
        ({"data": None}, Unavailable, None),
        ({}, Unavailable, None),
        ([], Unavailable, None),
    ],
)
async def test_graphql_without_data_is_an_error(
    server: Simulated, github: Github, answer: object, error: type[Exception], status: int | None
) -> None:
    server.fail("graphql", constant(Reply.of(answer)))
    with pytest.raises(error) as raised:
        await github.graphql(BUGS, Data)
    assert getattr(raised.value, "status", None) == status


async def test_a_part_that_graphql_could_not_answer_is_null_beside_the_others(
    server: Simulated, github: Github
) -> None:
    partly = {"data": {"repository": {"issues": None}}, "errors": [{"message": "timeout", "path": ["repository"]}]}
    server.fail("graphql", constant(Reply.of(partly)))
    assert await github.graphql(BUGS, Data) == Data(Issues(None))


async def test_an_address_without_graphql_stops_nothing_else(server: Simulated, github: Github) -> None:
    server.fail("graphql", faults.bad_credentials)
    with pytest.raises(Refused, match="401"):
        await github.graphql(BUGS, Data)
    assert (await github.get(RUNS, Total)).total_count == 0


async def test_no_error_shows_the_token(server: Simulated, github: Github) -> None:
    mask([TOKEN])
    server.fail(RUNS, constant(Reply.of({"message": f"{TOKEN} may not"}, 403)), times=1)
    server.fail(RUNS, constant(Reply(200, b"{}", {"content-type": TOKEN})))
    for _ in range(2):
        with pytest.raises((Refused, Unavailable)) as raised:
            await github.get(RUNS, Total)
        assert TOKEN not in str(raised.value)


# Redirects


async def test_a_permanent_redirect_is_followed_and_remembered(server: Simulated, github: Github) -> None:
    server.fail(r"/repos/old/name/actions/runs\?", moved)
    for page in (1, 2):
        assert (await github.get("/repos/old/name/actions/runs", Total, params={"page": page})).total_count == 0
    assert [asked.target for asked in server.app.asked] == [
        "/repos/old/name/actions/runs?page=1",
        f"{RUNS}?page=1",
        f"{RUNS}?page=2",
    ]


async def test_a_remembered_redirect_that_leads_nowhere_is_forgotten(server: Simulated, github: Github) -> None:
    server.fail("/repos/old/name", redirect(RUNS), times=1)
    await github.get("/repos/old/name/actions/runs", Total)
    server.fail(RUNS, faults.not_found)
    server.fail("/repos/old/name", redirect(WORKFLOWS))
    with pytest.raises(NotFound):
        await github.get("/repos/old/name/actions/runs", Total)
    assert (await github.get("/repos/old/name/actions/runs", Total)).total_count == 0


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
        await github.graphql(BUGS, Data)
    assert [asked.method for asked in server.app.asked] == ["POST"]


# The token


async def test_a_refused_token_is_not_used_again(server: Simulated, github: Github) -> None:
    server.app.revoked.add(TOKEN)
    for _ in range(3):
        with pytest.raises(Unauthorized, match="set GITHUB_DASHBOARD_TOKEN"):
            await github.get(RUNS, Total)
    assert len(server.app.asked) == 1
    assert github.trouble


async def test_without_a_token_it_is_asked_all_the_same(server: Simulated, http: httpx.AsyncClient) -> None:
    github = server.client(http, token=None)
    assert (await github.get(RUNS, Total)).total_count == 0
    assert "authorization" not in server.app.asked[0].headers
    assert not await github.has_token()
    assert "60 requests an hour" in (github.trouble or "")
    with pytest.raises(Rejected):
        await github.graphql(BUGS, Data)
    assert (await github.get(RUNS, Total)).total_count == 0


@pytest.mark.parametrize("value", ["ghp_geheim\r\nX: y", "ghp_geheim und", "ghp_geheimü"])
async def test_a_token_that_can_not_be_one_is_refused_without_being_shown(
    server: Simulated, http: httpx.AsyncClient, value: str
) -> None:
    with pytest.raises(Unauthorized) as raised:
        await server.client(http, value).get(RUNS, Total)
    assert "geheim" not in str(raised.value)
    assert not server.app.asked


def moved(asked: Asked, true: Reply) -> Reply:
    """A repository that was renamed: its runs have another address, the query stays."""
    return replace(redirect(f"{RUNS}?{asked.target.partition('?')[2]}")(asked, true))
