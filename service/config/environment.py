"""What the environment says: INFRA_HEALTH_A__B__C for any key, and the names of the system that was replaced."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from service.config.fields import did_you_mean, read_json
from service.config.masking import is_secret_name
from service.config.settings import CollectorSettings, Settings
from service.domain.errors import ConfigError

PREFIX = "INFRA_HEALTH_"
Path = tuple[str | int, ...]
SettingsOf = Callable[[str], type[CollectorSettings]]

# The first name that is set counts.
DATADOG_NAMES = {
    "api_key": ("DD_API_KEY", "DATADOG_API_KEY"),
    "app_key": ("DD_APP_KEY", "DATADOG_APP_KEY"),
    **{key: (f"DD_{key.upper()}",) for key in ("site", "url", "env", "service", "version")},
}
GITHUB_NAMES = {
    "token": ("GITHUB_DASHBOARD_TOKEN", "GITHUB_TOKEN"),
    **{key: (f"GITHUB_{key.upper()}",) for key in ("api_url", "user_agent")},
}
_SHORT_NAMES = {"TOKEN": ("http", "token"), "READ_TOKEN": ("http", "read_token")}
# What is read elsewhere; files that hold a secret (``secrets``); and what Kubernetes sets for a Service of this name
# (https://kubernetes.io/docs/concepts/services-networking/service/).
_NO_SETTING = re.compile(
    r"CONFIG|URL|COMMIT|(.*__)?(TOKEN|READ_TOKEN|API_KEY|APP_KEY)_FILE|PORT(_\d+_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?"
)


class Layer:
    """The values of one source, nested as the file is. ``title``: what messages call the source.

    ``rank``: the order in which problems are told: the file (0), the environment, the command line, the defaults.
    """

    def __init__(self, rank: int, title: str, values: Mapping[str, Any] | None = None) -> None:
        self.rank = rank
        self.title = title
        self.values: dict[str, Any] = dict(values or {})
        self._variables: dict[Path, str] = {}

    def put(self, path: tuple[str, ...], value: Any, variable: str) -> None:
        """Raises ValueError when something around ``path`` is a value already."""
        inner = self.values
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError("is set as a whole by another variable")
        inner[path[-1]] = value
        self._variables[path] = variable

    def find(self, path: Path) -> tuple[int, int, int, str]:
        """Where the value at ``path`` was written: rank, line, column and in words."""
        # The variable of this key or of one around it, else of one within.
        names = {keys: name for keys, name in self._variables.items() if keys[: len(path)] == path[: len(keys)]}
        nearest = min(names, key=lambda keys: (len(keys) > len(path), -len(keys)), default=())
        return self.rank, 0, 0, f"{self.title} {names.get(nearest, '')}".rstrip()


class EnvironmentLayer(Layer):
    """The values of INFRA_HEALTH_*. ``problems``: variable, path and what is wrong; ``warnings``: unused variables."""

    def __init__(self, environ: Mapping[str, str], collectors: Collection[str]) -> None:
        super().__init__(1, "environment")
        self.problems: list[tuple[str, Path, str]] = []
        self.warnings: list[str] = []
        variables = {name: name.upper().removeprefix(PREFIX) for name in environ if name.upper().startswith(PREFIX)}
        # The more exact name wins: INFRA_HEALTH_HTTP__TOKEN over INFRA_HEALTH_TOKEN.
        for variable, rest in sorted(variables.items(), key=lambda item: (item[1].count("__"), item)):
            path = _SHORT_NAMES.get(rest) or tuple(rest.lower().split("__"))
            if _NO_SETTING.fullmatch(rest):
                continue
            if path[0] not in Settings.model_fields:
                hint = _suggest_variable(rest) or did_you_mean(path[0], Settings.model_fields)
                if hint or len(path) > 1:
                    self.warnings.append(f"environment {variable} is no setting and not used{hint}")
                continue
            value: Any = environ[variable]
            try:
                if path[0] == "collectors" and len(path) > 1:
                    is_new = f"COLLECTORS__{path[1].upper()}__TYPE" in variables.values()
                    path = ("collectors", _find_collector(path[1], collectors, is_new=is_new), *path[2:])
                if value.startswith("{") and not is_secret_name(path[-1]):
                    value = read_json(value)
                self.put(path, value, variable)
            except ValueError as error:
                self.problems.append((variable, path, str(error)))


def read_names(section: str, table: Mapping[str, tuple[str, ...]], environ: Mapping[str, str]) -> Layer:
    """The keys of a section that have names of their own."""
    layer = Layer(1, "environment")
    for key, names in table.items():
        if name := next((name for name in names if name in environ), None):
            layer.put((section, key), environ[name], name)
    return layer


def read_legacy_names(
    collectors: Mapping[str, Any], environ: Mapping[str, str], settings_of: SettingsOf
) -> tuple[Layer, list[tuple[str, Path, str]]]:
    """What the collector types take from the replaced system's environment; and the problems as above."""
    layer, problems = Layer(1, "environment"), list[tuple[str, Path, str]]()
    variables = {text: name for name, text in environ.items()}
    for name, values in collectors.items():
        try:
            cls = settings_of(values["type"])
            found = cls.legacy_environment(values, environ)
        except (KeyError, TypeError, ConfigError):
            continue  # no type, or none that is installed; validation says so
        except ValueError as error:
            problems.append(("", ("collectors", name), str(error)))
            continue
        for key, value in found.items():
            variable = cls.legacy_names.get(key) or variables.get(value, "")
            layer.put(("collectors", name, *key.split(".")), value, variable)
    return layer, problems


def _suggest_variable(rest: str) -> str:
    """HTTP_PORT, with one underscore where two part the levels."""
    section = next((each for each in Settings.model_fields if rest.lower().startswith(f"{each}_")), None)
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
