"""Datadog's API for dashboards, monitors, metadata and events, stricter than Datadog: what the official description
does not know is refused. Every write is counted. ``fills``: whether it fills in defaults, as Datadog does."""

import copy
import itertools
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.domain.naming import kept
from tests.datadog_openapi import faults, operation

API_KEY, APP_KEY = "a" * 32, "b" * 40
WRITES = ("POST", "PUT", "PATCH", "DELETE")
_READ_ONLY = {"id", "author_handle", "author_name", "created_at", "modified_at", "url"}


class FakeDatadog:
    """``metrics``: the names that Datadog has seen points of, None: all of them. ``failing``: the next answers."""

    def __init__(self, *, fills: bool = False, metrics: set[str] | None = None) -> None:
        self.fills = fills
        self.metrics = metrics
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.monitors: dict[int, dict[str, Any]] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.shares: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.writes: list[str] = []
        self.refusals: list[str] = []
        self.failing: list[tuple[int, dict[str, str], Any]] = []
        self._numbers = itertools.count(1)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", *WRITES])])

    async def _answer(self, request: Request) -> Response:
        method, path = request.method, request.url.path
        if request.headers.get("dd-api-key") != API_KEY:
            return self._refuse(403, "Forbidden")
        if path != "/api/v1/events" and request.headers.get("dd-application-key") != APP_KEY:
            return self._refuse(403, "Forbidden")
        if self.failing:
            status, headers, body = self.failing.pop(0)
            return JSONResponse(body, status, headers)
        known = operation(method, path)
        text = await request.body()
        body = json.loads(text) if text else None
        if known is None:
            return self._refuse(404, f"no {method} {path}")
        if unknown := set(request.query_params) - set(known["query"]):
            return self._refuse(400, f"unknown parameters {unknown}")
        if wrong := faults(method, path, body):
            return self._refuse(400, *wrong)
        if method in WRITES:
            self.writes.append(f"{method} {path}")
        parts = path.strip("/").split("/")[2:]
        result = getattr(self, f"_{parts[0]}")(request, parts[1:], body)
        return result if isinstance(result, Response) else JSONResponse(copy.deepcopy(result))

    def _refuse(self, status: int, *reasons: str) -> Response:
        if status != 404:
            self.refusals.extend(reasons)
        return JSONResponse({"errors": list(reasons)}, status)

    def _dashboard(self, request: Request, parts: list[str], body: Any) -> Any:
        if parts == ["public"] and request.method == "POST":
            if body["dashboard_id"] not in self.dashboards:
                return self._refuse(404, "Dashboard not found")
            token = f"token-{next(self._numbers)}"
            self.shares.append({**body, "token": token, "public_url": f"https://p.datadoghq.com/sb/{token}"})
            return self.shares[-1]
        if parts[0:1] == ["public"]:
            share = next((each for each in self.shares if each["token"] == parts[1]), None)
            return share or self._refuse(404, "no such share")
        if not parts:
            if request.method == "GET":
                start, count = (int(request.query_params.get(name, 0)) for name in ("start", "count"))
                named = ("id", "title", "description", "created_at", "layout_type", "url")
                every = [{key: each[key] for key in named if key in each} for each in self.dashboards.values()]
                return {"dashboards": every[start : start + (count or 100)]}
            number = next(self._numbers)
            return self._keep(f"abc-{number:03}-def", body, f"2025-01-14T15:00:{number % 60:02}.000000+00:00")
        if parts[0] not in self.dashboards:
            return self._refuse(404, "Dashboard not found")
        if request.method == "PUT":
            return self._keep(parts[0], body, self.dashboards[parts[0]]["created_at"])
        if request.method == "DELETE":
            del self.dashboards[parts[0]]
            return {"deleted_dashboard_id": parts[0]}
        return self.dashboards[parts[0]]

    def _keep(self, dashboard_id: str, body: Any, created: str) -> dict[str, Any]:
        made = {key: value for key, value in copy.deepcopy(body).items() if key not in _READ_ONLY}
        for widget in _widgets(made):
            widget["id"] = next(self._numbers)
            if self.fills and widget["definition"]["type"] == "timeseries":
                widget["definition"].setdefault("yaxis", {"scale": "linear", "include_zero": True, "min": "auto"})
        made |= {"id": dashboard_id, "created_at": created, "author_handle": "who@example.com"}
        made.setdefault("notify_list", None)
        made |= {"modified_at": "2025-01-14T16:00:00+00:00", "url": f"/dashboard/{dashboard_id}/x"}
        self.dashboards[dashboard_id] = made
        return made

    def _monitor(self, request: Request, parts: list[str], body: Any) -> Any:
        if not parts:
            if request.method == "GET":
                tag = request.query_params.get("monitor_tags")
                page, size = (int(request.query_params.get(name, 0)) for name in ("page", "page_size"))
                found = [each for each in self.monitors.values() if not tag or tag in each["tags"]]
                return found[page * (size or 1000) :][: size or 1000]
            return self._keep_monitor(next(self._numbers), body)
        number = int(parts[0])
        if number not in self.monitors:
            return self._refuse(404, "Monitor not found")
        if request.method == "PUT":
            return self._keep_monitor(number, {**self.monitors[number], **body})
        if request.method == "DELETE":
            del self.monitors[number]
            return {"deleted_monitor_id": number}
        return self.monitors[number]

    def _keep_monitor(self, number: int, body: Any) -> dict[str, Any] | Response:
        if " by {" not in body["query"] and body["options"].get("new_group_delay") is not None:
            return self._refuse(400, "The new_group_delay option can only be used for multi-alert monitors")
        if any(len(tag) > 200 for tag in body["tags"]):
            return self._refuse(400, "a tag is too long")
        made: dict[str, Any] = copy.deepcopy(body) | {
            "id": number,
            "multi": " by {" in body["query"],
            "overall_state": "OK",
        }
        made["tags"] = sorted(kept(*tag.split(":", 1)) for tag in made["tags"])
        if self.fills:
            made["options"] = {"notify_audit": False, "silenced": {}, "new_host_delay": 300, **made["options"]}
        self.monitors[number] = made
        return made

    def _metrics(self, request: Request, parts: list[str], body: Any) -> Any:
        name = parts[0]
        if self.metrics is not None and name not in self.metrics:
            if request.method == "POST":
                return self._refuse(400, "Metric is not a distribution")
            return self._refuse(404, "Metric not found")
        if parts[1:] == ["tags"]:
            return self._tag_configuration(request, name, body)
        if request.method == "PUT":
            self.metadata[name] = {**self.metadata.get(name, {}), **body}
        known = {"type": "gauge", "description": None, "unit": None, "per_unit": None, "short_name": None}
        return known | self.metadata.get(name, {})

    def _tag_configuration(self, request: Request, name: str, body: Any) -> Any:
        if request.method == "POST" and name in self.tags:
            return self._refuse(409, "a configuration exists")
        if request.method != "POST" and name not in self.tags:
            return self._refuse(404, "no configuration")
        if request.method == "DELETE":
            del self.tags[name]
            return Response(status_code=204)
        if body:
            self.tags[name] = {**self.tags.get(name, {}), **body["data"]["attributes"]}
        answer = {"data": {"type": "manage_tags", "id": name, "attributes": self.tags[name]}}
        return JSONResponse(answer, 201 if request.method == "POST" else 200)

    def _events(self, request: Request, parts: list[str], body: Any) -> Any:
        self.events.append(body)
        return JSONResponse({"status": "ok", "event": {"id": next(self._numbers), **body}}, 202)


def _widgets(holder: dict[str, Any]) -> list[dict[str, Any]]:
    """All widgets, those in groups included."""
    found = []
    for widget in holder.get("widgets", ()):
        found += [widget, *_widgets(widget["definition"])]
    return found
