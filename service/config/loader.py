"""Where the settings come from, and which value wins.

    INFRA_HEALTH_A__B__C                      any key
    DD_*, DATADOG_*                           the keys of ``datadog``
    config.yaml                               else the three shipped collectors
    the replaced system's other environment   GITHUB_*, and what each collector type names
    defaults                                  in ``settings``

pydantic-settings would merge such sources, but forgets where a value was written, and doubles the time to import.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.config.document import Document, Keys, Place, read_document
from service.config.fields import did_you_mean, read_json
from service.config.masking import MASK, is_secret_name, mask_address
from service.config.settings import ENVIRONMENT_NAMES, CollectorSettings, Settings, field_kinds
from service.domain.errors import ConfigError

SettingsOf = Callable[[str], type[CollectorSettings]]
Model = TypeVar("Model", bound=BaseModel)

_PREFIX = "INFRA_HEALTH_"
# What is read elsewhere; files that hold a secret (``secrets``); and what Kubernetes sets for a Service of this name
# (https://kubernetes.io/docs/concepts/services-networking/service/).
_NO_SETTING = re.compile(
    r"CONFIG|URL|COMMIT|(READ_)?TOKEN|(.*__)?((READ_)?TOKEN|AP[IP]_KEY|WEBHOOK_SECRET)_FILE|PORT(_\d+_\w+)?|SERVICE_(HOST|PORT(_\w+)?)"
)
# What runs where no file says otherwise: the same three as in the shipped config.yaml.
_SHIPPED = {
    "ci": {"type": "github_ci", "schedule": "*/10 * * * *", "service": "dashboard-collector"},
    **{
        name: {"type": "snapshot", "schedule": "0 * * * *", "service": f"{name}-health-collector", "category": category}
        for name, category in (("training", "training"), ("eval", "evaluation"))
    },
}
# Some of pydantic's messages (https://docs.pydantic.dev/latest/errors/validation_errors/) in the words of the file.
_MESSAGES = {
    "string_too_short": "is empty: give a value or remove the key",
    "byte_size": "must be a size such as 256MiB or 1GiB, or a number of bytes",
    **dict.fromkeys(("model_type", "dict_type"), "must be a mapping of keys to values"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
}

_DEFAULTS = Place(2, 0, 0, "defaults")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file that they came from, and what the operator may want to know (unused variables)."""

    settings: Settings
    file: Path | None
    warnings: tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str], settings_of: SettingsOf) -> Loaded:
    """The settings from ``path`` (else INFRA_HEALTH_CONFIG, else ./config.yaml, which may be absent) and the rest.

    ``settings_of``: the settings of a collector type; it raises ConfigError for one that is not installed.
    Empty variables count as not set.
    Raises ConfigError with everything that is wrong, a line each, in the order of the file.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    document, file = _read_file(path, environ)
    loader = _Loader(document, settings_of, environ)
    if "collectors" not in document.values:
        loader.put((), {"collectors": _SHIPPED}, _DEFAULTS)
    loader.put_names()
    loader.put_variables()
    settings = loader.validate()
    if not settings.collectors:
        loader.warnings.append("no collector is configured: nothing will be collected")
    return Loaded(settings, file, tuple(loader.warnings))


def _read_file(path: Path | None, environ: Mapping[str, str]) -> tuple[Document, Path | None]:
    variable = environ.get(f"{_PREFIX}CONFIG")
    chosen = path or Path(variable or "config.yaml")
    try:
        return read_document(chosen), chosen
    except FileNotFoundError:
        if not path and not variable:
            return Document({}, {}), None
        option = "--config" if path else f"{_PREFIX}CONFIG"
        raise ConfigError(f"{chosen}: there is no such file; {option} names it") from None


class _Loader:
    """Lays the values of all sources over those of the file, and collects what is wrong, each with its place."""

    def __init__(self, document: Document, settings_of: SettingsOf, environ: Mapping[str, str]) -> None:
        self.warnings: list[str] = []
        self._values, self._places = document
        self._environ = environ
        self._settings_of = settings_of
        self._problems: dict[tuple[str, str], Place] = {}

    def put(self, path: tuple[str, ...], value: Any, place: Place, *, if_absent: bool = False) -> None:
        """Mappings are merged with what is at ``path``, anything else replaces it; None changes nothing."""
        for key in reversed(path):
            value = {key: value}
        self._lay(self._values, value, (), place, if_absent)

    def _lay(self, target: dict[str, Any], values: Mapping[str, Any], at: Keys, place: Place, if_absent: bool) -> None:
        for key, value in values.items():
            path, known = (*at, key), target.get(key)
            if isinstance(value, Mapping):
                if not isinstance(known, dict | None):
                    self._report(path, f"is set as a whole ({self._places[path].title})", place)
                    continue
                self._places.setdefault(path, place)
                # A copy: with an alias the file may have it in two places.
                target[key] = inner = dict(known or {})
                self._lay(inner, value, path, place, if_absent)
            elif value is not None and not (if_absent and known is not None):
                if isinstance(known, list | dict):  # whose places go with it
                    self._places = {key: each for key, each in self._places.items() if key[: len(path)] != path}
                target[key], self._places[path] = value, place

    def put_names(self) -> None:
        for key, variables in ENVIRONMENT_NAMES.items():
            if variable := next((each for each in variables if each in self._environ), None):
                is_legacy = key.startswith("github.")
                self.put(tuple(key.split(".")), self._environ[variable], _variable(variable), if_absent=is_legacy)

    def put_variables(self) -> None:
        """INFRA_HEALTH_A__B__C."""
        environ = self._environ
        variables = {name: name.upper().removeprefix(_PREFIX) for name in environ if name.upper().startswith(_PREFIX)}
        # The more exact name wins, as it comes last.
        for variable, rest in sorted(variables.items(), key=lambda item: (item[1].count("__"), item)):
            path = tuple(rest.lower().split("__"))
            if _NO_SETTING.fullmatch(rest):
                continue
            if path[0] not in Settings.model_fields:
                hint = did_you_mean(path[0], Settings.model_fields)
                self.warnings.append(f"environment {variable} is no setting and not used{hint}")
                continue
            value: Any = environ[variable]
            try:
                if rest == "STORE__URL_FILE":  # wanted once, at the start: no secret that is read again
                    path, value = ("store", "url"), Path(value).read_text().strip()
                if path[0] == "collectors" and len(path) > 1:
                    path = ("collectors", self._find_collector(path[1], variables.values()), *path[2:])
                if value.startswith("{") and not is_secret_name(path[-1]):
                    value = read_json(value)
            except (ValueError, OSError) as error:
                self._report(path, str(error), _variable(variable))
            else:
                self.put(path, value, _variable(variable))

    def validate(self) -> Settings:
        """Raises ConfigError with all that is wrong."""
        validated = {name: self._validate_collector(name, values) for name, values in self._collectors.items()}
        values = dict(self._values)
        if isinstance(values["collectors"], dict):
            values["collectors"] = {name: each for name, each in validated.items() if each}
        settings = self._validate(Settings, values, ())
        if self._problems or settings is None:
            lines = sorted((place, *what) for what, place in self._problems.items())
            raise ConfigError("\n".join(": ".join(filter(None, (place.title, *what))) for place, *what in lines))
        return settings

    @property
    def _collectors(self) -> dict[str, Any]:
        collectors = self._values["collectors"]
        return collectors if isinstance(collectors, dict) else {}

    def _find_collector(self, word: str, variables: Collection[str]) -> str:
        """The collector that ``word`` means in a variable's name, where - can't stand. Raises ValueError."""
        names = {name.replace("-", "_").lower(): name for name in self._collectors}
        if word not in names and f"COLLECTORS__{word.upper()}__TYPE" not in variables:
            hint = did_you_mean(word, names) or f"; there are: {', '.join(sorted(names)) or 'none'}"
            raise ValueError(f"there is no collector {word}{hint}")
        return names.get(word, word)

    def _validate_collector(self, name: str, values: Any) -> CollectorSettings | None:
        path: Keys = ("collectors", name)
        if not isinstance(values, dict):
            return self._validate(CollectorSettings, values, path)
        try:
            chosen = self._settings_of(str(values["type"]))
        except (KeyError, ConfigError) as error:
            self._report((*path, "type"), "is missing" if isinstance(error, KeyError) else str(error))
            # What all types have can be checked all the same.
            known = {key: value for key, value in values.items() if key in CollectorSettings.model_fields}
            return self._validate(CollectorSettings, {**known, "type": "unknown"}, path)
        try:
            legacy = chosen.legacy_environment(values, self._environ)
        except Exception as error:  # noqa: BLE001 - the type may be of another package
            self._report(path, str(error), _variable(""))
            legacy = {}
        variables = {text: variable for variable, text in self._environ.items()}
        for key, value in legacy.items():
            variable = chosen.legacy_names.get(key) or variables.get(value, "")
            self.put(("collectors", name, *key.split(".")), value, _variable(variable), if_absent=True)
        return self._validate(chosen, self._collectors[name], path)

    def _validate(self, model: type[Model], value: Any, at: Keys) -> Model | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                path, found, place = self._find((*at, *each["loc"]))
                if each["type"] == "missing":
                    path += each["loc"][-1:]
                self._report(path, _explain(each, path, found, _find_keys(model, each["loc"][:-1])), place)
            return None
        except Exception as error:  # noqa: BLE001 - a validator of another package
            self._report((*at, "type"), f"its settings can't be checked: {error!r}")
            return None

    def _report(self, path: Keys, message: str, place: Place | None = None) -> None:
        self._problems[_dotted(path), message] = place or self._find(path)[2]

    def _find(self, location: Keys) -> tuple[Keys, Any, Place]:
        """What of ``location`` is there (pydantic's names for the members of a union are no keys), its value and place.

        Where there is none, those of what stands around it.
        """
        path: Keys = ()
        value: Any = self._values
        place = _DEFAULTS
        for part in location:
            if part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int):
                path, value = (*path, part), value[part]
                place = self._places.get(path, place)
        return path, value, place


def _explain(error: ErrorDetails, path: Keys, value: Any, keys: Sequence[str]) -> str:
    """What pydantic found wrong with the ``value`` at ``path``, without showing secrets. ``keys``: what could stand
    there."""
    kind, message = error["type"], error["msg"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is no setting" + (did_you_mean(str(path[-1]), keys) or f"; there are: {', '.join(keys)}")
    if value is None:
        return "has no value: give one or remove the key"
    # A collector's name may be anything: it does not say what its keys hold.
    is_secret = any(is_secret_name(str(key)) for key in (path[2:] if path[:1] == ("collectors",) else path))
    if kind == "value_error":
        message = str(error["ctx"]["error"])
    if isinstance(value, str) and len(value) >= 4:  # which a validator may have quoted
        message = message.replace(value, MASK if is_secret else mask_address(value))
    message = re.sub(r", (unable|got|input|invalid) .*", "", re.sub(r"^\w+ should", "must", message))
    message = _MESSAGES.get(kind, message)
    if kind in ("value_error", "string_too_short") or is_secret:
        return message
    text = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
    return f"{message}, not {text or json.dumps(mask_address(str(value))[:60], ensure_ascii=False)}"


def _find_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that the section at ``path`` of ``model`` may have; what is no field of it leads no further."""
    for part in path:
        field = model.model_fields.get(str(part))
        # Of a field that is a section, or a mapping to sections.
        kinds = (*field_kinds(model, str(part)), *get_args(field and field.annotation))
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _variable(name: str) -> Place:
    return Place(1, 0, 0, f"environment {name}".rstrip())


def _dotted(path: Keys) -> str:
    """``collectors.ci.benchmarks[1]``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
