"""Makes openapi.json: python reduce.py DIRECTORY-OF-THE-UNPACKED-SDIST.

Datadog's OpenAPI description is 10 MB of YAML; this keeps, as JSON schemas, what infra-health calls and what that
refers to, without descriptions and examples.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

OPERATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "v1": {
        "/api/v1/dashboard": ("get", "post"),
        "/api/v1/dashboard/public": ("post",),
        "/api/v1/dashboard/public/{token}": ("get",),
        "/api/v1/dashboard/{dashboard_id}": ("get", "put", "delete"),
        "/api/v1/monitor": ("get", "post"),
        "/api/v1/monitor/{monitor_id}": ("get", "put", "delete"),
        "/api/v1/metrics/{metric_name}": ("get", "put"),
        "/api/v1/events": ("post",),
    },
    "v2": {
        "/api/v2/metrics/{metric_name}/tags": ("get", "post", "patch", "delete"),
    },
}
DROPPED = {"description", "example", "examples", "deprecated", "externalDocs", "default", "title", "format"}
DROPPED |= {"readOnly", "writeOnly", "nullable", "discriminator"}


def schema(node: Any, seen: set[str]) -> Any:
    """An OpenAPI 3.0 schema as a JSON schema; ``seen`` gets the names that it refers to."""
    if isinstance(node, list):
        return [schema(part, seen) for part in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].rsplit("/", 1)[1]
        seen.add(name)
        found: Any = {"$ref": f"#/$defs/{name}"}
        return {"anyOf": [found, {"type": "null"}]} if node.get("nullable") else found
    found = {}
    for key, part in node.items():
        if key == "properties":
            found[key] = {name: schema(each, seen) for name, each in part.items()}
        elif key not in DROPPED and not key.startswith("x-"):
            found[key] = schema(part, seen)
    if node.get("nullable"):
        if isinstance(found.get("type"), str):
            found["type"] = [found["type"], "null"]
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    return found


def body_schema(holder: dict[str, Any], seen: set[str]) -> Any:
    content = holder.get("content", {}).get("application/json", {}).get("schema")
    return schema(content, seen) if content else None


def reduced(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"source": folder.name, "operations": []}
    for version, paths in OPERATIONS.items():
        text = (folder / ".generator" / "schemas" / version / "openapi.yaml").read_text()
        whole = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        todo: set[str] = set()
        for path, methods in paths.items():
            for method in methods:
                operation = whole["paths"][path][method]
                parameters = [
                    whole["components"]["parameters"][each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each
                    for each in operation.get("parameters", ())
                ]
                answers = {
                    code: body_schema(answer, todo)
                    for code, answer in operation["responses"].items()
                    if code.startswith("2")
                }
                result["operations"].append(
                    {
                        "version": version,
                        "method": method.upper(),
                        "path": path,
                        "query": sorted(each["name"] for each in parameters if each["in"] == "query"),
                        "body": body_schema(operation.get("requestBody", {}), todo),
                        "answers": answers,
                    }
                )
        definitions: dict[str, Any] = {}
        while todo:
            name = todo.pop()
            if name not in definitions:
                more: set[str] = set()
                definitions[name] = schema(whole["components"]["schemas"][name], more)
                todo |= more
        result[version] = dict(sorted(definitions.items()))
    return result


if __name__ == "__main__":
    target = Path(__file__).with_name("openapi.json")
    target.write_text(json.dumps(reduced(Path(sys.argv[1])), separators=(",", ":"), sort_keys=True) + "\n")
