"""uvicorn as one task of the daemon among others: its socket, its bounds on connections, its end.

Connections can't be held for nothing: a client that sends its request byte by byte, or never reads its answer, is cut
off; when there are too many connections, the one that has kept us waiting longest goes first. uvicorn has no setting
for that.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator
from typing import Any

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
_KEEP_ALIVE = 20
_GRACE = 2

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
        try:
            await server.serving.wait()
            task_status.started(listener.getsockname()[1])
            await anyio.sleep_forever()
        finally:
            app.state.closing.set()
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
    """uvicorn without its own signals and with one tick a second instead of ten."""

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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # uvicorn cancels what is left after the grace but does not wait for its end.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)


class _Deadline:
    """Cuts a connection off unless it is disarmed in time."""

    def __init__(self, connection: "_Connection", seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> bool:
        """Whether it was not armed before: the time runs from the first call."""
        if self._timer:
            return False
        self._timer = self._connection.loop.call_later(self._seconds, self._connection.transport.abort)
        return True

    def disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class _Connection(H11Protocol):
    """One client, bounded."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._reading = _Deadline(self, REQUEST_TIME)
        self._writing = _Deadline(self, ANSWER_TIME)
        self._waits_since = 0.0
        self._expect_request()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [each for each in self.connections if isinstance(each, _Connection) and each._owes_bytes()]
            if waiting:
                min(waiting, key=lambda each: each._waits_since).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._owes_bytes():
            self._expect_request()
        else:
            self._reading.disarm()

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        super().on_response_complete()
        if self._is_answering() and self.cycle.more_body:
            self._expect_request()  # the next request was buffered already, its body not wholly

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm()

    def resume_writing(self) -> None:
        self._writing.disarm()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.disarm()
        self._writing.disarm()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """It's the client's turn: closed at once, after what is written. In an answer: closed after it."""
        if self._owes_bytes():
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What h11 can't read never reaches the application, so its answer is written here."""
        if self._is_answering():
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

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _owes_bytes(self) -> bool:
        """Whether it is the client's turn: no request yet, or only a part of one."""
        return not self._is_answering() or self.cycle.more_body

    def _expect_request(self) -> None:
        if self._reading.arm():
            self._waits_since = self.loop.time()
