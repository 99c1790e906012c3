"""The part of the simulated Datadog that keeps dashboards, monitors, metadata and tag configurations."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
from starlette.requests import Request

from service.domain.samples import normalize_tag

Json = dict[str, Any]
_SUMMARY = ("id", "title", "description", "created_at")
_FACTS = {"type": "gauge", "description": None, "unit": None, "per_unit": None, "short_name": None}


class ApiError(Exception):
    """The request is refused."""

    def __init__(self, status: int, *reasons: str) -> None:
        super().__init__(*reasons)
        self.status = status
        self.reasons = reasons


class SimulatedApi:
    """``app_keys``: those that are good, None: any but the empty one. ``fills``: it adds defaults, as Datadog does.

    ``writes``: each as "METHOD /path". ``judge(method, path, body)``: what else is wrong with a request; tests ask the
    official description. ``has_all_metrics``: metadata can be set of metrics without points, too.
    """

    def __init__(self) -> None:
        self.app_keys: Collection[str] | None = None
        self.fills = True
        self.has_all_metrics = False
        self.judge: Callable[[str, str, Any], list[str]] = lambda method, path, body: []
        self.writes: list[str] = []
        self.dashboards: dict[str, Json] = {}
        self.monitors: dict[int, Json] = {}
        self.metadata: dict[str, Json] = {}
        self.tags: dict[str, Json] = {}
        self.shares: dict[str, Json] = {}
        self._numbers = itertools.count(1)

    async def answer(self, request: Request, known: Collection[str]) -> tuple[int, Any]:
        """Status and JSON. ``known``: the metrics that have points. Raises ApiError."""
        key = request.headers.get("dd-application-key", "")
        if not key or (self.app_keys is not None and key not in self.app_keys):
            raise ApiError(403, "Forbidden")
        method, path, text = request.method, request.url.path, await request.body()
        try:
            body = msgspec.json.decode(text) if text else None
        except msgspec.DecodeError as error:
            raise ApiError(400, f"Payload is not JSON: {error}") from error
        if wrong := self.judge(method, path, body):
            raise ApiError(400, *wrong)
        if method != "GET":
            self.writes.append(f"{method} {path}")
        found: Any
        match path.split("/")[3:]:
            case ["dashboard", "public", *token]:
                found = self._share(token[0] if token else None, body)
            case ["dashboard", *rest]:
                found = self._dashboard(method, rest, body, request.query_params)
            case ["monitor", *rest]:
                found = self._monitor(method, rest, body, request.query_params)
            case ["metrics", name, *tags]:
                if not self.has_all_metrics and name not in known:
                    raise ApiError(400 if method == "POST" else 404, f"Metric {name} not found")
                found = self._tag_configuration(method, name, body) if tags else self._metadata(method, name, body)
            case _:
                raise ApiError(404, f"no {method} {path}")
        return 200, copy.deepcopy(found)

    def _share(self, token: str | None, body: Any) -> Json:
        if token:
            return _existing(self.shares, token)
        _existing(self.dashboards, body["dashboard_id"])
        token = f"token-{next(self._numbers)}"
        self.shares[token] = {**body, "token": token, "public_url": f"https://p.datadoghq.com/sb/{token}"}
        return self.shares[token]

    def _dashboard(self, method: str, rest: list[str], body: Any, query: Any) -> Json:
        if not rest and method == "GET":
            start, count = int(query.get("start", 0)), int(query.get("count", 100))
            every = [{key: each[key] for key in _SUMMARY if key in each} for each in self.dashboards.values()]
            return {"dashboards": every[start : start + count]}
        if not rest:
            return self.put_dashboard("", body)
        before = _existing(self.dashboards, rest[0])
        if method == "PUT":
            return self.put_dashboard(rest[0], body, before["created_at"])
        return before if method == "GET" else self.dashboards.pop(rest[0])

    def put_dashboard(self, dashboard_id: str, body: Json, created_at: str = "") -> Json:
        """Keeps a dashboard, under a new id where that is empty."""
        number = next(self._numbers)
        dashboard_id = dashboard_id or f"abc-{number:03}-def"
        made = copy.deepcopy(body)
        for widget in _widgets(made):
            widget["id"] = next(self._numbers)
            if self.fills and widget["definition"].get("type") == "timeseries":
                widget["definition"].setdefault("yaxis", {"scale": "linear", "include_zero": True, "min": "auto"})
        made |= {
            "id": dashboard_id,
            "created_at": created_at or f"2025-01-14T15:{number // 60:02}:{number % 60:02}+00:00",
            "url": f"/dashboard/{dashboard_id}/x",
        }
        self.dashboards[dashboard_id] = {"notify_list": None, **made}
        return self.dashboards[dashboard_id]

    def _monitor(self, method: str, rest: list[str], body: Any, query: Any) -> Any:
        if not rest and method == "GET":
            page, size, tag = int(query["page"]), int(query["page_size"]), query["monitor_tags"]
            return [each for each in self.monitors.values() if tag in each["tags"]][page * size :][:size]
        if not rest:
            return self.put_monitor(next(self._numbers), body)
        before = _existing(self.monitors, int(rest[0]))
        if method == "PUT":
            return self.put_monitor(before["id"], {**before, **body})
        return self.monitors.pop(before["id"])

    def put_monitor(self, number: int, body: Json) -> Json:
        """Keeps a monitor."""
        made = {**copy.deepcopy(body), "id": number, "overall_state": "OK"}
        made["tags"] = sorted(normalize_tag(*tag.split(":", 1)) for tag in made["tags"])
        if self.fills:
            made["options"] = {"notify_audit": False, "silenced": {}, "new_host_delay": 300, **made["options"]}
        self.monitors[number] = made
        return made

    def _metadata(self, method: str, name: str, body: Any) -> Json:
        if method == "PUT":
            self.metadata[name] = {**self.metadata.get(name, {}), **body}
        return {**_FACTS, **self.metadata.get(name, {})}

    def _tag_configuration(self, method: str, name: str, body: Any) -> Json:
        if method == "POST" and name in self.tags:
            raise ApiError(409, "a configuration exists")
        if method != "POST":
            _existing(self.tags, name)
        if method == "DELETE":
            return self.tags.pop(name)
        if body:
            self.tags[name] = {**self.tags.get(name, {}), **body["data"]["attributes"]}
        return {"data": {"type": "manage_tags", "id": name, "attributes": self.tags[name]}}


def _existing(kept: dict[Any, Json], key: Any) -> Json:
    if key not in kept:
        raise ApiError(404, f"{key} not found")
    return kept[key]


def _widgets(holder: Json) -> Iterator[Json]:
    """All widgets, those in groups included."""
    for widget in holder.get("widgets", ()):
        yield widget
        yield from _widgets(widget["definition"])
