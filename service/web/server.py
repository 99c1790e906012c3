"""uvicorn as one task of the daemon among others: its socket, its bounds on connections, its end."""

import asyncio
import contextlib
import errno
import resource
import socket
import time
from collections.abc import Generator
from typing import Any, cast

import anyio
import h11
from anyio.abc import TaskStatus
from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.domain.errors import ConfigError
from service.web.auth import HEAD_LIMIT, SECURITY_HEADERS
from service.web.problems import MEDIA_TYPE

MAX_CONNECTIONS = 512
REQUEST_TIME = 10.0  # seconds for a whole request to arrive
ANSWER_TIME = 30.0  # seconds for the client to take what is ready for it
# Longer than the five seconds after which common clients drop an idle connection: who closes first must not be us.
_KEEP_ALIVE = 8
_TICK = 1.0  # seconds between two looks at the connections
_OPEN_FILES = 8192  # where the user's limit allows; many are given 1,024, and who lacks one can't even refuse a caller
_GRACE = 2  # seconds for answers under way when the daemon ends

_BAD_REQUEST = b'{"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "This is not valid HTTP."}'


async def serve(
    app: FastAPI, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled; then idle connections are closed at once and answers under way get two seconds.

    ``host``: an address, a name or ``*`` (both families on one socket). Reports the bound port as soon as callers are
    answered: ``port = await tasks.start(serve, app, host, port)``. Raises ConfigError, naming the setting.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _OPEN_FILES)), hard))
    listener = await anyio.to_thread.run_sync(bind, host, port)
    server = _Server(
        Config(
            app,
            http=_Connection,
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
        tasks.start_soon(app.state.context.telemetry.watch_loop)
        try:
            await server.serving.wait()
            task_status.started(listener.getsockname()[1])
            await anyio.sleep_forever()
        finally:
            server.should_exit = True
            server.ending.set()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket: from here on the port is ours. Raises ConfigError, naming the setting."""
    place = f"http.host {host!r}, http.port {port}"
    if not 0 <= port <= 65535:
        raise ConfigError(f"{place}: a port is a number from 0 to 65535")
    try:
        if host == "*":
            return _listen(socket.AF_INET6, ("::", port)) if socket.has_dualstack_ipv6() else _listen_ipv4(port)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # "localhost" is 127.0.0.1 for most callers, whatever the resolver puts first.
        family, _, _, _, address = min(found, key=lambda info: info[0] is not socket.AF_INET)
        return _listen(family, address)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"{place}: the host is no address of this machine") from error
    except OSError as error:
        if host == "*" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return _listen_ipv4(port)  # the kernel knows IPv6, but it is switched off
        why = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise ConfigError(f"{place}: {why}") from error


_REASONS = {
    errno.EADDRINUSE: "another process listens there; choose another http.port (INFRA_HEALTH_HTTP__PORT)",
    errno.EADDRNOTAVAIL: "the host is no address of this machine",
    errno.EACCES: "this user may not listen on a port below 1024",
}


def _listen_ipv4(port: int) -> socket.socket:
    return _listen(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - probes come by the pod's address


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    # asyncio switches Nagle's delay (40 ms an answer) off only for sockets that name their protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" takes IPv4 callers as well
        listener.bind(address)
        # Binding alone claims nothing: a second daemon could bind too, and only one of them could listen.
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class _Server(Server):
    """uvicorn without its own signals, and with bounds on connections: it has none but for idle ones."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.serving, self.ending = anyio.Event(), anyio.Event()
        # Connections on which it is the client's turn: to do what, and since when.
        self._waits: dict[_Connection, tuple[object, float]] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The daemon has its own signal receiver; uvicorn would raise SIGTERM again after its shutdown."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()

    async def main_loop(self) -> None:
        """As uvicorn's, which wakes ten times a second."""
        while not await self.on_tick(0):
            self._cut_off(time.monotonic())
            with anyio.move_on_after(_TICK):
                await self.ending.wait()

    def _cut_off(self, now: float) -> None:
        """Ends connections whose clients send their request byte by byte, or never take the answer; of too many
        connections those that have kept us waiting longest."""
        connections, before = cast("set[_Connection]", self.server_state.connections), self._waits
        self._waits = {}
        for each in connections:
            turn = each.cycle, each.conn.their_state, each.flow.write_paused
            if each.flow.write_paused or each.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                known, since = before.get(each, (turn, each.opened_at if each.cycle is None else now))
                self._waits[each] = turn, since if known == turn else now
        surplus = len(connections) - MAX_CONNECTIONS
        for place, (each, (_, since)) in enumerate(sorted(self._waits.items(), key=lambda wait: wait[1][1])):
            limit = ANSWER_TIME if each.flow.write_paused else REQUEST_TIME
            if place < surplus or now - since >= limit:
                each.transport.abort()


class _Connection(H11Protocol):
    opened_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.opened_at = time.monotonic()

    def send_400_response(self, msg: str) -> None:
        """What h11 can't read never reaches the application, so its answer is written here."""
        if self.cycle and not self.cycle.response_complete:
            # The body broke off: whoever waits for the rest of it learns that the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        headers = (
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(_BAD_REQUEST)),
            (b"connection", b"close"),
            *SECURITY_HEADERS,
        )
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + _BAD_REQUEST)
        self.transport.close()
