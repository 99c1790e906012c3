"""Every request that github_ci makes, judged by GitHub's own descriptions of its REST and GraphQL interfaces."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from graphql import build_schema, parse, validate

from service.demo.github import Asked
from tests.integration.github_ci.stage import HOUR, staged
from tests.world import faults, generate

PAYLOADS = Path(__file__).parents[2] / "payloads" / "github"
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
    world = generate(4, workflows=9, runs_a_day=60, ahead=2 * HOUR)
    asked: list[Asked] = []
    async with staged(world, tests_blocking_merge=["1"], bug_sub_labels=["crash"]) as stage:
        for outage in (None, "actions/workflows", "graphql", "graphql", "graphql", "graphql"):
            stage.github.faults.clear()
            if outage:
                stage.github.fail(outage, faults.not_found)
            await stage.collect()
            asked += stage.github.app.asked
            stage.pass_time()
    rest = [each for each in asked if "graphql" not in each.target]
    found = {each.line: complaints(each) for each in rest}
    assert {line: each for line, each in found.items() if each} == {}
    documents = {each.document for each in asked if each.document}
    assert documents
    for document in documents:
        assert validate(SCHEMA, parse(document)) == []
