"""uvicorn as one task of the daemon among others: its socket, its bounds on connections, its end.

Connections can't be held for nothing: a client that sends its request byte by byte, or never reads its answer, is cut
off; when there are too many connections, the one that has kept us waiting longest goes first. uvicorn has no setting
for that.
"""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Generator
from typing import Any, cast

import anyio
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
_GRACE = 2  # seconds for answers under way when the daemon ends

_BAD_REQUEST = b'{"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "This is not valid HTTP."}'


async def serve(
    app: FastAPI, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled; then idle connections are closed at once and answers under way get two seconds.

    ``host``: an address, a name or ``*`` (both families on one socket). Reports the bound port as soon as callers are
    answered: ``port = await tasks.start(serve, app, host, port)``. Raises ConfigError, naming the setting.
    """
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
            app.state.context.closing.set()
            server.stop()


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
    listener = socket.socket(family, socket.SOCK_STREAM)
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
    """uvicorn without its own signals, with bounds on connections, and with one tick a second instead of ten."""

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
        tick = 0
        while not await self.on_tick(tick):
            tick += 10  # on_tick counts tenths of a second
            with anyio.move_on_after(1):
                await self._stop.wait()
            self._cut_off(time.monotonic())

    def _cut_off(self, now: float) -> None:
        connections = cast("set[_Connection]", self.server_state.connections)
        waiting = [each for each in connections if each.update_wait(now)]
        waiting.sort(key=lambda each: each.waits_since)
        surplus = max(0, len(connections) - MAX_CONNECTIONS)
        for place, connection in enumerate(waiting):
            limit = ANSWER_TIME if connection.awaited == "answer" else REQUEST_TIME
            if place < surplus or now - connection.waits_since >= limit:
                connection.transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # uvicorn cancels what is left after the grace but does not wait for its end.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)


class _Connection(H11Protocol):
    """One client. ``awaited``: what it is its turn to do: send (the rest of) a request, or take its answer."""

    awaited = ""
    waits_since = 0.0
    _awaited_in: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.waits_since = time.monotonic()
        self.awaited = "request"

    def update_wait(self, now: float) -> bool:
        """Whether it keeps us waiting; ``waits_since``: when it was first seen to, for this very thing."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            awaited = "request"
        else:
            awaited = "answer" if self.flow.write_paused else ""
        if (awaited, cycle) != (self.awaited, self._awaited_in):
            self.awaited, self._awaited_in, self.waits_since = awaited, cycle, now
        return bool(awaited)

    def shutdown(self) -> None:
        """It's the client's turn: closed at once, after what is written. In an answer: closed after it."""
        if self.update_wait(time.monotonic()) and self.awaited == "request":
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What h11 can't read never reaches the application, so its answer is written here."""
        if self.cycle and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            # The body broke off: whoever waits for the rest of it learns that the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(_BAD_REQUEST)),
            (b"connection", b"close"),
            *SECURITY_HEADERS,
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + _BAD_REQUEST)
        self.transport.close()
