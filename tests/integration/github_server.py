"""A GitHub on loopback over a ``World``, with GitHub's limits and ETags and any fault that a test asks for."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.adapters.github import Github
from service.adapters.secrets import Secret
from service.demo import graphql
from tests.github_world import SimJob, World, stamp

TOKEN = "ghp_0123456789abcdef"


@dataclass
class Reply:
    """``cut``: how many bytes of the body are left out, though Content-Length names them."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    delay: float = 0.0

    @classmethod
    def of(cls, payload: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, orjson.dumps(payload), {"content-type": "application/json; charset=utf-8", **named})


@dataclass
class Fault:
    """Answers ``times`` requests that match ``pattern`` ("GET /path?query") in GitHub's place; None lets it answer."""

    pattern: str
    reply: Callable[[str], Reply | None]
    times: int = 10**9
    hits: int = 0


HTML = Reply(200, b"<!DOCTYPE html><html>One moment</html>", {"content-type": "text/html"})


@dataclass
class Asked:
    """One request. ``cost``: points of the primary limit."""

    method: str
    target: str
    headers: dict[str, str]
    status: int = 0
    cost: int = 0

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"


class GithubServer:
    """``before`` is called ahead of each answer, so that the repository can change while it is read."""

    # ``others``: more repositories; ``documents``: the GraphQL that was asked.

    def __init__(self, world: World) -> None:
        self.world = world
        self.url = ""
        self.base = ""
        self.limit: int | None = 5000
        self.used = {"core": 0, "search": 0, "graphql": 0}
        self.reset = int((datetime.now(UTC) + timedelta(minutes=40)).timestamp())
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.others: list[World] = []
        self.documents: list[str] = []
        self.lists_pulls = True  # not every Enterprise server can count all
        self.before: Callable[[str], None] = lambda line: None
        self.latency = 0.0
        self.most_in_flight = 0
        self._in_flight = 0

    def fail(self, pattern: str, reply: Reply | Callable[[str], Reply | None], times: int = 10**9) -> Fault:
        fault = Fault(pattern, reply if callable(reply) else lambda line: reply, times)
        self.faults.append(fault)
        return fault

    def take_asked(self) -> list[Asked]:
        asked, self.asked = self.asked, []
        return asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        asked = Asked(request.method, target, {name.lower(): value for name, value in request.headers.items()})
        self.asked.append(asked)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            body = await request.body()
            await asyncio.sleep(self.latency)
            reply = self._reply(asked, request, body)
            await asyncio.sleep(reply.delay)
        finally:
            self._in_flight -= 1
        asked.status = reply.status
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        length = str(len(reply.body)).encode()
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": [*headers, (b"content-length", length)]}
        )
        whole = reply.body[: len(reply.body) - reply.cut]
        await send({"type": "http.response.body", "body": whole, "more_body": bool(reply.cut)})

    def _reply(self, asked: Asked, request: Request, body: bytes) -> Reply:
        self.before(asked.line)
        for fault in self.faults:
            if fault.hits < fault.times and re.search(fault.pattern, asked.line):
                reply = fault.reply(asked.line)
                if reply:
                    fault.hits += 1
                    return reply
        path = asked.target.partition("?")[0].removeprefix(self.base)
        resource = "search" if path.startswith("/search") else "graphql" if path == "/graphql" else "core"
        if "authorization" not in asked.headers and resource == "graphql":
            return Reply.of({"message": "This endpoint requires you to be authenticated."}, 401)
        if self.limit is not None and self.used[resource] >= self._limit(resource):
            limited = {"message": "API rate limit exceeded", "documentation_url": "https://docs.github.com"}
            reply = Reply.of(limited, 403)
        else:
            payload, status = self._payload(path, dict(request.query_params), body)
            reply = Reply.of(payload, status)
            if resource != "graphql" and status == 200:
                etag = f'W/"{sha256(reply.body).hexdigest()}"'
                if asked.headers.get("if-none-match") == etag:
                    reply = Reply(304)
                reply.headers["etag"] = etag
            if reply.status != 304 or "authorization" not in asked.headers:
                self.used[resource] += 1
                asked.cost = 1
        if self.limit is not None:
            left = max(0, self._limit(resource) - self.used[resource])
            reply.headers |= {
                "x-ratelimit-limit": str(self._limit(resource)),
                "x-ratelimit-remaining": str(left),
                "x-ratelimit-used": str(self.used[resource]),
                "x-ratelimit-reset": str(self.reset),
                "x-ratelimit-resource": resource,
            }
        return reply

    def _limit(self, resource: str) -> int:
        assert self.limit is not None
        return 30 if resource == "search" else self.limit

    def _world_of(self, text: str) -> World:
        """The repository that a path or a query is about."""
        return next((each for each in self.others if each.repo in text), self.world)

    def _payload(self, path: str, query: dict[str, str], body: bytes) -> tuple[Any, int]:
        world = self._world_of(path)
        if path == "/graphql":
            document = json.loads(body)["query"]
            self.documents.append(document)
            return self._graphql(document), 200
        if path == "/search/issues":
            return {"total_count": self._search(query["q"]), "incomplete_results": False, "items": []}, 200
        found = re.fullmatch(rf"/repos/{re.escape(world.repo)}/actions/(.*)", path)
        rest = found[1] if found else ""
        if rest == "workflows":
            rows = [vars(each) for each in world.workflows]
            return self._listed("workflows", rows, query), 200
        if rest == "runs":
            if set(query) - {"per_page", "page", "exclude_pull_requests"}:
                return self._listed("workflow_runs", self._filtered(world.indexed(), query)[:1000], query), 200
            page, size = int(query.get("page", 1)), int(query.get("per_page", 30))
            if page * size > 40_000:
                return {"message": "In order to keep the API fast for everyone, pagination is limited"}, 422
            runs = world.newest_first()
            rows = [world.run_json(run) for run in runs[(page - 1) * size : page * size]]
            return {"total_count": len(runs), "workflow_runs": rows}, 200
        if match := re.fullmatch(r"workflows/(\d+)/runs", rest):
            rows = world.indexed(int(match[1]))
            if not rows and int(match[1]) not in {each.id for each in world.workflows}:
                return {"message": "Not Found"}, 404
            return self._listed("workflow_runs", self._filtered(rows, query)[:1000], query), 200
        if match := re.fullmatch(r"runs/(\d+)/jobs", rest):
            run = world.run(int(match[1]))
            if run:
                assert query["filter"] == "all"
                return self._listed("jobs", [self._job_json(world, job) for job in world.jobs_of(run)], query), 200
        if match := re.fullmatch(rf"/repos/{re.escape(world.repo)}/check-runs/(\d+)/annotations", path):
            job = world.job(int(match[1]))
            if job:
                return [{"annotation_level": "failure", "message": job.said}] if job.said else [], 200
        if match := re.fullmatch(r"runs/(\d+)(?:/attempts/(\d+))?", rest):
            run = world.run(int(match[1]))
            number = int(match[2]) if match[2] else len(run.attempts) if run else 0
            if run and 1 <= number <= len(run.attempts):
                return world.run_json(run, run.attempts[:number]), 200
        return {"message": "Not Found", "documentation_url": "https://docs.github.com/rest"}, 404

    @staticmethod
    def _job_json(world: World, job: SimJob) -> dict[str, Any]:
        return {
            "id": job.id,
            "run_id": job.id // 1000,
            "run_attempt": job.attempt,
            "name": f"job {job.id % 10}",
            "status": "completed",
            "conclusion": job.conclusion,
            "started_at": stamp(job.started),
            "completed_at": stamp(job.ended),
            "html_url": f"https://github.com/{world.repo}/actions/runs/{job.id // 1000}/job/{job.id}",
        }

    @staticmethod
    def _filtered(rows: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        return [row for row in rows if query.get("branch") in (None, row["head_branch"])]

    @staticmethod
    def _listed(key: str, rows: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        page, size = int(query.get("page", 1)), min(100, int(query.get("per_page", 30)))
        return {"total_count": len(rows), key: rows[(page - 1) * size : page * size]}

    def _graphql(self, document: str) -> dict[str, Any]:
        created = {"title": "An issue", "url": "https://github.com/x/1", "createdAt": "2026-03-01T00:00:00Z"}
        root = {
            "search": lambda given: {
                "__typename": "SearchResultItemConnection",
                "issueCount": self._search(given["query"]),
                "nodes": [
                    {
                        "__typename": "PullRequest",
                        "title": f"Pull request {number}",
                        "url": f"https://github.com/{self.world.repo}/pull/{number}",
                        "mergedAt": f"2026-03-0{number}T00:00:00Z",
                        "createdAt": "2026-01-01T00:00:00Z",
                    }
                    for number in range(1, 4)
                ][: self._search(given["query"])],
            },
            "repository": lambda given: self._repository(self._world_of(f"{given['owner']}/{given['name']}"), created),
        }
        return graphql.execute(document, {}, root)

    def _repository(self, world: World, issue: dict[str, Any]) -> dict[str, Any]:
        lists: dict[str, Any] = {
            "issues": lambda asked: {"totalCount": world.open_with_any(asked["labels"]), "nodes": [issue]}
        }
        if self.lists_pulls:
            lists["pullRequests"] = lambda asked: self._pulls(world, asked)
        return lists

    @staticmethod
    def _pulls(world: World, given: Mapping[str, Any]) -> dict[str, Any]:
        """The merged pull requests, the last updated first, as the repository itself lists them."""
        assert given["states"] == "MERGED"
        assert given["orderBy"] == {"field": "UPDATED_AT", "direction": "DESC"}
        merged = world.merged_pulls(given["labels"], datetime.min.replace(tzinfo=UTC), world.now)
        begin = int(given.get("after") or 0)
        end = begin + given["first"]
        nodes = [
            {
                "title": f"Pull request {number}",
                "url": f"https://github.com/{world.repo}/pull/{number}",
                "mergedAt": stamp(at),
                "updatedAt": stamp(at),
            }
            for number, at in enumerate(merged)
        ]
        page = {"hasNextPage": end < len(nodes), "endCursor": str(end)}
        return {"__typename": "PullRequestConnection", "nodes": nodes[begin:end], "pageInfo": page}

    def _search(self, text: str) -> int:
        if issues := re.fullmatch(r"repo:(\S+) is:issue is:open (.+)", text):
            return self._world_of(f"{issues[1]}").open_with(re.findall(r"label:(\S+)", issues[2]))
        match = re.fullmatch(r"repo:(\S+) is:pr is:merged merged:>=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) label:(.+)", text)
        assert match, text
        world = self._world_of(match[1])
        assert match[1] == world.repo, text
        labels = [label.replace('\\"', '"').strip('"') for label in re.findall(r'"(?:[^"\\]|\\.)*"|[^",]+', match[3])]
        return len(world.merged_pulls(labels, datetime.fromisoformat(match[2]), world.now - world.lag))


@asynccontextmanager
async def github_at(world: World) -> AsyncIterator[GithubServer]:
    server = GithubServer(world)
    config = uvicorn.Config(server, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    serving = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        task = asyncio.create_task(serving.serve(sockets=[listening]))
        try:
            yield server
        finally:
            serving.should_exit = True
            await task


def secret(value: str | None = TOKEN) -> Secret:
    return Secret("GitHub token", "set GITHUB_DASHBOARD_TOKEN", value)


@asynccontextmanager
async def client_of(server: GithubServer, token: Secret | None = None, **options: Any) -> AsyncIterator[Github]:
    github = Github(server.url + server.base, token or secret(), "infra-health/test", **options)
    try:
        yield github
    finally:
        await github.aclose()


class FakeClock:
    """Meets ``Clock``: a sleep takes no time but moves the clock."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passed += seconds
        await asyncio.sleep(0)
