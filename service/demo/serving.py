"""Apps on free loopback ports, served by a thread with an event loop of its own."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import uvicorn
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette


@contextmanager
def served(*apps: Starlette) -> Iterator[list[str]]:
    """The base addresses of ``apps``, which accept connections until this is left. Raises OSError."""
    with start_blocking_portal("asyncio") as portal:
        stop = portal.call(anyio.Event)
        ended, addresses = portal.start_task(_serve, apps, stop)
        try:
            yield addresses
        finally:
            portal.call(stop.set)
            ended.result()


class _Server(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        self.accepting = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


async def _serve(apps: Sequence[Starlette], stop: anyio.Event, *, task_status: TaskStatus[list[str]]) -> None:
    listeners = [_listener() for _ in apps]
    servers = [_Server(app) for app in apps]
    async with anyio.create_task_group() as tasks:
        for server, listener in zip(servers, listeners, strict=True):
            tasks.start_soon(server.serve, [listener])
        for server in servers:
            await server.accepting.wait()
        task_status.started([f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners])
        await stop.wait()
        for server in servers:
            server.should_exit = True


def _listener() -> socket.socket:
    # asyncio switches Nagle's delay (40 ms an answer) off only for sockets that name their protocol; create_server's
    # do not.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener
