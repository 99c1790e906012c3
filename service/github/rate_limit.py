"""GitHub's limits: what is closed until when, how fast and how many at once, and what may still be spent.

https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
"""

import math
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio
import structlog

from service.clock import Clock
from service.config.clients import parse_http_date, retry_after
from service.domain.errors import Unavailable

log = structlog.get_logger(__name__)

IN_FLIGHT = 20  # the secondary limit begins at 100 concurrent requests of all our token's users
RESERVE = 0.1  # of a quota, kept back for the token's other users and for what nobody foresaw
_MINUTE = 60.0
# A broken clock on either side must not close a resource for longer than GitHub's window of an hour.
_LONGEST = 3600.0


@dataclass(frozen=True, slots=True)
class Quota:
    """A primary limit of one resource (core, search, graphql), in points: at most ``limit`` until ``reset_at``."""

    limit: int
    remaining: int
    reset_at: datetime
    used: int


class RateLimit:
    """A primary limit that is used up closes its resource, a secondary one closes all of GitHub.

    ``points_a_minute``: a GET and a GraphQL query are a point each, a 304 too: this limit is GitHub's secondary one.
    ``quota``: the primary limits as last told, by resource.
    """

    def __init__(self, clock: Clock, points_a_minute: int) -> None:
        self.quota: dict[str, Quota] = {}
        self._clock = clock
        self._points_a_minute = points_a_minute
        self._sent: deque[float] = deque()
        self._in_flight = anyio.CapacityLimiter(IN_FLIGHT)
        self._closed: dict[str, float] = {}  # by resource, "" for all of them
        self._unexplained = 0
        self._expected: dict[str, float] = {}

    # Before a request

    @asynccontextmanager
    async def turn(self, resource: str) -> AsyncIterator[None]:
        """Entered when one more request may be sent.

        Raises Unavailable while ``resource`` is closed, and where its turn is beyond the caller's deadline.
        """
        async with self._in_flight:
            while self._room <= 0:
                wait = self._sent[0] + _MINUTE - self._clock.monotonic()
                if wait > anyio.current_effective_deadline() - anyio.current_time():
                    message = f"GitHub allows {self._points_a_minute} requests a minute, they were made"
                    raise Unavailable(message, retry_after=wait)
                await self._clock.sleep(wait)
            # Those that waited behind a request that closed it are not sent any more.
            for closed in ("", resource):
                wait = self._closed.get(closed, -math.inf) - self._clock.monotonic()
                if wait > 0:
                    message = f"{_title(closed)} is reached; asked again in {math.ceil(wait)} s"
                    raise Unavailable(message, retry_after=wait)
            self._sent.append(self._clock.monotonic())
            yield

    # After an answer

    def note(self, resource: str, status: int, headers: Mapping[str, str]) -> None:
        """Keeps what any answer, a refusal too, tells of the limit. The last allowed request closes it already."""
        limit, remaining, reset = (
            _whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset")
        )
        if limit is None or remaining is None or reset is None or reset > 1e11:
            return  # an Enterprise server may have no limits
        used = _whole(headers.get("x-ratelimit-used"))
        quota = Quota(limit, remaining, datetime.fromtimestamp(reset, UTC), limit - remaining if used is None else used)
        name = headers.get("x-ratelimit-resource", resource)
        known = self.quota.get(name)
        if known and (known.reset_at, known.limit) == (quota.reset_at, quota.limit):
            # Answers overtake each other; within a window nothing is given back.
            quota = min(known, quota, key=lambda each: each.remaining)
        self.quota[name] = quota
        wait = self._until_reset(headers)
        if status < 400 and quota.remaining == 0 and wait is not None and wait > 1:
            self._close(resource, wait)

    def note_success(self) -> None:
        """A request was let through: the next unexplained refusal starts again with a minute."""
        self._unexplained = 0

    def refuse(self, resource: str, status: int, headers: Mapping[str, str], message: str) -> float | None:
        """Closes what a 403 or 429 says is used up: seconds until it opens. None for a refusal that is no limit."""
        if status not in (403, 429):
            return None
        text = message.lower()
        is_secondary = "secondary rate" in text or "abuse" in text
        is_exhausted = headers.get("x-ratelimit-remaining") == "0" and not is_secondary
        wait = retry_after(headers, self._clock.now())
        if status == 403 and wait is None and not is_exhausted and not is_secondary and "rate limit" not in text:
            return None
        if wait is None and is_exhausted:
            wait = self._until_reset(headers)
        return self._close(resource if is_exhausted else "", wait)

    def exhaust(self, resource: str, headers: Mapping[str, str]) -> float:
        """The same for GraphQL, which tells it in a 200."""
        return self._close(resource, self._until_reset(headers))

    def _close(self, resource: str, wait: float | None) -> float:
        now, until = self._clock.monotonic(), self._closed.get(resource, -math.inf)
        if wait is None and until > now:
            return until - now  # refused together with the request that closed it
        if wait is None:
            wait = _MINUTE * 2.0 ** min(self._unexplained, 10)
            self._unexplained += 1
        wait = min(wait, _LONGEST)
        if until <= now and wait > 0:
            log.warning("GitHub is asked nothing for a while", limit=_title(resource), seconds=round(wait))
        self._closed[resource] = max(until, now + wait)
        return wait

    def _until_reset(self, headers: Mapping[str, str]) -> float | None:
        """Seconds until the primary limit's window ends, by GitHub's own clock where the answer has a Date."""
        reset = _whole(headers.get("x-ratelimit-reset"))
        here = parse_http_date(headers.get("date", "")) or self._clock.now()
        return None if reset is None else max(0.0, reset - here.timestamp()) + 1.0

    # What may be spent on questions that can wait

    def expect(self, name: str, points_an_hour: float) -> None:
        """``name`` (a collector) will spend so many points of the core limit an hour on what can't wait."""
        self._expected[name] = points_an_hour

    @property
    def spare(self) -> int:
        """Requests that may be spent now on questions that can wait: what is left of the core limit beyond the reserve
        and beyond what is expected until its reset, and of the secondary limit in this minute. 0 or more."""
        unreserved = self._unreserved
        return max(0, self._room if unreserved is None else min(self._room, math.floor(unreserved)))

    @property
    def shortage(self) -> str | None:
        """Why questions that can wait have to, for the operator; None while some are spare."""
        quota, unreserved = self.quota.get("core"), self._unreserved
        if quota is None or unreserved is None or unreserved >= 1:
            return None
        return (
            f"GitHub's quota will not last until {quota.reset_at:%H:%M} UTC ({quota.remaining} of {quota.limit} points "
            "are left): what can wait is not asked until then"
        )

    @property
    def _room(self) -> int:
        """How many requests may be sent now without waiting for the limit a minute."""
        since = self._clock.monotonic() - _MINUTE
        while self._sent and self._sent[0] <= since:
            self._sent.popleft()
        return self._points_a_minute - len(self._sent)

    @property
    def _unreserved(self) -> float | None:
        """Points of the core limit that nobody needs until its reset, None while it is not known."""
        quota = self.quota.get("core")
        left = quota.reset_at - self._clock.now() if quota else timedelta(0)
        if quota is None or left <= timedelta(0):
            return None
        return quota.remaining - RESERVE * quota.limit - sum(self._expected.values()) * (left / timedelta(hours=1))


def _title(resource: str) -> str:
    return f"GitHub's {resource} limit" if resource else "GitHub's secondary limit"


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,15}", text, re.ASCII) else None
