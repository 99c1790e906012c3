"""The simulated Datadog with what goes wrong around it: scripted replies, lost answers, a judge of its API."""

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from service.demo.datadog import SimulatedDatadog
from service.demo.intake import Received, Reply, RequestRefused, refusal

__all__ = ["HANG_UP", "LOSE_ANSWER", "Received", "Reply", "ScriptedDatadog", "refusal"]

_NO_ANSWER = (b"no-answer", b"")
HANG_UP = Reply(headers={"no-answer": ""})
LOSE_ANSWER = Reply(headers={"no-answer": ""})  # the request is carried out all the same


class ScriptedDatadog(SimulatedDatadog):
    """``script``: the replies to the next requests. ``intercept``: gives the reply to a request, None for the true one.

    ``judge(method, path, body)``: what else is wrong with such a request. ``url``: for whoever serves it. ``received``:
    the latest requests. ``writes``: each of dashboards and the like as "METHOD /path".
    """

    def __init__(self, *, api_keys: Collection[str] | None = None, **options: Any) -> None:
        super().__init__(api_keys=api_keys, **options)
        self.script: deque[Reply] = deque()
        self.intercept: Callable[[Received], Reply | None] = lambda received: None
        self.judge: Callable[[str, str, Any], list[str]] = lambda method, path, body: []
        self.url = ""
        self.received: deque[Received] = deque(maxlen=50)
        self.writes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_hang_up(message: Message) -> None:
            if _NO_ANSWER in message.get("headers", ()):
                receive.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's; ASGI has no such message
            else:
                await send(message)

        await super().__call__(scope, receive, send_or_hang_up)

    def reply(self, received: Received) -> Reply:
        self.received.append(received)
        scripted = self.script.popleft() if self.script else self.intercept(received)
        if scripted is None or scripted is LOSE_ANSWER:
            true = super().reply(received)
        return scripted or true

    def answer_api(self, received: Received) -> Reply:
        body = msgspec.json.decode(received.body) if received.body else None
        if wrong := self.judge(received.method, received.path, body):
            raise RequestRefused(400, *wrong)
        if received.method != "GET":
            self.writes.append(f"{received.method} {received.path}")
        return super().answer_api(received)
