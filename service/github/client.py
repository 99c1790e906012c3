"""GitHub's API: one client for REST and GraphQL that asks no more, no faster and no other host than GitHub allows.

    Rejected
    ├── Refused          GitHub said no: 400, 403 (no limit), 422, 451, a GraphQL document that it does not take
    │   └── NotFound     404, 410, GraphQL's NOT_FOUND: not there, or the token may not see it
    └── Unauthorized     401: nothing is sent until the token changes
    Unavailable          a limit (``retry_after``), 5xx, a cut-off body, HTML, JSON of another shape: time may mend it

``github.get("/repos/o/r/actions/runs", RunPage, params={"page": 1}, cached=True)``
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from service.domain.errors import Rejected
from service.github.auth import TokenSource
from service.github.rate_limit import Clock, Quota

T = TypeVar("T")


class Refused(Rejected):
    """GitHub answered with ``status`` 4xx, and time won't mend it. A GraphQL document that it does not take: 422."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such thing, or the token may not see it: GitHub does not tell which."""


@dataclass(slots=True)
class Usage:
    """Requests and quota points (a 304 is free) by question, and the points by resource (core, search, graphql)."""

    requests: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    resources: Counter[str] = field(default_factory=Counter)


@contextmanager
def count_usage() -> Iterator[Usage]:
    """Counts what is asked of GitHub within, also by tasks that are started within (a cycle's tally)."""
    raise NotImplementedError
    yield Usage()


class Github:
    """Asks GitHub at ``api_url`` (``https://api.github.com``, ``https://HOST/api/v3``) with the token of ``source``.

    ``patience``: the longest wait in seconds that a call sits out itself; it never waits beyond the caller's deadline
    (anyio's), but raises Unavailable with ``retry_after``.
    ``requests``: answers so far by status, "error" where none came. ``trouble``: what is wrong now with GitHub, its
    limits or the token, None when nothing is. ``quota``: the primary limits as last told, by resource.
    """

    def __init__(
        self,
        api_url: str,
        source: TokenSource,
        client: httpx.AsyncClient,
        clock: Clock,
        *,
        patience: float = 5.0,
        points_a_minute: int = 900,
    ) -> None:
        """Raises ConfigError when ``api_url`` is no address."""
        self.requests: Counter[str] = Counter()

    async def get(
        self,
        path: str,
        type: type[T],
        *,
        params: Mapping[str, str | int] | None = None,
        cached: bool = False,
        question: str = "other",
    ) -> T:
        """The JSON at ``path`` ("/repos/o/r/actions/runs") as ``type`` (msgspec), decoded in a thread when large.

        ``cached``: keep the answer with its ETag, so that asking again is free while nothing changed.
        ``question``: under which name ``count_usage`` counts it.
        Raises Unavailable, Refused, NotFound, Unauthorized, Rejected (redirected to another host, too long).
        """
        raise NotImplementedError

    async def graphql(
        self, query: str, type: type[T], *, variables: Mapping[str, object] | None = None, question: str = "other"
    ) -> T:
        """``data`` of the answer as ``type``. GitHub wants a token for this: see ``has_token``.

        A part that GitHub could not answer is null in the data, so let those fields be None or leave them optional.
        Raises NotFound where an error says NOT_FOUND, Refused for FORBIDDEN (403), a document that the server does
        not take (422: an older Enterprise) and an address without GraphQL (its status); Unavailable where the limit
        is used up or there is no data at all.
        """
        raise NotImplementedError

    async def has_token(self) -> bool:
        raise NotImplementedError

    @property
    def quota(self) -> Mapping[str, Quota]:
        raise NotImplementedError

    @property
    def trouble(self) -> str | None:
        raise NotImplementedError

    # What may be spent on questions that can wait

    def expect(self, name: str, points_an_hour: float) -> None:
        """``name`` (a collector) will spend so many points of the core limit an hour on what can't wait."""
        raise NotImplementedError

    def forget(self, name: str) -> None:
        """``name`` asks no more."""
        raise NotImplementedError

    @property
    def spare(self) -> int:
        """Requests that may be spent now on questions that can wait: what is left of the core limit beyond the reserve
        (a tenth) and beyond what is expected until its reset, and of the secondary limit in this minute. 0 or more."""
        raise NotImplementedError

    @property
    def shortage(self) -> str | None:
        """Why questions that can wait have to, for the operator; None while there is a spare."""
        raise NotImplementedError
