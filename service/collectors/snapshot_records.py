"""Snapshot records: the fields that each one must and may have, and what is wrong with one that does not."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from sys import intern
from typing import Any, NoReturn, TypeVar

from service.collectors.snapshot_json import TooDeep
from service.domain.samples import REQUIRED_TAGS, Kind, Status

REQUIRED_TEXTS = ("metric", "workflow_name", "task", "check", "condition")

Choice = TypeVar("Choice", Kind, Status)

# https://docs.datadoghq.com/metrics/custom_metrics/#naming-custom-metrics
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BROKEN = "holds half a surrogate pair, or bytes that are not UTF-8"
_KEPT_NAMES = "metta."
_TYPES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class BadRecord(ValueError):
    """Why a record is left out."""


@dataclass(frozen=True, slots=True)
class Record:
    """One valid record. ``metric``: the full name. ``at``: when it was measured, aware; None: it does not say.

    ``tags``: its own ones; ``refused``: those that it must not set.
    """

    metric: str
    workflow_name: str
    task: str
    check: str
    condition: str
    value: float
    status: Status
    kind: Kind
    at: datetime | None
    tags: Mapping[str, str]
    refused: tuple[str, ...] = ()


def parse(data: Any, namespace: str) -> Record:
    """The record that a JSON value describes; ``namespace`` comes before its metric. Raises BadRecord.

    Unknown fields are ignored; an optional one that is null counts as absent.
    """
    if data is TooDeep:
        raise BadRecord("it is nested too deeply")
    if not isinstance(data, dict):
        raise BadRecord(f"it is {_type(data)}, not an object")
    metric, workflow_name, task, check, condition = (_text(data, field) for field in REQUIRED_TEXTS)
    tags, refused = _tags(data.get("tags"))
    return Record(
        metric=_metric(metric, namespace),
        workflow_name=workflow_name,
        task=task,
        check=check,
        condition=condition,
        value=_value(data),
        status=_choice(data, "status", Status.UNKNOWN),
        kind=_choice(data, "metric_kind", Kind.GAUGE),
        at=_timestamp(data.get("timestamp")),
        tags=tags,
        refused=refused,
    )


def _text(data: Mapping[str, Any], field: str) -> str:
    text = data.get(field)
    if text is None:
        raise BadRecord(f"{field} is missing")
    if not isinstance(text, str):
        raise BadRecord(f"{field} is {_type(text)}, not text")
    if not text.strip():
        raise BadRecord(f"{field} is empty")
    if _is_broken(text):
        raise BadRecord(f"{field} {_BROKEN}")
    return intern(text)  # most records of a file share most of their texts


def _is_broken(text: str) -> bool:
    return not text.isascii() and _SURROGATE.search(text) is not None


def _metric(text: str, namespace: str) -> str:
    name = text if text.startswith(_KEPT_NAMES) else f"{namespace}.{text}"
    if not _METRIC_NAME.fullmatch(name):
        _wrong("metric", text, "a metric's name has ASCII letters, digits, _ and . only, and at most 200 of them")
    return name


def _value(data: Mapping[str, Any]) -> float:
    value = data.get("value")
    if value is None:
        raise BadRecord("value is missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecord(f"value is {_type(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRecord("value is not a finite number")
    return number


def _choice(data: Mapping[str, Any], field: str, default: Choice) -> Choice:
    text = data.get(field)
    if text is None:
        return default
    try:
        return type(default)(text)
    except ValueError:
        return _wrong(field, text, f"it may be {', '.join(type(default))}")


def _timestamp(text: Any) -> datetime | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadRecord(f"timestamp is {_type(text)}, not text in ISO 8601")
    try:
        at = datetime.fromisoformat(text.strip().upper())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return _wrong("timestamp", text, "it must be ISO 8601, such as 2025-01-14T15:00:00Z")


def _tags(tags: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    if tags is None:
        return {}, ()
    if not isinstance(tags, dict):
        raise BadRecord(f"tags is {_type(tags)}, not an object")
    kept, refused = {}, []
    for name, value in tags.items():
        if _is_broken(name):
            raise BadRecord(f"the name of tag {_short(name)} {_BROKEN}")
        if not isinstance(value, str):
            raise BadRecord(f"tag {_short(name)} is {_type(value)}, not text")
        if _is_broken(value):
            raise BadRecord(f"tag {_short(name)} {_BROKEN}")
        # Datadog makes names lower-case.
        if name.strip().lower() in REQUIRED_TAGS:
            refused.append(name)
        else:
            kept[intern(name)] = intern(value)
    return kept, tuple(refused)


def _wrong(field: str, value: Any, rule: str) -> NoReturn:
    raise BadRecord(f"{field} is {_short(value)}; {rule}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "null")
