"""GitHub's API: one thin client for REST and GraphQL that asks no more, no faster and no other host than GitHub allows.

Its answers are right or an error: whatever can't be read as expected is asked for again, then Unavailable.
The rules for that are in ``github_retry``.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import anyio
import httpx
import orjson

from service.adapters import github_retry as rules
from service.adapters.github_answers import (
    IN_THREAD,
    Answer,
    Exhausted,
    Read,
    Refused,
    Request,
    bounded,
    decoded,
    message_of,
    unless_exhausted,
    without,
)
from service.adapters.github_app import Credentials
from service.adapters.github_budget import MOST_A_MINUTE, Budget, Pace, count
from service.adapters.github_cache import EtagCache, Key
from service.adapters.github_limits import Clock, Limits, RealClock
from service.adapters.github_retry import Limit, Quota
from service.adapters.github_token import Token, fingerprint
from service.domain.errors import ConfigError, HealthError, Rejected, Unauthorized, Unavailable

__all__ = ["Clock", "Github", "Quota", "Refused"]

T = TypeVar("T")

IN_FLIGHT = 20  # GitHub's secondary limit begins at 100 concurrent requests of all our token's users
_BACK_OFF = (0.5, 1.0)
_TIMEOUT = httpx.Timeout(15, connect=5, pool=None)
_WHOLE_ANSWER = 60.0  # seconds; httpx bounds each read, and a body may trickle
_CACHE = 8 * 1024 * 1024
_REDIRECTS = 5
_MOVED = 1000


class Github:
    """Asks GitHub at ``api_url`` (``https://api.github.com``, ``https://HOST/api/v3``), with ``token`` if there is one.

    Every call raises Unavailable (with ``retry_after`` where GitHub closed a limit: until then nothing is sent),
    Rejected (Refused where GitHub said so), Unauthorized (until the token changes nothing is sent), and nothing else.
    ``patience``: the longest wait in seconds that a call sits out; it never waits beyond the caller's deadline.
    ``most_a_minute``: requests in any minute; another one waits, as long as its caller has time.
    ``quota``: the limits as last told, by resource. ``requests``: answers so far by status; "error" where none came.
    ``trouble``: what is wrong with GitHub or its token now, None when nothing is. ``budget``: what the quota allows.
    """

    def __init__(
        self,
        api_url: str,
        token: Credentials,
        user_agent: str,
        *,
        client: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        patience: float = 5.0,
        most_a_minute: int = MOST_A_MINUTE,
    ) -> None:
        self._base = _base(api_url)
        self._graphql = httpx.URL(rules.graphql_address(str(self._base)))
        self._clock = clock or RealClock()
        self._limits = Limits(self._clock)
        self._token = Token(token, self._clock)
        self._headers = {
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": user_agent,
        }
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        self._client = client or httpx.AsyncClient(limits=limits)
        self._patience = patience
        self._in_flight = anyio.CapacityLimiter(IN_FLIGHT)
        self._pace = Pace(self._clock, most_a_minute)
        self.budget = Budget(self._limits, self._clock)
        # A page of runs is a megabyte, six as Python objects: one at a time bounds the memory and costs no time.
        self._decoding = anyio.CapacityLimiter(1)
        self._cache = EtagCache(_CACHE)
        self._moved: dict[str, str] = {}
        self._trouble: str | None = None
        self.requests: Counter[str] = Counter()

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def trouble(self) -> str | None:
        return self._trouble or self._token.trouble

    @property
    def quota(self) -> Mapping[str, Quota]:
        return self._limits.quota

    @property
    def room(self) -> int:
        """How many requests may be sent now without waiting for GitHub's limit a minute."""
        return self._pace.room

    async def has_token(self) -> bool:
        return await self._token.current() is not None

    async def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        read: Read[T],
        kept: bool = False,
        question: str = "other",
    ) -> T:
        """What ``read`` makes of the JSON at ``path`` ("/repos/..."), in a thread when it is large.

        ``read`` raises KeyError, TypeError or ValueError when the JSON is not what it should be.
        ``kept``: remember the answer's ETag, so that asking again is free while nothing changed.
        ``question``: under which name a ``tally`` counts it.
        """
        resource = "search" if path.startswith("/search/") else "core"
        return await self._ask(
            Request("GET", self._url(path, params), resource, kept=kept, question=question),
            read,
        )

    def _url(self, path: str, params: Mapping[str, str | int] | None) -> httpx.URL:
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        return url.copy_merge_params({name: str(value) for name, value in params.items()}) if params else url

    async def graphql(self, query: str, *, read: Read[T], question: str = "other") -> T:
        """What ``read`` makes of the answer's JSON (``data`` and ``errors``). GitHub wants a token for this."""
        content = orjson.dumps({"query": query})
        request = Request("POST", self._graphql, "graphql", content, question=question)
        return await self._ask(request, lambda payload: read(unless_exhausted(payload)))

    async def _ask(self, request: Request, read: Read[T]) -> T:
        for back_off in (*_BACK_OFF, None):
            try:
                result = await self._try(request, read)
            except Unavailable as error:
                self._trouble = str(error)
                wait = back_off if error.retry_after is None else error.retry_after
                # Spread, so that twenty requests that failed together don't come back together.
                wait = None if wait is None else wait * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
                if back_off is None or wait is None or not self._can_wait(wait):
                    raise
                await self._clock.sleep(wait)
            except Unauthorized as error:
                self._trouble = str(error)
                raise
            else:
                self._trouble = None
                return result
        raise AssertionError("the last try returns or raises")

    def _can_wait(self, seconds: float) -> bool:
        left = anyio.current_effective_deadline() - anyio.current_time()
        return seconds <= min(self._patience * 1.25, left)

    async def _try(self, request: Request, read: Read[T]) -> T:
        self._limits.check_open(request.resource)
        token = await self._token.usable()
        path = request.url.path
        try:
            answer = await self._follow(request, request.url.copy_with(path=self._moved.get(path, path)), token)
            result = await self._result(request, answer, token, read)
        except HealthError as error:
            # What moved may be back or elsewhere by now: the next try begins at the address that we were given.
            if self._moved.pop(path, None) and isinstance(error, Rejected) and not isinstance(error, Unauthorized):
                raise Unavailable(f"{error}; asked for again at its old address", retry_after=0.0) from error
            raise
        if answer.moved_for_good and answer.url.query in (b"", request.url.query) and len(self._moved) < _MOVED:
            self._moved[path] = answer.url.path
        return result

    async def _follow(self, request: Request, url: httpx.URL, token: str | None) -> Answer:
        """The answer at the end of the redirects, none of which leaves GitHub's server."""
        permanent: list[bool] = []
        for _ in range(_REDIRECTS + 1):
            answer = await self._send(request, url, token)
            if answer.status not in rules.REDIRECTS:
                return replace(answer, moved_for_good=bool(permanent) and all(permanent))
            if request.method != "GET" and answer.status in (301, 302):
                break  # would turn the question into a GET
            permanent.append(answer.status in (301, 308))
            url = rules.redirect_target(url, answer.headers.get("location", ""), self._base)
        raise Rejected(f"GitHub redirects {request.what} to no answer")

    async def _send(self, request: Request, url: httpx.URL, token: str | None) -> Answer:
        headers = dict(self._headers)
        if token:
            headers["authorization"] = f"Bearer {token}"
        if request.content:
            headers["content-type"] = "application/json"
        entry = self._cache.get(_key(token, url))
        if entry:
            headers["if-none-match"] = entry.etag
        try:
            async with self._in_flight:
                await self._pace.turn()
                with anyio.fail_after(_WHOLE_ANSWER):
                    async with self._client.stream(
                        request.method,
                        url,
                        headers=headers,
                        content=request.content,
                        timeout=_TIMEOUT,
                        follow_redirects=False,
                    ) as response:
                        body = await bounded(response)
        except (httpx.HTTPError, TimeoutError) as error:
            self.requests["error"] += 1
            count(request.question, request.resource, 0)
            reason = without(str(error), token)
            raise Unavailable(f"GitHub did not answer {request.what}: {reason or type(error).__name__}") from error
        self.requests[str(response.status_code)] += 1
        # https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests
        count(request.question, request.resource, int(response.status_code != 304 or token is None))
        answer = Answer(response.status_code, response.headers, body, url, entry)
        self._limits.note(request.resource, answer.status, answer.headers)
        return answer

    async def _result(self, request: Request, answer: Answer, token: str | None, read: Read[T]) -> T:
        """What ``read`` makes of the answer. Raises what the answer stands for otherwise."""
        key = _key(token, answer.url)
        entry = answer.entry if answer.status == 304 else None
        if entry is None and not 200 <= answer.status < 300:
            self._cache.drop(key)
            await self._raise_refusal(request, answer, token)
        self._limits.answered()
        etag = answer.headers.get("etag") if request.kept and not entry else None
        try:
            if entry or len(answer.body) > IN_THREAD:
                result, packed = await anyio.to_thread.run_sync(
                    decoded, entry or answer.body, etag, read, limiter=self._decoding
                )
            else:
                result, packed = decoded(answer.body, etag, read)
        except Exhausted:
            wait = self._limits.close(Limit(request.resource, rules.until_reset(answer.headers, self._clock.now())))
            raise Unavailable(f"GitHub's {request.resource} limit is used up", retry_after=wait) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._cache.drop(key)
            kind = answer.headers.get("content-type", "no type").partition(";")[0]
            raise Unavailable(
                f"GitHub answered {answer.status} to {request.what}, but not with what it should be "
                f"({len(answer.body)} bytes of {without(kind, token)[:60]})"
            ) from error
        if packed:
            self._cache.put(key, packed)
        return result

    async def _raise_refusal(self, request: Request, answer: Answer, token: str | None) -> None:
        status, headers = answer.status, answer.headers
        message = without(message_of(answer.body), token)
        said = f"GitHub answered {status}{': ' if message else ''}{message} ({request.what})"
        # REST tells whether a token is good; a server without GraphQL for it must not stop everything.
        if status == 401 and request.resource != "graphql":
            if await self._token.is_renewed(token):
                raise Unavailable(f"{said}; the token has changed since", retry_after=0.0)
            raise Unauthorized(f"{said}; {self._token.remedy}")
        if limit := rules.limit_of(status, headers, message, request.resource, self._clock.now()):
            raise Unavailable(said, retry_after=self._limits.close(limit))
        if rules.is_transient(status) or status == 304:
            raise Unavailable(said, retry_after=rules.retry_after(headers, self._clock.now()))
        if status == 404:
            raise Refused(f"{said}: there is no such thing, or the token may not see it", status)
        raise Refused(said, status)


def _base(api_url: str) -> httpx.URL:
    try:
        url = httpx.URL(api_url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"github.api_url: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ConfigError("github.api_url: must be an address such as https://api.github.com or https://HOST/api/v3")
    return url


def _key(token: str | None, url: httpx.URL) -> Key:
    return fingerprint(token), str(url)
