"""The demo's GitHub over real HTTP: it must answer as GitHub does, or the demo shows what production does not do."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.demo.replay import replay_app
from service.demo.serving import served

NOW = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
IONIC = "/repos/ionic-team/ionic-framework"
PHISHBENCH = "/repos/ReDASers/PhishBench"
# The recorded runs on attempt 2: what their first attempt must have been, None where the recording can't tell.
RERUN = {
    8000161341: None,
    7984708931: "failure",
    7867878488: "failure",
    7669946636: "failure",
    7187385143: None,
    7137986008: "failure",
    7124408050: "failure",
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(replay_app(lambda: NOW)) as (address,):
        yield address


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, headers={"authorization": "Bearer x"}) as client:
        yield client


@pytest.fixture
async def github(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(address) as client:
        yield client


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def followed(client: httpx.AsyncClient, path: str, key: str) -> list[dict[str, Any]]:
    """The rows of every page, by the links."""
    rows: list[dict[str, Any]] = []
    address: str | None = path
    while address:
        answer = (await client.get(address)).raise_for_status()
        rows += answer.json()[key]
        address = answer.links.get("next", {}).get("url")
    return rows


@pytest.mark.parametrize("per_page", ["", "?per_page=7", "?per_page=100&exclude_pull_requests=true"])
async def test_following_the_links_gives_every_run_once_newest_first(github: httpx.AsyncClient, per_page: str) -> None:
    runs = await followed(github, f"{IONIC}/actions/runs{per_page}", "workflow_runs")
    order = [(run["created_at"], run["id"]) for run in runs]
    assert len(set(order)) == 101
    assert order == sorted(order, reverse=True)


async def test_pages_are_linked_as_on_github(github: httpx.AsyncClient) -> None:
    """Links keep the query, name the repository by its number (as recorded), and lead to the host that was asked."""
    first, middle, last, beyond = [
        await github.get(f"{IONIC}/actions/runs?exclude_pull_requests=1&page={page}") for page in (1, 2, 4, 9)
    ]
    address = f"{github.base_url}/repositories/12256376/actions/runs?exclude_pull_requests=1"
    assert first.headers["link"] == f'<{address}&page=2>; rel="next", <{address}&page=4>; rel="last"'
    assert {rel: link["url"][len(address) :] for rel, link in middle.links.items()} == {
        "prev": "&page=1",
        "next": "&page=3",
        "last": "&page=4",
        "first": "&page=1",
    }
    assert set(last.links) == {"prev", "first"}
    assert beyond.json() == {"total_count": 101, "workflow_runs": []}
    assert [len(answer.json()["workflow_runs"]) for answer in (first, middle, last)] == [30, 30, 11]
    assert "link" not in (await github.get(f"{IONIC}/actions/workflows")).headers


async def test_a_page_holds_at_most_a_hundred_runs(github: httpx.AsyncClient) -> None:
    answer = await github.get(f"{IONIC}/actions/runs?per_page=1000")
    assert len(answer.json()["workflow_runs"]) == 100


async def test_an_unchanged_answer_is_a_304_and_costs_no_quota(github: httpx.AsyncClient) -> None:
    path = f"{IONIC}/actions/runs"
    full = await github.get(path)
    assert full.headers["etag"].startswith('W/"')
    assert full.headers["content-type"] == "application/json; charset=utf-8"
    again = await github.get(path, headers={"if-none-match": full.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == full.headers["etag"]
    assert again.headers["x-ratelimit-remaining"] == full.headers["x-ratelimit-remaining"]
    other = await github.get(path, headers={"if-none-match": '"something-else"'})
    assert other.status_code == 200
    assert int(other.headers["x-ratelimit-used"]) == int(again.headers["x-ratelimit-used"]) + 1


async def test_each_resource_has_its_own_quota_that_comes_back_with_its_window() -> None:
    now = NOW
    with served(replay_app(lambda: now)) as (address,):
        async with client_of(address) as github:
            query = f"/search/issues?q=repo:{IONIC.removeprefix('/repos/')}"
            for _ in range(30):
                assert (await github.get(query)).status_code == 200
            refused = await github.get(query)
            assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (403, "0")
            assert int(refused.headers["x-ratelimit-reset"]) == int(NOW.timestamp()) + 60
            assert (await github.get(IONIC)).headers["x-ratelimit-resource"] == "core"
            resources = (await github.get("/rate_limit")).json()["resources"]
            assert {name: state["used"] for name, state in resources.items()} == {"core": 1, "search": 30, "graphql": 0}
            now = NOW + timedelta(seconds=61)
            assert (await github.get(query)).status_code == 200


@pytest.mark.parametrize(("repository", "spans"), [(IONIC, 93), (PHISHBENCH, 486)])
async def test_the_newest_run_ended_minutes_ago_and_the_others_keep_their_distance(
    github: httpx.AsyncClient, repository: str, spans: int
) -> None:
    runs = await followed(github, f"{repository}/actions/runs", "workflow_runs")
    newest = max(at(run["updated_at"]) for run in runs)
    assert timedelta(0) <= NOW - timedelta(minutes=4) - newest < timedelta(seconds=1)
    assert (newest - min(at(run["created_at"]) for run in runs)).days == spans
    for run in runs:
        assert at(run["created_at"]) <= at(run["run_started_at"]) <= at(run["updated_at"]) <= NOW


async def test_the_re_run_runs_tell_their_attempts(github: httpx.AsyncClient) -> None:
    """An earlier attempt failed where the later one carried over its finished job; otherwise it is not known."""
    runs = await followed(github, f"{IONIC}/actions/runs", "workflow_runs")
    assert {run["id"] for run in runs if run["run_attempt"] > 1} == set(RERUN)
    for run in (run for run in runs if run["id"] in RERUN):
        path = f"{IONIC}/actions/runs/{run['id']}/attempts"
        last = (await github.get(f"{path}/2")).json()
        assert last["conclusion"] == run["conclusion"]
        assert last["created_at"] == last["run_started_at"] == run["run_started_at"]
        first = await github.get(f"{path}/1")
        if RERUN[run["id"]] is None:
            assert first.status_code == 404
            continue
        attempt = first.json()
        assert (attempt["id"], attempt["run_attempt"], attempt["conclusion"]) == (run["id"], 1, RERUN[run["id"]])
        assert run["created_at"] == attempt["run_started_at"] < attempt["updated_at"] < run["run_started_at"]
        assert (await github.get(f"{path}/3")).status_code == 404


async def test_jobs_belong_to_their_run_and_attempt(github: httpx.AsyncClient) -> None:
    path = f"{IONIC}/actions/runs/7984708931"
    latest, every, first = [
        (await github.get(f"{path}/{rest}")).json()["jobs"] for rest in ("jobs", "jobs?filter=all", "attempts/1/jobs")
    ]
    assert latest == every
    assert first == []
    assert [(job["run_id"], job["run_attempt"], job["conclusion"]) for job in latest] == [(7984708931, 2, "success")]
    # A carried-over job keeps its old times.
    assert at(latest[0]["started_at"]) < at(latest[0]["created_at"])
    assert (await github.get(f"{IONIC}/check-runs/{latest[0]['id']}/annotations")).json() == []


async def test_workflows_are_found_by_number_and_by_file(github: httpx.AsyncClient) -> None:
    workflows = await followed(github, f"{PHISHBENCH}/actions/workflows?per_page=3", "workflows")
    assert len(workflows) == 7
    for workflow in workflows:
        file = workflow["path"].rpartition("/")[2]
        by_number = await github.get(f"{PHISHBENCH}/actions/workflows/{workflow['id']}")
        assert by_number.json() == (await github.get(f"{PHISHBENCH}/actions/workflows/{file}")).json() == workflow
        runs = await followed(github, f"{PHISHBENCH}/actions/workflows/{file}/runs", "workflow_runs")
        assert {run["workflow_id"] for run in runs} == {workflow["id"]}
    names = {workflow["name"]: workflow["state"] for workflow in workflows}
    assert names["Unit Test"] == "active"


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("branch=main&status=cancelled", 2),
        ("event=schedule&branch=main&status=failure", 6),
        ("status=completed", 101),
        ("status=in_progress", 0),
        ("head_sha=9be6a91c48f0d11bc064c0886741231b8783a096", 1),
    ],
)
async def test_filters_choose_runs(github: httpx.AsyncClient, query: str, count: int) -> None:
    answer = await github.get(f"{IONIC}/actions/runs?{query}")
    assert answer.json()["total_count"] == count


async def test_the_created_filter_takes_githubs_date_syntax(github: httpx.AsyncClient) -> None:
    runs = await followed(github, f"{IONIC}/actions/runs", "workflow_runs")
    edge = runs[40]["created_at"]
    older, newer = runs[40:], runs[:41]

    async def count(created: str) -> int:
        answer = await github.get(f"{IONIC}/actions/runs", params={"created": created})
        return int(answer.raise_for_status().json()["total_count"])

    assert await count(f">={edge}") == await count(f"{edge}..*") == len(newer)
    assert await count(f">{edge}") == len(newer) - 1
    assert await count(f"<={edge}") == await count(f"*..{edge}") == len(older)
    assert await count(f"<{edge}") == len(older) - 1
    assert await count(edge) == 1
    day = edge[:10]
    assert await count(day) == sum(run["created_at"].startswith(day) for run in runs)
    assert (await github.get(f"{IONIC}/actions/runs?created=soon")).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/repos/nobody/nothing",
        "/repos/nobody/nothing/actions/runs",
        "/repositories/1/actions/runs",
        f"{IONIC}/actions/runs/1",
        f"{IONIC}/actions/runs/{'9' * 400}",
        f"{IONIC}/actions/runs/8000161341/attempts/0",
        f"{IONIC}/actions/workflows/other.yml/runs",
        f"{IONIC}/actions/caches",
        f"{IONIC}/check-runs/1/annotations",
    ],
)
async def test_what_is_not_there_is_githubs_404(github: httpx.AsyncClient, path: str) -> None:
    answer = await github.get(path)
    assert answer.status_code == 404
    assert answer.json()["message"] == "Not Found"
    assert answer.json()["status"] == "404"
    assert "x-ratelimit-remaining" in answer.headers


async def test_repositories_are_found_whatever_the_case(github: httpx.AsyncClient) -> None:
    answer = (await github.get(PHISHBENCH.lower())).json()
    assert (answer["full_name"], answer["default_branch"]) == ("ReDASers/PhishBench", "master")


async def test_a_search_finds_nothing_in_a_recorded_repository_and_refuses_others(github: httpx.AsyncClient) -> None:
    query = 'repo:ionic-team/ionic-framework is:pr label:"hotfix" merged:>=2026-01-02T03:04:05Z'
    found = await github.get("/search/issues", params={"q": query})
    assert found.json() == {"total_count": 0, "incomplete_results": False, "items": []}
    assert found.headers["x-ratelimit-resource"] == "search"
    refused = await github.get("/search/issues", params={"q": "repo:nobody/nothing is:pr"})
    assert (refused.status_code, refused.json()["message"]) == (422, "Validation Failed")
    assert (await github.get("/search/issues")).json()["errors"][0]["code"] == "missing"


async def test_graphql_answers_each_alias(github: httpx.AsyncClient) -> None:
    document = """
    # hotfixes, the backlog, and what is left of the quota
    query Counts($hotfixes: String!, $labels: [String!] = ["bug"]) {
      hotfix: search(type: ISSUE, query: $hotfixes, first: 1) { issueCount }
      reverts: search(type: ISSUE, query: "repo:ionic-team/ionic-framework label:\\"a b\\"", first: 1) { ...Count }
      repository(owner: "ionic-team", name: "ionic-framework") {
        bugs: issues(labels: $labels, states: [OPEN]) { totalCount }
        ... on Repository { nameWithOwner }
      }
      rateLimit { cost, limit }
    }
    fragment Count on SearchResultItemConnection { issueCount }
    """
    answer = await github.post("/graphql", json={"query": document, "variables": {"hotfixes": "is:pr"}})
    assert answer.json() == {
        "data": {
            "hotfix": {"issueCount": 0},
            "reverts": {"issueCount": 0},
            "repository": {"bugs": {"totalCount": 0}, "nameWithOwner": "ionic-team/ionic-framework"},
            "rateLimit": {"cost": 1, "limit": 5000},
        }
    }
    assert answer.headers["x-ratelimit-resource"] == "graphql"


async def test_graphql_tells_what_is_wrong_beside_what_it_knows(github: httpx.AsyncClient) -> None:
    document = '{ a: repository(owner: "x", name: "y") { id } b: search(type: ISSUE, query: "") { issueCount } }'
    answer = (await github.post("/graphql", json={"query": document})).json()
    assert answer["data"] == {"a": None, "b": {"issueCount": 0}}
    assert [(error["type"], error["path"]) for error in answer["errors"]] == [("NOT_FOUND", ["a"])]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "{ nobody }",
        "{ search(query: $q) { issueCount } }",
        "mutation { x }",
        '{ search(query: "\\d") { x } }',
        "{ ...F }",
    ],
)
async def test_graphql_refuses_what_it_can_not_read(github: httpx.AsyncClient, document: str) -> None:
    answer = await github.post("/graphql", json={"query": document})
    assert answer.status_code == 200
    assert set(answer.json()) == {"errors"}


async def test_graphql_needs_a_token_and_json(github: httpx.AsyncClient) -> None:
    assert (await github.post("/graphql", content=b"nonsense")).status_code == 400
    assert (await github.post("/graphql", json=["x"])).status_code == 400
    async with httpx.AsyncClient(base_url=github.base_url) as anonymous:
        assert (await anonymous.post("/graphql", json={"query": "{ x }"})).status_code == 401
