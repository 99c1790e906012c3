"""RFC 9457 problem details: every refusal and every failure answers in this one shape."""

import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from service.domain.errors import Unavailable
from service.web.operations import (
    AlreadyRunning,
    BadSnapshot,
    Draining,
    SnapshotTooLarge,
    TakesNoSnapshots,
    TooManyRuns,
    UnknownCollector,
)
from service.web.views import run_address

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
# Seconds after which it is worth asking again where nothing better is known.
_SOON = 5


class Problem(Exception):
    """A refusal. ``kind`` names it for programs; without one the status says it all. ``more``: members of its own."""

    def __init__(
        self, status: int, detail: str, *, kind: str = "", headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = more

    def response(self, scope: Scope) -> Response:
        body = {
            "type": f"urn:infra-health:problem:{self.kind}" if self.kind else "about:blank",
            "title": self.kind.replace("-", " ").capitalize() if self.kind else HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": quote(scope["path"]),
            **self.more,
        }
        return Response(json.dumps(body), self.status, self.headers, MEDIA_TYPE)


class Catch:
    """ASGI middleware: what nobody foresaw is logged with its traceback, and the answer tells nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception:  # a bug in one page must not take the daemon down; the log has all of it
            if started:
                raise
            incident = secrets.token_hex(4)
            log.exception("request failed", method=scope["method"], path=scope["path"], incident=incident)
            problem = Problem(500, f"This is a fault of the daemon; its log tells more under incident {incident}.")
            await problem.response(scope)(scope, receive, send)


async def respond(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for all of ``FORESEEN``."""
    return _to_problem(request, error).response(request.scope)


def _to_problem(request: Request, error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case UnknownCollector():
            return Problem(404, _sentence(error), kind="unknown-collector", known=error.known)
        case AlreadyRunning():
            location = {"Location": run_address(error.run_id)}
            return Problem(409, _sentence(error), kind="already-running", headers=location, run=error.run_id)
        case TooManyRuns():
            return Problem(429, _sentence(error), kind="too-many", headers=retry_after())
        case TakesNoSnapshots():
            return Problem(404, _sentence(error), kind="takes-no-snapshots")
        case BadSnapshot():
            return Problem(422, str(error), kind="bad-snapshot", errors=error.errors, bad_records=error.count)
        case SnapshotTooLarge():
            return Problem(413, _sentence(error), kind="body-too-large")
        case Draining():
            return Problem(503, _sentence(error), kind="draining", headers=retry_after())
        case Unavailable():
            return Problem(503, _sentence(error), kind="unavailable", headers=retry_after(error.retry_after))
        case HTTPException(status_code=404):
            return Problem(404, "There is nothing at this address.")
        case HTTPException(status_code=405):
            allowed = _methods(request)
            detail = f"{request.method} is not possible here, only {allowed}."
            return Problem(405, detail, headers={"Allow": allowed})
        case HTTPException():
            return Problem(error.status_code, error.detail, headers=error.headers)
    raise error


def _methods(request: Request) -> str:
    """What is possible at this path, over all its routes."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in here for method in route.methods or ()}))


def retry_after(seconds: float | None = None) -> dict[str, str]:
    """The header that says when to come back; ``seconds`` None: soon."""
    return {"Retry-After": str(max(1, round(_SOON if seconds is None else seconds)))}


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


# The errors that have an answer of their own, for Starlette.
FORESEEN: dict[Any, ExceptionHandler] = dict.fromkeys(
    (
        *(HTTPException, Problem, Unavailable),
        *(UnknownCollector, AlreadyRunning, TooManyRuns, TakesNoSnapshots, BadSnapshot, SnapshotTooLarge, Draining),
    ),
    respond,
)
