"""RFC 9457 problem details: every refusal and every failure answers in this one shape, to browsers as a small page."""

import difflib
import json
import secrets
from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.collectors.records import InvalidSnapshot
from service.domain.errors import Rejected, TooLarge, Unavailable
from service.pipeline.scheduler import (
    AlreadyRunning,
    Draining,
    NotReady,
    RunEnded,
    TooManyRuns,
    UnknownCollector,
    UnknownRun,
)
from service.web.schemas import run_address

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_SOON = 5  # seconds after which it is worth asking again where nothing better is known

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css"></head>
<body><header><div class="name"><a href="/">infra-health</a></div></header>
<main id="live"><h1>{title} <small>{status}</small></h1><p class="lead">{detail}</p></main></body>
</html>
"""


class Problem(Exception):
    """A refusal. ``kind`` names it for programs; without one the status says it all. ``more``: members of its own."""

    def __init__(
        self, status: int, detail: str, kind: str = "", *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = more

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


def invalid(errors: list[ErrorDetails]) -> Problem:
    """422 for what pydantic finds wrong. The place of each error begins with ``query``, ``path`` or ``body``."""
    found = [{"where": ".".join(map(str, error["loc"])), "what": error["msg"]} for error in errors]
    return Problem(422, "; ".join(f"{each['where']}: {each['what']}" for each in found), "invalid", errors=found)


def unknown_run(run_id: str) -> Problem:
    return Problem(404, f"There is no run {run_id!r} (any more).", "unknown-run")


def retry_after(seconds: float | None = None) -> dict[str, str]:
    """The header that says when to come back; ``seconds`` None: soon."""
    return {"Retry-After": str(max(1, round(_SOON if seconds is None else seconds)))}


def handle_problems(app: FastAPI) -> None:
    """Gives every foreseen error its answer."""

    async def respond(request: Request, error: Exception) -> Response:
        return _to_problem(request, error).response(request.scope)

    web: tuple[type[Exception], ...] = (Problem, RequestValidationError, HTTPException)
    edges: tuple[type[Exception], ...] = (Unavailable, Rejected)
    runs = (UnknownCollector, AlreadyRunning, NotReady, TooManyRuns, Draining, UnknownRun, RunEnded)
    for kind in (*web, *edges, *runs):
        app.add_exception_handler(kind, respond)


def _to_problem(request: Request, error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return invalid(list(error.errors()))
        case UnknownCollector():
            close = difflib.get_close_matches(error.name, error.known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(error.known) or 'none'}."
            detail = f"There is no collector {error.name!r}; {hint}"
            return Problem(404, detail, "unknown-collector", known=error.known)
        case UnknownRun():
            return unknown_run(request.path_params["id"])
        case RunEnded():
            return Problem(409, "The run has ended already.", "run-ended")
        case NotReady():
            return Problem(409, _sentence(error), "not-ready")
        case AlreadyRunning():
            location = {"Location": run_address(error.run_id)}
            return Problem(409, _sentence(error), "already-running", headers=location, run=error.run_id)
        case TooManyRuns():
            return Problem(429, _sentence(error), "too-many", headers=retry_after())
        case Draining():
            return Problem(503, "The daemon is ending and starts no runs.", "draining", headers=retry_after())
        case InvalidSnapshot():
            bad = [{"where": failure.part, "what": failure.reason} for failure in error.failures]
            return Problem(422, error.summary, "bad-snapshot", errors=bad, bad_records=error.count)
        case TooLarge():
            return Problem(413, _sentence(error), "body-too-large")
        case Rejected():
            return Problem(422, _sentence(error), "bad-snapshot")
        case Unavailable():
            return Problem(503, _sentence(error), "unavailable", headers=retry_after(error.retry_after))
        case HTTPException(status_code=404):
            return Problem(404, "There is nothing at this address.")
        case HTTPException(status_code=405):
            allowed = ", ".join(_methods(request))
            detail = f"{request.method} is not possible here, only {allowed}."
            return Problem(405, detail, headers={"Allow": allowed})
        case HTTPException():
            return Problem(error.status_code, error.detail, headers=error.headers)
    raise error


def _methods(request: Request) -> list[str]:
    """What is possible at this path, over all its routes."""
    routes = [route for route in request.app.state.routes if route.path_regex.match(request.scope["path"])]
    methods = {method for route in routes for method in route.methods} or {"GET"}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


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
