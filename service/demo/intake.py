"""A local stand-in for Datadog's intake that is stricter than Datadog: what it takes, Datadog takes.

Where Datadog mends or ignores (a bad name, a missing interval, an unknown key), this refuses, so that faults are seen.
What Datadog drops without a word (points out of its time window) is answered 202 as there, and counted as dropped.
"""

import math
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import anyio
import orjson
import zstandard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_WIRE = 512_000  # bytes, compressed
MAX_BODY = 5_242_880  # bytes, decompressed
MAX_POINTS = 10_000  # in one request
OLDEST, NEWEST = 3600, 600  # seconds before and after now

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}")
_SERIES_KEYS = {"metric", "type", "points", "tags", "interval", "unit", "resources", "metadata", "source_type_name"}
_DISTRIBUTION_KEYS = {"metric", "points", "tags", "type", "host"}
_EVENT_KEYS = {"title", "text", "tags", "alert_type", "date_happened", "aggregation_key", "priority", "host"}
_ALERT_TYPES = {"error", "warning", "info", "success", "user_update", "recommendation", "snapshot"}
_KIND = {1: "count", 2: "rate", 3: "gauge"}
_WINDOW_BITS = {"deflate": 15, "gzip": 31}

Check = Callable[[dict[str, Any]], Iterator[tuple[str, int, int, float]]]


@dataclass(frozen=True, slots=True)
class AcceptedPoint:
    """One value as it would be stored. ``kind``: count, rate, gauge or distribution; ``at``: epoch seconds."""

    metric: str
    kind: str
    tags: tuple[str, ...]
    at: int
    value: float
    interval: int = 0


class IntakeLog:
    """What came in: counts of points and requests, and the latest accepted points. Any thread may read it."""

    def __init__(self, keep: int = 200_000) -> None:
        self.accepted = 0
        self.dropped = 0  # points out of the time window
        self.requests = 0
        self.refused = 0  # requests
        self.last_refusal = ""
        self.events_taken = 0
        self._points: deque[AcceptedPoint] = deque(maxlen=keep)
        self._events: deque[dict[str, Any]] = deque(maxlen=1000)
        self._lock = Lock()

    @property
    def points(self) -> list[AcceptedPoint]:
        with self._lock:
            return list(self._points)

    def took(self, points: Collection[AcceptedPoint], dropped: int) -> None:
        with self._lock:
            self.requests += 1
            self.accepted += len(points)
            self.dropped += dropped
            self._points.extend(points)

    @property
    def events(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._events)

    def told(self, event: dict[str, Any]) -> None:
        with self._lock:
            self.events_taken += 1
            self._events.append(event)

    def refuse(self, reason: str) -> None:
        with self._lock:
            self.requests += 1
            self.refused += 1
            self.last_refusal = reason


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def intake_app(*, keys: Collection[str] | None = None, now: Callable[[], float] = time.time) -> Starlette:
    """The app; ``app.state.log`` is its ``IntakeLog``. ``keys``: those that are good, None: any but the empty one."""
    log = IntakeLog()

    def authorise(request: Request) -> None:
        key = request.headers.get("dd-api-key", "")
        if not key or (keys is not None and key not in keys):
            raise _Refusal(403, "Forbidden")

    def endpoint(check: Check, encodings: Collection[str], taken: dict[str, Any]) -> Callable[[Request], Any]:
        async def submit(request: Request) -> Response:
            try:
                authorise(request)
                body = await _body(request)
                encoding = request.headers.get("content-encoding", "identity").lower()
                # Megabytes of JSON: in a thread, so that other requests are answered.
                points = await anyio.to_thread.run_sync(_points, body, encoding, encodings, check)
            except _Refusal as refusal:
                log.refuse(str(refusal))
                return JSONResponse({"errors": [str(refusal)]}, refusal.status)
            oldest, newest = now() - OLDEST, now() + NEWEST
            kept = [point for point in points if oldest <= point.at <= newest]
            log.took(kept, len(points) - len(kept))
            return JSONResponse(taken, 202)

        return submit

    async def validate(request: Request) -> Response:
        try:
            authorise(request)
        except _Refusal as refusal:
            return JSONResponse({"errors": [str(refusal)]}, refusal.status)
        return JSONResponse({"valid": True})

    async def event(request: Request) -> Response:
        try:
            authorise(request)
            told = _event(await _body(request))
        except _Refusal as refusal:
            log.refuse(str(refusal))
            return JSONResponse({"errors": [str(refusal)]}, refusal.status)
        log.told(told)
        return JSONResponse({"status": "ok", "event": {"id": log.events_taken, **told}}, 202)

    async def not_found(request: Request, _: Exception) -> Response:
        return JSONResponse({"errors": ["Not found"]}, 404)

    series = endpoint(_series, ("identity", "deflate", "gzip", "zstd1"), {"errors": []})
    distributions = endpoint(_distribution, ("identity", "deflate"), {"status": "ok"})
    app = Starlette(
        routes=[
            Route("/api/v2/series", series, methods=["POST"]),
            Route("/api/v1/distribution_points", distributions, methods=["POST"]),
            Route("/api/v1/events", event, methods=["POST"]),
            Route("/api/v1/validate", validate),
        ],
        exception_handlers={404: not_found},
    )
    app.state.log = log
    return app


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refusal(400, "Content-Type must be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_WIRE:
            raise _Refusal(413, f"Payload too large: more than {MAX_WIRE} bytes")
    return bytes(body)


def _points(body: bytes, encoding: str, encodings: Collection[str], check: Check) -> list[AcceptedPoint]:
    if encoding not in encodings:
        raise _Refusal(400, f"Content-Encoding {encoding} is none of {', '.join(encodings)}")
    text = _plain(body, encoding)
    if len(text) > MAX_BODY:
        raise _Refusal(413, f"Payload too large: more than {MAX_BODY} bytes decompressed")
    try:
        payload = orjson.loads(text)  # takes neither NaN nor Infinity
    except orjson.JSONDecodeError as error:
        raise _Refusal(400, f"Payload is not JSON: {error}") from error
    if not isinstance(payload, dict) or set(payload) != {"series"} or not isinstance(payload["series"], list):
        raise _Refusal(400, "Payload is not an object with one list, series")
    if not payload["series"]:
        raise _Refusal(400, "series is empty")
    points: list[AcceptedPoint] = []
    for place, series in enumerate(payload["series"]):
        try:
            tags = _named(series)
            points += [
                AcceptedPoint(series["metric"], kind, tags, at, value, interval)
                for kind, interval, at, value in check(series)
            ]
        except ValueError as error:
            raise _Refusal(400, f"series[{place}]: {error}") from error
        if len(points) > MAX_POINTS:
            raise _Refusal(413, f"Payload too large: more than {MAX_POINTS} points")
    return points


def _event(body: bytes) -> dict[str, Any]:
    """The event of a v1 request. Raises _Refusal."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _Refusal(400, f"Payload is not JSON: {error}") from error
    if not isinstance(event, dict) or set(event) - _EVENT_KEYS:
        raise _Refusal(400, f"an event is an object of {', '.join(sorted(_EVENT_KEYS))}")
    for key, longest in (("title", 100), ("text", 4000)):
        if not isinstance(event.get(key), str) or not 0 < len(event[key]) <= longest:
            raise _Refusal(400, f"{key} is no text of at most {longest} characters")
    if not isinstance(event.get("aggregation_key", ""), str) or len(event.get("aggregation_key", "")) > 100:
        raise _Refusal(400, "aggregation_key is no text of at most 100 characters")
    if event.get("alert_type", "info") not in _ALERT_TYPES:
        raise _Refusal(400, f"alert_type is none of {', '.join(sorted(_ALERT_TYPES))}")
    if not isinstance(event.get("date_happened", 0), int):
        raise _Refusal(400, "date_happened is no whole number")
    if not all(isinstance(tag, str) and tag for tag in event.get("tags", ())):
        raise _Refusal(400, "tags is no list of texts")
    return event


def _plain(body: bytes, encoding: str) -> bytes:
    """``body`` decompressed, but never by much more than what is allowed."""
    try:
        if encoding == "zstd1":
            size = zstandard.frame_content_size(body)  # -1: the frame does not say
            if size > MAX_BODY:
                raise _Refusal(413, f"Payload too large: {size} bytes decompressed")
            return zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_BODY)
        if encoding == "identity":
            return body
        decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
        text = decompressor.decompress(body, MAX_BODY + 1)
        if len(text) <= MAX_BODY and not decompressor.eof:
            raise _Refusal(400, f"Payload is cut off: {encoding}")
        return text
    except (zstandard.ZstdError, zlib.error) as error:
        raise _Refusal(400, f"Payload is not {encoding}: {error}") from error


def _named(series: Any) -> tuple[str, ...]:
    """The tags of ``series``. Raises ValueError when it is no object, or its name or a tag is bad."""
    if not isinstance(series, dict):
        raise ValueError("is no object")
    metric, tags = series.get("metric"), series.get("tags", [])
    if not isinstance(metric, str) or not _NAME.fullmatch(metric):
        raise ValueError(f"metric {metric!r} is no name")
    if not isinstance(tags, list):
        raise ValueError("tags is no list")
    for tag in tags:
        if not isinstance(tag, str) or not tag[:1].isalpha() or len(tag) > 200 or tag.endswith(":"):
            raise ValueError(f"{metric}: tag {tag!r} is none")
        if any(char < " " or char == "\x7f" for char in tag):
            raise ValueError(f"{metric}: tag {tag!r} has a control character")
    return tuple(tags)


def _series(series: dict[str, Any]) -> Iterator[tuple[str, int, int, float]]:
    """Kind, interval, second and value of each point of a v2 series. Raises ValueError."""
    _require_keys(series, _SERIES_KEYS)
    kind = _KIND.get(_whole(series.get("type"), "type"))
    if kind is None:
        raise ValueError("type is none of 1 (count), 2 (rate), 3 (gauge)")
    interval = _whole(series.get("interval", 0), "interval")
    if interval < 0 or (kind != "gauge" and not interval):
        raise ValueError(f"a {kind} needs an interval of whole seconds")
    for point in _listed(series):
        if not isinstance(point, dict) or set(point) != {"timestamp", "value"}:
            raise ValueError("a point is an object of timestamp and value")
        yield kind, interval, _whole(point["timestamp"], "timestamp"), _number(point["value"])


def _distribution(series: dict[str, Any]) -> Iterator[tuple[str, int, int, float]]:
    """As ``_series``, of a v1 distribution: points are ``[second, [values]]``."""
    _require_keys(series, _DISTRIBUTION_KEYS)
    if series.get("type", "distribution") != "distribution":
        raise ValueError("type is not distribution")
    for point in _listed(series):
        if not isinstance(point, list) or len(point) != 2 or not isinstance(point[1], list) or not point[1]:
            raise ValueError("a point is a list of the second and the list of values")
        at = _whole(point[0], "timestamp")
        for value in point[1]:
            yield "distribution", 0, at, _number(value)


def _require_keys(series: dict[str, Any], known: set[str]) -> None:
    if unknown := set(series) - known:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")


def _listed(series: dict[str, Any]) -> list[Any]:
    points = series.get("points")
    if not isinstance(points, list) or not points:
        raise ValueError("points is no list of points")
    return points


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} {value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"value {value!r} is no finite number")
    return float(value)
