"""A token that opens calls; it may be replaced while the daemon runs."""

import hmac
import time

from service.adapters.secrets import Secret

_LOOK_UP_AGAIN = 5.0  # seconds between look-ups because of a wrong token, whoever shows it


class Token:
    """``given``: a Secret, a text that stays, or None or empty for no token."""

    def __init__(self, given: Secret | str | None, title: str) -> None:
        self._secret = given if isinstance(given, Secret) else Secret(title, "", (given or "").strip() or None)
        self._look_up_after = 0.0

    @property
    def can_change(self) -> bool:
        return self._secret.can_change

    @property
    def is_expected(self) -> bool:
        """Whether there is one. A token that is set but can't be read (yet) is not the same as none."""
        return self._secret.can_change or self._secret.is_set

    async def value(self) -> bytes:
        """Empty while there is none."""
        return (await self._secret.get() or "").strip().encode()

    async def was_replaced_by(self, shown: bytes) -> bool:
        """Whether it is this one by now."""
        now = time.monotonic()
        if now < self._look_up_after:
            return False
        self._look_up_after = now + _LOOK_UP_AGAIN
        if not await self._secret.ask_again():
            return False
        return is_same(shown, await self.value())


def is_same(given: bytes, token: bytes) -> bool:
    """In a time that tells nothing; nothing is the same as no token."""
    return bool(token) & hmac.compare_digest(given, token)
