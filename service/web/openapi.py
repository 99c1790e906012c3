"""``GET /openapi.json``: the table of the calls and the models that they answer with, as OpenAPI 3.1.

https://spec.openapis.org/oas/v3.1.1.html; its schemas are JSON Schema 2020-12, which is what pydantic writes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from service.web.calls import Call
from service.web.problems import MEDIA_TYPE
from service.web.views import View

_REF = "#/components/schemas/{model}"
# What can meet any call before its own code: Content-Length, size of the body, of the head; a fault of ours.
_ANYWHERE = (400, 413, 431, 500)
# And any but the probes: the read token, the host name, too many requests at once.
_GUARDED = (401, 421, 503)


class ProblemView(BaseModel):
    """RFC 9457. Some kinds say more: ``errors`` (invalid), ``known`` (unknown-collector), ``run`` (already-running)."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class OpenApi:
    """The document, made once."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._document = b""

    def call(self) -> Call:
        answer: tuple[str, dict[str, Any]] = ("This document", {"type": "object"})
        return Call("GET", "/openapi.json", self.answer, "This document", {200: answer}, query=None, tag="health")

    def describe(self, calls: Sequence[Call]) -> None:
        """Takes over ``calls`` as what is served."""
        self._document = orjson.dumps(document(calls, self._version))

    async def answer(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")


def document(calls: Sequence[Call], version: str) -> dict[str, Any]:
    models: list[type[BaseModel]] = sorted(_models(calls), key=lambda model: model.__name__)
    answers = [(model, "serialization") for model in models if issubclass(model, View | ProblemView)]
    _, schemas = models_json_schema(
        [*answers, *((model, "validation") for model in models if not issubclass(model, View | ProblemView))],  # type: ignore[list-item]  # a literal's type is lost in the tuple
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "infra-health",
            "version": version,
            "description": "Collectors, their runs and checks. Times are UTC, durations seconds. Errors are RFC 9457.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "write": {"type": "http", "scheme": "bearer", "description": "INFRA_HEALTH_TOKEN"},
                "read": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "INFRA_HEALTH_READ_TOKEN where it is set, else reads are open. "
                    "Also as the password of HTTP Basic, for browsers.",
                },
            },
        },
    }


def _models(calls: Sequence[Call]) -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = {ProblemView}
    for call in calls:
        found |= {content for _, content in call.answers.values() if isinstance(content, type)}
        if call.body:
            found.add(call.body)
    return found


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(call),
        "summary": call.summary,
        "tags": [call.tag],
        "parameters": list(_parameters(call)),
        "responses": dict(sorted(_responses(call))),
    }
    if not call.is_probe:
        operation["security"] = [{"write": []}, {}] if call.is_write else [{"read": []}, {"write": []}, {}]
    if call.body:
        schema = {"$ref": _REF.format(model=call.body.__name__)}
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    if call.upload:
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": {}} for kind in call.upload}}
    return operation


def _operation_id(call: Call) -> str:
    words = [word for word in re.split(r"\W+", call.path.removeprefix("/api/v1")) if word]
    return "_".join([call.method.lower(), *words])


def _parameters(call: Call) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", call.path):
        text = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": text, "description": call.names.get(name, "")}
    if call.query:
        schema = call.query.model_json_schema(mode="validation")
        for name, property_ in schema.get("properties", {}).items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": property_}
    if call.is_write:
        description = "who asks; kept with the act"
        # A control character, a tab included, is refused. UTF-8 beyond ASCII is taken, which no schema can say.
        actor = {"type": "string", "maxLength": 200, "pattern": "^([!-~]([ -~]*[!-~])?)?$"}
        yield {"name": "X-Actor", "in": "header", "required": False, "schema": actor, "description": description}


def _responses(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    taken = set()
    for status, (description, content) in call.answers.items():
        taken.add(status)
        yield str(status), _response(description, _content(content), _headers(call, status))
    problems = {*_ANYWHERE, *call.problems, *(() if call.is_probe else _GUARDED)}
    problems |= {403} if call.is_write else set()
    problems |= {422} if call.query or call.body else set()
    for status in sorted(problems - taken):
        problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=ProblemView.__name__)}}}
        yield str(status), _response(HTTPStatus(status).phrase, problem, _headers(call, status))


def _response(description: str, content: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


def _content(content: Any) -> dict[str, Any]:
    if isinstance(content, type):
        return {"application/json": {"schema": {"$ref": _REF.format(model=content.__name__)}}}
    if isinstance(content, dict):
        return {"application/json": {"schema": content}}
    return {media_type: {"schema": {"type": "string"}} for media_type in content}


def _headers(call: Call, status: int) -> dict[str, Any]:
    text = {"schema": {"type": "string"}}
    headers: dict[str, Any] = {}
    if status in call.locates:
        headers["Location"] = {**text, "description": "the run's address"}
    if status == 401:
        headers["WWW-Authenticate"] = text
    if status == 429:
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "seconds"}
    return headers
