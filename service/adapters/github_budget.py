"""What may be spent of GitHub's quota: the pace of requests, what each question cost, and whether it will last."""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio
import structlog

from service.adapters.github_limits import Clock, Limits
from service.domain.errors import Unavailable

log = structlog.get_logger(__name__)

# https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits: a GET and a
# GraphQL query are a point each.
MOST_A_MINUTE = 900
_MINUTE = 60.0
# Kept back of a quota for the token's other users and for what nobody foresaw, as a share of it.
_RESERVE = 0.1


@dataclass(slots=True)
class Tally:
    """Requests and quota points by question, and the points by resource (core, search, graphql)."""

    requests: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    resources: Counter[str] = field(default_factory=Counter)


_tallies: ContextVar[tuple[Tally, ...]] = ContextVar("tallies", default=())


@contextmanager
def tally() -> Iterator[Tally]:
    """Counts what is asked of GitHub within, by tasks that are started within, too."""
    counted = Tally()
    token = _tallies.set((*_tallies.get(), counted))
    try:
        yield counted
    finally:
        _tallies.reset(token)


def count(question: str, resource: str, points: int) -> None:
    """Adds a request to the tallies around it."""
    for each in _tallies.get():
        each.requests[question] += 1
        each.points[question] += points
        each.resources[resource] += points


class Pace:
    """At most ``most`` requests in any minute; as quick as can be until then."""

    def __init__(self, clock: Clock, most: int = MOST_A_MINUTE) -> None:
        self._clock = clock
        self._most = most
        self._sent: deque[float] = deque()

    @property
    def room(self) -> int:
        """How many requests may be sent now without waiting."""
        since = self._clock.monotonic() - _MINUTE
        while self._sent and self._sent[0] <= since:
            self._sent.popleft()
        return self._most - len(self._sent)

    async def turn(self) -> None:
        """Returns when one more request may be sent. Raises Unavailable where that is beyond the caller's deadline."""
        while True:
            now = self._clock.monotonic()
            if self.room > 0:
                self._sent.append(now)
                return
            wait = self._sent[0] + _MINUTE - now
            if wait > anyio.current_effective_deadline() - anyio.current_time():
                raise Unavailable(f"GitHub allows {self._most} requests a minute, they were made", retry_after=wait)
            await self._clock.sleep(wait)


class Budget:
    """Whether the quota lasts until its reset, from what each collector says that its urgent questions cost."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._needed: dict[str, float] = {}
        self._was_thin = False

    def expect(self, name: str, points_an_hour: float) -> None:
        """``name``'s urgent questions will cost so many points of the core limit an hour."""
        self._needed[name] = points_an_hour

    def forget(self, name: str) -> None:
        self._needed.pop(name, None)

    @property
    def thinning(self) -> str | None:
        """Why the least urgent questions must wait, None while the quota lasts."""
        quota = self._limits.quota.get("core")
        left = _until(quota.reset_at if quota else None, self._clock.now())
        if quota is None or left is None:
            return None
        needed = sum(self._needed.values()) * (left / timedelta(hours=1)) + _RESERVE * quota.limit
        if quota.remaining >= needed:
            return None
        return (
            f"GitHub's quota will not last until {quota.reset_at:%H:%M} UTC ({quota.remaining} of {quota.limit} points "
            "are left): old workflows and jobs' time limits are not asked for until then"
        )

    def is_thin(self) -> bool:
        """Whether the least urgent questions must wait; a change is logged once."""
        reason = self.thinning
        if reason and not self._was_thin:
            log.warning("questions are thinned out", reason=reason)
        elif self._was_thin and not reason:
            log.info("all questions are asked again")
        self._was_thin = bool(reason)
        return self._was_thin


def _until(reset_at: datetime | None, now: datetime) -> timedelta | None:
    """The time left of the limit's window, None when it is over."""
    return reset_at - now if reset_at and reset_at > now else None
