"""GitHub's API: one client for REST and GraphQL that asks no more, no faster and no other host than GitHub allows.

    Rejected
    ├── Refused          GitHub said no: 400, 403 (no limit), 422, 451, a GraphQL document that it does not take
    │   └── NotFound     404, 410, GraphQL's NOT_FOUND: not there, or the token may not see it
    └── Unauthorized     401: nothing is sent until the token changes
    Unavailable          a limit (``retry_after``), 5xx, a cut-off body, HTML, JSON of another shape: time may mend it

``github.get("/repos/o/r/actions/runs", RunPage, params={"page": 1}, cached=True)``
"""

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

from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.github.auth import HEADERS, Auth, TokenSource, fingerprint
from service.github.rate_limit import Clock, Quota, RateLimit, retry_after

T = TypeVar("T")
Decode = Callable[[bytes], T]

_BACK_OFF = (0.5, 1.0)  # seconds; then the third try is the last
_TIMEOUT = httpx.Timeout(15, connect=5, pool=None)
_WHOLE_ANSWER = 60.0  # seconds; httpx bounds each read, and a body may trickle
_LONGEST_BODY = 32 * 1024 * 1024
_REDIRECTS = 5
_PERMANENT = (301, 308)


class Refused(Rejected):
    """GitHub answered with ``status`` 4xx, and time won't mend it. A GraphQL document that it does not take: 422."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such thing, or the token may not see it: GitHub does not tell which."""


class _Exhausted(Exception):
    """GraphQL tells a limit that is used up in a 200."""


@dataclass(slots=True)
class Usage:
    """Requests and quota points (a 304 is free) by question, and the points by resource (core, search, graphql)."""

    requests: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    resources: Counter[str] = field(default_factory=Counter)


_usages: ContextVar[tuple[Usage, ...]] = ContextVar("usages", default=())


@contextmanager
def count_usage() -> Iterator[Usage]:
    """Counts what is asked of GitHub within, also by tasks that are started within (a cycle's tally)."""
    usage = Usage()
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
    question: str
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
    ``expect``, ``forget``, ``spare``, ``shortage``: what may be spent on questions that can wait, see RateLimit.
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
        self.expect, self.forget = self._limit.expect, self._limit.forget
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
        self,
        path: str,
        type: type[T],
        *,
        params: Mapping[str, str | int] | None = None,
        cached: bool = False,
        question: str = "other",
    ) -> T:
        """The JSON at ``path`` ("/repos/o/r/actions/runs") as ``type`` (msgspec), decoded in a thread.

        ``cached``: keep the answer with its ETag, so that asking again is free while nothing changed.
        ``question``: under which name ``count_usage`` counts it.
        Raises Unavailable, Refused, NotFound, Unauthorized, Rejected (redirected to another host, too long).
        """
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        if params:
            url = url.copy_merge_params({name: str(value) for name, value in params.items()})
        resource = "search" if path.startswith("/search/") else "core"
        return await self._ask(
            _Request("GET", url, resource, question, cached), partial(msgspec.json.decode, type=type)
        )

    async def graphql(
        self, query: str, type: type[T], *, variables: Mapping[str, object] | None = None, question: str = "other"
    ) -> T:
        """``data`` of the answer as ``type``. GitHub wants a token for this: see ``has_token``.

        A part that GitHub could not answer is null in the data, so let those fields be None or leave them optional.
        Raises NotFound where an error says NOT_FOUND, Refused for FORBIDDEN (403), a document that the server does
        not take (422: an older Enterprise) and an address without GraphQL (its status); Unavailable where the limit
        is used up or there is no data at all.
        """
        content = msgspec.json.encode({"query": query, "variables": variables or {}})
        request = _Request("POST", self._graphql, "graphql", question, content=content)
        return await self._ask(request, partial(_graphql_data, type))

    async def _ask(self, request: _Request, decode: Decode[T]) -> T:
        for back_off in (*_BACK_OFF, None):
            try:
                result = await self._try(request, decode)
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

    async def _try(self, request: _Request, decode: Decode[T]) -> T:
        self._limit.check_open(request.resource)
        token = await self._auth.token()
        path, _, query = request.url.raw_path.partition(b"?")
        known = self._moved.pop(path, None)
        url = request.url.copy_with(raw_path=known + b"?" * bool(query) + query) if known else request.url
        try:
            answer, moved = await self._follow(request, url, token)
            result = await self._result(request, answer, token, decode)
        except Rejected as error:
            # What moved may be back or elsewhere by now: once more at the address that we were given.
            if known and not isinstance(error, Unauthorized):
                raise Unavailable(f"{error}; asked for again at its old address", retry_after=0.0) from error
            raise
        if moved or known:
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
            url = _redirect_target(url, answer.headers.get("location", ""))
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
        exchange = self._client.build_request(
            request.method, url, headers=headers, content=request.content, timeout=_TIMEOUT
        )
        status = "error"
        async with self._limit.turn():
            try:
                with anyio.fail_after(_WHOLE_ANSWER):
                    response = await self._client.send(exchange, stream=True, follow_redirects=False)
                    try:
                        body = await _read_body(response)
                    finally:
                        await response.aclose()
                status = str(response.status_code)
            except (httpx.HTTPError, TimeoutError) as error:
                reason = _without(str(error), token) or type(error).__name__
                raise Unavailable(f"GitHub did not answer {request}: {reason}") from error
            finally:
                self.requests[status] += 1
                # https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests
                is_free = status == "error" or (status == "304" and token)
                for usage in _usages.get():
                    usage.requests[request.question] += 1
                    usage.points[request.question] += not is_free
                    usage.resources[request.resource] += not is_free
        self._limit.note(request.resource, response.status_code, response.headers)
        return _Answer(response.status_code, response.headers, body, url, entry)

    async def _result(self, request: _Request, answer: _Answer, token: str | None, decode: Decode[T]) -> T:
        """What the answer stands for: a value or an error."""
        key = fingerprint(token), str(answer.url)
        entry = answer.entry if answer.status == 304 else None
        if entry is None and not 200 <= answer.status < 300:
            self._cache.drop(key)
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
            self._cache.drop(key)
            kind = _without(answer.headers.get("content-type", "no type").partition(";")[0], token)[:60]
            raise Unavailable(
                f"GitHub answered {answer.status} to {request}, but not with what it should be "
                f"({len(answer.body)} bytes of {kind}): {_without(str(error), token)[:200]}"
            ) from error
        if new:
            self._cache.put(key, new)
        return result

    async def _raise_refusal(self, request: _Request, answer: _Answer, token: str | None) -> None:
        status = answer.status
        message = _without(_message(answer.body), token)
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
            raise NotFound(f"{said}: there is no such thing, or the token may not see it", status)
        raise Refused(said, status)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A body and the validator under which GitHub would send it again."""

    etag: str
    packed: bytes


class EtagCache:
    """The bodies used last by token and address (GitHub's ETags belong to the token), up to ``limit`` packed bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def get(self, key: tuple[str, str]) -> _Entry | None:
        entry = self._entries.get(key)
        if entry:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: tuple[str, str], entry: _Entry) -> None:
        self.drop(key)
        self._entries[key] = entry
        self._size += len(entry.packed)
        while self._size > self._limit:
            _, oldest = self._entries.popitem(last=False)
            self._size -= len(oldest.packed)

    def drop(self, key: tuple[str, str]) -> None:
        if entry := self._entries.pop(key, None):
            self._size -= len(entry.packed)


class _GraphqlError(msgspec.Struct):
    message: str = ""
    type: str | None = None


class _GraphqlAnswer(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    errors: tuple[_GraphqlError, ...] | None = None


def _graphql_data(type: type[T], body: bytes) -> T:
    answer = msgspec.json.decode(body, type=_GraphqlAnswer)
    types = {error.type for error in answer.errors or ()}
    said = f"GitHub's GraphQL: {'; '.join(error.message for error in answer.errors or ())[:300]}"
    if "RATE_LIMITED" in types:
        raise _Exhausted
    if "NOT_FOUND" in types:
        raise NotFound(f"{said}: there is no such thing, or the token may not see it", 404)
    if "FORBIDDEN" in types:
        raise Refused(said, 403)
    if not answer.data and answer.errors:
        raise Refused(said, 422)
    if not answer.data or answer.data == b"null":
        raise Unavailable(said)
    return msgspec.json.decode(answer.data, type=type)


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


class _Message(msgspec.Struct):
    message: str = ""
    errors: Any = None


def _message(body: bytes) -> str:
    """What GitHub says of a refusal: ``message`` and those of its ``errors``. Empty for a proxy's page."""
    try:
        said = msgspec.json.decode(body[:65_536], type=_Message)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
    errors = said.errors if isinstance(said.errors, list) else ()
    texts = [said.message, *(error.get("message") for error in errors if isinstance(error, dict))]
    return " ".join(" ".join(text for text in texts if isinstance(text, str)).split())[:300]


def _without(text: str, token: str | None) -> str:
    """``text`` with the token blanked out: a proxy may give back what it was sent."""
    return text.replace(token, "***") if token else text


def _redirect_target(url: httpx.URL, location: str) -> httpx.URL:
    """Where ``location`` leads from ``url``. Raises Rejected unless that is on the same server."""
    try:
        target = url.join(location)
    except httpx.InvalidURL as error:
        raise Rejected("GitHub redirects to something that is no address") from error
    if not location or (target.scheme, target.netloc, target.userinfo) != (url.scheme, url.netloc, b""):
        raise Rejected(
            f"GitHub redirects from {url.host} to another server ({target.scheme}://{target.host or '?'}); it is not "
            "followed, for the token must not go there: set GITHUB_API_URL if GitHub moved"
        )
    return target.copy_with(fragment=None)
