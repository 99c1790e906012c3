"""Where the settings come from, and which value wins.

    command line                              ``overrides``
    INFRA_HEALTH_A__B__C                      any key
    DD_*, DATADOG_*                           the keys of ``datadog``
    config.yaml                               else the three shipped collectors
    the replaced system's other environment   GITHUB_*, and what each collector type names
    defaults                                  in ``config``

pydantic-settings merges the sources; here is what it does not tell: the place of each value, for the messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service import config_file, config_problems
from service.config import (
    SHIPPED_COLLECTORS,
    CollectorSettings,
    Settings,
)
from service.config_environment import DATADOG_NAMES, GITHUB_NAMES, PREFIX, Given, infra_health, legacy, named
from service.config_problems import (
    ABSENT,
    ConfigErrors,
    Origin,
    Place,
    Problem,
    at_path,
    dotted,
    keys_at,
    mapping,
    wording,
)
from service.config_values import collector_name, did_you_mean

__all__ = ["ConfigErrors", "Loaded", "Problem", "load"]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file that they came from, and what the operator may want to know (unused variables)."""

    settings: Settings
    file: Path | None
    notes: tuple[str, ...]


class Source(Protocol):
    @property
    def origin(self) -> Origin: ...
    @property
    def values(self) -> Mapping[str, Any]: ...
    def place(self, path: config_problems.Path) -> Place | None: ...


def load(
    path: Path | None,
    environ: Mapping[str, str],
    types: Mapping[str, type[CollectorSettings]],
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings from ``path`` (else INFRA_HEALTH_CONFIG, else ./config.yaml, which may be absent) and the rest.

    ``types``: the installed collectors' settings by type name. ``overrides``: nested as the file is; None means not
    given. Empty variables count as not set. Raises ConfigErrors with everything that is wrong.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    document, file = _document(path, environ)
    shipped = Given(Origin.DEFAULTS)
    if "collectors" not in document.values:
        shipped.values = {"collectors": {name: dict(values) for name, values in SHIPPED_COLLECTORS.items()}}
    command_line = Given(Origin.COMMAND_LINE, _given(overrides or {}))
    names = {name for source in (command_line, document, shipped) for name in mapping(source.values.get("collectors"))}
    own, problems, notes = infra_health(environ, names)
    datadog, github = named("datadog", DATADOG_NAMES, environ), named("github", GITHUB_NAMES, environ)
    sources: list[Source] = [command_line, own, datadog, document, shipped, github]
    replaced, more = legacy(_merged(sources), environ, types)
    sources.append(replaced)
    problems += [*document.problems, *more]
    merged = _merged(sources)
    settings = _validated(merged, types, sources, problems)
    if not settings.collectors:
        notes.append("no collector is configured: nothing will be collected")
    return Loaded(settings, file, tuple(notes))


def _document(path: Path | None, environ: Mapping[str, str]) -> tuple[config_file.Document, Path | None]:
    variable = environ.get(f"{PREFIX}CONFIG")
    chosen = path or (Path(variable) if variable else Path("config.yaml"))
    try:
        return config_file.read(chosen.expanduser(), str(chosen)), chosen
    except (FileNotFoundError, RuntimeError):
        if not path and not variable:
            return config_file.Document(str(chosen), ""), None
        asker = "--config" if path else f"{PREFIX}CONFIG"
        message = f"there is no such file; {asker} names it"
        raise ConfigErrors([Problem(Place(Origin.FILE, name=str(chosen)), "", message)]) from None


def _merged(sources: Sequence[Source]) -> dict[str, Any]:
    class Merged(BaseSettings):
        model_config = SettingsConfigDict(extra="allow")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: object, **__: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, _told(source.values)) for source in sources)

    return Merged().model_extra or {}


def _validated(
    merged: dict[str, Any],
    types: Mapping[str, type[CollectorSettings]],
    sources: Sequence[Source],
    problems: list[Problem],
) -> Settings:
    def report(path: config_problems.Path, message: str, *, missing: bool = False) -> None:
        problems.append(Problem(_place(sources, path, file_first=missing), dotted(path), message))

    def checked(model: type[Model], value: Any, at: config_problems.Path) -> Model | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                missing = each["type"] == "missing"
                path = (*at, *_held(value, each["loc"]), *(each["loc"][-1:] if missing else ()))
                keys = keys_at(model, each["loc"][:-1])
                if at_path(merged, path) is None and dotted(path) in unread:
                    continue
                report(path, wording(each, path, at_path(merged, path), keys), missing=missing)
            return None

    unread = {problem.key for problem in problems}
    installed = f"installed: {', '.join(sorted(types))}"
    configured = merged.get("collectors", {})
    collectors: dict[str, CollectorSettings] = {}
    for name, values in mapping(configured).items():
        path = ("collectors", name)
        try:
            collector_name(name)
        except ValueError as error:
            report(path, str(error))
        kind = mapping(values).get("type")
        cls = types.get(kind) if isinstance(kind, str) else None
        if cls is None and isinstance(values, dict):
            if isinstance(kind, str):
                report((*path, "type"), f'"{kind}" is no collector type{did_you_mean(kind, types)} ({installed})')
            else:
                report((*path, "type"), f"is missing ({installed})", missing=True)
            # What all types have can be checked all the same.
            values = {key: value for key, value in values.items() if key in CollectorSettings.model_fields}
            values["type"] = "unknown"
        if collector := checked(cls or CollectorSettings, values, path):
            collectors[name] = collector
    known = collectors if isinstance(configured, dict) else configured
    settings = checked(Settings, {**merged, "collectors": known}, ())
    if problems or settings is None:
        raise ConfigErrors(problems)
    return settings


def _place(sources: Sequence[Source], path: config_problems.Path, *, file_first: bool) -> Place:
    """Where the value at ``path`` comes from; where there is none, what stands around it."""
    if file_first:
        sources = sorted(sources, key=lambda source: source.origin)
    # A list comes whole from one source.
    keys = tuple(takewhile(lambda part: isinstance(part, str), path))
    for length in range(len(keys), 0, -1):
        for source in sources:
            if place := source.place(keys[:length]):
                return source.place(path) or place
    return next((place for source in sources if (place := source.place(()))), Place(Origin.DEFAULTS))


def _held(value: Any, loc: config_problems.Path) -> config_problems.Path:
    """The part of pydantic's ``loc`` that is in ``value``: not its names for the members of a union."""
    path: list[str | int] = []
    for part in loc:
        inner = at_path(value, (part,))
        if inner is not ABSENT:
            path.append(part)
            value = inner
    return tuple(path)


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without the headings whose keys are all commented out."""
    return {key: part for key, part in values.items() if part is not None or key == "shadow_prefix"}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _given(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
