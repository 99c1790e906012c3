"""A simulated Datadog that is stricter than Datadog: what it takes, Datadog takes. For the demo, tests and the bench.

Where Datadog mends or ignores (a bad name, a missing interval, an unknown key), this refuses, so that faults are seen.
What Datadog drops without a word (points out of its time window) is answered 202 as there, and counted as dropped.
"""

import copy
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import zstandard
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.domain.samples import normalize_tag

MAX_COMPRESSED = 512_000  # bytes
MAX_RAW = 5_242_880  # bytes
MAX_POINTS = 10_000  # in one request
MAX_AGE, MAX_AHEAD = 3600, 600  # seconds before and after now
_KEPT = 200_000  # accepted points

_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_.]*\Z", max_length=200)]
_Tag = Annotated[str, Meta(pattern=r"\A[^\W\d_][^\x00-\x1f\x7f]*(?<!:)\Z", max_length=200)]
_KINDS = {1: "count", 3: "gauge"}
_SUMMARY = ("id", "title", "description", "created_at")
_METADATA = {"type": "gauge", "description": None, "unit": None, "per_unit": None, "short_name": None}
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


class Refused(Exception):
    """The request is refused with this status and these reasons."""

    def __init__(self, status: int, *reasons: str) -> None:
        super().__init__(*reasons)
        self.status = status


class SimulatedDatadog:
    """An ASGI application; any thread may read it.

    ``api_keys``, ``app_keys``: those that are good, None: any but the empty one.
    ``accepted``, ``dropped`` (out of the time window): points. ``requests``: by status; ``last_refusal``: its reason.
    ``points``: the latest that were accepted. ``metrics``: those that have points. ``has_all_metrics``: metadata can be
    set of others, too. ``fills``: defaults are added to dashboards and monitors, as Datadog does.
    """

    def __init__(self, *, api_keys: Collection[str] | None = None, now: Callable[[], float] = time.time) -> None:
        self.api_keys = api_keys
        self.app_keys: Collection[str] | None = None
        self.fills = True
        self.has_all_metrics = False
        self.requests: Counter[str] = Counter()
        self.accepted = self.dropped = self.refused = 0
        self.last_refusal = ""
        self.points: list[AcceptedPoint] = []
        self.metrics: set[str] = set()
        self.events: list[Json] = []
        self.dashboards: dict[str, Json] = {}
        self.monitors: dict[int, Json] = {}
        self.metadata: dict[str, Json] = {}
        self.tags: dict[str, Json] = {}
        self.shares: dict[str, Json] = {}
        self._numbers = itertools.count(1)
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Request(scope, receive)
        received = Received(asked.method, asked.url.path, asked.query_params, dict(asked.headers), await asked.body())
        reply = self.reply(received)
        self.requests[str(reply.status)] += 1
        body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        headers = {"content-type": "application/json", "date": formatdate(self._now(), usegmt=True)}
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        await Response(body, reply.status, headers)(scope, receive, send)

    def reply(self, received: Received) -> Reply:
        """The answer to a request."""
        try:
            _check_key(received.headers.get("dd-api-key"), self.api_keys)
            match received.method, received.path:
                case "POST", "/api/v2/series":
                    self._take(_read_series(_read_body(received, "identity", "deflate", "zstd1")))
                    return Reply()
                case "POST", "/api/v1/distribution_points":
                    self._take(_read_distributions(_read_body(received, "identity", "deflate")))
                    return Reply(body={"status": "ok"})
                case "POST", "/api/v1/events":
                    event = msgspec.to_builtins(_decode(_read_body(received, "identity"), _Event))
                    self.events.append(event)
                    return Reply(body={"status": "ok", "event": {"id": len(self.events), **event}})
                case "GET", "/api/v1/validate":
                    return Reply(200, {"valid": True})
            try:
                return Reply(200, self.answer_api(received))
            except KeyError as error:
                raise Refused(404, f"{error} not found") from error
        except Refused as error:
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
        self.metrics.update(point.metric for point in accepted)
        self.points += accepted
        del self.points[:-_KEPT]

    # Dashboards, monitors, metadata, tag configurations

    def answer_api(self, received: Received) -> Any:
        """What is kept, or was; a KeyError says that it is not there."""
        _check_key(received.headers.get("dd-application-key"), self.app_keys)
        method, query = received.method, received.query
        body: Any = _decode(received.body, object) if received.body else None
        match method, *received.path.split("/")[3:]:
            case "GET", "dashboard":
                start, count = int(query.get("start", 0)), int(query.get("count", 100))
                every = [{key: each[key] for key in _SUMMARY if key in each} for each in self.dashboards.values()]
                return {"dashboards": every[start : start + count]}
            case "POST", "dashboard":
                return self.put_dashboard("", body)
            case "POST", "dashboard", "public":
                token = f"token-{self.dashboards[body['dashboard_id']]['id']}"
                self.shares[token] = {**body, "token": token, "public_url": f"https://p.datadoghq.com/sb/{token}"}
                return self.shares[token]
            case "GET", "dashboard", "public", token:
                return self.shares[token]
            case "GET", "dashboard", id:
                return self.dashboards[id]
            case "PUT", "dashboard", id:
                return self.put_dashboard(id, body, self.dashboards[id]["created_at"])
            case "DELETE", "dashboard", id:
                return self.dashboards.pop(id)
            case "GET", "monitor":
                page, size, tag = int(query["page"]), int(query["page_size"]), query["monitor_tags"]
                return [each for each in self.monitors.values() if tag in each["tags"]][page * size :][:size]
            case "POST", "monitor":
                return self.put_monitor(next(self._numbers), body)
            case "PUT", "monitor", id:
                return self.put_monitor(int(id), self.monitors[int(id)] | body)
            case "DELETE", "monitor", id:
                return self.monitors.pop(int(id))
            case _, "metrics", name, *_ if not self.has_all_metrics and name not in self.metrics:
                raise Refused(400 if method == "POST" else 404, f"Metric {name} not found")
            case "GET", "metrics", name:
                return _METADATA | self.metadata.get(name, {})
            case "PUT", "metrics", name:
                self.metadata[name] = self.metadata.get(name, {}) | body
                return _METADATA | self.metadata[name]
            case "DELETE", "metrics", name, "tags":
                return self.tags.pop(name)
            case "POST", "metrics", name, "tags" if name in self.tags:
                raise Refused(409, "a configuration exists")
            case _, "metrics", name, "tags":
                if method != "GET":
                    known = {} if method == "POST" else self.tags[name]
                    self.tags[name] = known | body["data"]["attributes"]
                return {"data": {"type": "manage_tags", "id": name, "attributes": self.tags[name]}}
        raise Refused(404, f"no {method} {received.path}")

    def put_dashboard(self, id: str, body: Json, created_at: str = "") -> Json:
        """Keeps a dashboard, under a new id where that is empty."""
        number = next(self._numbers)
        id = id or f"abc-{number:03}-def"
        made = {"notify_list": None, **copy.deepcopy(body), "id": id, "url": f"/dashboard/{id}/x"}
        made["created_at"] = created_at or f"2025-01-14T15:{number // 60:02}:{number % 60:02}+00:00"
        for widget in _widgets(made):
            widget["id"] = next(self._numbers)
            if self.fills and widget["definition"].get("type") == "timeseries":
                widget["definition"].setdefault("yaxis", {"scale": "linear", "include_zero": True, "min": "auto"})
        self.dashboards[id] = made
        return made

    def put_monitor(self, id: int, body: Json) -> Json:
        """Keeps a monitor."""
        made = {**copy.deepcopy(body), "id": id, "overall_state": "OK"}
        made["tags"] = sorted(normalize_tag(*tag.split(":", 1)) for tag in made["tags"])
        if self.fills:
            made["options"] = {"notify_audit": False, "silenced": {}, "new_host_delay": 300, **made["options"]}
        self.monitors[id] = made
        return made


def _check_key(key: str | None, good: Collection[str] | None) -> None:
    if not key or (good is not None and key not in good):
        raise Refused(403, "Forbidden")


def _widgets(holder: Json) -> Iterator[Json]:
    """All widgets, those in groups included."""
    for widget in holder.get("widgets", ()):
        yield widget
        yield from _widgets(widget["definition"])


def _read_body(received: Received, *encodings: str) -> bytes:
    if received.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(400, "Content-Type must be application/json")
    if len(received.body) > MAX_COMPRESSED:
        raise _too_large(f"{MAX_COMPRESSED} bytes")
    encoding = received.headers.get("content-encoding", "identity").lower()
    if encoding not in encodings:
        raise Refused(400, f"Content-Encoding {encoding} is none of {', '.join(encodings)}")
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
                raise Refused(400, "Payload is cut off")
    except (zstandard.ZstdError, zlib.error) as error:
        raise Refused(400, f"Payload is not {encoding}: {error}") from error
    if len(body) > MAX_RAW:
        raise _too_large(f"{MAX_RAW} bytes decompressed")
    return body


def _too_large(limit: str) -> Refused:
    return Refused(413, f"Payload too large: more than {limit}")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of NaN and infinity, too
        raise Refused(400, f"Payload is not valid: {error}") from error


def _read_series(body: bytes) -> list[AcceptedPoint]:
    found = _decode(body, _Body[_Series]).series
    for each in found:
        if each.type == 1 and not each.interval:
            raise Refused(400, f"{each.metric}: a count needs an interval of whole seconds")
    return [
        AcceptedPoint(each.metric, _KINDS[each.type], tuple(each.tags), point.timestamp, point.value, each.interval)
        for each in found
        for point in each.points
    ]


def _read_distributions(body: bytes) -> list[AcceptedPoint]:
    return [
        AcceptedPoint(each.metric, "distribution", tuple(each.tags), at, value)
        for each in _decode(body, _Body[_Distribution]).series
        for at, values in each.points
        for value in values
    ]
