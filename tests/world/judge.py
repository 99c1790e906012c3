"""Judges requests by GitHub's own descriptions of its REST and GraphQL interfaces."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from graphql import GraphQLResolveInfo, GraphQLSchema, build_schema, execute_sync, parse, validate

from service.demo.github import Asked

PAYLOADS = Path(__file__).parent.parent / "payloads" / "github"


@cache
def paths() -> dict[str, Any]:
    """GitHub's OpenAPI description, by path."""
    return dict(json.loads((PAYLOADS / "openapi.json").read_text())["paths"])


@cache
def schema() -> GraphQLSchema:
    return build_schema((PAYLOADS / "schema.graphql").read_text())


def complaints(asked: Asked) -> list[str]:
    """What GitHub's descriptions have against a request."""
    if asked.document:
        return [error.message for error in validate(schema(), parse(asked.document))]
    target = urlsplit(asked.target)
    found = description(asked)
    if found is None:
        return [f"{asked.line} is not described"]
    path, operation = found
    names = re.findall(r"\{(\w+)\}", path)
    values = re.fullmatch(_pattern(path), target.path)
    given = {("path", name): value for name, value in zip(names, values.groups() if values else (), strict=True)}
    given |= {("query", name): value for name, value in parse_qsl(target.query)}
    described = {(each["in"], each["name"]): each for each in operation["parameters"]}
    problems = [f"{key} is not described" for key in given.keys() - described.keys()]
    problems += [f"{key} is missing" for key, each in described.items() if each.get("required") and key not in given]
    return problems + [
        f"{key}={value} is none of {described[key]['schema']}"
        for key, value in given.items()
        if key in described and not _fits(value, described[key]["schema"])
    ]


def description(asked: Asked) -> tuple[str, dict[str, Any]] | None:
    """The path and the operation of GitHub's description that a request is about."""
    for path, operations in paths().items():
        if re.fullmatch(_pattern(path), urlsplit(asked.target).path) and asked.method.lower() in operations:
            return path, operations[asked.method.lower()]
    return None


def select(document: str, data: Any) -> Any:
    """Of ``data`` what a GraphQL document selects: the simulated server gives whole objects, those of the repository
    under their aliases."""

    def resolve(source: dict[str, Any], info: GraphQLResolveInfo[None], **_: Any) -> Any:
        return source[info.path.key if info.path.key in source else info.field_name]

    return execute_sync(schema(), parse(document), data, field_resolver=resolve).data


def _pattern(path: str) -> str:
    # A branch's name may have slashes.
    return re.sub(r"\\\{(\w+)\\\}", lambda match: "(.+)" if match[1] == "branch" else "([^/]+)", re.escape(path))


def _fits(value: str, described: dict[str, Any]) -> bool:
    if "oneOf" in described:
        return any(_fits(value, each) for each in described["oneOf"])
    if "enum" in described and value not in described["enum"]:
        return False
    kind = described.get("type")
    if kind == "integer":
        return value.isdigit()
    return value in ("true", "false") if kind == "boolean" else True
