"""Judges requests by GitHub's own descriptions of its REST and GraphQL interfaces."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from graphql import GraphQLResolveInfo, GraphQLSchema, build_schema, execute_sync, parse, validate
from jsonschema import Draft202012Validator

from service.demo.github import Asked

PAYLOADS = Path(__file__).parent.parent / "payloads" / "github"


@cache
def _openapi() -> dict[re.Pattern[str], dict[str, Any]]:
    """The operations by pattern of their path; a branch's name may have slashes."""
    paths = json.loads((PAYLOADS / "openapi.json").read_text())["paths"]
    named = {re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path): operations for path, operations in paths.items()}
    return {re.compile(path.replace("<branch>[^/]+", "<branch>.+")): each for path, each in named.items()}


@cache
def _schema() -> GraphQLSchema:
    return build_schema((PAYLOADS / "schema.graphql").read_text())


def complaints(asked: Asked) -> list[str]:
    """What GitHub's descriptions have against a request."""
    if asked.document:
        return [error.message for error in validate(_schema(), parse(asked.document))]
    target, method = urlsplit(asked.target), asked.method.lower()
    for path, operations in _openapi().items():
        if (found := path.fullmatch(target.path)) and method in operations:
            described = {each["name"]: each for each in operations[method]["parameters"]}
            given = found.groupdict() | dict(parse_qsl(target.query))
            required = {name for name, each in described.items() if each.get("required")}
            wrong = {name for name in given.keys() & described if not _fits(given[name], described[name]["schema"])}
            wrong |= (given.keys() - described) | (required - given.keys())
            return [f"{asked.line}: {name} is wrong, missing or not described" for name in wrong]
    return [f"{asked.line} is not described"]


def _fits(value: str, schema: dict[str, Any]) -> bool:
    return any(Draft202012Validator(schema).is_valid(each) for each in (value, yaml.safe_load(value)))


def select(document: str, data: Any) -> Any:
    """Of ``data`` what a GraphQL document selects: the simulated server gives whole objects, those of the repository
    under their aliases."""

    def resolve(source: dict[str, Any], info: GraphQLResolveInfo[None], **_: Any) -> Any:
        return source[info.path.key if info.path.key in source else info.field_name]

    return execute_sync(_schema(), parse(document), data, field_resolver=resolve).data
