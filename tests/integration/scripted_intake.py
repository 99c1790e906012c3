"""A loopback HTTP server that answers each request as the test says, hang-ups included."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import zstandard


@dataclass(frozen=True)
class Received:
    """One request. ``target``: as in the request line, so a proxy sees whole addresses."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        encoding = self.headers.get("content-encoding", "identity")
        if encoding == "zstd1":
            return json.loads(zstandard.decompress(self.body))
        return json.loads(zlib.decompress(self.body) if encoding == "deflate" else self.body)

    @property
    def metrics(self) -> list[str]:
        return [series["metric"] for series in self.json["series"]]


@dataclass(frozen=True)
class Answer:
    status: int = 202
    body: bytes = b'{"errors":[]}'
    headers: dict[str, str] = field(default_factory=dict)


def datadog_says(status: int, *errors: str, **headers: str) -> Answer:
    """An error as Datadog writes it; header names with underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"errors": errors or ["Some reason"]}).encode(), named)


HANG_UP = Answer(status=0)  # reads the request, then closes without a word
HOLD = Answer(status=-1)  # reads the request, then keeps the connection open without a word
HTML = {"Content-Type": "text/html; charset=utf-8"}

Script = Callable[[Received], Answer]


class ScriptedIntake:
    """``script`` answers each request; ``requests`` are those that came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Received] = []
        self.connections = 0
        self.url = ""
        self._arrived = asyncio.Condition()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def arrived(self, count: int) -> None:
        """Returns once ``count`` requests have come."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._open[writer] = task
        try:
            while request := await self._read(reader):
                answer = self.script(request)
                async with self._arrived:
                    self.requests.append(request)
                    self._arrived.notify_all()
                if answer is HANG_UP:
                    return
                if answer is HOLD:
                    await reader.read()
                    return
                headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": len(answer.body)}
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + answer.body)
                await writer.drain()
        finally:
            writer.close()
            del self._open[writer]

    async def close(self) -> None:
        """Hangs up wherever a client still listens."""
        tasks = list(self._open.values())
        for writer in self._open:
            writer.close()
        await asyncio.gather(*tasks)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Received | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Received(method, target, headers, body)


@asynccontextmanager
async def scripted(*answers: Answer | Script) -> AsyncIterator[ScriptedIntake]:
    """Serves ``answers`` in turn, the last one for ever; a function stands for itself for ever."""
    left = list(answers)

    def script(request: Received) -> Answer:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer if isinstance(answer, Answer) else answer(request)

    intake = ScriptedIntake(script)
    server = await asyncio.start_server(intake.serve, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    intake.url = f"http://127.0.0.1:{port}"
    try:
        yield intake
    finally:
        server.close()
        await intake.close()
