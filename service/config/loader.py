"""Where the settings come from, and which value wins.

    command line                              ``overrides``
    INFRA_HEALTH_A__B__C                      any key
    DD_*, DATADOG_*                           the keys of ``datadog``
    config.yaml                               else the three shipped collectors
    the replaced system's other environment   GITHUB_*, and what each collector type names
    defaults                                  in ``settings``

Each value keeps its place for the messages. (pydantic-settings merges sources, too, but forgets where a value came
from, and its import alone costs as much as pydantic's.)
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from service.config.document import Document
from service.config.fields import check_collector_name, did_you_mean, read_json
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

__all__ = ["ConfigErrors", "Loaded", "describe", "differences", "load", "secret_values"]

Keys = tuple[str | int, ...]
SettingsOf = Callable[[str], type[CollectorSettings]]
Model = TypeVar("Model", bound=BaseModel)

PREFIX = "INFRA_HEALTH_"
# The first name that is set counts.
_DATADOG_NAMES = {
    "api_key": ("DD_API_KEY", "DATADOG_API_KEY"),
    "app_key": ("DD_APP_KEY", "DATADOG_APP_KEY"),
    "site": ("DD_SITE",),
    "url": ("DD_URL",),
    "env": ("DD_ENV",),
    "service": ("DD_SERVICE",),
    "version": ("DD_VERSION",),
}
_GITHUB_NAMES = {
    "token": ("GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN"),
    "api_url": ("GITHUB_API_URL",),
    "user_agent": ("GITHUB_USER_AGENT",),
}
_SHORT_NAMES: dict[str, Keys] = {"TOKEN": ("http", "token"), "READ_TOKEN": ("http", "read_token")}
# What is read elsewhere; files that hold a secret (``secrets``); and what Kubernetes sets for a Service of this name
# (https://kubernetes.io/docs/concepts/services-networking/service/).
_NO_SETTING = re.compile(
    r"CONFIG|URL|COMMIT|.*(TOKEN|API_KEY|APP_KEY)_FILE|PORT(_\d+_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?"
)
# What runs where no file says otherwise: the same three as in the shipped config.yaml.
_SHIPPED_COLLECTORS = {
    "ci": {"type": "github_ci", "schedule": "*/10 * * * *", "service": "dashboard-collector"},
    "training": {
        "type": "snapshot",
        "schedule": "0 * * * *",
        "service": "training-health-collector",
        "category": "training",
    },
    "eval": {"type": "snapshot", "schedule": "0 * * * *", "service": "eval-health-collector", "category": "evaluation"},
}
# The keys with keys below them.
_SECTIONS = tuple(
    name for name, each in Settings.model_fields.items() if is_model(each.annotation) or name == "collectors"
)
_ABSENT = object()
# pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/) in our words.
_MUST = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a number",
    "bool": "must be true or false",
    "list": "must be a list",
    "tuple": "must be a list",
    "dict": "must be a mapping of keys to values",
    "model": "must be a mapping of keys to values",
    "string_type": "must be text",
}
_BOUNDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
}


class Place(NamedTuple):
    """Where a value was written. ``rank``: files first, then the environment, the command line, the defaults."""

    rank: int
    line: int
    column: int
    title: str


class Problem(NamedTuple):
    """One thing to mend. ``key`` is empty where the file as a whole is meant."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.place.title, self.key, self.message)))


class ConfigErrors(ConfigError):
    """All that is wrong with the configuration, a line each, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.errors = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.errors)))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file that they came from, and what the operator may want to know (unused variables)."""

    settings: Settings
    file: Path | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Layer:
    """The values of one source. ``variables``: the environment variable of each key; ``document``: the file."""

    rank: int
    title: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    variables: dict[Keys, str] = field(default_factory=dict)
    document: Document | None = None

    def put(self, keys: Keys, value: Any, variable: str) -> None:
        """Raises ValueError when something around ``keys`` is a value already."""
        inner = self.values
        for parent in keys[:-1]:
            inner = inner.setdefault(str(parent), {})
            if not isinstance(inner, dict):
                raise ValueError("is set as a whole by another variable")
        inner[str(keys[-1])] = value
        self.variables[keys] = variable

    def find(self, path: Keys) -> Place | None:
        """Where the value at ``path`` was written, None where it is not from here."""
        if _get(self.values, path) is _ABSENT:
            return None
        if self.document:
            line, column = self.document.find(path) or (1, 1)
            return Place(self.rank, line, column, f"{self.title}:{line}:{column}")
        # The variable of this key or of one around it, else of one within.
        names = {keys: name for keys, name in self.variables.items() if keys[: len(path)] == path[: len(keys)]}
        nearest = min(names, key=lambda keys: (len(keys) > len(path), -len(keys)), default=())
        return Place(self.rank, 0, 0, f"{self.title} {names.get(nearest, '')}".rstrip())


def load(
    path: Path | None,
    environ: Mapping[str, str],
    settings_of: SettingsOf,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings from ``path`` (else INFRA_HEALTH_CONFIG, else ./config.yaml, which may be absent) and the rest.

    ``settings_of``: the settings of a collector type; it raises ConfigError for one that is not installed.
    ``overrides``: nested as the file is; None means not given. Empty variables count as not set.
    Raises ConfigErrors with everything that is wrong.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    document, file = _read_document(path, environ)
    from_file = Layer(0, document.title, document.values, document=document)
    shipped = Layer(3, "defaults", {} if "collectors" in document.values else {"collectors": _SHIPPED_COLLECTORS})
    command_line = Layer(2, "command line", _without_none(overrides or {}))
    collectors = _merge([command_line, from_file, shipped]).get("collectors")
    problems: list[Problem] = []
    warnings: list[str] = []
    own = _read_environment(environ, collectors if isinstance(collectors, dict) else {}, problems, warnings)
    datadog, github = _read_names("datadog", _DATADOG_NAMES, environ), _read_names("github", _GITHUB_NAMES, environ)
    layers = [command_line, own, datadog, from_file, shipped, github]
    settings_of = cache(settings_of)
    layers.append(_read_legacy_names(_merge(layers), environ, settings_of, problems))
    settings = _validate(layers, settings_of, problems)
    if not settings.collectors:
        warnings.append("no collector is configured: nothing will be collected")
    return Loaded(settings, file, tuple(warnings))


def _read_document(path: Path | None, environ: Mapping[str, str]) -> tuple[Document, Path | None]:
    variable = environ.get(f"{PREFIX}CONFIG")
    chosen = path or Path(variable or "config.yaml")
    try:
        return Document.read(chosen), chosen
    except FileNotFoundError:
        if not path and not variable:
            return Document(str(chosen), ""), None
        option = "--config" if path else f"{PREFIX}CONFIG"
        raise ConfigError(f"{chosen}: there is no such file; {option} names it") from None


def _read_environment(
    environ: Mapping[str, str], collectors: Collection[str], problems: list[Problem], warnings: list[str]
) -> Layer:
    """The values of INFRA_HEALTH_*."""
    layer = Layer(1, "environment")
    variables = {name: name.upper().removeprefix(PREFIX) for name in environ if name.upper().startswith(PREFIX)}
    # The more exact name wins: INFRA_HEALTH_HTTP__TOKEN over INFRA_HEALTH_TOKEN.
    for variable, rest in sorted(variables.items(), key=lambda item: (item[1].count("__"), item)):
        keys = _SHORT_NAMES.get(rest) or tuple(rest.lower().split("__"))
        if _NO_SETTING.fullmatch(rest):
            continue
        if keys[0] not in Settings.model_fields:
            hint = _suggest_variable(rest) or did_you_mean(str(keys[0]), Settings.model_fields)
            if hint or len(keys) > 1:
                warnings.append(f"environment {variable} is no setting and not used{hint}")
            continue
        value: Any = environ[variable]
        try:
            if keys[0] == "collectors" and len(keys) > 1:
                is_new = f"COLLECTORS__{keys[1]}__TYPE".upper() in variables.values()
                keys = ("collectors", _find_collector(str(keys[1]), collectors, is_new=is_new), *keys[2:])
            if value.startswith("{") and not is_secret_name(str(keys[-1])):
                value = read_json(value)
            layer.put(keys, value, variable)
        except ValueError as error:
            problems.append(Problem(Place(1, 0, 0, f"environment {variable}"), _dotted(keys), str(error)))
    return layer


def _suggest_variable(rest: str) -> str:
    """HTTP_PORT, with one underscore where two part the levels."""
    section = next((each for each in _SECTIONS if rest.lower().startswith(f"{each}_")), None)
    return f"; did you mean {PREFIX}{section.upper()}__{rest[len(section) + 1 :]}?" if section else ""


def _find_collector(word: str, names: Collection[str], *, is_new: bool) -> str:
    """The collector that ``word`` means in a variable's name, where - can't stand."""
    found = sorted(name for name in names if name.replace("-", "_").lower() == word)
    if len(found) > 1:
        raise ValueError(f"may mean each of {', '.join(found)}")
    if not found and not is_new:
        hint = did_you_mean(word, names) or f"; there are: {', '.join(sorted(names))}"
        raise ValueError(f"there is no collector {word}{hint}")
    return found[0] if found else word


def _read_names(section: str, table: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> Layer:
    layer = Layer(1, "environment")
    for key, names in table.items():
        if name := next((name for name in names if name in environ), None):
            layer.put((section, key), environ[name], name)
    return layer


def _read_legacy_names(
    merged: Mapping[str, Any], environ: Mapping[str, str], settings_of: SettingsOf, problems: list[Problem]
) -> Layer:
    """What the collector types take from the replaced system's environment."""
    layer = Layer(1, "environment")
    variables = {text: name for name, text in environ.items()}
    for name, values in _mapping(merged.get("collectors")).items():
        try:
            cls = settings_of(_mapping(values)["type"])
            found = cls.legacy_environment(values, environ)
        except (KeyError, TypeError, ConfigError):
            continue  # a type that is missing or none; validation says so
        except ValueError as error:
            problems.append(Problem(Place(1, 0, 0, "environment"), _dotted(("collectors", name)), str(error)))
            continue
        for keys, value in _leaves(found):
            variable = cls.legacy_names.get(".".join(keys)) or variables.get(value, "")
            layer.put(("collectors", name, *keys), value, variable)
    return layer


def _validate(layers: Sequence[Layer], settings_of: SettingsOf, problems: list[Problem]) -> Settings:
    merged = _merge(layers)
    unread = {problem.key for problem in problems}

    def report(path: Keys, message: str) -> None:
        problems.append(Problem(_find_place(layers, path), _dotted(path), message))

    def check(model: type[Model], value: Any, at: Keys) -> Model | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                path = (*at, *_path_within(value, each["loc"]))
                if each["type"] == "missing":
                    path = (*path, each["loc"][-1])
                if _dotted(path) not in unread:
                    report(path, _word(each, path, _get(merged, path), _keys_at(model, each["loc"][:-1])))
            return None

    configured = merged.get("collectors", {})
    collectors: dict[str, CollectorSettings] = {}
    for name, values in _mapping(configured).items():
        path: Keys = ("collectors", name)
        cls = CollectorSettings
        try:
            check_collector_name(name)
        except ValueError as error:
            report(path, str(error))
        if isinstance(values, dict):
            try:
                cls = settings_of(str(values["type"]))
            except (KeyError, ConfigError) as error:
                report((*path, "type"), "is missing" if isinstance(error, KeyError) else str(error))
                # What all types have can be checked all the same.
                values = {key: value for key, value in values.items() if key in CollectorSettings.model_fields}
                values["type"] = "unknown"
        if collector := check(cls, values, path):
            collectors[name] = collector
    known = collectors if isinstance(configured, dict) else configured
    settings = check(Settings, {**merged, "collectors": known}, ())
    if problems or settings is None:
        raise ConfigErrors(problems)
    return settings


def _find_place(layers: Sequence[Layer], path: Keys) -> Place:
    """Where the value at ``path`` comes from; where there is none, what stands around it."""
    keys = tuple(takewhile(lambda part: isinstance(part, str), path))  # a list comes whole from one source
    for length in range(len(keys), 0, -1):
        for layer in layers if length == len(keys) else sorted(layers, key=lambda each: each.rank):
            if place := layer.find(keys[:length]):
                return layer.find(path) or place
    return next((place for layer in layers if (place := layer.find(()))), Place(3, 0, 0, "defaults"))


def _path_within(value: Any, loc: Keys) -> Keys:
    """The part of pydantic's ``loc`` that is in ``value``: not its names for the members of a union."""
    path: list[str | int] = []
    for part in loc:
        if (inner := _get(value, (part,))) is not _ABSENT:
            path.append(part)
            value = inner
    return tuple(path)


def _word(error: Mapping[str, Any], path: Keys, value: Any, keys: Sequence[str]) -> str:
    """What pydantic found wrong at ``path``, where ``value`` is, without showing what may be secret.

    ``keys``: those that could stand in the place of the last part of ``path``.
    """
    kind, context = str(error["type"]), error.get("ctx", {})
    # A collector's name may be anything: it does not say what its keys hold.
    is_secret = any(is_secret_name(str(key)) for key in (path[2:] if path[:1] == ("collectors",) else path))
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is no setting" + (did_you_mean(str(path[-1]), keys) or f"; there are: {', '.join(keys)}")
    if value is None:
        return "has no value: give one or remove the key"
    if kind == "string_too_short":
        return "is empty: give a value or remove the key"
    message = str(context["error"]) if kind == "value_error" else str(error["msg"])
    if isinstance(value, str) and len(value) >= 4:  # which a validator may have quoted
        message = message.replace(value, MASK if is_secret else mask_address(value))
    if kind == "value_error":
        return message
    must = _MUST.get(kind) or _MUST.get(kind.partition("_")[0]) or re.sub(r"^\w+ should", "must", message)
    for theirs, ours in _BOUNDS.items():
        must = must.replace(theirs, ours)
    if is_secret:
        return must
    text = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else ""
    text = text or json.dumps(mask_address(str(value))[:60], ensure_ascii=False)
    options = re.findall("'([^']*)'", str(context.get("expected", "")))
    return f"{must}, not {text}" + did_you_mean(str(value), options)


def _keys_at(model: type[BaseModel], path: Keys) -> list[str]:
    """The keys that the mapping at ``path`` of ``model`` may have, none where it takes any."""
    kinds = [model]
    for part in path:
        inner: list[Any] = []
        for kind in kinds:
            if is_model(kind) and part in kind.model_fields:
                inner += alternatives(kind.model_fields[str(part)].annotation)
            elif arguments := get_args(kind):
                inner += alternatives(arguments[1 if get_origin(kind) is dict else 0])
        kinds = inner
    return [name for kind in kinds if is_model(kind) for name in kind.model_fields]


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
        if isinstance(values, Mapping) and part in values:
            values = values[str(part)]
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return _ABSENT
    return values


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _dotted(path: Keys) -> str:
    """``collectors.ci.benchmarks[1]``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _mapping(value: Any) -> Mapping[str, Any]:
    """``value`` where it is a mapping, else an empty one: validation says what is wrong with it."""
    return value if isinstance(value, Mapping) else {}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
