"""The token that GitHub is asked with: once refused it is not used again; another is looked for now and then."""

import hashlib
import math
import re

import anyio
import structlog

from service.adapters.github_app import Credentials
from service.adapters.github_limits import Clock
from service.domain.errors import Unauthorized

log = structlog.get_logger(__name__)

# Seconds between look-ups of a token that is missing or refused; twice as long each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Token:
    """``trouble``: what to tell the operator, None while there is a token."""

    def __init__(self, secret: Credentials, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._lock = anyio.Lock()
        self._look_up_after = -math.inf
        self._pause = _FIRST_PAUSE
        self._is_missing = False
        self._refused: str | None = None

    @property
    def trouble(self) -> str | None:
        return f"{self._secret.missing}; GitHub allows 60 requests an hour without" if self._is_missing else None

    @property
    def remedy(self) -> str:
        return self.trouble or self._secret.remedy

    async def current(self) -> str | None:
        """The token, None where there is none (which is warned of once). Raises Unauthorized when it can't be one."""
        async with self._lock:
            if self._is_missing and self._clock.monotonic() < self._look_up_after:
                return None  # a look-up may take seconds while AWS is away
            token = (await self._secret.get() or "").strip() or None
            if token is None:
                self._wait_longer()
            elif fingerprint(token) != self._refused:
                self._pause = _FIRST_PAUSE
            was_missing, self._is_missing = self._is_missing, token is None
            if self._is_missing and not was_missing:
                log.warning("GitHub is asked without a token", reason=self.trouble)
        if token and not re.fullmatch(r"[!-~]+", token):
            raise Unauthorized(f"the {self._secret.title} has characters that no token has: {self._secret.remedy}")
        return token

    async def usable(self) -> str | None:
        """The token to ask with. Raises Unauthorized while it is the one that GitHub refused."""
        token = await self.current()
        refused = self._refused
        if refused is not None and refused == fingerprint(token):
            if not await self.is_renewed(token):
                raise Unauthorized(f"GitHub refused the {self._secret.title}, nothing is asked: {self.remedy}")
            token = await self.current()
        return token

    async def is_renewed(self, refused: str | None) -> bool:
        """Whether there is another token by now than the one that GitHub refused; it is looked for, not too often."""
        name = fingerprint(refused)
        async with self._lock:
            if self._refused == name and self._clock.monotonic() < self._look_up_after:
                return False
            if fingerprint(await self._secret.get()) == name:
                self._refused = name
                self._wait_longer()
                await self._secret.ask_again()
            return fingerprint(await self._secret.get()) != name

    def _wait_longer(self) -> None:
        self._look_up_after = self._clock.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def fingerprint(token: str | None) -> str:
    """Tells tokens apart without holding them."""
    return hashlib.sha256((token or "").strip().encode(errors="replace")).hexdigest()[:16]
