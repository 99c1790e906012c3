"""A local stand-in for Datadog: what its intake takes, and the dashboards, monitors and metadata that it keeps."""

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from service.demo.intake import Json, Received, Reply, RequestRefused, SimulatedIntake, check_key, decode
from service.domain.samples import normalize_tag

_SUMMARY = ("id", "title", "description", "created_at")
_METADATA = {"type": "gauge", "description": None, "unit": None, "per_unit": None, "short_name": None}


class SimulatedDatadog(SimulatedIntake):
    """``app_keys``: as ``api_keys``. ``has_all_metrics``: metadata can be set of those without points, too. ``fills``:
    defaults are added to dashboards and monitors, as Datadog does.
    """

    def __init__(self, *, api_keys: Collection[str] | None = None, **options: Any) -> None:
        super().__init__(api_keys=api_keys, **options)
        self.app_keys: Collection[str] | None = None
        self.fills = True
        self.has_all_metrics = False
        self.dashboards: dict[str, Json] = {}
        self.monitors: dict[int, Json] = {}
        self.metadata: dict[str, Json] = {}
        self.tags: dict[str, Json] = {}
        self.shares: dict[str, Json] = {}
        self._numbers = itertools.count(1)

    def answer_api(self, received: Received) -> Reply:
        check_key(received.headers.get("dd-application-key"), self.app_keys)
        body: Any = decode(received.body, object) if received.body else None
        try:
            return Reply(200, self._answer(received.method, received.path, received.query, body))
        except KeyError as error:
            raise RequestRefused(404, f"{error} not found") from error

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        """What is kept, or was; a KeyError says that it is not there."""
        match method, *path.split("/")[3:]:
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
            case _, "metrics", name, *_ if not self.has_all_metrics and name not in {
                point.metric for point in self.points
            }:
                raise RequestRefused(400 if method == "POST" else 404, f"Metric {name} not found")
            case "GET", "metrics", name:
                return _METADATA | self.metadata.get(name, {})
            case "PUT", "metrics", name:
                self.metadata[name] = self.metadata.get(name, {}) | body
                return _METADATA | self.metadata[name]
            case "DELETE", "metrics", name, "tags":
                return self.tags.pop(name)
            case "POST", "metrics", name, "tags" if name in self.tags:
                raise RequestRefused(409, "a configuration exists")
            case _, "metrics", name, "tags":
                if method != "GET":
                    known = {} if method == "POST" else self.tags[name]
                    self.tags[name] = known | body["data"]["attributes"]
                return {"data": {"type": "manage_tags", "id": name, "attributes": self.tags[name]}}
        raise RequestRefused(404, f"no {method} {path}")

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


def _widgets(holder: Json) -> Iterator[Json]:
    """All widgets, those in groups included."""
    for widget in holder.get("widgets", ()):
        yield widget
        yield from _widgets(widget["definition"])
