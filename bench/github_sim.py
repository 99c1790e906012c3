"""A synthetic GitHub in a process of its own: a busy repository whose clock the bench moves on.

``simulated(Shape(...))`` starts it; it answers what collectors ask (REST, search, GraphQL counts), each request after a
latency, and counts requests and quota points. Everything follows from the shape's seed.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.github_world import REPOSITORY, REPOSITORY_ID, Row, Shape, World, pull_json, repository_json
from service.demo import graphql
from service.demo.recording import format_time, parse_time
from service.demo.serving import served


class Simulation:
    """The running simulation, as the bench holds it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._client = httpx.Client(base_url=base, trust_env=False)

    def now(self) -> datetime:
        return parse_time(self._state()["now"])

    def advance(self, seconds: float) -> datetime:
        self._client.post("/_sim/advance", json={"seconds": seconds}).raise_for_status()
        return self.now()

    def counts(self, reset: bool = True) -> Row:
        """``requests`` and ``points`` (a 304 costs none) since the last reset, and requests by kind."""
        state = self._state()
        if reset:
            self._client.post("/_sim/reset").raise_for_status()
        return state

    def _state(self) -> Row:
        state: Row = self._client.get("/_sim/state").raise_for_status().json()
        return state


@contextmanager
def simulated(shape: Shape | None = None) -> Iterator[Simulation]:
    """A simulation in a process of its own, so that it takes no time from what is measured but a share of the cores."""
    command = [sys.executable, "-m", "bench.github_sim", json.dumps(asdict(shape or Shape()))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Simulation(process.stdout.readline().strip())
        finally:
            process.stdin.close()  # the simulation ends with its input


def sim_app(shape: Shape, start: datetime) -> Starlette:
    world, counts = World(shape, start), Counter[str]()

    async def github(request: Request) -> Response:
        await asyncio.sleep(shape.latency)
        path, query = request.url.path, request.query_params
        counts["requests"] += 1
        counts[_kind(path)] += 1
        base = str(request.base_url).rstrip("/")
        answer = _answer(world, base, path, query)
        headers = {"x-ratelimit-limit": str(shape.quota), "x-ratelimit-resource": _resource(path)}
        headers["x-ratelimit-reset"] = str(int(world.now.timestamp()) + 3600)
        if answer is None:
            counts["points"] += 1
            return Response(
                orjson.dumps({"message": "Not Found"}), 404, {**headers, "content-type": "application/json"}
            )
        if isinstance(answer, tuple):
            key, rows = answer
            size, page = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
            shown = rows[(page - 1) * size : page * size]
            if key == "workflow_runs":
                shown = [world.run_json(base, run) for run in shown]
            body = orjson.dumps({"total_count": len(rows), key: shown})
            if page * size < len(rows):
                address = request.url.include_query_params(page=page + 1)
                headers["link"] = f'<{address}>; rel="next"'
        else:
            body = orjson.dumps(answer)
        etag = f'W/"{sha256(body).hexdigest()}"'
        fresh = request.headers.get("if-none-match") != etag
        counts["points"] += fresh
        remaining = {
            "x-ratelimit-remaining": str(max(0, shape.quota - counts["points"])),
            "x-ratelimit-used": str(counts["points"]),
        }
        headers |= {**remaining, "etag": etag, "content-type": "application/json; charset=utf-8"}
        return Response(body if fresh else b"", 200 if fresh else 304, headers)

    async def query(request: Request) -> Response:
        await asyncio.sleep(shape.latency)
        counts.update(requests=1, points=1, graphql=1)
        asked = orjson.loads(await request.body())
        rate = {"limit": 5000, "cost": 1, "remaining": 4999, "used": 1, "resetAt": format_time(world.now)}
        root = {
            "search": lambda arguments: _found(world, arguments["query"]),
            "repository": lambda _: {
                "issues": lambda _: {"totalCount": 12, "nodes": []},
                "pullRequests": lambda arguments: _pulls(world, arguments),
                "nameWithOwner": REPOSITORY,
            },
            "rateLimit": rate,
        }
        body = orjson.dumps(graphql.execute(asked["query"], asked.get("variables") or {}, root))
        return Response(body, media_type="application/json")

    async def state(_: Request) -> Response:
        return Response(orjson.dumps({"now": format_time(world.now), "requests": 0, "points": 0, **counts}))

    async def advance(request: Request) -> Response:
        world.now += timedelta(seconds=orjson.loads(await request.body())["seconds"])
        return Response()

    async def reset(_: Request) -> Response:
        counts.clear()
        return Response()

    return Starlette(
        routes=[
            Route("/_sim/state", state),
            Route("/_sim/advance", advance, methods=["POST"]),
            Route("/_sim/reset", reset, methods=["POST"]),
            Route("/graphql", query, methods=["POST"]),
            Route("/{path:path}", github),
        ]
    )


def _answer(world: World, base: str, path: str, query: Any) -> Row | list[Row] | tuple[str, list[Row]] | None:
    """An object, or the key and all rows of a list, or None for 404."""
    if path == "/search/issues":
        return "items", [pull_json(base, pull) for pull in world.searched(query["q"])]
    # Every repository of the same owner is this one: for the growth from one to many.
    owner = REPOSITORY.partition("/")[0]
    match = re.fullmatch(rf"/(?:repos/{owner}/[^/]+|repositories/{REPOSITORY_ID})(.*)", path)
    match (match[1] if match else "none").split("/")[1:]:
        case []:
            return repository_json(base)
        case ["actions", "workflows"]:
            return "workflows", world.workflows
        case ["check-runs", job, "annotations"]:
            return [{"message": "The operation was canceled."}] if int(job) else []
        case ["actions", "runs"]:
            return "workflow_runs", _filtered(world, world.visible(), query)
        case ["actions", "workflows", workflow, "runs"]:
            runs = [run for run in world.visible() if workflow in (str(run["workflow"]["id"]), run["workflow"]["file"])]
            return "workflow_runs", _filtered(world, runs, query)
        case ["actions", "runs", number, *rest]:
            run = next((run for run in world.visible() if str(run["id"]) == number), None)
            if run is None:
                return None
            last = world.state(run)[0]
            match rest:
                case []:
                    return world.run_json(base, run)
                case ["jobs"]:
                    every = query.get("filter") == "all"
                    return "jobs", world.jobs(run, range(1, last + 1) if every else [last])
                case ["attempts", attempt, *jobs] if 1 <= int(attempt) <= last:
                    return (
                        ("jobs", world.jobs(run, [int(attempt)])) if jobs else world.run_json(base, run, int(attempt))
                    )
    return None


def _filtered(world: World, runs: list[Row], query: Any) -> list[Row]:
    if branch := query.get("branch"):
        runs = [run for run in runs if run["branch"] == branch]
    if event := query.get("event"):
        runs = [run for run in runs if run["event"] == event]
    if created := query.get("created"):
        since = parse_time(created.removeprefix(">=").partition("..")[0])
        runs = [run for run in runs if run["created"] >= since]
    if status := query.get("status"):
        ended = ((run, world.state(run)[3]) for run in runs)
        runs = [
            run for run, conclusion in ended if status in (conclusion, "completed" if conclusion else "in_progress")
        ]
    return runs


def _found(world: World, query: str) -> Row:
    pulls = world.searched(query)
    page = {"hasNextPage": False, "endCursor": None}
    return {"issueCount": len(pulls), "nodes": [_node(pull) for pull in pulls], "pageInfo": page}


def _pulls(world: World, arguments: Row) -> Row:
    """Merged pull requests with one of the labels, the last updated first."""
    labels = set(arguments["labels"])
    pulls = [pull for pull in world.pulls if pull["merged"] <= world.now and labels & set(pull["labels"])][::-1]
    size, page = arguments["first"], {"hasNextPage": len(pulls) > arguments["first"], "endCursor": "next"}
    return {"totalCount": len(pulls), "nodes": [_node(pull) for pull in pulls[:size]], "pageInfo": page}


def _node(pull: Row) -> Row:
    return {
        "number": pull["number"],
        "title": f"Pull request {pull['number']}",
        "url": f"https://github.com/{REPOSITORY}/pull/{pull['number']}",
        "createdAt": format_time(pull["merged"]),
        "updatedAt": format_time(pull["merged"]),
        "mergedAt": format_time(pull["merged"]),
        "__typename": "PullRequest",
    }


def _resource(path: str) -> str:
    return "search" if path.startswith("/search") else "core"


def _kind(path: str) -> str:
    return re.sub(r"^/(repos/[^/]+/[^/]+|repositories/\d+)|/\d+|workflow-\d+\.yml", "", path).strip("/") or "repository"


def main() -> None:
    """Serves until standard input ends; prints the base address first."""
    shape = Shape(**json.loads(sys.argv[1]))
    with served(sim_app(shape, datetime.now(UTC).replace(microsecond=0))) as (base,):
        print(base, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
