"""The simulated GitHub with faults by pattern, a clock that is the world's, and clients of it; on loopback or without a
socket, which takes half the time."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx
import msgspec
import uvicorn
from starlette.types import ASGIApp, Message

from service.config.secrets import Secret
from service.demo.github import Asked, Reply, SimulatedGithub
from service.github.auth import TokenSource
from service.github.client import Github
from tests.world.faults import Fault
from tests.world.generator import World
from tests.world.judge import select

TOKEN = "ghp_0123456789abcdef"


@dataclass
class Planned:
    """A fault for requests that match ``pattern`` ("GET /path?query"), as long as ``hits`` is below ``times``."""

    pattern: str
    fault: Fault
    times: int
    hits: int = 0


class Simulated:
    """``app``: the server itself (``app.asked``, ``app.limits``, ``app.before`` ...). ``clock``: the world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.app = SimulatedGithub([world.repository, *world.others], lambda: world.now, lag=world.lag)
        self.app.intercept = self._intercept
        self.clock = WorldClock(world)
        self.url = "http://github.test"
        self.faults: list[Planned] = []

    def fail(self, pattern: str, fault: Fault, times: int = 10**9) -> Planned:
        planned = Planned(pattern, fault, times)
        self.faults.append(planned)
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

    def _intercept(self, asked: Asked, true: Reply) -> Reply:
        body = msgspec.json.decode(true.body) if asked.document else {}
        if body.get("data"):
            true = replace(true, body=msgspec.json.encode({**body, "data": select(asked.document, body["data"])}))
        for planned in self.faults:
            if planned.hits < planned.times and re.search(planned.pattern, asked.line):
                planned.hits += 1
                return planned.fault(asked, true)
        return true


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


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The address of ``app`` on a free port of loopback."""
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1, date_header=False, server_header=False
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class InProcess(httpx.AsyncBaseTransport):
    """Hands requests to ``app`` as they are. A body that is cut off breaks as it does on a wire."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": await request.aread()}

        async def send(message: Message) -> None:
            sent.append(message)

        path, _, query = request.url.raw_path.partition(b"?")
        scope = {"type": "http", "method": request.method, "scheme": "http", "path": path.decode(), "raw_path": path}
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        await self._app({**scope, "query_string": query, "headers": headers}, receive, send)
        head, body = sent
        if body["more_body"]:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        return httpx.Response(head["status"], headers=head["headers"], content=body["body"])


@asynccontextmanager
async def simulated(world: World) -> AsyncIterator[Simulated]:
    simulation = Simulated(world)
    async with served(simulation.app) as simulation.url:
        yield simulation
