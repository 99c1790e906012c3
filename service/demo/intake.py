"""A simulated Datadog that is stricter than Datadog: what it takes, Datadog takes. For the demo, tests and the bench.

Where Datadog mends or ignores (a bad name, a missing interval, an unknown key), this refuses, so that faults are seen.
What Datadog drops without a word (points out of its time window) is answered 202 as there, and counted as dropped.
"""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import zstandard
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MAX_COMPRESSED = 512_000  # bytes
MAX_RAW = 5_242_880  # bytes
MAX_POINTS = 10_000  # in one request
MAX_AGE, MAX_AHEAD = 3600, 600  # seconds before and after now
_KEPT = 200_000  # accepted points

_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_.]*\Z", max_length=200)]
_Tag = Annotated[str, Meta(pattern=r"\A[^\W\d_][^\x00-\x1f\x7f]*(?<!:)\Z", max_length=200)]
_KINDS = {1: "count", 3: "gauge"}
Json = dict[str, Any]
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
    """``body``: JSON, or bytes as they are."""

    status: int = 202
    body: Any = field(default_factory=lambda: {"errors": []})
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, *errors: str, **headers: str) -> Reply:
    """As Datadog refuses. ``headers``: with underscores for hyphens."""
    return Reply(status, {"errors": list(errors)}, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decompressed."""
        return msgspec.json.decode(_decompress(self.body, self.headers.get("content-encoding", "identity")))


class RequestRefused(Exception):
    """The request is refused with this status and these reasons."""

    def __init__(self, status: int, *reasons: str) -> None:
        super().__init__(*reasons)
        self.status = status


class SimulatedIntake:
    """An ASGI application; any thread may read it.

    ``api_keys``: those that are good, None: any but the empty one.
    ``accepted``, ``dropped`` (out of the time window): points. ``requests``: by status; ``last_refusal``: its reason.
    ``points``: the latest that were accepted.
    """

    def __init__(self, *, api_keys: Collection[str] | None = None, now: Callable[[], float] = time.time) -> None:
        self.api_keys = api_keys
        self.requests: Counter[str] = Counter()
        self.accepted = self.dropped = self.refused = 0
        self.last_refusal = ""
        self.points: list[AcceptedPoint] = []
        self.events: list[Json] = []
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        received = Received(
            request.method, request.url.path, request.query_params, dict(request.headers), await request.body()
        )
        reply = self.reply(received)
        self.requests[str(reply.status)] += 1
        body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        headers = {"content-type": "application/json", "date": formatdate(self._now(), usegmt=True)}
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        await Response(body, reply.status, headers)(scope, receive, send)

    def reply(self, received: Received) -> Reply:
        """The answer to a request."""
        try:
            check_key(received.headers.get("dd-api-key"), self.api_keys)
            match received.method, received.path:
                case "POST", "/api/v2/series":
                    self._take(_read_series(_read_body(received, "identity", "deflate", "zstd1")))
                    return Reply()
                case "POST", "/api/v1/distribution_points":
                    self._take(_read_distributions(_read_body(received, "identity", "deflate")))
                    return Reply(body={"status": "ok"})
                case "POST", "/api/v1/events":
                    event = msgspec.to_builtins(decode(_read_body(received, "identity"), _Event))
                    self.events.append(event)
                    return Reply(body={"status": "ok", "event": {"id": len(self.events), **event}})
                case "GET", "/api/v1/validate":
                    return Reply(200, {"valid": True})
            return self.answer_api(received)
        except RequestRefused as error:
            self.refused += error.status != 404
            self.last_refusal = "; ".join(error.args)
            return refusal(error.status, *error.args)

    def _take(self, points: list[AcceptedPoint]) -> None:
        if len(points) > MAX_POINTS:
            raise _too_large(f"{MAX_POINTS} points")
        oldest, newest = self._now() - MAX_AGE, self._now() + MAX_AHEAD
        accepted = [point for point in points if oldest <= point.at <= newest]
        self.accepted += len(accepted)
        self.dropped += len(points) - len(accepted)
        self.points += accepted
        del self.points[:-_KEPT]

    def answer_api(self, received: Received) -> Reply:
        """What is neither point nor event: service.demo.datadog knows more."""
        raise RequestRefused(404, f"no {received.method} {received.path}")


def check_key(key: str | None, good: Collection[str] | None) -> None:
    """Raises RequestRefused."""
    if not key or (good is not None and key not in good):
        raise RequestRefused(403, "Forbidden")


def _read_body(received: Received, *encodings: str) -> bytes:
    if received.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RequestRefused(400, "Content-Type must be application/json")
    if len(received.body) > MAX_COMPRESSED:
        raise _too_large(f"{MAX_COMPRESSED} bytes")
    encoding = received.headers.get("content-encoding", "identity").lower()
    if encoding not in encodings:
        raise RequestRefused(400, f"Content-Encoding {encoding} is none of {', '.join(encodings)}")
    return _decompress(received.body, encoding)


def _decompress(body: bytes, encoding: str) -> bytes:
    """``body`` decompressed, but never by much more than what is allowed."""
    try:
        if encoding == "zstd1":
            body = zstandard.ZstdDecompressor().stream_reader(body).read(MAX_RAW + 1)
        elif encoding == "deflate":
            decompressor = zlib.decompressobj()
            body = decompressor.decompress(body, MAX_RAW + 1)
            if len(body) <= MAX_RAW and not decompressor.eof:
                raise RequestRefused(400, "Payload is cut off")
    except (zstandard.ZstdError, zlib.error) as error:
        raise RequestRefused(400, f"Payload is not {encoding}: {error}") from error
    if len(body) > MAX_RAW:
        raise _too_large(f"{MAX_RAW} bytes decompressed")
    return body


def _too_large(limit: str) -> RequestRefused:
    return RequestRefused(413, f"Payload too large: more than {limit}")


def decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of NaN and infinity, too
        raise RequestRefused(400, f"Payload is not valid: {error}") from error


def _read_series(body: bytes) -> list[AcceptedPoint]:
    found = decode(body, _Body[_Series]).series
    for each in found:
        if each.type == 1 and not each.interval:
            raise RequestRefused(400, f"{each.metric}: a count needs an interval of whole seconds")
    return [
        AcceptedPoint(each.metric, _KINDS[each.type], tuple(each.tags), point.timestamp, point.value, each.interval)
        for each in found
        for point in each.points
    ]


def _read_distributions(body: bytes) -> list[AcceptedPoint]:
    return [
        AcceptedPoint(each.metric, "distribution", tuple(each.tags), at, value)
        for each in decode(body, _Body[_Distribution]).series
        for at, values in each.points
        for value in values
    ]
