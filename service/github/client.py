"""GitHub's API: one client for REST and GraphQL that asks no more, no faster and no other host than GitHub allows.

``github.get("/repos/o/r/actions/runs", RunPage, params={"page": 1}, cached=True)``
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import httpx
import msgspec

from service.clock import Clock
from service.config.clients import retry_after
from service.config.masking import redact
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.github.answers import Exhausted, NotFound, Refused, find_way_out, read_graphql, read_message
from service.github.auth import HEADERS, Auth, TokenSource, fingerprint
from service.github.etags import Entry, EtagCache, Key, decode_body
from service.github.rate_limit import Quota, RateLimit
from service.github.usage import Spent, take_point

__all__ = ["Github", "NotFound", "Refused"]

T = TypeVar("T")
Decode = Callable[[bytes], T]

_BACK_OFF = (0.5, 1.0, math.inf)  # seconds; the third try is the last
_TIMEOUT = httpx.Timeout(15, connect=5, pool=None)
_PATIENCE = 6.25  # seconds: the longest wait that a call sits out itself
_WHOLE_ANSWER = 60.0  # seconds; httpx bounds each read, and a body may trickle
_LONGEST_BODY = 32 * 1024 * 1024
_REDIRECTS = 5
_MOVED = 1000  # addresses that are remembered
_PERMANENT = (301, 308)
_NOT_THE_API = "is GITHUB_API_URL the address of the API (on an Enterprise server https://HOST/api/v3)?"


@dataclass(frozen=True, slots=True)
class _Request:
    """``resource``: the primary limit that pays. ``content``: GraphQL's."""

    url: httpx.URL
    resource: str
    is_cached: bool = False
    content: bytes | None = None

    @property
    def method(self) -> str:
        return "POST" if self.content else "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.url.path}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """``key``: of the cache; ``entry``: what a 304 confirms."""

    status: int
    headers: httpx.Headers
    body: bytes
    key: Key
    entry: Entry | None

    @property
    def has_value(self) -> bool:
        return self.entry is not None or 200 <= self.status < 300


class Github:
    """Asks GitHub at ``api_url`` (``https://api.github.com``, ``https://HOST/api/v3``) with the token of ``source``.

    A call sits out a wait of some seconds, but none beyond the caller's deadline (anyio's): it raises Unavailable with
    ``retry_after``. ``cache_bytes``: of answers kept by their ETags, packed.
    ``requests``: answers so far by status, "error" where none came.
    ``expect``, ``spare``, ``shortage``: what may be spent on questions that can wait, see RateLimit.
    """

    def __init__(
        self,
        api_url: str,
        source: TokenSource,
        client: httpx.AsyncClient,
        clock: Clock,
        *,
        points_a_minute: int = 900,
        cache_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        base = api_url.rstrip("/")
        self._base = httpx.URL(base)
        # On an Enterprise server it is beside /v3.
        # https://docs.github.com/enterprise-server/graphql/guides/forming-calls-with-graphql
        self._graphql = httpx.URL((base.removesuffix("/v3") if base.endswith("/api/v3") else base) + "/graphql")
        self._client = client
        self._clock = clock
        self._auth = Auth(source, clock)
        self._limit = RateLimit(clock, points_a_minute)
        self.expect = self._limit.expect
        self._cache = EtagCache(cache_bytes)
        # A page of runs is a megabyte: one at a time bounds the memory and costs no time.
        self._decoding = anyio.CapacityLimiter(1)
        self._moved: dict[bytes, bytes] = {}
        self._trouble: str | None = None
        self.requests: Counter[str] = Counter()

    @property
    def quota(self) -> Mapping[str, Quota]:
        """The primary limits as last told, by resource (core, search, graphql)."""
        return self._limit.quota

    @property
    def trouble(self) -> str | None:
        """What is wrong now with GitHub, its limits or the token, None when nothing is."""
        return self._trouble or self._auth.trouble

    @property
    def spare(self) -> int:
        return self._limit.spare

    @property
    def shortage(self) -> str | None:
        return self._limit.shortage

    async def has_token(self) -> bool:
        """Raises Unauthorized while the token is one that GitHub refused, what ``source`` raises otherwise."""
        return await self._auth.token() is not None

    async def get(
        self, path: str, type: type[T], *, params: Mapping[str, str | int] | None = None, cached: bool = False
    ) -> T:
        """The JSON at ``path`` ("/repos/o/r/actions/runs") as ``type`` (msgspec), decoded in a thread.

        ``cached``: keep the answer with its ETag, so that asking again is free while nothing changed.
        Raises Unavailable, Refused, NotFound, Unauthorized, Rejected (redirected to another host, too long).
        """
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        if params:
            url = url.copy_merge_params({name: str(value) for name, value in params.items()})
        resource = "search" if path.startswith("/search/") else "core"
        return await self._ask(_Request(url, resource, cached), partial(msgspec.json.decode, type=type))

    async def graphql(self, query: str, type: type[T]) -> T:
        """``data`` of the answer as ``type``. GitHub wants a token for this: see ``has_token``.

        A part that GitHub could not answer is null in the data, so let those fields be None or leave them optional.
        Raises NotFound where an error says NOT_FOUND, Refused for FORBIDDEN (403), a document that the server does
        not take (422: an older Enterprise) and an address without GraphQL (its status); Unavailable where the limit
        is used up or there is no data at all.
        """
        content = msgspec.json.encode({"query": query})
        return await self._ask(_Request(self._graphql, "graphql", content=content), partial(read_graphql, type))

    async def _ask(self, request: _Request, decode: Decode[T]) -> T:
        for back_off in _BACK_OFF:
            try:
                result = await self._try(request, decode)
            except Spent:
                raise
            except Unauthorized as error:
                self._trouble = str(error)
                raise
            except Unavailable as error:
                self._trouble = str(error)
                # Spread, so that twenty requests that failed together don't come back together.
                wait = (back_off if error.retry_after is None else error.retry_after) * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
                left = anyio.current_effective_deadline() - anyio.current_time()
                if back_off == math.inf or wait > min(_PATIENCE, left):
                    raise
                await self._clock.sleep(wait)
            else:
                self._trouble = None
                return result
        raise AssertionError("the last try returns or raises")

    async def _try(self, request: _Request, decode: Decode[T]) -> T:
        token = await self._auth.token()
        answer = await self._follow(request, token)
        if not answer.has_value:
            self._cache.keep(answer.key, None)
            await self._raise_refusal(request, answer, token)
        self._limit.note_success()
        etag = answer.headers.get("etag") if request.is_cached and not answer.entry else None
        try:
            result, kept = await anyio.to_thread.run_sync(
                decode_body, answer.entry or answer.body, etag, decode, _LONGEST_BODY, limiter=self._decoding
            )
        except Exhausted:
            wait = self._limit.exhaust(request.resource, answer.headers)
            raise Unavailable(f"GitHub's {request.resource} limit is used up", retry_after=wait) from None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._cache.keep(answer.key, None)
            kind = redact(answer.headers.get("content-type", "no type").partition(";")[0])[:60]
            hint = f"; {_NOT_THE_API}" if kind == "text/html" else ""
            raise Unavailable(
                f"GitHub answered {answer.status} to {request}, but not with what it should be "
                f"({len(answer.body)} bytes of {kind}): {redact(str(error))[:200]}{hint}"
            ) from error
        if kept:
            self._cache.keep(answer.key, kept)
        return result

    async def _follow(self, request: _Request, token: str | None) -> _Answer:
        """The answer at the end of the redirects, none of which leaves GitHub's server.

        What moved for good is asked for at its new address, until that does not answer well.
        """
        path, mark, query = request.url.raw_path.partition(b"?")
        url = request.url.copy_with(raw_path=self._moved.get(path, path) + mark + query)
        is_permanent = True
        for _ in range(_REDIRECTS + 1):
            answer = await self._send(request, url, token)
            if answer.status not in (*_PERMANENT, 302, 307):
                place = url.raw_path.partition(b"?")[0]
                if not answer.has_value:
                    self._moved.pop(path, None)
                elif is_permanent and place != path and len(self._moved) < _MOVED:
                    self._moved[path] = place
                return answer
            is_permanent = is_permanent and answer.status in _PERMANENT
            location = answer.headers.get("location", "")
            try:
                target = url.join(location).copy_with(fragment=None)
            except httpx.InvalidURL as error:
                raise Rejected(f"GitHub redirects {request} to something that is no address") from error
            if not location or (target.scheme, target.netloc, target.userinfo) != (url.scheme, url.netloc, b""):
                raise Rejected(
                    f"GitHub redirects {request} to another server ({target.scheme}://{target.host or '?'}); the token "
                    "must not go there: set GITHUB_API_URL if GitHub moved"
                )
            if request.content:
                break  # most redirects would turn the question into a GET
            url = target
        raise Rejected(f"GitHub redirects {request} to no answer")

    async def _send(self, request: _Request, url: httpx.URL, token: str | None) -> _Answer:
        headers = dict(HEADERS)
        if token:
            headers["authorization"] = f"Bearer {token}"
        if request.content:
            headers["content-type"] = "application/json"
        key = fingerprint(token), str(url)
        if entry := self._cache.get(key):
            headers["if-none-match"] = entry.etag
        usages, status = take_point(request.resource), ""
        try:
            async with self._limit.turn(request.resource):
                status = "error"
                with anyio.fail_after(_WHOLE_ANSWER):
                    async with self._client.stream(
                        request.method, url, headers=headers, content=request.content, timeout=_TIMEOUT
                    ) as response:
                        body = await _read_body(response)
                status = str(response.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            reason = redact(str(error)) or type(error).__name__
            raise Unavailable(f"GitHub did not answer {request}: {reason}") from error
        finally:
            self.requests[status] += bool(status)
            # https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests
            is_free = status in ("", "error") or (status == "304" and token)
            for usage in usages:
                usage.requests += bool(status)
                usage.points[request.resource] -= bool(is_free)
        self._limit.note(request.resource, response.status_code, response.headers)
        return _Answer(response.status_code, response.headers, body, key, entry if status == "304" else None)

    async def _raise_refusal(self, request: _Request, answer: _Answer, token: str | None) -> None:
        status, message = answer.status, read_message(answer.body)
        said = f"GitHub answered {status}{': ' if message else ''}{message} ({request})"
        # REST tells whether a token is good; a server without GraphQL for it must not stop everything.
        if status == 401 and request.resource != "graphql":
            if await self._auth.refuse(token):
                raise Unavailable(f"{said}; the token has changed since", retry_after=0.0)
            raise Unauthorized(f"{said}; {self._auth.remedy}")
        wait = self._limit.refuse(request.resource, status, answer.headers, message)
        if wait is not None:
            raise Unavailable(said, retry_after=wait)
        if status >= 500 or status in (304, 408):
            raise Unavailable(said, retry_after=retry_after(answer.headers, self._clock.now()))
        if status in (404, 410):
            hint = "there is no such thing, or the token may not see it" if message else _NOT_THE_API
            raise NotFound(f"{said}: {hint}", status)
        raise Refused(said + find_way_out(answer.headers), status)


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise Rejected(f"GitHub's answer to {response.request.url.path} is longer than {_LONGEST_BODY} bytes")
    return bytes(body)
