"""Credentials for GitHub: a token from the configuration, or one that a GitHub App gets for its installation.

A token that was refused is not used again; another is looked for now and then.
"""

import hashlib
import math
import re
from datetime import datetime, timedelta
from typing import Annotated, Protocol

import anyio
import anyio.to_thread
import httpx
import msgspec
import structlog

from service.clock import Clock
from service.config.clients import describe_error
from service.config.masking import mask
from service.config.secrets import Secret
from service.domain.errors import HealthError, Unauthorized, Unavailable

log = structlog.get_logger(__name__)

_LOOK_UP_EVERY = 30.0  # seconds, for a token that is missing or refused
# Renewed so long before its end: a run that begins with it may take five minutes.
_RENEW_BEFORE = timedelta(minutes=10)
# GitHub takes an assertion for ten minutes at most, and none from the future.
_ASSERTION_LASTS = timedelta(minutes=9)
_CLOCKS_DIFFER = timedelta(minutes=1)
_HOLD = 20.0  # seconds until an App tries again after a failure


class TokenSource(Protocol):
    """The configuration's Secret, or InstallationToken. ``missing``, ``remedy``: what the operator is told."""

    @property
    def title(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def missing(self) -> str: ...

    async def get(self) -> str | None: ...
    async def ask_again(self) -> bool:
        """Looks for another token in place of one that was refused."""
        ...


class Auth:
    """The token of ``source`` as long as GitHub takes it. ``trouble``: why there is none, None while there is one."""

    def __init__(self, source: TokenSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._lock = anyio.Lock()
        self._is_missing = False
        self._refused = ""  # the fingerprint of the token that GitHub did not take
        self._look_up_after = -math.inf

    @property
    def trouble(self) -> str | None:
        return f"{self._source.missing}; GitHub allows 60 requests an hour without" if self._is_missing else None

    @property
    def remedy(self) -> str:
        return self.trouble or self._source.remedy

    async def token(self) -> str | None:
        """The token to ask with, None where there is none. Raises Unauthorized while it is one that GitHub refused."""
        async with self._lock:
            token = await self._read()
        if fingerprint(token) == self._refused:
            raise Unauthorized(f"GitHub refused the {self._source.title}, nothing is asked: {self.remedy}")
        if token and not re.fullmatch(r"[!-~]+", token):
            raise Unauthorized(f"the {self._source.title} has characters that no token has: {self._source.remedy}")
        return token

    async def refuse(self, token: str | None) -> bool:
        """GitHub answered 401 to ``token``: it is not used again. Whether there is another one by now."""
        async with self._lock:
            self._refused = fingerprint(token)
            return fingerprint(await self._read()) != self._refused

    async def _read(self) -> str | None:
        """The token; for one that is missing or refused another is looked for, but not too often."""
        may_look_up = self._clock.monotonic() >= self._look_up_after
        if self._is_missing and not may_look_up:
            return None  # a look-up may take seconds while AWS is away
        token = (await self._source.get() or "").strip() or None
        if fingerprint(token) == self._refused and may_look_up:
            await self._source.ask_again()
            token = (await self._source.get() or "").strip() or None
        if token is None and not self._is_missing:
            log.warning("GitHub is asked without a token", reason=self._source.missing)
        self._is_missing = token is None
        if may_look_up and (token is None or fingerprint(token) == self._refused):
            self._look_up_after = self._clock.monotonic() + _LOOK_UP_EVERY
        return token


class _Issued(msgspec.Struct):
    token: str
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]


class InstallationToken:
    """A TokenSource: an assertion signed with the App's key gets a token of an installation, for an hour.

    ``trouble``: why there is no fresh token, None while there is.
    https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app
    """

    title = "GitHub App's token"
    remedy = "check github.app: its id, installation_id and private key, and that the App is not suspended"

    def __init__(
        self, app_id: str, installation_id: int, key: Secret, *, api_url: str, client: httpx.AsyncClient, clock: Clock
    ) -> None:
        self.trouble: str | None = None
        self._app_id = app_id
        self._key = key
        self._url = f"{api_url.rstrip('/')}/app/installations/{installation_id}/access_tokens"
        self._client = client
        self._clock = clock
        self._lock = anyio.Lock()
        self._issued: _Issued | None = None
        self._failure: HealthError = Unavailable("the GitHub App has no token")
        self._hold_until = -math.inf

    @property
    def missing(self) -> str:
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")

    async def get(self) -> str:
        """A token that lasts for some minutes at least; while GitHub gives none, the last for as long as it holds.

        Raises Unavailable or Unauthorized when there is none.
        """
        async with self._lock:
            if not self._lasts(_RENEW_BEFORE) and self._clock.monotonic() >= self._hold_until:
                try:
                    self._issued = await self._ask()
                    self.trouble = None
                    mask([self._issued.token])
                except HealthError as error:
                    # Each request would try again otherwise.
                    self._hold_until = self._clock.monotonic() + _HOLD
                    if self.trouble != str(error):
                        log.warning("the GitHub App gets no token", reason=str(error))
                    self._failure, self.trouble = error, str(error)
            if self._issued and self._lasts(timedelta(0)):
                return self._issued.token
            raise self._failure

    async def ask_again(self) -> bool:
        self._issued = None
        return True

    def _lasts(self, time: timedelta) -> bool:
        return self._issued is not None and self._clock.now() < self._issued.expires_at - time

    async def _ask(self) -> _Issued:
        try:
            return await self._ask_with(await self._key.get())
        except Unauthorized:
            if not await self._key.ask_again():  # the key may have been replaced
                raise
            return await self._ask_with(await self._key.get())

    async def _ask_with(self, key: str | None) -> _Issued:
        if not key:
            raise (Unavailable if self._key.may_pass else Unauthorized)(self._key.missing)
        assertion = await anyio.to_thread.run_sync(_sign_assertion, self._app_id, key, self._clock.now())
        headers = {**HEADERS, "authorization": f"Bearer {assertion}"}
        try:
            answer = await self._client.post(self._url, headers=headers, timeout=15, follow_redirects=False)
        except httpx.HTTPError as error:
            raise Unavailable(f"GitHub gave the App {describe_error(error)}") from error
        if answer.status_code in (401, 403, 404, 422):
            raise Unauthorized(f"GitHub answered {answer.status_code} to the App: {self.remedy}")
        try:
            return msgspec.json.decode(answer.raise_for_status().content, type=_Issued)
        except (httpx.HTTPError, msgspec.MsgspecError, RecursionError) as error:
            raise Unavailable(f"GitHub answered {answer.status_code} to the App, but with no token") from error


HEADERS = {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}


def fingerprint(token: str | None) -> str:
    """Tells tokens apart without holding them."""
    return hashlib.sha256((token or "").strip().encode(errors="replace")).hexdigest()[:16]


def _sign_assertion(app_id: str, key: str, now: datetime) -> str:
    """CPU work, and a slow import that only Apps pay. Raises Unauthorized when the key is none."""
    import jwt

    claims = {"iat": now - _CLOCKS_DIFFER, "exp": now + _ASSERTION_LASTS, "iss": app_id}
    try:
        # An environment variable often holds the key in one line.
        return jwt.encode(claims, key.replace("\\n", "\n"), algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise Unauthorized("the GitHub App's private key is no RSA key in PEM: set github.app.private_key") from error
