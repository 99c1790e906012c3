"""What pages load beside themselves, and how answers are packed: a file once, a page with its rendering, all others on
their way; long ones in a thread."""

import gzip
import mimetypes
import re
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import fastapi_offline
from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.problems import Problem

_OWN, _SWAGGER = Path(__file__).parent / "static", Path(fastapi_offline.__file__).parent / "static"
# Swagger's style has images (a clipboard, an arrow) inline, which the pages' policy does not allow.
_INLINE_IMAGE = re.compile(r'url\((?:"data:(?:[^"\\]|\\.)*"|data:[^)]*)\)')
_TEXT = re.compile(r"text/|application/(.+\+)?json")
_GZIP = re.compile(r"(?i)(?:^|,)\s*(?:x-)?gzip\s*(?:,|$|;\s*q=(?!0(?:\.0*)?\s*(?:,|$)))")
_SHORTEST = 1024  # bytes that are worth packing
_AT_ONCE = 16 * 1024  # bytes that take no millisecond

router = APIRouter(include_in_schema=False)


class Asset(NamedTuple):
    """A file as it is sent. ``version``: another one where what it holds is another."""

    packed: bytes
    version: str
    media_type: str


@cache
def load_asset(name: str) -> Asset:
    """By its address below /static/; read for the first who asks. Raises Problem 404."""
    if name not in (files := _list_files()):
        raise Problem(404, "There is nothing at this address.")
    body = files[name].read_bytes()
    if name == "swagger/swagger-ui.css":
        body = _INLINE_IMAGE.sub("none", body.decode()).encode()
    media_type = mimetypes.guess_type(name)[0] or "text/plain"
    return Asset(gzip.compress(body, mtime=0), blake2b(body, digest_size=6).hexdigest(), media_type)


def address_of(name: str) -> str:
    """Of the file as it is now, so that a browser may keep what it got there."""
    return f"/static/{name}?v={load_asset(name).version}"


@router.get("/static/{name:path}")
async def read_asset(request: Request, name: str, v: str = "") -> Response:
    asset = await anyio.to_thread.run_sync(load_asset, name)
    # Kept by the browser that asked alone: a read token may protect it.
    age = "max-age=31536000, immutable" if v == asset.version else "no-cache"
    headers = {"etag": f'W/"{asset.version}"', "cache-control": f"private, {age}", "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if not accepts_gzip(request.headers):
        body = await anyio.to_thread.run_sync(gzip.decompress, asset.packed)
        return Response(body, headers=headers, media_type=asset.media_type)
    return Response(asset.packed, headers=headers | {"content-encoding": "gzip"}, media_type=asset.media_type)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return await read_asset(request, "docs.html")


def accepts_gzip(headers: Headers) -> bool:
    """Whether gzip is named, and not with ``q=0``: so a client says what it can't read (RFC 9110, 12.5.3)."""
    return _GZIP.search(",".join(headers.getlist("accept-encoding"))) is not None


class Compress:
    """ASGI middleware: a text that is not packed yet is, for who accepts it. Every answer here comes in one piece."""

    def __init__(self, app: ASGIApp, threads: anyio.CapacityLimiter) -> None:
        self._app = app
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}

        async def pack(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            headers, body = MutableHeaders(raw=start["headers"]), message.get("body", b"")
            is_text = _TEXT.match(headers.get("content-type", "")) and len(body) >= _SHORTEST
            if is_text and "vary" not in headers:  # else what is packed already has seen to it
                headers["vary"] = "accept-encoding"
                if accepts_gzip(Headers(scope=scope)):
                    if len(body) <= _AT_ONCE:
                        body = gzip.compress(body, 1)
                    else:
                        body = await anyio.to_thread.run_sync(gzip.compress, body, 1, limiter=self._threads)
                    headers["content-encoding"], headers["content-length"] = "gzip", str(len(body))
            await send(start)
            await send({**message, "body": body})

        await self._app(scope, receive, pack)


@cache
def _list_files() -> dict[str, Path]:
    own = {path.relative_to(_OWN).as_posix(): path for path in _OWN.rglob("*") if path.is_file()}
    return own | {f"swagger/{path.name}": path for path in _SWAGGER.iterdir()}
