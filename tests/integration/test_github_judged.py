"""Every request that github_ci makes, judged by GitHub's own descriptions of its REST and GraphQL interfaces."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from graphql import build_schema, parse, validate

from tests.github_world import random_world
from tests.integration.github_server import Asked, Reply
from tests.integration.test_github_ci import staged

PAYLOADS = Path(__file__).parent.parent / "payloads" / "github"
OPENAPI = json.loads((PAYLOADS / "openapi.json").read_text())
SCHEMA = build_schema((PAYLOADS / "schema.graphql").read_text())


def complaints(asked: Asked) -> list[str]:
    """What GitHub's OpenAPI description has against a request."""
    target = urlsplit(asked.target)
    for path, operations in OPENAPI["paths"].items():
        names = re.findall(r"\{(\w+)\}", path)
        pattern = re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path))
        match = re.fullmatch(pattern, target.path)
        operation = operations.get(asked.method.lower())
        if not match or not operation:
            continue
        given = {("path", name): value for name, value in zip(names, match.groups(), strict=True)}
        given |= {("query", name): value for name, value in parse_qsl(target.query)}
        described = {(each["in"], each["name"]): each for each in operation["parameters"]}
        found = [f"{place} {name} is not described" for place, name in given.keys() - described.keys()]
        found += [f"{key} is missing" for key, each in described.items() if each.get("required") and key not in given]
        return found + [
            f"{key}={value} is none of {described[key]['schema']}"
            for key, value in given.items()
            if key in described and not fits(value, described[key]["schema"])
        ]
    return [f"{asked.line} is not described"]


def fits(value: str, schema: dict[str, Any]) -> bool:
    if "oneOf" in schema:
        return any(fits(value, each) for each in schema["oneOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kind = schema.get("type")
    if kind == "integer":
        return value.isdigit()
    return value in ("true", "false") if kind == "boolean" else True


async def test_github_describes_every_request_that_is_made() -> None:
    world = random_world(4, workflows=9, runs_a_day=60)
    async with staged(world, tests_blocking_merge=["1"], bug_sub_labels=["crash"]) as stage:
        for _ in range(3):
            await stage.collect()
            stage.pass_time()
        stage.server.fail("graphql", Reply.of({"message": "Not Found"}, 404))
        for _ in range(3):  # not for the first failures is the search asked
            await stage.collect()
            stage.pass_time()
        rest = [asked for asked in stage.server.asked if "graphql" not in asked.target]
        found = {asked.line: complaints(asked) for asked in rest}
        assert {line: each for line, each in found.items() if each} == {}
        kinds = {re.sub(r"\d+", "N", urlsplit(asked.target).path) for asked in rest}
        assert len(kinds) == len(OPENAPI["paths"]) - 1  # a run without a filter, and no App
        assert stage.server.documents
        for document in stage.server.documents:
            assert validate(SCHEMA, parse(document)) == []
