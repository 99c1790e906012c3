"""Probes, /version and /metrics: the calls that must be answered whatever else goes on."""

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.web.api import answer
from service.web.metrics import Telemetry
from service.web.operations import Operations
from service.web.views import Health


class HealthRoutes:
    def __init__(self, operations: Operations, telemetry: Telemetry) -> None:
        self._operations = operations
        self._telemetry = telemetry

    def routes(self) -> list[Route]:
        return [
            Route("/livez", self.live),
            Route("/healthz", self.live, name="healthz"),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/version", self.version),
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
