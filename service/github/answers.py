"""What GitHub's answers say: the body of a refusal, GraphQL's errors in a 200, and the errors that they become.

Rejected
├── Refused          GitHub said no: 400, 403 (no limit), 422, 451, a GraphQL document that it does not take
│   └── NotFound     404, 410, GraphQL's NOT_FOUND: not there, or the token may not see it
└── Unauthorized     401: nothing is sent until the token changes
Unavailable          a limit (``retry_after``), 5xx, a cut-off body, HTML, JSON of another shape: time may mend it
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from service.config.masking import redact
from service.domain.errors import Rejected, Unavailable

T = TypeVar("T")


class Refused(Rejected):
    """GitHub answered with ``status`` 4xx, and time won't mend it. A GraphQL document that it does not take: 422."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such thing, or the token may not see it: GitHub does not tell which."""


class Exhausted(Exception):
    """GraphQL tells a limit that is used up in a 200."""


class _Said(msgspec.Struct):
    """What GitHub says of a refusal, and the answers of GraphQL."""

    message: str = ""
    errors: Any = None  # GitHub's own are objects, but not all are
    data: msgspec.Raw = msgspec.Raw()

    def all(self, key: str) -> list[str]:
        """What the errors have as ``key``."""
        errors = self.errors if isinstance(self.errors, list) else ()
        values = [error.get(key) for error in errors if isinstance(error, dict)]
        return [value for value in values if isinstance(value, str)]

    def __str__(self) -> str:
        return " ".join(" ".join([self.message, *self.all("message")]).split())[:300]


def read_graphql(type: type[T], body: bytes) -> T:
    """``data`` of GraphQL's answer. Raises NotFound, Refused, Unavailable, Exhausted and what decoding does."""
    said = msgspec.json.decode(body, type=_Said)
    kinds, told = said.all("type"), f"GitHub's GraphQL: {said}"
    if "RATE_LIMITED" in kinds:
        raise Exhausted
    if "NOT_FOUND" in kinds:
        raise NotFound(f"{told}: there is no such thing, or the token may not see it", 404)
    if "FORBIDDEN" in kinds or (not said.data and said.errors):
        raise Refused(told, 403 if "FORBIDDEN" in kinds else 422)
    if not said.data or said.data == b"null":
        raise Unavailable(f"GitHub's GraphQL has no answer: {said}")
    return msgspec.json.decode(said.data, type=type)


def read_message(body: bytes) -> str:
    """Why GitHub refuses; empty for a proxy's page."""
    try:
        return redact(str(msgspec.json.decode(body[:65_536], type=_Said)))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""


def find_way_out(headers: Mapping[str, str]) -> str:
    """What GitHub says in headers of who may: https://docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api"""
    _, _, address = redact(headers.get("x-github-sso", "")).partition("url=")
    if address:
        return f"; authorize the token at {address.partition('?')[0]}"
    needed = redact(headers.get("x-accepted-github-permissions", ""))
    return f"; the token needs the permission {needed}" if needed else ""
