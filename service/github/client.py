"""GitHub's API: one client for REST and GraphQL that asks no more, no faster and no other host than GitHub allows.

    Rejected
    ├── Refused          GitHub said no: 400, 403 (no limit), 422, 451, a GraphQL document that it does not take
    │   └── NotFound     404, 410, GraphQL's NOT_FOUND: not there, or the token may not see it
    └── Unauthorized     401: nothing is sent until the token changes
    Unavailable          a limit (``retry_after``), 5xx, a cut-off body, HTML, JSON of another shape: time may mend it

``github.get("/repos/o/r/actions/runs", RunPage, params={"page": 1}, cached=True)``
"""

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx
import msgspec
import zstandard

from service.clock import Clock
from service.config.clients import retry_after
from service.config.masking import redact
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.github.auth import HEADERS, Auth, TokenSource, fingerprint
from service.github.rate_limit import Quota, RateLimit

T = TypeVar("T")
Decode = Callable[[bytes], T]
_Key = tuple[str, str]  # a token's fingerprint and an address: GitHub's ETags belong to the token

_BACK_OFF = (0.5, 1.0, math.inf)  # seconds; the third try is the last
_TIMEOUT = httpx.Timeout(15, connect=5, pool=None)
_WHOLE_ANSWER = 60.0  # seconds; httpx bounds each read, and a body may trickle
_LONGEST_BODY = 32 * 1024 * 1024
_REDIRECTS = 5
_MOVED = 1000  # addresses that are remembered
_PERMANENT = (301, 308)
_NOT_THE_API = "is GITHUB_API_URL the address of the API (on an Enterprise server https://HOST/api/v3)?"


class Refused(Rejected):
    """GitHub answered with ``status`` 4xx, and time won't mend it. A GraphQL document that it does not take: 422."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such thing, or the token may not see it: GitHub does not tell which."""


class Spent(Unavailable):
    """The caller has spent what it may: see ``count_usage``. GitHub was not asked."""


class _Exhausted(Exception):
    """GraphQL tells a limit that is used up in a 200."""


@dataclass(slots=True)
class Usage:
    """Requests, and quota points (a 304 is free) by resource: core, search, graphql. ``limit``: of all points."""

    limit: float = math.inf
    requests: int = 0
    points: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> float:
        return self.limit - self.points.total()


_usages: ContextVar[tuple[Usage, ...]] = ContextVar("usages", default=())


@contextmanager
def count_usage(limit: float = math.inf) -> Iterator[Usage]:
    """Counts what is asked of GitHub within, also by tasks that are started within (a cycle's tally).

    Once ``limit`` points are spent, what else is asked within raises Spent; of requests that are made at the same time
    some may be beyond it.
    """
    usage = Usage(limit)
    token = _usages.set((*_usages.get(), usage))
    try:
        yield usage
    finally:
        _usages.reset(token)


@dataclass(frozen=True, slots=True)
class _Request:
    """``resource``: the primary limit that pays."""

    method: str
    url: httpx.URL
    resource: str
    is_cached: bool = False
    content: bytes | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.url.path}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """``entry``: what a 304 confirms."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL
    entry: "_Entry | None"


class Github:
    """Asks GitHub at ``api_url`` (``https://api.github.com``, ``https://HOST/api/v3``) with the token of ``source``.

    ``patience``: the longest wait in seconds that a call sits out itself; it never waits beyond the caller's deadline
    (anyio's), but raises Unavailable with ``retry_after``. ``cache_bytes``: of answers kept by their ETags, packed.
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
        patience: float = 5.0,
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
        self._patience = patience
        self._auth = Auth(source, clock)
        self._limit = RateLimit(clock, points_a_minute)
        self.expect = self._limit.expect
        self._cache: OrderedDict[_Key, _Entry] = OrderedDict()  # the bodies used last
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
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
        self,
        path: str,
        type: type[T],
        *,
        params: Mapping[str, str | int] | None = None,
        cached: bool = False,
    ) -> T:
        """The JSON at ``path`` ("/repos/o/r/actions/runs") as ``type`` (msgspec), decoded in a thread.

        ``cached``: keep the answer with its ETag, so that asking again is free while nothing changed.
        Raises Unavailable, Refused, NotFound, Unauthorized, Rejected (redirected to another host, too long).
        """
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        if params:
            url = url.copy_merge_params({name: str(value) for name, value in params.items()})
        resource = "search" if path.startswith("/search/") else "core"
        return await self._ask(_Request("GET", url, resource, cached), partial(msgspec.json.decode, type=type))

    async def graphql(self, query: str, type: type[T]) -> T:
        """``data`` of the answer as ``type``. GitHub wants a token for this: see ``has_token``.

        A part that GitHub could not answer is null in the data, so let those fields be None or leave them optional.
        Raises NotFound where an error says NOT_FOUND, Refused for FORBIDDEN (403), a document that the server does
        not take (422: an older Enterprise) and an address without GraphQL (its status); Unavailable where the limit
        is used up or there is no data at all.
        """
        content = msgspec.json.encode({"query": query})
        request = _Request("POST", self._graphql, "graphql", content=content)
        return await self._ask(request, partial(_graphql_data, type))

    async def _ask(self, request: _Request, decode: Decode[T]) -> T:
        for back_off in _BACK_OFF:
            if any(usage.left < 1 for usage in _usages.get()):
                raise Spent(f"{request} is not asked: it would cost more points than this run may spend")
            try:
                result = await self._try(request, decode)
            except Unauthorized as error:
                self._trouble = str(error)
                raise
            except Unavailable as error:
                self._trouble = str(error)
                # Spread, so that twenty requests that failed together don't come back together.
                wait = (back_off if error.retry_after is None else error.retry_after) * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
                left = anyio.current_effective_deadline() - anyio.current_time()
                if back_off == math.inf or wait > min(self._patience * 1.25, left):
                    raise
                await self._clock.sleep(wait)
            else:
                self._trouble = None
                return result
        raise AssertionError("the last try returns or raises")

    async def _try(self, request: _Request, decode: Decode[T]) -> T:
        token = await self._auth.token()
        path, _, query = request.url.raw_path.partition(b"?")
        known = self._moved.get(path)
        url = request.url.copy_with(raw_path=known + b"?" * bool(query) + query) if known else request.url
        try:
            answer, moved = await self._follow(request, url, token)
            result = await self._result(request, answer, token, decode)
        except Rejected as error:
            # What moved may be back or elsewhere by now: once more at the address that we were given.
            if self._moved.pop(path, None) and not isinstance(error, Unauthorized):
                raise Unavailable(f"{error}; asked for again at its old address", retry_after=0.0) from error
            raise
        if moved and len(self._moved) < _MOVED:
            self._moved[path] = answer.url.raw_path.partition(b"?")[0]
        return result

    async def _follow(self, request: _Request, url: httpx.URL, token: str | None) -> tuple[_Answer, bool]:
        """The answer at the end of the redirects, none of which leaves GitHub's server; whether it moved for good."""
        statuses: list[int] = []
        for _ in range(_REDIRECTS + 1):
            answer = await self._send(request, url, token)
            if answer.status not in (*_PERMANENT, 302, 307):
                return answer, bool(statuses) and set(statuses) <= set(_PERMANENT)
            if request.method != "GET" and answer.status in (301, 302):
                break  # would turn the question into a GET
            statuses.append(answer.status)
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
            url = target
        raise Rejected(f"GitHub redirects {request} to no answer")

    async def _send(self, request: _Request, url: httpx.URL, token: str | None) -> _Answer:
        headers = dict(HEADERS)
        if token:
            headers["authorization"] = f"Bearer {token}"
        if request.content:
            headers["content-type"] = "application/json"
        entry = self._cache.get((fingerprint(token), str(url)))
        if entry:
            headers["if-none-match"] = entry.etag
        status = "error"
        async with self._limit.turn(request.resource):
            try:
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
                self.requests[status] += 1
                # https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests
                is_free = status == "error" or (status == "304" and token)
                for usage in _usages.get():
                    usage.requests += 1
                    usage.points[request.resource] += not is_free
        self._limit.note(request.resource, response.status_code, response.headers)
        return _Answer(response.status_code, response.headers, body, url, entry)

    async def _result(self, request: _Request, answer: _Answer, token: str | None, decode: Decode[T]) -> T:
        """What the answer stands for: a value or an error."""
        key = fingerprint(token), str(answer.url)
        entry = answer.entry if answer.status == 304 else None
        if entry is None and not 200 <= answer.status < 300:
            self._keep(key, None)
            await self._raise_refusal(request, answer, token)
        self._limit.note_success()
        etag = answer.headers.get("etag") if request.is_cached and not entry else None
        try:
            source = entry or answer.body
            result, new = await anyio.to_thread.run_sync(_decode, source, etag, decode, limiter=self._decoding)
        except _Exhausted:
            wait = self._limit.exhaust(request.resource, answer.headers)
            raise Unavailable(f"GitHub's {request.resource} limit is used up", retry_after=wait) from None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._keep(key, None)
            kind = redact(answer.headers.get("content-type", "no type").partition(";")[0])[:60]
            raise Unavailable(
                f"GitHub answered {answer.status} to {request}, but not with what it should be "
                f"({len(answer.body)} bytes of {kind}): {redact(str(error))[:200]}"
                f"{'; ' * (kind == 'text/html')}{_NOT_THE_API * (kind == 'text/html')}"
            ) from error
        if new or entry:
            self._keep(key, new or entry)
        return result

    def _keep(self, key: _Key, entry: "_Entry | None") -> None:
        """In place of what was kept under ``key``; what was used longest ago goes."""
        known = self._cache.pop(key, None)
        self._cached_bytes -= len(known.packed) if known else 0
        if entry:
            self._cache[key] = entry
            self._cached_bytes += len(entry.packed)
        while self._cached_bytes > self._cache_bytes:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1].packed)

    async def _raise_refusal(self, request: _Request, answer: _Answer, token: str | None) -> None:
        status = answer.status
        message = redact(_said(answer.body))
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
            raise Unavailable(said, retry_after=retry_after(answer.headers, self._clock.now()), answered=status >= 500)
        if status in (404, 410):
            hint = "there is no such thing, or the token may not see it" if message else _NOT_THE_API
            raise NotFound(f"{said}: {hint}", status)
        raise Refused(said + _way_out(answer.headers), status)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A body and the validator under which GitHub would send it again."""

    etag: str
    packed: bytes


class _Said(msgspec.Struct):
    """What GitHub says of a refusal, and the answers of GraphQL."""

    message: str = ""
    errors: Any = None  # GitHub's own are objects, but not all are
    data: msgspec.Raw = msgspec.Raw()

    def all(self, key: str) -> list[str]:
        """What the errors have as ``key``."""
        errors = self.errors if isinstance(self.errors, list) else ()
        values = [error.get(key) for error in errors if isinstance(error, dict)]
        return [value for value in values if isinstance(value, str)]

    def __str__(self) -> str:
        return " ".join(" ".join([self.message, *self.all("message")]).split())[:300]


def _graphql_data(type: type[T], body: bytes) -> T:
    said = msgspec.json.decode(body, type=_Said)
    if "RATE_LIMITED" in said.all("type"):
        raise _Exhausted
    if "NOT_FOUND" in said.all("type"):
        raise NotFound(f"GitHub's GraphQL: {said}: there is no such thing, or the token may not see it", 404)
    if "FORBIDDEN" in said.all("type"):
        raise Refused(f"GitHub's GraphQL: {said}", 403)
    if not said.data and said.errors:
        raise Refused(f"GitHub's GraphQL: {said}", 422)
    if not said.data or said.data == b"null":
        raise Unavailable(f"GitHub's GraphQL has no answer: {said}")
    return msgspec.json.decode(said.data, type=type)


def _way_out(headers: httpx.Headers) -> str:
    """What GitHub says in headers of who may: https://docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api"""
    _, _, address = redact(headers.get("x-github-sso", "")).partition("url=")
    if address:
        return f"; authorize the token at {address.partition('?')[0]}"
    needed = redact(headers.get("x-accepted-github-permissions", ""))
    return f"; the token needs the permission {needed}" if needed else ""


def _said(body: bytes) -> str:
    """Empty for a proxy's page."""
    try:
        return str(msgspec.json.decode(body[:65_536], type=_Said))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""


def _decode(source: bytes | _Entry, etag: str | None, decode: Decode[T]) -> tuple[T, _Entry | None]:
    """The value, and what the cache keeps under ``etag``. CPU work."""
    if isinstance(source, _Entry):
        body = zstandard.ZstdDecompressor().decompress(source.packed, max_output_size=_LONGEST_BODY)
        return decode(body), None
    packed = zstandard.ZstdCompressor(level=1).compress(source) if etag else b""
    # A copy: zstandard gives what it made in a buffer for the worst case, which stays as large as the body.
    return decode(source), _Entry(etag, bytes(memoryview(packed))) if etag else None


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise Rejected(f"GitHub's answer to {response.request.url.path} is longer than {_LONGEST_BODY} bytes")
    return bytes(body)
