"""RFC 9457 problem details: every refusal and every failure answers in this one shape, to browsers as a small page."""

import json
import secrets
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.collectors.snapshot.schema import InvalidSnapshot
from service.domain.errors import (
    Draining,
    NotReady,
    Rejected,
    RunEnded,
    TooLarge,
    TooManyRuns,
    Unavailable,
    UnknownCollector,
    UnknownRun,
)
from service.store import Busy
from service.web.schemas import run_address

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css"></head>
<body><header><div class="name"><a href="/">infra-health</a></div></header>
<main id="live"><h1>{title} <small>{status}</small></h1><p class="lead">{detail}</p></main></body>
</html>
"""


class Problem(Exception):
    """A refusal. ``kind`` names it for programs; without one the status says it all. ``more``: members of its own.

    ``retry_after``: seconds after which to come back; 429 and 503 say it in any case.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = more
        if status in (429, 503):
            self.headers["Retry-After"] = str(max(1, round(5 if retry_after is None else retry_after)))

    def response(self, scope: Scope) -> Response:
        """As JSON; as a page for a browser (``Accept: text/html``)."""
        title = self.kind.replace("-", " ").capitalize() if self.kind else HTTPStatus(self.status).phrase
        if any(b"text/html" in value for name, value in scope["headers"] if name == b"accept"):
            html = _PAGE.format(title=escape(title), status=self.status, detail=escape(self.detail))
            return Response(html, self.status, self.headers, "text/html")
        body = {
            "type": f"urn:infra-health:problem:{self.kind}" if self.kind else "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "instance": quote(scope["path"]),
            **self.more,
        }
        return Response(json.dumps(body), self.status, self.headers, MEDIA_TYPE)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """422 for what pydantic finds wrong. The place of each error begins with ``query``, ``path`` or ``body``."""
    found = [{"where": ".".join(map(str, error["loc"])), "what": _explain(error)} for error in errors]
    return Problem(422, "; ".join(f"{each['where']}: {each['what']}" for each in found), "invalid", errors=found)


def _explain(error: Mapping[str, Any]) -> str:
    if error.get("type") == "extra_forbidden":
        return "there is no such name here; /docs lists those that there are"
    return str(error["msg"]).removeprefix("Value error, ")


def unknown_run(run_id: str) -> Problem:
    return Problem(404, f"There is no run {run_id!r} (any more).", "unknown-run")


def handle_problems(app: FastAPI) -> None:
    """Gives every foreseen error its answer."""

    async def respond(request: Request, error: Exception) -> Response:
        return _to_problem(request, error).response(request.scope)

    web: tuple[type[Exception], ...] = (Problem, RequestValidationError, HTTPException, Unavailable, Rejected)
    runs = (UnknownCollector, Busy, NotReady, TooManyRuns, Draining, UnknownRun, RunEnded)
    for kind in (*web, *runs):
        app.add_exception_handler(kind, respond)


def _to_problem(request: Request, error: Exception) -> Problem:
    text = str(error)
    detail = f"{text[:1].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return invalid(error.errors())
        case UnknownCollector():
            return Problem(404, detail, "unknown-collector", known=error.known)
        case UnknownRun():
            return unknown_run(request.path_params["id"])
        case RunEnded():
            return Problem(409, detail, "run-ended")
        case NotReady():
            return Problem(409, detail, "not-ready")
        case Busy():
            location = {"Location": run_address(error.run_id)}
            return Problem(409, detail, "already-running", headers=location, run=error.run_id)
        case TooManyRuns():
            return Problem(429, detail, "too-many")
        case Draining():
            return Problem(503, "The daemon is ending and starts no runs.", "draining")
        case InvalidSnapshot():
            bad = [{"where": failure.part, "what": failure.reason} for failure in error.failures]
            return Problem(422, error.summary, "bad-snapshot", errors=bad, bad_records=error.count)
        case TooLarge():
            return Problem(413, detail, "body-too-large")
        case Rejected():
            return Problem(422, detail, "bad-snapshot")
        case Unavailable():
            return Problem(503, detail, "unavailable", retry_after=error.retry_after)
        case HTTPException(status_code=404):
            return Problem(404, "There is nothing at this address.")
        case HTTPException(status_code=405):
            allowed = ", ".join(_methods(request))
            return Problem(405, f"{request.method} is not possible here, only {allowed}.", headers={"Allow": allowed})
        case HTTPException():
            return Problem(error.status_code, error.detail, headers=error.headers)
    raise error


def _methods(request: Request) -> list[str]:
    """What is possible at this path, over all its routes."""
    routes = [route for route in request.app.state.routes if route.path_regex.match(request.scope["path"])]
    methods = {method for route in routes for method in route.methods} or {"GET"}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


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
