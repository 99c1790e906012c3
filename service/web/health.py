"""Probes, /version and /metrics: the calls that must be answered whatever else goes on."""

import anyio
from starlette.requests import Request
from starlette.responses import Response

from service.web.api import answer
from service.web.calls import Call
from service.web.metrics import Telemetry
from service.web.operations import Operations
from service.web.views import Health, Info

_OPENMETRICS = "application/openmetrics-text"


class HealthRoutes:
    def __init__(self, operations: Operations, telemetry: Telemetry) -> None:
        self._operations = operations
        self._telemetry = telemetry

    def calls(self) -> list[Call]:
        alive = {200: ("The event loop and the scheduler beat", Health), 503: ("They don't", Health)}
        ready = {200: ("Configured, and the store is open", Health), 503: ("Not yet, or not any more", Health)}
        text = {200: ("Prometheus text, or OpenMetrics for who accepts it", ("text/plain", _OPENMETRICS))}
        return [
            Call("GET", "/livez", self.live, "Liveness", alive, query=None, tag="health", is_probe=True),
            Call("GET", "/healthz", self.live, "Liveness", alive, query=None, tag="health", is_probe=True),
            Call("GET", "/readyz", self.ready, "Readiness", ready, query=None, tag="health", is_probe=True),
            Call("GET", "/metrics", self.metrics, "The daemon's metrics", text, query=None, tag="health"),
            Call("GET", "/version", self.version, "What runs", {200: ("It", Info)}, query=None, tag="health"),
        ]

    async def live(self, request: Request) -> Response:
        return _probe(self._operations.live())

    async def ready(self, request: Request) -> Response:
        return _probe(await self._operations.ready())

    async def version(self, request: Request) -> Response:
        return answer(self._operations.info)

    async def metrics(self, request: Request) -> Response:
        snapshot = await self._operations.metrics_snapshot()
        accept = request.headers.get("accept", "")
        # With hundreds of collectors the text takes longer than the loop may stand still.
        text, content_type = await anyio.to_thread.run_sync(self._telemetry.exposition, snapshot, accept)
        return Response(text, headers={"content-type": content_type})


def _probe(health: Health) -> Response:
    return answer(health, 200 if health.ok else 503)
