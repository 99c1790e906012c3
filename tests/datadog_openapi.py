"""Datadog's official OpenAPI description as a judge of requests."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).parent / "payloads" / "datadog" / "openapi.json"


def faults(method: str, path: str, body: Any) -> list[str]:
    """What is wrong with the body of this request; unknown keys are wrong, too."""
    # A fixed path goes before one with a parameter.
    for each in sorted(_description()["operations"], key=lambda one: "{" in one["path"]):
        if each["method"] == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each["path"]), path):
            if each["body"] is None:
                return [] if body is None else ["takes no body"]
            return list(_faults(each["version"], json.dumps(each["body"]), json.dumps(body)))
    return [f"there is no {method} {path}"]


# Tests send the same bodies over and over, and forty kinds of widgets make a second of work out of a board.
@cache
def _faults(version: str, schema: str, body: str) -> tuple[str, ...]:
    errors = _validator(version, schema).iter_errors(json.loads(body))
    return tuple(f"{error.json_path}: {error.message[:300]}" for error in errors)


@cache
def _validator(version: str, schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "$defs": _description()[version]})


@cache
def _description() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(), object_hook=_close)
    found["v1"]["WidgetDefinition"] = _by_type(found["v1"])
    return found


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    """Datadog's schemas let unknown keys pass; ours must have none."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def _by_type(definitions: dict[str, Any]) -> dict[str, Any]:
    """One of forty widgets, chosen by its type: the same as trying all of them, and much quicker."""

    def types(reference: dict[str, str]) -> list[str]:
        found = definitions[reference["$ref"].rsplit("/", 1)[1]]
        if "oneOf" in found:
            return sorted({name for each in found["oneOf"] for name in types(each)})
        kind = definitions[found["properties"]["type"]["$ref"].rsplit("/", 1)[1]]
        return list(kind["enum"])

    choices = {name: each for each in definitions["WidgetDefinition"]["oneOf"] for name in types(each)}
    chosen = [{"if": {"properties": {"type": {"const": name}}}, "then": each} for name, each in choices.items()]
    return {"type": "object", "required": ["type"], "properties": {"type": {"enum": list(choices)}}, "allOf": chosen}
