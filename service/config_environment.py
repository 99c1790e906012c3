"""What the environment says: INFRA_HEALTH_A__B__C for any key, and the names of the system that was replaced."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service import config_problems
from service.config import CollectorSettings, Settings
from service.config_problems import ABSENT, Origin, Place, Problem, at_path, dotted, mapping
from service.config_values import did_you_mean, from_json, is_secret_name, private_parts

PREFIX = "INFRA_HEALTH_"
DATADOG_NAMES = {
    "api_key": ("DD_API_KEY", "DATADOG_API_KEY"),
    "app_key": ("DD_APP_KEY", "DATADOG_APP_KEY"),
    "site": ("DD_SITE",),
    "url": ("DD_URL",),
    "env": ("DD_ENV",),
    "service": ("DD_SERVICE",),
    "version": ("DD_VERSION",),
}
GITHUB_NAMES = {
    "token": ("GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN"),
    "api_url": ("GITHUB_API_URL",),
    "user_agent": ("GITHUB_USER_AGENT",),
}
# Variables of other meaning than their name's: the tokens have short names, the others are read elsewhere.
_SHORT = {"TOKEN": ("http", "token"), "READ_TOKEN": ("http", "read_token")}
_NOT_SETTINGS = {"CONFIG", "URL", "COMMIT"}
_FILES = "_FILE"  # names a mounted file that holds the secret (``credentials``)

_SECRETS = {
    "TOKEN",
    "HTTP__TOKEN",
    "READ_TOKEN",
    "HTTP__READ_TOKEN",
    "GITHUB__TOKEN",
    "DATADOG__API_KEY",
    "DATADOG__APP_KEY",
}

# What Kubernetes sets for a Service named infra-health (https://kubernetes.io/docs/concepts/services-networking/service/).
_INJECTED = re.compile(r"PORT(_\d+_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?")

_SECTIONS = ("COLLECTORS", "DATADOG", "GITHUB", "HTTP", "AWS", "LOG", "STORE")  # the keys with keys below them
_SHORTEST = 8
_Keys = tuple[str, ...]


@dataclass(slots=True)
class Given:
    """Values from anywhere but the file; ``names`` tells the variable of each."""

    origin: Origin
    values: dict[str, Any] = field(default_factory=dict)
    names: dict[_Keys, str] = field(default_factory=dict)

    def place(self, path: config_problems.Path) -> Place | None:
        if at_path(self.values, path) is ABSENT:
            return None
        inside = [name for keys, name in self.names.items() if path == keys[: len(path)]]
        around = sorted((keys for keys in self.names if keys == path[: len(keys)]), key=len)
        return Place(self.origin, name=self.names[around[-1]] if around else next(iter(inside), ""))

    def put(self, keys: _Keys, value: Any, name: str) -> None:
        """Raises ValueError when something around ``keys`` is a value already."""
        *parents, last = keys
        inner = self.values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError("is set as a whole by another variable")
        inner[last] = value
        self.names[keys] = name


def infra_health(environ: Mapping[str, str], collectors: Collection[str]) -> tuple[Given, list[Problem], list[str]]:
    """The values of INFRA_HEALTH_*. What Kubernetes injects for a Service named infra-health is no setting."""
    given, problems, notes = Given(Origin.ENVIRONMENT), [], []
    sections = list(Settings.model_fields)
    variables = {name: name.upper().removeprefix(PREFIX) for name in environ if name.upper().startswith(PREFIX)}
    # The more exact name wins: INFRA_HEALTH_HTTP__TOKEN over INFRA_HEALTH_TOKEN.
    for name, rest in sorted(variables.items(), key=lambda item: (item[1].count("__"), item)):
        keys = _SHORT.get(rest) or tuple(rest.lower().split("__"))
        if (
            _INJECTED.fullmatch(rest)
            or rest in _NOT_SETTINGS
            or (rest.endswith(_FILES) and rest.removesuffix(_FILES) in _SECRETS)
        ):
            continue
        if keys[0] not in sections:
            hint = _levels_apart(rest) or did_you_mean(keys[0], sections)
            if hint or len(keys) > 1:
                notes.append(f"environment {name} is no setting and not used{hint}")
            continue
        try:
            if keys[0] == "collectors" and len(keys) > 1:
                is_new = f"COLLECTORS__{keys[1].upper()}__TYPE" in variables.values()
                keys = ("collectors", _collector(keys[1], collectors, is_new=is_new), *keys[2:])
            given.put(keys, _value(environ[name], keys), name)
        except ValueError as error:
            problems.append(Problem(Place(Origin.ENVIRONMENT, name=name), dotted(keys), str(error)))
    return given, problems, notes


def _levels_apart(rest: str) -> str:
    """HTTP_PORT, with one underscore where two part the levels."""
    section = next((each for each in _SECTIONS if rest.startswith(f"{each}_")), None)
    return f"; did you mean {PREFIX}{section}__{rest.removeprefix(f'{section}_')}?" if section else ""


def _collector(word: str, names: Collection[str], *, is_new: bool) -> str:
    """The collector that ``word`` means in a variable's name, where - can't stand."""
    found = sorted(name for name in names if name.replace("-", "_").lower() == word)
    if len(found) > 1:
        raise ValueError(f"may mean each of {', '.join(found)}")
    if not found and not is_new:
        hint = did_you_mean(word, names) or f"; there are: {', '.join(sorted(names))}"
        raise ValueError(f"there is no collector {word}{hint}")
    return found[0] if found else word


def named(section: str, table: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> Given:
    given = Given(Origin.ENVIRONMENT)
    for key, names in table.items():
        if name := next((name for name in names if name in environ), None):
            given.put((section, key), environ[name], name)
    return given


def legacy(
    merged: Mapping[str, Any], environ: Mapping[str, str], types: Mapping[str, type[CollectorSettings]]
) -> tuple[Given, list[Problem]]:
    """What the collector types take from the replaced system's environment."""
    given, problems = Given(Origin.ENVIRONMENT), []
    for name, values in mapping(merged.get("collectors")).items():
        cls = types.get(str(mapping(values).get("type")))
        if cls is None:
            continue
        try:
            found = cls.legacy_environment(values, environ)
        except ValueError as error:
            place = Place(Origin.ENVIRONMENT)
            problems.append(Problem(place, dotted(("collectors", name)), str(error)))
            continue
        for keys, value in _leaves(found):
            variable = cls.legacy_names.get(".".join(keys)) or _variable_of(value, environ)
            given.put(("collectors", name, *keys), value, variable)
    return given, problems


def secrets_in(environ: Mapping[str, str]) -> Iterator[str]:
    """Values that must not be shown wherever they turn up: the process's own secrets, proxies' credentials included."""
    for name, value in environ.items():
        # A path to a secret is none, and what is as short as that would blank out words everywhere.
        if is_secret_name(name) and not name.endswith(("_FILE", "_PATH", "_DIR")) and len(value) >= _SHORTEST:
            yield value
        elif name.lower().endswith("_proxy"):
            yield from private_parts(value)


def _leaves(values: Mapping[str, Any], above: _Keys = ()) -> Iterator[tuple[_Keys, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _variable_of(value: Any, environ: Mapping[str, str]) -> str:
    """The one variable that holds just this value, empty where that is not so clear."""
    names = [name for name, text in environ.items() if text == value]
    return names[0] if len(names) == 1 else ""


def _value(text: str, keys: _Keys) -> Any:
    if text.startswith("{") and not is_secret_name(keys[-1]):
        try:
            return from_json(text)
        except ValueError:
            return text
    return text
