"""A GitHub App's credentials: an assertion signed with its private key gets a token of an installation, for an hour.

https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app
"""

import math
from datetime import UTC, datetime, timedelta
from typing import Protocol

import anyio
import httpx
import structlog

from service import logs
from service.adapters.github_limits import Clock
from service.adapters.secrets import Secret
from service.domain.errors import HealthError, Unauthorized, Unavailable

log = structlog.get_logger(__name__)

# Renewed so long before its end: a run that begins with it may take five minutes.
_RENEW_BEFORE = timedelta(minutes=10)
# GitHub takes an assertion for ten minutes at most, and none from the future.
_ASSERTION_LASTS = timedelta(minutes=9)
_CLOCKS_DIFFER = timedelta(minutes=1)
# Seconds until it is tried again after a failure: each request would try otherwise.
_HOLD, _HOLD_REFUSED = 20.0, 300.0


class Credentials(Protocol):
    """Where a token comes from; ``Secret`` is the other one. ``title`` and ``remedy`` are for the operator."""

    title: str
    remedy: str

    async def get(self) -> str | None: ...
    async def ask_again(self) -> bool: ...
    @property
    def missing(self) -> str: ...


class InstallationToken:
    """Meets ``Credentials``. ``trouble``: why there is no fresh token, None while there is."""

    def __init__(
        self,
        app_id: str,
        installation_id: int,
        key: Secret,
        *,
        api_url: str,
        user_agent: str,
        client: httpx.AsyncClient,
        clock: Clock,
    ) -> None:
        self.title = "GitHub App's token"
        self.remedy = "check github.app: its id, installation_id and private key, and that the App is not suspended"
        self.trouble: str | None = None
        self._app_id = app_id
        self._key = key
        self._url = f"{api_url.rstrip('/')}/app/installations/{installation_id}/access_tokens"
        self._headers = {
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": user_agent,
        }
        self._client = client
        self._clock = clock
        self._lock = anyio.Lock()
        self._token: str | None = None
        self._ends = datetime.fromtimestamp(0, UTC)
        self._failure: HealthError | None = None
        self._hold_until = -math.inf

    @property
    def missing(self) -> str:
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")

    async def get(self) -> str:
        """A token that lasts for some minutes at least. Raises Unavailable or Unauthorized when there is none."""
        async with self._lock:
            if self._clock.now() < self._ends - _RENEW_BEFORE and self._token:
                return self._token
            return await self._renewed()

    async def ask_again(self) -> bool:
        """A new token in place of one that was refused, True when there is one."""
        async with self._lock:
            before, self._token = self._token, None
            try:
                return await self._renewed() != before
            except HealthError:
                return False

    async def _renewed(self) -> str:
        """The next token; while GitHub does not give one, the last for as long as it holds."""
        if self._clock.monotonic() >= self._hold_until:
            try:
                self._token, self._ends = await self._ask()
            except HealthError as error:
                is_transient = isinstance(error, Unavailable)
                self._hold_until = self._clock.monotonic() + (_HOLD if is_transient else _HOLD_REFUSED)
                self._failure = error
                if self.trouble != str(error):
                    log.warning("the GitHub App gets no token", reason=str(error))
                self.trouble = str(error)
            else:
                self._failure = self.trouble = None
                logs.mask([self._token])
                return self._token
        if self._token and self._clock.now() < self._ends:
            return self._token
        raise self._failure or Unavailable("the GitHub App has no token")

    async def _ask(self) -> tuple[str, datetime]:
        key = await self._key.get()
        if not key:
            raise (Unavailable if self._key.may_pass else Unauthorized)(self._key.missing)
        assertion = await anyio.to_thread.run_sync(_assertion, self._app_id, key, self._clock.now())
        headers = {**self._headers, "authorization": f"Bearer {assertion}"}
        try:
            answer = await self._client.post(self._url, headers=headers, timeout=15, follow_redirects=False)
        except httpx.HTTPError as error:
            raise Unavailable(f"GitHub did not answer the App: {type(error).__name__}") from error
        if answer.status_code in (401, 403, 404, 422):
            raise Unauthorized(f"GitHub answered {answer.status_code} to the App: {self.remedy}")
        try:
            payload = answer.raise_for_status().json()
            return str(payload["token"]), datetime.fromisoformat(payload["expires_at"]).astimezone(UTC)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"GitHub answered {answer.status_code} to the App, but with no token") from error


def _assertion(app_id: str, key: str, now: datetime) -> str:
    """CPU work, and a slow import that only Apps pay. Raises Unauthorized when the key is none."""
    import jwt

    claims = {"iat": now - _CLOCKS_DIFFER, "exp": now + _ASSERTION_LASTS, "iss": app_id}
    try:
        # An environment variable often holds the key in one line.
        return jwt.encode(claims, key.replace("\\n", "\n"), algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise Unauthorized("the GitHub App's private key is no RSA key in PEM: set github.app.private_key") from error
