"""The JSON Schema of a snapshot, for who writes one. What it can't say (times, ages, halves of
surrogate pairs, depth) the check says."""

import re
from sys import float_info
from typing import Any

from service.collectors.snapshot_records import KEPT_NAMES, LONGEST_NAMESPACE, OPTIONAL, REQUIRED_TEXTS
from service.domain.naming import LONGEST
from service.domain.samples import REQUIRED_TAGS, Kind, Status

VERSION = 1

_KEPT = re.escape(KEPT_NAMES)
# (?!\n): in some dialects $ matches before a line feed at the end, too.
_METRIC = (
    rf"^(?:{_KEPT}[A-Za-z0-9_.]{{0,{LONGEST - len(KEPT_NAMES)}}}"
    rf"|(?!{_KEPT})[A-Za-z0-9_.]{{1,{LONGEST - len(LONGEST_NAMESPACE) - 1}}})(?!\n)$"
)

_TEXTS = {
    "metric": "The metric's name; the collector's namespace comes before it, but where it begins with metta.",
    "workflow_name": "The workflow that was measured.",
    "task": "What the workflow was to do.",
    "check": "What was looked at. Category, workflow_name, task and check together name one check.",
    "condition": "When the check passes, such as '> 0.5'; any other text says nothing that a machine can judge.",
}


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12. A new version comes only when a valid snapshot would become invalid."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:infra-health:schema:snapshot:{VERSION}",
        "title": f"infra-health snapshot, version {VERSION}",
        "description": (
            "Records of training or evaluation health: a JSON list, an object with a list `records`, or JSON lines (one"
            " record a line; this schema's $defs/record); plain or gzip."
        ),
        "oneOf": [
            {"$ref": "#/$defs/records"},
            {"type": "object", "required": ["records"], "properties": {"records": {"$ref": "#/$defs/records"}}},
        ],
        "$defs": {
            "records": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/record"}},
            "record": _record(),
        },
    }


def _record() -> dict[str, Any]:
    texts: dict[str, dict[str, Any]] = {
        name: {"type": "string", "pattern": r"\S", "description": _TEXTS[name]} for name in REQUIRED_TEXTS
    }
    texts["metric"] = {
        "type": "string",
        "pattern": _METRIC,
        "description": _TEXTS["metric"],
    }
    optional = {
        "status": {
            "enum": [*(status.value for status in Status), None],
            "description": "Without one it follows from the value where the condition compares with a number.",
        },
        "metric_kind": {
            "enum": [*(kind.value for kind in Kind), None],
            "description": "gauge where it is absent. Counts and distributions are sent once.",
        },
        "timestamp": {
            "type": ["string", "null"],
            "description": (
                "When it was measured, ISO 8601, without a zone in UTC; the time of publication where it is absent."
                " At most 10 minutes ahead."
            ),
            "examples": ["2025-01-14T15:00:00Z"],
        },
        "tags": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "string"},
            "description": f"Further tags. The daemon sets these itself: {', '.join(REQUIRED_TAGS)}.",
        },
    }
    return {
        "type": "object",
        "required": [*REQUIRED_TEXTS, "value"],
        "properties": {
            **texts,
            "value": {
                "type": "number",
                "minimum": -float_info.max,
                "maximum": float_info.max,
                "description": "What was measured: a finite number.",
            },
            **{name: optional[name] for name in OPTIONAL},
        },
        "additionalProperties": True,
    }
