"""What of GitHub is closed, until when: a limit that was reached is remembered, so that nobody runs into it again."""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

import anyio
import structlog

from service.adapters import github_retry as rules
from service.adapters.github_retry import Limit, Quota
from service.domain.errors import Unavailable

log = structlog.get_logger(__name__)


class Clock(Protocol):
    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Limits:
    """A primary limit closes its resource (core, search, graphql), a secondary one closes all.

    ``quota``: the primary limits as last told, by resource.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closed: dict[str | None, float] = {}
        self._strikes = 0
        self.quota: dict[str, Quota] = {}

    def check_open(self, resource: str) -> None:
        """Raises Unavailable while ``resource`` is closed."""
        for scope in (None, resource):
            wait = self._closed.get(scope, -math.inf) - self._clock.monotonic()
            if wait > 0:
                raise Unavailable(f"{_title(scope)} is reached; asked again in {math.ceil(wait)} s", retry_after=wait)

    def close(self, limit: Limit) -> float:
        """Closes what ``limit`` says; the seconds until it opens."""
        now, until = self._clock.monotonic(), self._closed.get(limit.resource, -math.inf)
        wait = limit.wait
        if wait is None and until > now:
            return until - now  # refused together with the request that closed it
        if wait is None:
            wait = rules.unsaid_wait(self._strikes)
            self._strikes += 1
        if until <= now and wait > 0:
            log.warning("GitHub is asked nothing for a while", limit=_title(limit.resource), seconds=round(wait))
        self._closed[limit.resource] = max(until, now + wait)
        return wait

    def note(self, resource: str, status: int, headers: Mapping[str, str]) -> None:
        """Keeps what any answer, a refusal too, tells of the limit. The last allowed request closes it already."""
        told = rules.quota_of(headers, resource)
        if told is None:
            return
        name, quota = told
        known = self.quota.get(name)
        if known and known.reset_at == quota.reset_at and known.limit == quota.limit:
            # Answers overtake each other; within a window nothing is given back.
            quota = min(known, quota, key=lambda each: each.remaining)
        self.quota[name] = quota
        wait = rules.until_reset(headers, self._clock.now())
        if status < 400 and quota.remaining == 0 and wait is not None and wait > 1:
            self.close(Limit(resource, wait))

    def answered(self) -> None:
        """A request was let through: the next unexplained refusal starts again with a minute."""
        self._strikes = 0


def _title(resource: str | None) -> str:
    return f"GitHub's {resource} limit" if resource else "GitHub's secondary limit"
