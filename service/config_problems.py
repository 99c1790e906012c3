"""What is wrong with a configuration, in words for the operator: the place, the key, the remedy."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from service.config_values import MASK, alternatives, did_you_mean, is_model, is_secret_name, shown
from service.domain.errors import ConfigError

Path = tuple[str | int, ...]


ABSENT = object()
# pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/) in our words.
_MUST = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a mapping of keys to values"),
    **dict.fromkeys(("enum", "literal_error"), "must be {expected}"),
    "string_type": "must be text",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


class Origin(IntEnum):
    """Where values come from, in the order in which their problems are told."""

    FILE = 0
    ENVIRONMENT = 1
    COMMAND_LINE = 2
    DEFAULTS = 3


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was written: the file's line and column (from 1), or a variable's name."""

    origin: Origin
    line: int = 0
    column: int = 0
    name: str = ""

    def __str__(self) -> str:
        match self.origin:
            case Origin.FILE:
                return f"{self.name}:{self.line}:{self.column}" if self.line else self.name
            case Origin.ENVIRONMENT:
                return f"environment {self.name}".rstrip()
            case Origin.COMMAND_LINE:
                return "command line"
            case _:
                return "defaults"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. ``key`` is empty where the file as a whole is meant."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.key, self.message) if part)


class ConfigErrors(ConfigError):
    """All that is wrong with the configuration, a line each, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.errors = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.errors)))


def dotted(path: Sequence[str | int]) -> str:
    """``collectors.ci.benchmarks[1]``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def at_path(values: Any, path: Path) -> Any:
    """The value at ``path`` of nested mappings and lists, ABSENT where there is none."""
    for part in path:
        if isinstance(values, Mapping) and part in values:
            values = values[str(part)]
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return ABSENT
    return values


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` where it is a mapping, else an empty one: what is wrong with it is told elsewhere."""
    return value if isinstance(value, Mapping) else {}


def wording(error: Mapping[str, Any], path: Path, value: Any, keys: Sequence[str]) -> str:
    """What pydantic found wrong at ``path``, where ``value`` is, without showing what may be secret.

    ``keys``: those that could stand in the place of the last part of ``path``.
    """
    bounds = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is no setting" + (did_you_mean(str(path[-1]), keys) or f"; there are: {', '.join(keys)}")
        case _ if value is None:
            return "has no value: give one or remove the key"
        case "string_too_short":
            return "is empty: give a value or remove the key"
        case "value_error":
            return _without(value, str(bounds["error"]), path)
        case kind if kind in _MUST:
            must = _MUST[kind].format(**bounds)
        case _:
            must = re.sub("^(Input|String|Value) should", "must", _without(value, error["msg"], path))
    if not _may_be_shown(path):
        return must
    options = re.findall("'([^']*)'", str(bounds.get("expected", "")))
    return f"{must}, not {_value(value)}" + did_you_mean(str(value), options)


def keys_at(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the mapping at ``path`` of ``model`` may have, none where it takes any."""
    found: list[Any] = [model]
    for part in path:
        found = [inner for annotation in found for inner in _inside(annotation, part)]
    return [
        name
        for annotation in found
        for kind in alternatives(annotation)
        if is_model(kind)
        for name in kind.model_fields
    ]


def _inside(annotation: Any, part: str | int) -> Iterator[Any]:
    for kind in alternatives(annotation):
        arguments = get_args(kind)
        if is_model(kind) and part in kind.model_fields:
            yield kind.model_fields[part].annotation
        elif arguments:
            yield arguments[1 if get_origin(kind) is dict else 0]


def _may_be_shown(path: Path) -> bool:
    # A collector's name may be anything: it says nothing about what its keys hold.
    keys = path[2:] if path[:1] == ("collectors",) else path
    return not any(is_secret_name(str(key)) for key in keys)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = shown(str(value))
    return json.dumps(text if len(text) <= 60 else f"{text[:60]}...", ensure_ascii=False)


def _without(value: Any, message: str, path: Path) -> str:
    """``message`` of a validator that may have quoted ``value``."""
    if not isinstance(value, str) or len(value) < 4:
        return message
    return message.replace(value, shown(value) if _may_be_shown(path) else MASK)
