"""Snapshot records: the fields that each one must and may have, and what is wrong with one that does not."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from sys import intern
from typing import Any, NamedTuple, NoReturn, TypeVar

from service.collectors.snapshot_json import NoJson, TooDeep
from service.domain import conditions
from service.domain.conditions import Condition
from service.domain.naming import key
from service.domain.samples import REQUIRED_TAGS, Kind, Status

REQUIRED_TEXTS = ("metric", "workflow_name", "task", "check", "condition")
OPTIONAL = ("status", "metric_kind", "timestamp", "tags")

# The longer one of the categories' (service.collectors.snapshot): what is published must fit behind either.
LONGEST_NAMESPACE = "metta.infra.stablesuite"

_FIELDS = frozenset((*REQUIRED_TEXTS, "value", *OPTIONAL))
_KINDS = {kind.value: kind for kind in Kind}
_STATUSES = {status.value: status for status in Status}
_NO_TAGS: Mapping[str, str] = {}
_MOST = math.inf

Choice = TypeVar("Choice", Kind, Status)

# https://docs.datadoghq.com/metrics/custom_metrics/#naming-custom-metrics
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BROKEN = "holds half a surrogate pair, or bytes that are not UTF-8"
KEPT_NAMES = "metta."
_TYPES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class BadRecord(ValueError):
    """Why a record is left out."""


class Record(NamedTuple):
    """One valid record; a tuple, because frozen dataclasses take three times as long to make.

    ``metric``: the full name. ``at``: when it was measured, aware; None: it does not say. ``tags``: its own ones.
    ``refused``: the names of tags that it must not set. ``contradicts``: its condition says another status.
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
    contradicts: bool = False


class Parser:
    """Reads the records of one snapshot.

    Most records of a file share most of their texts, so each of these is checked once and held once.
    ``namespace``: comes before the metrics' names. ``depth``: levels of nesting that a record may have.
    """

    def __init__(self, namespace: str, depth: int) -> None:
        self._namespace = namespace
        self._depth = depth
        self._metrics: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._tags: dict[str, bool] = {}  # names: whether a record may set them
        self._times: dict[str, datetime] = {}
        self._conditions: dict[str, Condition | None] = {}

    def parse(self, data: Any) -> Record:
        """The record that a JSON value describes. Raises BadRecord.

        Unknown fields are ignored; an optional one that is null counts as absent.
        """
        if type(data) is not dict:
            raise BadRecord(_no_record(data))
        if not data.keys() <= _FIELDS and _is_deeper(data, self._depth):
            raise BadRecord(f"it is nested more than {self._depth} levels deep")
        get, known = data.get, self._texts.get
        # The order is that of the messages' importance; each line asks for the common case first.
        text = get("metric")
        metric = (self._metrics.get(text) if type(text) is str else None) or self._metric(data)
        text = get("workflow_name")
        workflow_name = (known(text) if type(text) is str else None) or self._text(data, "workflow_name")
        text = get("task")
        task = (known(text) if type(text) is str else None) or self._text(data, "task")
        text = get("check")
        check = (known(text) if type(text) is str else None) or self._text(data, "check")
        text = get("condition")
        condition = (known(text) if type(text) is str else None) or self._text(data, "condition")
        value = get("value")
        if type(value) is not float or not -_MOST < value < _MOST:
            value = _value(value)
        status, contradicts = self._status(get("status"), condition, value)
        text = get("metric_kind")
        kind = Kind.GAUGE if text is None else _choice("metric_kind", text, _KINDS)
        text = get("timestamp")
        at = None if text is None else ((self._times.get(text) if type(text) is str else None) or self._time(text))
        tags = get("tags")
        refused: tuple[str, ...] = ()
        if tags:
            tags, refused = self._own(tags)
        elif tags is None or tags == {}:
            tags = _NO_TAGS
        else:
            raise BadRecord(f"tags is {_type(tags)}, not an object")
        return Record(
            metric, workflow_name, task, check, condition, value, status, kind, at, tags, refused, contradicts
        )

    def _metric(self, data: Mapping[str, Any]) -> str:
        text = _checked(data, "metric")
        name = self._metrics[text] = intern(_metric(text, self._namespace))
        return name

    def _text(self, data: Mapping[str, Any], field: str) -> str:
        text = _checked(data, field)
        return self._texts.setdefault(text, text)

    def _status(self, text: Any, condition: str, value: float) -> tuple[Status, bool]:
        """The given status, else what the condition says of the value; and whether the two contradict each other."""
        if condition in self._conditions:
            comparison = self._conditions[condition]
        else:
            comparison = self._conditions[condition] = conditions.parse(condition)
        if text is None:
            return (comparison.status(value) if comparison else Status.UNKNOWN), False
        status = _choice("status", text, _STATUSES)
        if comparison is None or status is Status.UNKNOWN:
            return status, False
        return status, comparison.status(value) is not status

    def _time(self, text: Any) -> datetime:
        at = self._times[text] = _timestamp(text)
        return at

    def _own(self, tags: Any) -> tuple[Mapping[str, str], tuple[str, ...]]:
        """The record's own tags, and the names of those that it must not set."""
        if type(tags) is not dict:
            raise BadRecord(f"tags is {_type(tags)}, not an object")
        names = self._tags
        for name, value in tags.items():
            if not (names.get(name) and type(value) is str and value.isascii()):
                break
        else:
            return tags, ()
        kept: dict[str, str] = {}
        refused = []
        for name, value in tags.items():
            text = _tag_value(name, value)
            if names.setdefault(name, key(name) not in REQUIRED_TAGS):
                kept[name] = text
            else:
                refused.append(name)
        return kept, tuple(refused)


def _no_record(data: Any) -> str:
    if data is TooDeep:
        return "it is nested too deeply"
    if data is NoJson:
        return "its line is no valid JSON"
    return f"it is {_type(data)}, not an object"


def _is_deeper(data: Any, depth: int) -> bool:
    """Whether ``data`` has more than ``depth`` levels; by level, so that no depth of it costs a stack."""
    level = [data]
    for _ in range(depth):
        level = [
            part
            for each in level
            for part in (each.values() if type(each) is dict else each)
            if type(part) is dict or type(part) is list
        ]
        if not level:
            return False
    return True


def _checked(data: Mapping[str, Any], field: str) -> str:
    text = data.get(field)
    if text is None:
        raise BadRecord(f"{field} is missing")
    if not isinstance(text, str):
        raise BadRecord(f"{field} is {_type(text)}, not text")
    if not text.strip():
        raise BadRecord(f"{field} is empty")
    if _is_broken(text):
        raise BadRecord(f"{field} {_BROKEN}")
    return text


def _is_broken(text: str) -> bool:
    return not text.isascii() and _SURROGATE.search(text) is not None


def _metric(text: str, namespace: str) -> str:
    name = text if text.startswith(KEPT_NAMES) else f"{namespace}.{text}"
    if not _METRIC_NAME.fullmatch(name):
        _wrong("metric", text, "a metric's name has ASCII letters, digits, _ and . only, and at most 200 of them")
    return name


def _value(value: Any) -> float:
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


def _choice(field: str, text: Any, choices: Mapping[str, Choice]) -> Choice:
    choice = choices.get(text) if type(text) is str else None
    return choice or _wrong(field, text, f"it may be {', '.join(choices)}")


def _timestamp(text: Any) -> datetime:
    if not isinstance(text, str):
        raise BadRecord(f"timestamp is {_type(text)}, not text in ISO 8601")
    try:
        at = datetime.fromisoformat(text.strip().upper())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return _wrong("timestamp", text, "it must be ISO 8601, such as 2025-01-14T15:00:00Z")


def _tag_value(name: str, value: Any) -> str:
    if _is_broken(name):
        raise BadRecord(f"the name of tag {_short(name)} {_BROKEN}")
    if not isinstance(value, str):
        raise BadRecord(f"tag {_short(name)} is {_type(value)}, not text")
    if _is_broken(value):
        raise BadRecord(f"tag {_short(name)} {_BROKEN}")
    return value


def _wrong(field: str, value: Any, rule: str) -> NoReturn:
    raise BadRecord(f"{field} is {_short(value)}; {rule}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "null")
