"""A loopback HTTP server that answers each request as the test says, hang-ups included."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    method: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


HANG_UP = Answer(0)  # reads the request, then closes without a word
Script = Callable[[Received], Answer]


class ScriptedServer:
    """``requests`` are those that came."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Received] = []
        self.url = ""
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            request = Received(first.split(" ")[0], headers, body)
            self.requests.append(request)
            answer = self._script(request)
            if answer is not HANG_UP:
                fields = {"Connection": "close", "Content-Length": len(answer.body), **answer.headers}
                told = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {answer.status} X\r\n{told}\r\n".encode() + answer.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has seen enough
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*answers: Answer | Script) -> AsyncIterator[ScriptedServer]:
    """Serves ``answers`` in turn, the last one for ever; a function stands for itself for ever."""
    left = list(answers)

    def script(request: Received) -> Answer:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer if isinstance(answer, Answer) else answer(request)

    scripted_server = ScriptedServer(script)
    server = await asyncio.start_server(scripted_server.serve, "127.0.0.1", 0)
    scripted_server.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        yield scripted_server
