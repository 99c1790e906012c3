"""The application put together, and uvicorn as one task of the daemon among others."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator, Iterable

import anyio
from anyio.abc import TaskStatus
from starlette.applications import Starlette
from starlette.middleware import Middleware
from uvicorn import Config
from uvicorn import Server as UvicornServer

from service.adapters.secrets import Secret
from service.domain.errors import ConfigError
from service.web.api import Api
from service.web.api_calls import calls_of
from service.web.connections import Connection
from service.web.guard import Guard, writes
from service.web.heads import HEAD_LIMIT
from service.web.health import HealthRoutes
from service.web.metrics import Telemetry
from service.web.openapi import OpenApi
from service.web.operations import Operations
from service.web.page import Pages
from service.web.problems import FORESEEN, Catch

# Longer than the five seconds after which common clients drop an idle connection: who closes first must not be us.
_KEEP_ALIVE = 20
_GRACE = 2


def build_app(
    operations: Operations,
    *,
    token: Secret | str | None,
    read_token: Secret | str | None = None,
    in_cluster: bool,
    allowed_hosts: Iterable[str],
    telemetry: Telemetry,
) -> Starlette:
    """Everything that is served. ``in_cluster``: KUBERNETES_SERVICE_HOST is set.

    ``app.state.warm``, to be called once the daemon runs, makes the first reader's page quick.
    """
    closing = anyio.Event()
    pages = Pages(operations, writes(token, in_cluster))
    openapi = OpenApi(operations.info.version)
    calls = [*HealthRoutes(operations, telemetry).calls(), *calls_of(Api(operations, closing)), openapi.call()]
    openapi.describe(calls)
    app = Starlette(
        routes=[*(call.route() for call in calls), *pages.routes()],
        middleware=[
            Middleware(
                Guard,
                token=token,
                read_token=read_token,
                in_cluster=in_cluster,
                allowed_hosts=allowed_hosts,
                machine=socket.gethostname(),
            ),
            Middleware(Catch),
        ],
        exception_handlers=FORESEEN,
    )
    # A redirect would be built from the Host header; an address with a slash too many is simply not there.
    app.router.redirect_slashes = False
    app.state.closing = closing
    app.state.warm = pages.warm
    return app


def bind(host: str, port: int) -> socket.socket:
    """A listening socket: from here on the port is ours. Raises ConfigError, naming the setting."""
    place = f"http.host {host!r}, http.port {port}"
    if not 0 <= port <= 65535:
        raise ConfigError(f"{place}: a port is a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"{place}: the host is no address of this machine") from error
    # "localhost" is 127.0.0.1 for most callers, whatever the resolver puts first.
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] is not socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            # "::" takes IPv4 callers as well.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # Binding alone claims nothing: a second daemon could bind too, and only one of them could listen.
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{place}: {_why(error)}") from error
    return listener


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another process listens there; choose another http.port (INFRA_HEALTH_HTTP__PORT)"
        case errno.EADDRNOTAVAIL:
            return "the host is no address of this machine"
        case errno.EACCES:
            return "this user may not listen on a port below 1024"
    return error.strerror or str(error)


class Server(UvicornServer):
    """uvicorn without its own signals and clock ticks."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.serving = anyio.Event()
        self._stop = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The daemon has its own signal receiver; uvicorn would raise SIGTERM again after its shutdown."""
        yield

    def stop(self) -> None:
        self.should_exit = True
        self._stop.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()

    async def main_loop(self) -> None:
        """Once a second, for the Date header; uvicorn's own wakes ten times as often."""
        tick = 0
        while not await self.on_tick(tick):
            tick += 10  # on_tick counts tenths of a second
            with anyio.move_on_after(1):
                await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # uvicorn cancels what is left after the grace but does not wait for its end.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)


async def serve(
    app: Starlette, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled; then idle connections are closed at once and answers under way get two seconds."""
    server = Server(
        Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # what is worth a line is logged by us
            access_log=False,
            proxy_headers=False,  # else anybody on this machine could claim to come from elsewhere, or the reverse
            server_header=False,
            h11_max_incomplete_event_size=HEAD_LIMIT,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=[listener])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await server.serving.wait()
            task_status.started()
            await anyio.sleep_forever()
        finally:
            app.state.closing.set()
            server.stop()
