"""GitHub's questions and answers: bodies are read within bounds, as JSON, and refusals say what GitHub says of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import orjson

from service.adapters.github_cache import Entry, pack
from service.domain.errors import Rejected

T = TypeVar("T")
Read = Callable[[Any], T]

IN_THREAD = 64 * 1024  # bytes from which parsing would hold the loop for a millisecond or more
_LONGEST_BODY = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """``kept``: whether the answer is worth a place in the cache. ``resource``: the primary limit that pays.

    ``question``: under which name the budget counts it.
    """

    method: str
    url: httpx.URL
    resource: str = "core"
    content: bytes | None = None
    kept: bool = False
    question: str = "other"

    @property
    def what(self) -> str:
        return f"{self.method} {self.url.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """``url``: where it came from in the end. ``entry``: what a 304 confirms.

    ``moved_for_good``: every redirect on the way was permanent.
    """

    status: int
    headers: httpx.Headers
    body: bytes | bytearray
    url: httpx.URL
    entry: Entry | None = None
    moved_for_good: bool = False


class Refused(Rejected):
    """GitHub answered with ``status`` 4xx, and time won't mend it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Exhausted(Exception):
    """GraphQL tells an exhausted limit in a 200."""


def decoded(source: bytes | bytearray | Entry, etag: str | None, read: Read[T]) -> tuple[T, Entry | None]:
    """What ``read`` makes of the body, and what the cache keeps under ``etag``. CPU work."""
    body = source.body(_LONGEST_BODY) if isinstance(source, Entry) else source
    result = read(orjson.loads(body))
    return result, pack(etag, body) if etag else None


def unless_exhausted(payload: Any) -> Any:
    """The payload of GraphQL. Raises Exhausted."""
    errors = payload.get("errors") or ()
    if any(isinstance(error, dict) and error.get("type") == "RATE_LIMITED" for error in errors):
        raise Exhausted
    return payload


async def bounded(response: httpx.Response) -> bytearray:
    """The whole body. Raises Rejected when it is too long, httpx's errors when it breaks off."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise Rejected(f"GitHub's answer to {response.request.url.path} is longer than {_LONGEST_BODY} bytes")
    return body


def message_of(body: bytes | bytearray) -> str:
    """What GitHub says of a refusal: ``message`` and those of its ``errors``. Empty for a proxy's page."""
    try:
        payload = orjson.loads(body if len(body) < IN_THREAD else b"{}")
        errors = payload.get("errors") or ()
        texts = [payload.get("message"), *(error.get("message") for error in errors if isinstance(error, dict))]
    except (ValueError, AttributeError, TypeError):
        return ""
    return " ".join(" ".join(text for text in texts if isinstance(text, str)).split())[:300]


def without(text: str, token: str | None) -> str:
    """``text`` with the token blanked out: a proxy may give back what it was sent."""
    return text.replace(token, "***") if token else text
