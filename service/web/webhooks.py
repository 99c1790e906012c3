"""GitHub's deliveries: the signature of the raw body is checked before anything in it is read, and the answer is given
before any work is done.

https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
"""

import hashlib
import hmac
import time
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response

from service.collectors.github_ci.deliveries import Deliveries, InvalidDelivery, read_run
from service.config.secrets import Secret
from service.web.auth import WEBHOOK
from service.web.problems import Problem
from service.web.routes import problems

# A larger body takes one of two places, is given so long to arrive, and is parsed in a thread. GitHub hangs up after
# 10 s, and so does the server (REQUEST_TIME), which could not say why.
_SMALL = 1024 * 1024
_PLACES = 2
_REMEDY = "the webhook's content type must be application/json (docs/webhooks.md)"
ARRIVAL_TIME = 9.0
_LOOK_UP_AGAIN = 5.0  # seconds between look-ups because of a wrong signature, whoever shows it
_LOOK_UP_TIME = 5.0
_EVENT, _SIGNATURE = "X-GitHub-Event", "X-Hub-Signature-256"
_EVENTS = frozenset({"workflow_run", "ping"})
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A ping"},
    202: {"description": "Taken: a completed run of a repository that is looked at"},
    204: {"description": "Of no concern"},
    **problems(400, 401, 404, 408, 413, 431, 500, 503),
}
_REQUEST = {
    "parameters": [
        {"name": _EVENT, "in": "header", "schema": {"type": "string"}, "description": "workflow_run or ping"},
        {"name": _SIGNATURE, "in": "header", "schema": {"type": "string"}, "description": "sha256=HMAC of the body"},
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
}


def create_router(secret: Secret, deliveries: Deliveries) -> APIRouter:
    """The one call. ``secret``: one, or two with a comma between while it is rotated; none: all is a 404."""
    router = APIRouter(tags=["api"])
    receive = Receiver(secret, deliveries).receive
    router.post(WEBHOOK, response_class=Response, status_code=202, responses=_ANSWERS, openapi_extra=_REQUEST)(receive)
    return router


class Receiver:
    """What stands between GitHub and ``Deliveries``; it knows no request but the one that it reads."""

    def __init__(self, secret: Secret, deliveries: Deliveries) -> None:
        self._secret = secret
        self._deliveries = deliveries
        self._places = anyio.Semaphore(_PLACES)
        self._threads = anyio.CapacityLimiter(1)
        self._look_up_after = 0.0

    async def receive(self, request: Request) -> Response:
        """Takes a delivery of GitHub's webhook: a completed run that its collector shows within seconds"""
        named = request.headers.get(_EVENT, "")
        event = named if named in _EVENTS else "other"
        keys = _keys(self._secret.known or await self._secret.get())
        if not keys:
            remedy = "set GITHUB_WEBHOOK_SECRET to the webhook's secret (docs/webhooks.md)"
            raise Problem(404, f"Webhooks are off: {remedy}.", "webhooks-off")
        # Headers are read as latin-1, compare_digest takes ASCII alone as text.
        shown = request.headers.get(_SIGNATURE, "").encode("latin-1")
        with ExitStack() as place:
            body, signatures = await self._read_body(request, keys, place) if shown else (b"", [])
            if not _is_one_of(shown, signatures) and not (shown and await self._is_new(shown, body)):
                self._deliveries.count(event, "unsigned")
                detail = "X-Hub-Signature-256 is not that of this body with GITHUB_WEBHOOK_SECRET (docs/webhooks.md)."
                raise Problem(401, detail if shown else "X-Hub-Signature-256 is missing.", "bad-signature")
            if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                self._deliveries.count(event, "invalid")
                raise Problem(400, f"The body is a form: {_REMEDY}.", "bad-delivery")
            return await self._answer(event, body)

    async def _answer(self, event: str, body: bytes) -> Response:
        """What a delivery that is GitHub's gets. Raises Problem 400."""
        if event != "workflow_run":
            self._deliveries.count(event, "ping" if event == "ping" else "ignored")
            return Response(status_code=200 if event == "ping" else 204)
        try:
            if len(body) > _SMALL:
                run = await anyio.to_thread.run_sync(read_run, body, limiter=self._threads)
            else:
                run = read_run(body)
        except InvalidDelivery as error:
            self._deliveries.count(event, "invalid")
            raise Problem(400, f"{str(error).capitalize()}; {_REMEDY}.", "bad-delivery") from error
        is_taken = run is not None and self._deliveries.add(run)
        self._deliveries.count(event, "taken" if is_taken else "ignored")
        return Response(status_code=202 if is_taken else 204)

    async def _read_body(self, request: Request, keys: list[bytes], place: ExitStack) -> tuple[bytes, list[bytes]]:
        """The body, and its signature by each key. Raises Problem 408, 413 or 503."""
        macs = [hmac.new(key, digestmod=hashlib.sha256) for key in keys]
        parts, size = [], 0
        try:
            with anyio.fail_after(ARRIVAL_TIME):
                async for part in request.stream():
                    for mac in macs:
                        mac.update(part)
                    if size <= _SMALL < size + len(part):
                        self._take_place(place)
                    size += len(part)
                    parts.append(part)
        except TimeoutError as error:
            detail = f"The body did not arrive within {ARRIVAL_TIME:g} s."
            raise Problem(408, detail, headers={"Connection": "close"}) from error
        return b"".join(parts), [_as_header(mac) for mac in macs]

    def _take_place(self, place: ExitStack) -> None:
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock as error:
            raise Problem(503, "Too many large deliveries come at once.", "busy", retry_after=ARRIVAL_TIME) from error
        place.callback(self._places.release)

    async def _is_new(self, shown: bytes, body: bytes) -> bool:
        """Whether the secret was replaced by the one that signed. Looked up seldom: anybody can sign with anything."""
        if not self._secret.can_change or time.monotonic() < self._look_up_after:
            return False
        self._look_up_after = time.monotonic() + _LOOK_UP_AGAIN
        with anyio.move_on_after(_LOOK_UP_TIME):
            if await self._secret.ask_again():
                keys = _keys(self._secret.known)
                return _is_one_of(shown, [_as_header(hmac.new(key, body, hashlib.sha256)) for key in keys])
        return False


def _keys(secret: str | None) -> list[bytes]:
    return [part.strip().encode() for part in (secret or "").split(",") if part.strip()]


def _as_header(mac: hmac.HMAC) -> bytes:
    return b"sha256=" + mac.hexdigest().encode()


def _is_one_of(shown: bytes, signatures: list[bytes]) -> bool:
    """All are compared, whichever fits: the time tells nothing."""
    return sum(hmac.compare_digest(shown, each) for each in signatures) > 0
