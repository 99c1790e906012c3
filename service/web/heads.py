"""What a request's head says, read strictly: host and port, the page and the peer that call, the token, the lengths.

What does not fit is a problem (RFC 9457).
"""

import base64
import re
from ipaddress import ip_address

from starlette.types import Message, Receive, Scope

from service.web.problems import Problem

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024
# A snapshot, packed or not; the collector's own bounds come on top (``max_bytes``).
SNAPSHOT_LIMIT = 64 * 1024 * 1024

_HOST = r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{0,5}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# A request that came through a proxy is not from this machine, even when the proxy is.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")

_SNAPSHOTS = re.compile(r"/api/v1/collectors/[^/]+/snapshots")


def check_page(scope: Scope) -> None:
    """A browser says for which page it calls; a page of somebody else may not use the browser's place in the network.

    https://www.w3.org/TR/fetch-metadata/ and https://www.rfc-editor.org/rfc/rfc6454
    """
    sites = values(scope, b"sec-fetch-site")
    origins = values(scope, b"origin")
    if all(site in (b"same-origin", b"none") for site in sites) and all(_is_own(origin, scope) for origin in origins):
        return
    raise Problem(403, "Write calls from a page of another site are refused.", kind="foreign-page")


def _is_own(origin: bytes, scope: Scope) -> bool:
    match = _ORIGIN.fullmatch(origin.decode("latin-1"))
    if match is None:
        return False
    default = _DEFAULT_PORTS[match["scheme"]]
    name, port = host_of(scope)
    # A proxy may have taken the TLS off, so the scheme is the page's, not ours.
    return plain(match["name"]) == name and (match["port"] or default) == (port or default)


def check_head(scope: Scope) -> None:
    """h11 bounds a head that is incomplete; one that came at a single blow it takes at any size."""
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) for k, v in scope["headers"])
    if size > HEAD_LIMIT:
        raise Problem(431, f"Address and headers are larger than {HEAD_LIMIT} bytes.", kind="head-too-large")


def check_length(scope: Scope) -> None:
    """What the head says of the body's length; one of unsaid length is for ``bounded``. Raises Problem."""
    for value in values(scope, b"content-length"):
        if not value.isdigit():
            raise Problem(400, "Content-Length is not a number.")
        limit = body_limit(scope)
        if len(value.lstrip(b"0")) > len(str(limit)) or int(value) > limit:
            raise _too_large(limit)


def body_limit(scope: Scope) -> int:
    """Bytes that the body may have."""
    return SNAPSHOT_LIMIT if _SNAPSHOTS.fullmatch(scope["path"]) else BODY_LIMIT


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is larger than {limit} bytes.", kind="body-too-large")


def host_of(scope: Scope) -> tuple[str, str]:
    """The name in lower case, brackets kept, and the port ("" for none). Raises Problem."""
    given = values(scope, b"host")
    match = _AUTHORITY.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
    if match is None:
        raise Problem(400, "The request needs one valid Host header.", kind="bad-host")
    return plain(match["name"]), match["port"] or ""


def plain(name: str) -> str:
    """The one spelling of a host's name."""
    return name.lower().removesuffix(".")


def is_address(name: str) -> bool:
    """Whether it is an IP address, in brackets or not."""
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def is_local(scope: Scope) -> bool:
    """Whether the peer is this machine itself, with no proxy between."""
    client = scope.get("client")
    if client is None or any(values(scope, name) for name in _FORWARDED):
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def values(scope: Scope, name: bytes) -> list[bytes]:
    """Every value of a header; ``name`` in lower case, as ASGI gives them."""
    return [value for key, value in scope["headers"] if key == name]


def bounded(receive: Receive, limit: int) -> Receive:
    """Bodies without a Content-Length are counted as they come."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return bounded


def bearer(scope: Scope) -> bytes:
    """The token that was given, empty where none was, or more than one."""
    given = values(scope, b"authorization")
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return token.strip() if scheme.lower() == b"bearer" else b""


def password(scope: Scope) -> bytes:
    """The password of HTTP Basic, whatever the user's name; empty where there is none."""
    given = values(scope, b"authorization")
    scheme, _, credentials = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""
