"""Connections that can't be held for nothing: bounds on time and number that uvicorn has no setting for.

A client that sends its request byte by byte, or never reads its answer, is cut off; when there are too many
connections, the one that has kept us waiting longest goes first. So a probe always finds room.
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.web.guard import SECURITY_HEADERS
from service.web.problems import MEDIA_TYPE

MOST_CONNECTIONS = 512
# Seconds for a whole request to arrive, and for the client to take what is ready for it.
REQUEST_TIME = 10.0
ANSWER_TIME = 30.0

_BAD_REQUEST = b'{"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "This is not valid HTTP."}'


class _Deadline:
    """Cuts a connection off unless it is disarmed in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, transport: asyncio.Transport) -> bool:
        """Whether it was not armed before: the time runs from the first call."""
        if self._timer:
            return False
        self._timer = self._loop.call_later(self._seconds, transport.abort)
        return True

    def disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


class Connection(H11Protocol):
    """One client, bounded."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._reading = _Deadline(self.loop, REQUEST_TIME)
        self._writing = _Deadline(self.loop, ANSWER_TIME)
        self._waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            self._evict()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._owes_bytes():
            self._expect_request()
        else:
            self._reading.disarm()

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        super().on_response_complete()
        if self._answering() and self.cycle.more_body:
            self._expect_request()  # the next request was buffered already, its body not wholly

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm(self.transport)

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
        if self._answering():
            if self.cycle.response_started:
                self.transport.abort()
                return
            # The body broke off: whoever waits for the rest of it learns that the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close"), *SECURITY_HEADERS]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        length = b"content-length: %d\r\n" % len(_BAD_REQUEST)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + length + b"\r\n" + _BAD_REQUEST)
        self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _owes_bytes(self) -> bool:
        """Whether it is the client's turn: no request yet, or only a part of one."""
        return not self._answering() or self.cycle.more_body

    def _expect_request(self) -> None:
        if self._reading.arm(self.transport):
            self._waits_since = self.loop.time()

    def _evict(self) -> None:
        waiting = [c for c in self.connections if isinstance(c, Connection) and c._owes_bytes()]
        if waiting:
            min(waiting, key=lambda connection: connection._waits_since).transport.abort()
