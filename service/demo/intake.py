"""A simulated Datadog that is stricter than Datadog: what it takes, Datadog takes. For the demo, tests and the bench.

Where Datadog mends or ignores (a bad name, a missing interval, an unknown key), this refuses, so that faults are seen.
What Datadog drops without a word (points out of its time window) is answered 202 as there, and counted as dropped.
"""

import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Annotated, Any, Generic, Literal, TypeVar

import anyio
import msgspec
import zstandard
from msgspec import Meta
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.demo.datadog_api import ApiError, SimulatedApi

MAX_COMPRESSED = 512_000  # bytes
MAX_RAW = 5_242_880  # bytes
MAX_POINTS = 10_000  # in one request
MAX_AGE, MAX_AHEAD = 3600, 600  # seconds before and after now
_KEPT = 200_000  # accepted points at least, twice as many at most

_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_.]*\Z", max_length=200)]
_Tag = Annotated[str, Meta(pattern=r"\A[^\W\d_][^\x00-\x1f\x7f]*(?<!:)\Z", max_length=200)]
_KINDS = {1: "count", 3: "gauge"}
T = TypeVar("T")


class _Point(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: int
    value: float


class _Series(msgspec.Struct, forbid_unknown_fields=True):
    metric: _Name
    type: Literal[1, 3]
    points: Annotated[list[_Point], Meta(min_length=1)]
    tags: list[_Tag] = []
    interval: Annotated[int, Meta(ge=0)] = 0


class _Distribution(msgspec.Struct, forbid_unknown_fields=True):
    metric: _Name
    points: Annotated[list[tuple[int, Annotated[list[float], Meta(min_length=1)]]], Meta(min_length=1)]
    tags: list[_Tag] = []
    type: Literal["distribution"] = "distribution"


class _Body(msgspec.Struct, Generic[T], forbid_unknown_fields=True):
    series: Annotated[list[T], Meta(min_length=1)]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    title: Annotated[str, Meta(min_length=1, max_length=100)]
    text: Annotated[str, Meta(min_length=1, max_length=4000)]
    tags: list[_Tag] = []
    alert_type: Literal["error", "warning", "info", "success"] = "info"
    date_happened: int = 0
    aggregation_key: Annotated[str, Meta(max_length=100)] = ""


@dataclass(frozen=True, slots=True)
class AcceptedPoint:
    """One value as it would be stored. ``kind``: count, rate, gauge or distribution; ``at``: epoch seconds."""

    metric: str
    kind: str
    tags: tuple[str, ...]
    at: int
    value: float
    interval: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """``status``: None ends the connection without an answer. ``body``: JSON, or bytes as they are.

    ``takes``: of a scripted reply, whether the request is carried out all the same.
    """

    status: int | None = 202
    body: Any = field(default_factory=lambda: {"errors": []})
    headers: Mapping[str, str] = field(default_factory=dict)
    takes: bool = False


def refusal(status: int, *errors: str, **headers: str) -> Reply:
    """As Datadog refuses. ``headers``: with underscores for hyphens."""
    return Reply(status, {"errors": list(errors)}, {name.replace("_", "-"): value for name, value in headers.items()})


HANG_UP = Reply(None)
LOSE_ANSWER = Reply(None, takes=True)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decompressed."""
        return msgspec.json.decode(_decompress(self.body, self.headers.get("content-encoding", "identity")))


class SimulatedDatadog:
    """An ASGI application; any thread may read it. ``api_keys``: those that are good, None: any but the empty one.

    ``script``: the replies to the next requests. ``intercept``: gives the reply to a request, None for the true one.
    ``accepted``, ``dropped`` (out of the time window): points. ``requests``: by status; ``last_refusal``: its reason.
    ``points``: the latest ones that were accepted. ``received``: the latest requests. ``api``: dashboards and the like.
    """

    def __init__(self, *, api_keys: Collection[str] | None = None, now: Callable[[], float] = time.time) -> None:
        self.api_keys = api_keys
        self.api = SimulatedApi()
        self.script: deque[Reply] = deque()
        self.intercept: Callable[[Received], Reply | None] = lambda received: None
        self.received: deque[Received] = deque(maxlen=50)
        self.requests: Counter[str] = Counter()
        self.accepted = 0
        self.dropped = 0
        self.refused = 0
        self.last_refusal = ""
        self.points: list[AcceptedPoint] = []
        self.metrics: set[str] = set()  # that points were accepted of
        self.events: list[dict[str, Any]] = []
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        received = Received(request.method, request.url.path, dict(request.headers), await request.body())
        self.received.append(received)
        scripted = self.script.popleft() if self.script else self.intercept(received)
        true = await self._answer(request) if scripted is None or scripted.takes else Reply()
        reply = scripted or true
        self.requests[str(reply.status)] += 1
        if reply.status is None:
            receive.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's; ASGI has no such message
            await receive()
            return
        body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        headers = MutableHeaders({"content-type": "application/json", "date": formatdate(self._now(), usegmt=True)})
        headers.update(reply.headers)
        headers["content-length"] = str(len(body))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, request: Request) -> Reply:
        try:
            key = request.headers.get("dd-api-key", "")
            if not key or (self.api_keys is not None and key not in self.api_keys):
                raise ApiError(403, "Forbidden")
            match request.method, request.url.path:
                case "POST", "/api/v2/series":
                    await self._take(request, _decode_series, ("identity", "deflate", "zstd1"))
                    return Reply()
                case "POST", "/api/v1/distribution_points":
                    await self._take(request, _decode_distributions, ("identity", "deflate"))
                    return Reply(body={"status": "ok"})
                case "POST", "/api/v1/events":
                    event = msgspec.to_builtins(_decode(await self._body(request), _Event))
                    self.events.append(event)
                    return Reply(body={"status": "ok", "event": {"id": len(self.events), **event}})
                case "GET", "/api/v1/validate":
                    return Reply(200, {"valid": True})
            return Reply(*await self.api.answer(request, known=self.metrics))
        except ApiError as error:
            self.refused += error.status != 404
            self.last_refusal = "; ".join(error.reasons)
            return refusal(error.status, *error.reasons)

    async def _body(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise ApiError(400, "Content-Type must be application/json")
        body = await request.body()
        if len(body) > MAX_COMPRESSED:
            raise _too_large(f"{MAX_COMPRESSED} bytes")
        return body

    async def _take(
        self, request: Request, decode: Callable[[bytes], list[AcceptedPoint]], encodings: Collection[str]
    ) -> None:
        body = await self._body(request)
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in encodings:
            raise ApiError(400, f"Content-Encoding {encoding} is none of {', '.join(encodings)}")
        # Megabytes of JSON: in a thread, so that other requests are answered.
        points = await anyio.to_thread.run_sync(lambda: decode(_decompress(body, encoding)))
        if len(points) > MAX_POINTS:
            raise _too_large(f"{MAX_POINTS} points")
        oldest, newest = self._now() - MAX_AGE, self._now() + MAX_AHEAD
        accepted = [point for point in points if oldest <= point.at <= newest]
        self.accepted += len(accepted)
        self.dropped += len(points) - len(accepted)
        self.metrics.update(point.metric for point in accepted)
        self.points += accepted
        if len(self.points) > 2 * _KEPT:
            del self.points[:-_KEPT]


def _decompress(body: bytes, encoding: str) -> bytes:
    """``body`` decompressed, but never by much more than what is allowed."""
    text = body
    try:
        if encoding == "zstd1":
            if zstandard.frame_content_size(body) > MAX_RAW:
                raise _too_large(f"{MAX_RAW} bytes decompressed")
            text = zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_RAW)
        elif encoding == "deflate":
            decompressor = zlib.decompressobj()
            text = decompressor.decompress(body, MAX_RAW + 1)
            if len(text) <= MAX_RAW and not decompressor.eof:
                raise ApiError(400, "Payload is cut off")
    except (zstandard.ZstdError, zlib.error) as error:
        raise ApiError(400, f"Payload is not {encoding}: {error}") from error
    if len(text) > MAX_RAW:
        raise _too_large(f"{MAX_RAW} bytes decompressed")
    return text


def _too_large(limit: str) -> ApiError:
    return ApiError(413, f"Payload too large: more than {limit}")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of NaN and infinity, too
        raise ApiError(400, f"Payload is not valid: {error}") from error


def _decode_series(body: bytes) -> list[AcceptedPoint]:
    found = _decode(body, _Body[_Series]).series
    for each in found:
        if each.type == 1 and not each.interval:
            raise ApiError(400, f"{each.metric}: a count needs an interval of whole seconds")
    return [
        AcceptedPoint(each.metric, _KINDS[each.type], tuple(each.tags), point.timestamp, point.value, each.interval)
        for each in found
        for point in each.points
    ]


def _decode_distributions(body: bytes) -> list[AcceptedPoint]:
    return [
        AcceptedPoint(each.metric, "distribution", tuple(each.tags), at, value)
        for each in _decode(body, _Body[_Distribution]).series
        for at, values in each.points
        for value in values
    ]
