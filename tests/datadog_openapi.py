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


@cache  # tests send the same bodies over and over
def _faults(version: str, schema: str, body: str) -> tuple[str, ...]:
    validator = Draft202012Validator({**json.loads(schema), "$defs": _description()[version]})
    return tuple(f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(json.loads(body)))


@cache
def _description() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(), object_hook=_close)
    definitions = found["v1"]
    widget: Any = False
    # Of forty widgets the one of the type: the same as trying all of them, and ten times as quick.
    for each in definitions["WidgetDefinition"]["oneOf"]:
        if known := definitions[each["$ref"].rsplit("/", 1)[1]].get("properties"):
            widget = {"if": {"properties": {"type": known["type"]}}, "then": each, "else": widget}
    definitions["WidgetDefinition"] = widget
    return found


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    """Datadog's schemas let unknown keys pass; ours must have none."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema
