"""Who may do what: host, origin, token and size of every request are checked before any route sees it.

Pure ASGI, in front of all routes. What it refuses, it refuses as a problem (RFC 9457) that names the remedy.
"""

import base64
import hmac
import re
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.secrets import Secret
from service.web.problems import Problem
from service.web.schemas import API

PROBES = frozenset({"/livez", "/healthz", "/readyz"})
# The kubelet and Prometheus call the pod by its address, whatever name they put into Host.
_ANY_HOST = PROBES | {"/metrics"}
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
# Names that only this machine or this cluster can give a meaning to: no page of a stranger can be served under them.
_OWN_NAMES = ("localhost", "*.localhost", "infra-health", "*.svc", "*.svc.cluster.local", socket.gethostname())

HEAD_LIMIT = 16 * 1024
_BODY_LIMIT = 64 * 1024
# A snapshot, packed or not; the collector's own bounds come on top (``max_bytes``).
_SNAPSHOT_LIMIT = 64 * 1024 * 1024
_SNAPSHOTS = re.compile(r"/api/v1/collectors/[^/]+/snapshots")
# GitHub calls from anywhere, under any name, without our token: its signature is what opens this one call.
WEBHOOK = f"{API}/webhooks/github"
_WEBHOOK_LIMIT = 25 * 1024 * 1024  # GitHub sends no more
# More requests than this at once are turned away, so that probes find a free loop.
MAX_IN_FLIGHT = 64
# Who has no signature may send a body, too: however slowly strangers do, half of the places stay for page and API.
MAX_DELIVERIES = 32
_LOOK_UP_AGAIN = 5.0  # seconds between look-ups because of a wrong token, whoever shows it

_HOST = r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{0,5}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# A request that came through a proxy is not from this machine, even when the proxy is.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

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
    """The middleware. ``in_cluster``: loopback is no proof of anything there, a sidecar delivers foreign traffic.

    ``allowed_hosts``: the configured names now, ``*.name`` for all below one. A ``read_token`` that is not set leaves
    reading open to whoever reaches the port.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: Secret,
        read_token: Secret,
        in_cluster: bool,
        allowed_hosts: Callable[[], Iterable[str]],
    ) -> None:
        self._app = app
        self._token = token
        self._read_token = read_token
        self._in_cluster = in_cluster
        self._allowed_hosts = allowed_hosts
        self._in_flight = self._deliveries = 0
        self._look_up_after = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send, headers, is_probe = _with_security_headers(send), Headers(scope=scope), scope["path"] in PROBES
        is_webhook = scope["path"] == WEBHOOK and scope["method"] == "POST"
        limit = _SNAPSHOT_LIMIT if _SNAPSHOTS.fullmatch(scope["path"]) else _BODY_LIMIT
        limit = _WEBHOOK_LIMIT if is_webhook else limit
        try:
            _check_size(scope, headers, limit)
            is_full = self._in_flight >= MAX_IN_FLIGHT or (is_webhook and self._deliveries >= MAX_DELIVERIES)
            if is_full and not is_probe:
                raise Problem(503, "Too many requests at once.", "busy")
            if not is_webhook:
                await self._check(scope, headers, is_probe)
        except Problem as problem:
            await problem.response(scope)(scope, receive, send)
            return
        self._in_flight += not is_probe
        self._deliveries += is_webhook
        try:
            # FastAPI's routes know no HEAD; uvicorn, which keeps the scope that it made, leaves the body out.
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self._app({**scope, "method": method}, _bounded(receive, limit), send)
        finally:
            self._in_flight -= not is_probe
            self._deliveries -= is_webhook

    async def _check(self, scope: Scope, headers: Headers, is_probe: bool) -> None:
        """Raises Problem when the request may not go on."""
        is_write = scope["method"] not in _READS
        if scope["path"] not in _ANY_HOST:
            self._check_host(headers)
        if is_write:
            _check_page(headers)
        if not is_probe:
            await (self._check_token(scope, headers) if is_write else self._check_read_token(headers))

    def _check_host(self, headers: Headers) -> None:
        """A page of a stranger whose name was pointed at our address (DNS rebinding) still sends that name."""
        name, _ = _host_of(headers)
        names = {_normalize(each) for each in (*_OWN_NAMES, *self._allowed_hosts())}
        labels = name.split(".")
        wildcards = {f"*.{'.'.join(labels[i:])}" for i in range(1, len(labels))}
        if not (_is_address(name) or names & {name, "*", *wildcards}):
            remedy = "http.allowed_hosts lists the names it answers to, the chart adds ingress.host (docs/deploy.md)"
            raise Problem(421, f"This daemon is not known as {name}; {remedy}.", "unknown-host")

    async def _check_token(self, scope: Scope, headers: Headers) -> None:
        token = await _value(self._token)
        if token:
            shown = _credentials(headers, "bearer")
            if not shown and "authorization" not in headers:
                raise _unauthorized("Write calls need Authorization: Bearer INFRA_HEALTH_TOKEN (docs/deploy.md).")
            if not _is_same(shown, token) and not await self._is_new(shown, self._token):
                raise _unauthorized(
                    "This is not the bearer token, INFRA_HEALTH_TOKEN (docs/deploy.md).", ', error="invalid_token"'
                )
        elif self._in_cluster or self._token.can_change:
            detail = "Write calls are refused: set INFRA_HEALTH_TOKEN and send it as a bearer token (docs/deploy.md)."
            raise Problem(403, detail, "token-not-set")
        elif not _is_local(scope, headers):
            detail = "Without INFRA_HEALTH_TOKEN, write calls are accepted from this machine only."
            raise Problem(403, detail, "token-not-set")

    async def _check_read_token(self, headers: Headers) -> None:
        """Either token opens reading. A browser gives it as the password of HTTP Basic: else it sends none.

        Basic never opens a write call, because a browser would send it along with a foreign page's calls, too.
        """
        if not is_expected(self._read_token):
            return
        shown = _credentials(headers, "bearer") or _password(headers)
        # Both are compared, whichever fits: the time tells nothing.
        if _is_same(shown, await _value(self._read_token)) | _is_same(shown, await _value(self._token)):
            return
        if shown and await self._is_new(shown, self._read_token, self._token):
            return
        detail = "Reading needs Authorization: Bearer INFRA_HEALTH_READ_TOKEN (in a browser: as the password)."
        # Basic first: of several challenges in one header Chromium looks at no other, and would ask for no password.
        raise _unauthorized(
            detail, ', error="invalid_token"' if shown else "", 'Basic realm="infra-health", charset="UTF-8", '
        )

    async def _is_new(self, shown: bytes, *secrets: Secret) -> bool:
        """Whether one of ``secrets`` was replaced by what was shown. Looked up seldom: anybody can show anything."""
        if not shown or time.monotonic() < self._look_up_after:
            return False
        self._look_up_after = time.monotonic() + _LOOK_UP_AGAIN
        return any([await each.ask_again() and _is_same(shown, await _value(each)) for each in secrets])


def is_expected(token: Secret) -> bool:
    """Whether there is one. A token that is set but can't be read (yet) is not the same as none."""
    return token.can_change or token.is_set


def _check_size(scope: Scope, headers: Headers, limit: int) -> None:
    # h11 bounds a head that is incomplete; one that came at a single blow it takes at any size.
    head = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) for k, v in headers.raw)
    if head > HEAD_LIMIT:
        raise Problem(431, f"Address and headers are larger than {HEAD_LIMIT} bytes.", "head-too-large")
    if int(headers.get("content-length", 0)) > limit:  # h11 takes digits alone, twenty at most
        raise _too_large(limit)


def _check_page(headers: Headers) -> None:
    """A browser says for which page it calls; a page of somebody else may not use the browser's place in the network.

    https://www.w3.org/TR/fetch-metadata/ and https://www.rfc-editor.org/rfc/rfc6454
    """
    is_foreign = any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site"))
    if is_foreign or not all(_is_own(each, headers) for each in headers.getlist("origin")):
        raise Problem(403, "Write calls from a page of another site are refused.", "foreign-page")


def _is_own(origin: str, headers: Headers) -> bool:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    default = _DEFAULT_PORTS[match["scheme"]]
    name, port = _host_of(headers)
    # A proxy may have taken the TLS off, so the scheme is the page's, not ours.
    return _normalize(match["name"]) == name and (match["port"] or default) == (port or default)


def _host_of(headers: Headers) -> tuple[str, str]:
    """The name in lower case, brackets kept, and the port ("" for none). Raises Problem."""
    given = headers.getlist("host")
    match = _AUTHORITY.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        raise Problem(400, "The request needs one valid Host header.", "bad-host")
    return _normalize(match["name"]), match["port"] or ""


def _normalize(name: str) -> str:
    """The one spelling of a host's name."""
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_local(scope: Scope, headers: Headers) -> bool:
    """Whether the peer is this machine itself, with no proxy between."""
    if scope["client"] is None or any(name in headers for name in _FORWARDED):
        return False
    address = ip_address(scope["client"][0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


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


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is larger than {limit} bytes.", "body-too-large")


def _credentials(headers: Headers, scheme: str) -> bytes:
    """What was given under this scheme, empty where nothing was, or more than one."""
    given = headers.getlist("authorization")
    named, _, credentials = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return credentials.strip(" \t").encode("latin-1") if named.lower() == scheme else b""


def _password(headers: Headers) -> bytes:
    """The password of HTTP Basic, whatever the user's name; empty where there is none."""
    try:
        return base64.b64decode(_credentials(headers, "basic"), validate=True).partition(b":")[2]
    except ValueError:
        return b""


async def _value(token: Secret) -> bytes:
    """Empty while there is none."""
    return (await token.get() or "").strip().encode()


def _is_same(shown: bytes, token: bytes) -> bool:
    """In a time that tells nothing; nothing is the same as no token."""
    return bool(token) & hmac.compare_digest(shown, token)


def _unauthorized(detail: str, error: str = "", first: str = "") -> Problem:
    challenge = f'{first}Bearer realm="infra-health"{error}'
    return Problem(401, detail, "unauthorized", headers={"WWW-Authenticate": challenge})


def _with_security_headers(send: Send) -> Send:
    """What says nothing of caches is kept by none."""

    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            given = {name.lower() for name, _ in own}
            message = {**message, "headers": [*own, *(each for each in SECURITY_HEADERS if each[0] not in given)]}
        await send(message)

    return secured
