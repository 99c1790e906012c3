"""Who may do what: host names, foreign pages, the token, the size of bodies, and the headers of every answer.

Pure ASGI, in front of all routes. What it refuses, it refuses as a problem (RFC 9457).
"""

import base64
import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.adapters.secrets import Secret
from service.web.problems import RETRY_AFTER, Problem
from service.web.tokens import Token, is_same

PROBES = frozenset({"/livez", "/healthz", "/readyz"})
# The kubelet and Prometheus call the pod by its address, whatever name they put into Host.
ANY_HOST = PROBES | {"/metrics"}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_REALM = "infra-health"
HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024
# A snapshot, packed or not; the collector's own bounds come on top (``max_bytes``).
SNAPSHOT_LIMIT = 64 * 1024 * 1024
# More requests than this at once are turned away, so that probes find a free loop.
MOST_AT_ONCE = 64

# Names that only this machine or this cluster can give a meaning to: no page of a stranger can be served under them.
OWN_NAMES = ("localhost", "*.localhost", "infra-health", "*.svc", "*.svc.cluster.local")

_HOST = r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{0,5}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# A request that came through a proxy is not from this machine, even when the proxy is.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")

_SNAPSHOTS = re.compile(r"/api/v1/collectors/[^/]+/snapshots")

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """The middleware. ``in_cluster``: loopback is no proof of anything there, a sidecar delivers foreign traffic."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: Secret | str | None,
        read_token: Secret | str | None = None,
        in_cluster: bool,
        allowed_hosts: Iterable[str],
        machine: str,
    ) -> None:
        """``token``: a Secret may change while the daemon runs. ``machine``: its own host name.

        ``allowed_hosts``: further names, ``*.name`` for all below one.

        ``read_token``: None leaves reading open to whoever reaches the port.
        """
        self._app = app
        self._token = Token(token, "token of the write calls")
        self._read_token = Token(read_token, "token of the read calls")
        self._in_cluster = in_cluster
        self._names = {_plain(name) for name in (*OWN_NAMES, machine, *allowed_hosts)}
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_security_headers(send)
        try:
            self._check(scope)
            if scope["method"] not in SAFE_METHODS:
                await self._check_token(scope)
            elif scope["path"] not in PROBES:
                await self._check_read_token(scope)
        except Problem as problem:
            await problem.response(scope)(scope, receive, send)
            return
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, _bounded(receive, _limit(scope)), send)
        finally:
            self._active -= 1

    def _check(self, scope: Scope) -> None:
        """Raises Problem when the request may not go on."""
        _check_head(scope)
        if scope["path"] not in ANY_HOST:
            self._check_host(scope)
        _check_length(scope)
        if scope["method"] not in SAFE_METHODS:
            _check_page(scope)
        if scope["path"] not in PROBES and self._active >= MOST_AT_ONCE:
            raise Problem(503, "Too many requests at once.", kind="busy", headers={"Retry-After": str(RETRY_AFTER)})

    def _check_host(self, scope: Scope) -> None:
        """A page of a stranger whose name was pointed at our address (DNS rebinding) still sends that name."""
        name, _ = _host(scope)
        if _is_address(name) or name in self._names or "*" in self._names:
            return
        labels = name.split(".")
        if any(f"*.{'.'.join(labels[i:])}" in self._names for i in range(1, len(labels))):
            return
        raise Problem(
            421,
            f"This daemon is not known as {name}; http.allowed_hosts lists the names it answers to.",
            kind="unknown-host",
        )

    async def _check_token(self, scope: Scope) -> None:
        token = await self._token.value()
        if not token:
            if self._in_cluster or self._token.can_change:
                raise Problem(
                    403,
                    "Write calls are refused: set INFRA_HEALTH_TOKEN and send it as a bearer token.",
                    kind="token-not-set",
                )
            if not _is_local(scope):
                raise Problem(
                    403,
                    "Without INFRA_HEALTH_TOKEN, write calls are accepted from this machine only.",
                    kind="token-not-set",
                )
            return
        if not _values(scope, b"authorization"):
            raise _unauthorized("Write calls need Authorization: Bearer INFRA_HEALTH_TOKEN.", "")
        shown = _bearer(scope)
        if not shown:
            raise _unauthorized("This is not the bearer token.", ', error="invalid_token"')
        if not is_same(shown, token) and not await self._token.was_replaced_by(shown):
            raise _unauthorized("This is not the bearer token.", ', error="invalid_token"')

    async def _check_read_token(self, scope: Scope) -> None:
        """Either token opens reading. A browser gives it as the password of HTTP Basic: else it sends none.

        Basic never opens a write call, because a browser would send it along with a foreign page's calls, too.
        """
        if not self._read_token.is_expected:
            return
        given = _bearer(scope) or _password(scope)
        # Both are compared, whichever fits: the time tells nothing.
        if is_same(given, await self._read_token.value()) | is_same(given, await self._token.value()):
            return
        if given and any([await token.was_replaced_by(given) for token in (self._read_token, self._token)]):
            return
        problem = _unauthorized(
            "Reading needs Authorization: Bearer INFRA_HEALTH_READ_TOKEN (in a browser: as the password).",
            ', error="invalid_token"' if given else "",
        )
        problem.headers["WWW-Authenticate"] += f', Basic realm="{_REALM}", charset="UTF-8"'
        raise problem


def writes(token: Secret | str | None, in_cluster: bool) -> str:
    """How write calls are let in: ``token``, ``local`` (from this machine) or ``refused``."""
    if Token(token, "").is_expected:
        return "token"
    return "refused" if in_cluster else "local"


def _bearer(scope: Scope) -> bytes:
    """The token that was given, empty where none was, or more than one."""
    given = _values(scope, b"authorization")
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _password(scope: Scope) -> bytes:
    """The password of HTTP Basic, whatever the user's name; empty where there is none."""
    given = _values(scope, b"authorization")
    scheme, _, credentials = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _unauthorized(detail: str, error: str) -> Problem:
    headers = {"WWW-Authenticate": f'Bearer realm="{_REALM}"{error}'}
    return Problem(401, detail, kind="unauthorized", headers=headers)


def _check_page(scope: Scope) -> None:
    """A browser says for which page it calls; a page of somebody else may not use the browser's place in the network.

    https://www.w3.org/TR/fetch-metadata/ and https://www.rfc-editor.org/rfc/rfc6454
    """
    sites = _values(scope, b"sec-fetch-site")
    origins = _values(scope, b"origin")
    if all(site in (b"same-origin", b"none") for site in sites) and all(_is_own(origin, scope) for origin in origins):
        return
    raise Problem(403, "Write calls from a page of another site are refused.", kind="foreign-page")


def _is_own(origin: bytes, scope: Scope) -> bool:
    match = _ORIGIN.fullmatch(origin.decode("latin-1"))
    if match is None:
        return False
    default = _DEFAULT_PORTS[match["scheme"]]
    name, port = _host(scope)
    # A proxy may have taken the TLS off, so the scheme is the page's, not ours.
    return _plain(match["name"]) == name and (match["port"] or default) == (port or default)


def _check_head(scope: Scope) -> None:
    """h11 bounds a head that is incomplete; one that came at a single blow it takes at any size."""
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) for k, v in scope["headers"])
    if size > HEAD_LIMIT:
        raise Problem(431, f"Address and headers are larger than {HEAD_LIMIT} bytes.", kind="head-too-large")


def _check_length(scope: Scope) -> None:
    for value in _values(scope, b"content-length"):
        if not value.isdigit():
            raise Problem(400, "Content-Length is not a number.")
        limit = _limit(scope)
        if len(value.lstrip(b"0")) > len(str(limit)) or int(value) > limit:
            raise _too_large(limit)


def _limit(scope: Scope) -> int:
    """Bytes that the body may have."""
    return SNAPSHOT_LIMIT if _SNAPSHOTS.fullmatch(scope["path"]) else BODY_LIMIT


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is larger than {limit} bytes.", kind="body-too-large")


def _host(scope: Scope) -> tuple[str, str]:
    """The name in lower case, brackets kept, and the port ("" for none). Raises Problem."""
    given = _values(scope, b"host")
    match = _AUTHORITY.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
    if match is None:
        raise Problem(400, "The request needs one valid Host header.", kind="bad-host")
    return _plain(match["name"]), match["port"] or ""


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None or any(_values(scope, name) for name in _FORWARDED):
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _bounded(receive: Receive, limit: int) -> Receive:
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


def _with_security_headers(send: Send) -> Send:
    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [header for header in message.get("headers", ()) if header[0].lower() != b"cache-control"]
            message = {**message, "headers": [*own, *SECURITY_HEADERS]}
        await send(message)

    return secured
