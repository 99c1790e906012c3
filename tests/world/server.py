"""The simulated GitHub with faults by pattern, a clock that is the world's, and clients of it; without a
socket, or on loopback for the bench."""

import asyncio
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import anyio
import httpx
import uvicorn

from service.config.secrets import Secret
from service.demo.github import Asked, Reply, SimulatedGithub
from service.demo.github_rows import Issue, Json, Pull, carries, stamp
from service.github.auth import TokenSource
from service.github.client import Github
from tests.world.faults import HUNG, Fault
from tests.world.generator import World
from tests.world.judge import select

TOKEN = "ghp_0123456789abcdef"
_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|[^",]+')  # in quotes or without


@dataclass
class Planned:
    """A fault for requests that match ``pattern`` ("GET /path?query"), as long as ``hits`` is below ``times``."""

    pattern: str
    fault: Fault
    times: int
    hits: int = 0


class FaultyGithub(SimulatedGithub):
    """GitHub with what goes wrong around it.

    ``asked``: the requests. ``before(line)`` is called ahead of each answer, so that rows can change while they are
    read. ``revoked``: tokens that are refused.
    """

    def __init__(self, world: World) -> None:
        super().__init__([world.repository, *world.others], lambda: world.now, lag=world.lag)
        self.asked: deque[Asked] = deque(maxlen=20_000)
        self.before: Callable[[str], None] = lambda line: None
        self.faults: list[Planned] = []
        self.latency = 0.0
        self.revoked: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self._installation_tokens = 0

    async def reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            self.before(asked.line)
            true = self._refusal(asked) or await super().reply(asked)
            for planned in self.faults:
                if planned.hits < planned.times and re.search(planned.pattern, asked.line):
                    planned.hits += 1
                    true = planned.fault(asked, true)
                    break
            if true is HUNG:
                await asyncio.sleep(3600)
            return true
        finally:
            self.in_flight -= 1

    def _refusal(self, asked: Asked) -> Reply | None:
        """What is answered before the limits and the rows are looked at."""
        if asked.token in self.revoked:
            return Reply.refusal(401, "Bad credentials")
        if self.in_flight > 100:
            return Reply.refusal(403, "You have exceeded a secondary rate limit.")
        if asked.target.endswith("/access_tokens"):
            self._installation_tokens += 1
            token = f"ghs_simulated{self._installation_tokens}"
            return Reply.of({"token": token, "expires_at": stamp(self.clock() + timedelta(hours=1))}, 201)
        return None

    def answer(self, asked: Asked) -> Reply:
        path, _, text = asked.target.removeprefix(self.base).partition("?")
        return self._search(dict(parse_qsl(text))) if path == "/search/issues" else super().answer(asked)

    def _search(self, query: Mapping[str, str]) -> Reply:
        """Merged pull requests and open issues, as the lagging index knows them; ``label:a,b`` means a or b."""
        at = self.clock() - self.lag
        rows: list[Pull] | list[Issue]
        terms = re.findall(r'(\w+):((?:"(?:[^"\\]|\\.)*"|[^\s"])+)', query.get("q", ""))
        found = dict(terms)
        repository = self.repositories.get(found.get("repo", "").lower())
        if repository is None:
            return Reply.refusal(422, "The listed users and repositories cannot be searched")
        labels = [_NAME.findall(value) for key, value in terms if key == "label"]
        wanted = [{re.sub(r"\\(.)", r"\1", name.strip('"')) for name in names} for names in labels]
        if ("is", "issue") in terms:
            rows = [each for each in repository.open_issues(at) if all(carries(each, names) for names in wanted)]
        else:
            since = datetime.fromisoformat(found["merged"].removeprefix(">="))
            rows = [each for each in repository.merged(wanted[0], at) if each.merged and each.merged >= since]
        items = [{"number": each.number, "title": each.title} for each in rows[: int(query.get("per_page", 30))]]
        return Reply.of({"total_count": len(rows), "incomplete_results": False, "items": items})

    def _graphql(self, document: str) -> Json:
        answer = super()._graphql(document)
        if answer["data"]["repository"] is None:
            return answer
        return {"data": select(document, answer["data"])}


class Simulated:
    """``app``: the server itself (``app.asked``, ``app.limits``, ``app.before`` ...). ``clock``: the world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.app = FaultyGithub(world)
        self.faults = self.app.faults
        self.clock = WorldClock(world)
        self.url = "http://github.test"

    def fail(self, pattern: str, fault: Fault, times: int = 10**9) -> Planned:
        planned = Planned(pattern, fault, times)
        self.app.faults.append(planned)
        return planned

    def take_asked(self) -> list[Asked]:
        asked = list(self.app.asked)
        self.app.asked.clear()
        return asked

    def client(self, http: httpx.AsyncClient, token: TokenSource | str | None = TOKEN, **options: Any) -> Github:
        """A client with ``token`` whose clock is the world's."""
        if token is None or isinstance(token, str):
            token = Secret("GitHub token", "set GITHUB_DASHBOARD_TOKEN", token)
        return Github(self.url + self.app.base, token, http, self.clock, **options)


class WorldClock:
    """Meets Clock. A sleep takes no time: it moves this clock, not the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._start = world.now
        self.slept: list[float] = []
        self.passed = 0.0  # beside the world's own time

    def now(self) -> datetime:
        return self._world.now

    def monotonic(self) -> float:
        return (self._world.now - self._start).total_seconds() + self.passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passed += seconds
        await asyncio.sleep(0)

    async def wait(self, event: anyio.Event, seconds: float) -> None:
        if not event.is_set():
            await self.sleep(seconds)


class InProcess(httpx.ASGITransport):
    """Without a socket, where a body that is cut off breaks as it does on a wire."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if len(await response.aread()) < int(response.headers["content-length"]):
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        return response


@asynccontextmanager
async def simulated(world: World) -> AsyncIterator[Simulated]:
    """On a free port of loopback."""
    simulation = Simulated(world)
    config = uvicorn.Config(simulation.app, log_level="critical", lifespan="off", date_header=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        simulation.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield simulation
        server.should_exit = True
        await task
