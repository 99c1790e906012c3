"""The application put together: guard, API, pages, documentation."""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.web import assets, pages, routes, webhooks
from service.web.assets import Compress
from service.web.auth import WEBHOOK, Guard
from service.web.context import AppContext
from service.web.problems import Catch, handle_problems
from service.web.schemas import API, ProblemView, Reason

_SECURITY_SCHEMES = {
    "write": {"type": "http", "scheme": "bearer", "description": "INFRA_HEALTH_TOKEN"},
    "read": {
        "type": "http",
        "scheme": "bearer",
        "description": "INFRA_HEALTH_READ_TOKEN where it is set, else reads are open. "
        "Also as the password of HTTP Basic, for browsers.",
    },
}


def create_app(context: AppContext) -> FastAPI:
    """Everything that is served."""
    app = FastAPI(
        title=context.info.name,
        version=context.info.version,
        description="Collectors, their runs and checks. Times are UTC, durations seconds. Errors are RFC 9457.",
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the Host header; an address with a slash too many is simply not there.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.context = context
    app.state.routes = []
    receiver = webhooks.create_router(context.webhook_secret, context.deliveries)
    for router in (routes.health, routes.guarded, routes.api, receiver, pages.router, assets.router):
        app.include_router(router)
        app.state.routes += router.routes
    handle_problems(app)
    app.add_middleware(Compress, threads=context.threads)
    app.add_middleware(Catch)
    app.add_middleware(
        Guard,
        token=context.token,
        read_token=context.read_token,
        in_cluster=context.in_cluster,
        allowed_hosts=lambda: context.settings.http.allowed_hosts,
    )
    make_document = app.openapi
    app.openapi = lambda: app.openapi_schema or _complete(make_document())  # type: ignore[method-assign]  # as FastAPI documents
    return app


def _operation_id(route: APIRoute) -> str:
    words = [word for word in re.split(r"\W+", route.path.removeprefix(API)) if word]
    return "_".join([min(route.methods or ()).lower(), *words])


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """What routes refer to by name, summaries, and which token opens what."""
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    for model in (Reason, ProblemView):
        document["components"]["schemas"][model.__name__] = model.model_json_schema()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            operation["summary"] = operation.pop("description", operation["summary"])
            if path not in ("/livez", "/healthz", "/readyz", WEBHOOK):
                operation["security"] = [{"write": []}, {}] if method == "post" else [{"read": []}, {"write": []}, {}]
    return document
