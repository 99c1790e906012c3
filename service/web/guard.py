"""Who may do what, by what ``heads`` reads of the request; and the headers of every answer.

Pure ASGI, in front of all routes. What it refuses, it refuses as a problem (RFC 9457).
"""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.adapters.secrets import Secret
from service.web.heads import (
    bearer,
    body_limit,
    bounded,
    check_head,
    check_length,
    check_page,
    host_of,
    is_address,
    is_local,
    password,
    plain,
    values,
)
from service.web.problems import RETRY_AFTER, Problem
from service.web.tokens import Token, is_same

PROBES = frozenset({"/livez", "/healthz", "/readyz"})
# The kubelet and Prometheus call the pod by its address, whatever name they put into Host.
ANY_HOST = PROBES | {"/metrics"}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_REALM = "infra-health"
# More requests than this at once are turned away, so that probes find a free loop.
MOST_AT_ONCE = 64

# Names that only this machine or this cluster can give a meaning to: no page of a stranger can be served under them.
OWN_NAMES = ("localhost", "*.localhost", "infra-health", "*.svc", "*.svc.cluster.local")

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
        self._names = {plain(name) for name in (*OWN_NAMES, machine, *allowed_hosts)}
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
            await self._app(scope, bounded(receive, body_limit(scope)), send)
        finally:
            self._active -= 1

    def _check(self, scope: Scope) -> None:
        """Raises Problem when the request may not go on."""
        check_head(scope)
        if scope["path"] not in ANY_HOST:
            self._check_host(scope)
        check_length(scope)
        if scope["method"] not in SAFE_METHODS:
            check_page(scope)
        if scope["path"] not in PROBES and self._active >= MOST_AT_ONCE:
            raise Problem(503, "Too many requests at once.", kind="busy", headers={"Retry-After": str(RETRY_AFTER)})

    def _check_host(self, scope: Scope) -> None:
        """A page of a stranger whose name was pointed at our address (DNS rebinding) still sends that name."""
        name, _ = host_of(scope)
        if is_address(name) or name in self._names or "*" in self._names:
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
            if not is_local(scope):
                raise Problem(
                    403,
                    "Without INFRA_HEALTH_TOKEN, write calls are accepted from this machine only.",
                    kind="token-not-set",
                )
            return
        if not values(scope, b"authorization"):
            raise _unauthorized("Write calls need Authorization: Bearer INFRA_HEALTH_TOKEN.", "")
        shown = bearer(scope)
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
        given = bearer(scope) or password(scope)
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


def _unauthorized(detail: str, error: str) -> Problem:
    headers = {"WWW-Authenticate": f'Bearer realm="{_REALM}"{error}'}
    return Problem(401, detail, kind="unauthorized", headers=headers)


def _with_security_headers(send: Send) -> Send:
    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [header for header in message.get("headers", ()) if header[0].lower() != b"cache-control"]
            message = {**message, "headers": [*own, *SECURITY_HEADERS]}
        await send(message)

    return secured
