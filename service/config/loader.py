"""Where the settings come from, and which value wins.

    command line                              ``overrides``
    INFRA_HEALTH_A__B__C                      any key
    DD_*, DATADOG_*                           the keys of ``datadog``
    config.yaml                               else the three shipped collectors
    the replaced system's other environment   GITHUB_*, and what each collector type names
    defaults                                  in ``settings``

pydantic-settings would merge such sources, but forgets where a value was written, and doubles the time to import.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from service.config import environment
from service.config.document import Document
from service.config.environment import EnvironmentLayer, Layer, SettingsOf
from service.config.fields import did_you_mean
from service.config.masking import MASK, is_secret_name, mask_address
from service.config.settings import (
    CollectorSettings,
    Settings,
    alternatives,
    describe,
    differences,
    is_model,
    secret_values,
)
from service.domain.errors import ConfigError

__all__ = ["Loaded", "describe", "differences", "load", "secret_values"]

Keys = environment.Path
Model = TypeVar("Model", bound=BaseModel)

_ABSENT = object()
# What runs where no file says otherwise: the same three as in the shipped config.yaml.
_SHIPPED = {
    "ci": {"type": "github_ci", "schedule": "*/10 * * * *", "service": "dashboard-collector"},
    "training": {"type": "snapshot", "schedule": "0 * * * *", "service": "training-health-collector"},
    "eval": {"type": "snapshot", "schedule": "0 * * * *", "service": "eval-health-collector"},
}
_SHIPPED["training"]["category"], _SHIPPED["eval"]["category"] = "training", "evaluation"
# Some of pydantic's messages (https://docs.pydantic.dev/latest/errors/validation_errors/) in the words of the file.
_MESSAGES = {
    "string_too_short": "is empty: give a value or remove the key",
    "byte_size": "must be a size such as 256MiB or 1GiB, or a number of bytes",
    **dict.fromkeys(("model_type", "dict_type"), "must be a mapping of keys to values"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file that they came from, and what the operator may want to know (unused variables)."""

    settings: Settings
    file: Path | None
    warnings: tuple[str, ...]


def load(
    path: Path | None,
    environ: Mapping[str, str],
    settings_of: SettingsOf,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings from ``path`` (else INFRA_HEALTH_CONFIG, else ./config.yaml, which may be absent) and the rest.

    ``settings_of``: the settings of a collector type; it raises ConfigError for one that is not installed.
    ``overrides``: nested as the file is; None means not given. Empty variables count as not set.
    Raises ConfigError with everything that is wrong, a line each, in the order of the file.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    settings_of = cache(settings_of)
    document, file = _read_document(path, environ)
    shipped = Layer(3, "defaults", None if "collectors" in document.values else {"collectors": _SHIPPED})
    command_line = Layer(2, "command line", _drop_none(overrides or {}))
    own = EnvironmentLayer(environ, _collectors([command_line, document, shipped]))
    layers = [command_line, own, environment.read_names("datadog", environment.DATADOG_NAMES, environ), document]
    layers += [shipped, environment.read_names("github", environment.GITHUB_NAMES, environ)]
    legacy, problems = environment.read_legacy_names(_collectors(layers), environ, settings_of)
    validation = _Validation([*layers, legacy], settings_of)
    for variable, keys, message in own.problems + problems:
        validation.report(keys, message, (1, 0, 0, f"environment {variable}".rstrip()))
    settings = validation.run()
    warnings = own.warnings + ["no collector is configured: nothing will be collected"] * (not settings.collectors)
    return Loaded(settings, file, tuple(warnings))


def _read_document(path: Path | None, environ: Mapping[str, str]) -> tuple[Document, Path | None]:
    variable = environ.get(f"{environment.PREFIX}CONFIG")
    chosen = path or Path(variable or "config.yaml")
    try:
        return Document.read(chosen), chosen
    except FileNotFoundError:
        if not path and not variable:
            return Document(str(chosen), ""), None
        option = "--config" if path else f"{environment.PREFIX}CONFIG"
        raise ConfigError(f"{chosen}: there is no such file; {option} names it") from None


class _Validation:
    """Makes settings of what the layers hold, and collects what is wrong with it, each with its place."""

    def __init__(self, layers: Sequence[Layer], settings_of: SettingsOf) -> None:
        self._layers = layers
        self._settings_of = settings_of
        self._merged = _merge(layers)
        self._problems: dict[tuple[str, str], tuple[int, int, int, str]] = {}

    def report(self, path: Keys, message: str, place: tuple[int, int, int, str] | None = None) -> None:
        self._problems[_dotted(path), message] = place or self._find(path)

    def run(self) -> Settings:
        """Raises ConfigError."""
        collectors = self._merged.get("collectors", {})
        if isinstance(collectors, dict):
            validated = {name: self._validate_collector(name, values) for name, values in collectors.items()}
            collectors = {name: each for name, each in validated.items() if each}
        settings = self._validate(Settings, {**self._merged, "collectors": collectors}, ())
        if self._problems or settings is None:
            lines = sorted((place, *what) for what, place in self._problems.items())
            raise ConfigError("\n".join(": ".join(filter(None, (place[3], *what))) for place, *what in lines))
        return settings

    def _validate_collector(self, name: str, values: Any) -> CollectorSettings | None:
        path: Keys = ("collectors", name)
        if not isinstance(values, dict):
            return self._validate(CollectorSettings, values, path)
        try:
            return self._validate(self._settings_of(values["type"]), values, path)
        except (KeyError, ConfigError) as error:
            self.report((*path, "type"), "is missing" if isinstance(error, KeyError) else str(error))
        # What all types have can be checked all the same.
        known = {key: value for key, value in values.items() if key in CollectorSettings.model_fields}
        return self._validate(CollectorSettings, {**known, "type": "unknown"}, path)

    def _validate(self, model: type[Model], value: Any, at: Keys) -> Model | None:
        reported = {key for key, _ in self._problems}
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                # pydantic's names for the members of a union are no keys.
                path = at
                for part in each["loc"]:
                    path += (part,) if _get(self._merged, (*path, part)) is not _ABSENT else ()
                path += each["loc"][-1:] if each["type"] == "missing" else ()
                if _dotted(path) not in reported:
                    self.report(path, self._explain(each, path, _keys_at(model, each["loc"][:-1])))
            return None

    def _explain(self, error: Mapping[str, Any], path: Keys, keys: Sequence[str]) -> str:
        """What pydantic found wrong at ``path``, without showing secrets. ``keys``: those that could stand there."""
        kind, value, context = str(error["type"]), _get(self._merged, path), error.get("ctx", {})
        # A collector's name may be anything: it does not say what its keys hold.
        is_secret = any(is_secret_name(str(key)) for key in (path[2:] if path[:1] == ("collectors",) else path))
        if kind == "missing":
            return "is missing"
        if kind == "extra_forbidden":
            return "is no setting" + (did_you_mean(str(path[-1]), keys) or f"; there are: {', '.join(keys)}")
        if value is None:
            return "has no value: give one or remove the key"
        message = str(context["error"]) if kind == "value_error" else str(error["msg"])
        if isinstance(value, str) and len(value) >= 4:  # which a validator may have quoted
            message = message.replace(value, MASK if is_secret else mask_address(value))
        message = re.sub(r", (unable|got|input|invalid) .*", "", re.sub(r"^\w+ should", "must", message))
        message = _MESSAGES.get(kind, message)
        if kind in ("value_error", "string_too_short") or is_secret:
            return message
        text = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else ""
        text = text or json.dumps(mask_address(str(value))[:60], ensure_ascii=False)
        options = re.findall("'([^']*)'", str(context.get("expected", "")))
        return f"{message}, not {text}" + did_you_mean(str(value), options)

    def _find(self, path: Keys) -> tuple[int, int, int, str]:
        """Where the value at ``path`` comes from; where there is none, what stands around it."""
        keys = tuple(takewhile(lambda part: isinstance(part, str), path))  # a list comes whole from one source
        for length in range(len(keys), -1, -1):
            for layer in self._layers if length == len(keys) else sorted(self._layers, key=lambda each: each.rank):
                if layer.values and _get(layer.values, keys[:length]) is not _ABSENT:
                    return layer.find(path if length == len(keys) else keys[:length])
        return 3, 0, 0, "defaults"


def _keys_at(model: type[BaseModel], path: Keys) -> list[str]:
    """The keys that the mapping at ``path`` of ``model`` may have, none where it takes any."""
    kinds: list[Any] = [model]
    for part in path:
        inner: list[Any] = []
        for kind in kinds:
            if is_model(kind) and part in kind.model_fields:
                inner += alternatives(kind.model_fields[str(part)].annotation)
            elif arguments := get_args(kind):
                inner += alternatives(arguments[1 if get_origin(kind) is dict else 0])
        kinds = inner
    return [name for kind in kinds if is_model(kind) for name in kind.model_fields]


def _collectors(layers: Sequence[Layer]) -> Mapping[str, Any]:
    collectors = _merge(layers).get("collectors")
    return collectors if isinstance(collectors, dict) else {}


def _merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers, those of the first one on top."""

    def lay(over: Mapping[str, Any], under: dict[str, Any]) -> dict[str, Any]:
        for key, value in over.items():
            below = under.get(key)
            if isinstance(value, Mapping):
                under[key] = lay(value, dict(below) if isinstance(below, dict) else {})
            elif value is not None or not isinstance(below, dict):  # a heading without keys hides nothing
                under[key] = value
        return under

    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        lay(layer.values, merged)
    return merged


def _get(values: Any, path: Keys) -> Any:
    """The value at ``path`` of nested mappings and lists, _ABSENT where there is none."""
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return values


def _dotted(path: Keys) -> str:
    """``collectors.ci.benchmarks[1]``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if value is not None}
    return {key: _drop_none(value) if isinstance(value, Mapping) else value for key, value in given.items()}
