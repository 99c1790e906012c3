"""A helmfile whose releases use a shared CronJob chart.

What a value means is known by its key, wherever in the values a chart wants it (``schedule``, ``cronjob.schedule``,
``job.concurrencyPolicy`` ...), for the chart itself is not run. Values merge as helmfile merges them: a chart's own
values.yaml where the chart lies in a folder, then ``values`` in their order, then ``set``; mappings by key, lists whole
(https://helmfile.readthedocs.io/en/latest/#configuration).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.domain.errors import ConfigError
from service.migration import texts
from service.migration.manifests import CARRIED, text
from service.migration.workload import Workload

# Key (in small letters, without - and _) to the field of Workload.
_SCALARS = {
    "schedule": "schedule",
    "cronschedule": "schedule",
    "timezone": "time_zone",
    "suspend": "suspend",
    "suspended": "suspend",
    "concurrencypolicy": "concurrency_policy",
    "startingdeadlineseconds": "starting_deadline",
    "activedeadlineseconds": "active_deadline",
    "backofflimit": "backoff_limit",
    "successfuljobshistorylimit": "successful_history",
    "failedjobshistorylimit": "failed_history",
    "serviceaccountname": "service_account",
}
_COMMANDS = ("command", "cmd", "entrypoint", "args", "arguments")
_ENVIRONMENTS = ("env", "environment", "extraenv", "extraenvs", "extraenvvars", "envvars", "environmentvariables")
_ENVIRONMENT_FROM = ("envfrom", "extraenvfrom")
_LABELS = ("podlabels", "labels", "extralabels", "commonlabels")
_MOUNTS = ("volumemounts", "extravolumemounts")
_VOLUMES = {"volumes": "volumes", "extravolumes": "volumes"} | {key.lower(): key for key in CARRIED}
# Values by which a chart sets Datadog's variables: {datadog: {env, service, version, site}} and the like.
_DATADOG = {"env": "DD_ENV", "service": "DD_SERVICE", "version": "DD_VERSION", "site": "DD_SITE"}
_ABOUT_RELEASE = {
    "name",
    "namespace",
    "chart",
    "version",
    "values",
    "set",
    "inherit",
    "installed",
    "condition",
    "labels",
}


def is_helmfile(documents: Iterable[Any]) -> bool:
    return any(isinstance(each, dict) and isinstance(each.get("releases"), list) for each in documents)


def workloads(documents: Sequence[Any], name: str, folder: Path) -> list[Workload]:
    """Every release. Files that values name are read beside the helmfile; what can't be read becomes a note."""
    merged: dict[str, Any] = {}
    for document in documents:
        if isinstance(document, dict):
            merged = merge(merged, document)
    templates = _mapping(merged.get("templates"))
    return [
        _workload(_inherited(release, templates), name, folder)
        for release in merged["releases"]
        if isinstance(release, dict)
    ]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings by key, anything else whole."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _inherited(release: Mapping[str, Any], templates: Mapping[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {}
    for each in _list(release.get("inherit")):
        template = _mapping(templates.get(str(_mapping(each).get("template"))))
        base = merge(base, template)
    both = merge(base, release)
    # helmfile appends a release's values to those of what it inherits.
    both["values"] = [*_list(base.get("values")), *_list(release.get("values"))]
    return both


def _workload(release: Mapping[str, Any], origin: str, folder: Path) -> Workload:
    notes: list[str] = []
    values = _values(release, folder, notes)
    found = _Found(values)
    unused = found.unused | {f"release.{key}": value for key, value in release.items() if key not in _ABOUT_RELEASE}
    for key in ("installed", "condition"):
        if key in release and text(release[key]) != "true":
            notes.append(f"the release has {key}: {text(release[key])}")
    return Workload(
        name=str(release.get("name") or "unnamed"),
        kind="release",
        origin=origin,
        command=found.command,
        environment=found.environment,
        environment_from=found.environment_from,
        labels=found.labels,
        pod=found.pod,
        mounts=found.mounts,
        unused=unused,
        notes=notes,
        **found.scalars,
    )


def _values(release: Mapping[str, Any], folder: Path, notes: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    chart = folder / str(release.get("chart") or "")
    if release.get("chart") and (chart / "values.yaml").is_file():
        values = _file(chart / "values.yaml", "values.yaml of the chart", notes)
    for each in [*_list(release.get("values")), *_list(release.get("valuesTemplate"))]:
        if isinstance(each, dict):
            values = merge(values, each)
        elif isinstance(each, str):
            values = merge(values, _file(folder / each, each, notes))
    for each in [*_list(release.get("set")), *_list(release.get("setString"))]:
        item = _mapping(each)
        if "name" in item:
            value = item.get("values", item.get("value"))
            values = _set(values, re.split(r"(?<!\\)\.", str(item["name"])), value)
    return values


def _file(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    if texts.is_template(name):
        notes.append(f"the values file {name} is named by a template; it was not read")
        return {}
    try:
        documents, dropped = texts.read(path.read_text(encoding="utf-8-sig"), name)
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"the values file {name} can't be read ({type(error).__name__}): what it says is not carried over")
        return {}
    except ConfigError as error:
        notes.append(f"{error}; what it says is not carried over")
        return {}
    notes += [f"{name}: {line} is known to helmfile alone" for line in dropped]
    values: dict[str, Any] = {}
    for document in documents:
        values = merge(values, _mapping(document))
    return values


def _set(values: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """``values`` with the value at a path such as ``extraEnv[0].name``."""
    head, *rest = keys
    match = re.fullmatch(r"(.*?)\[(\d+)\]", head)
    if not match:
        key = head.replace("\\.", ".")
        return {**values, key: _set(_mapping(values.get(key)), rest, value) if rest else value}
    key, place = match[1], int(match[2])
    items = list(_list(values.get(key)))
    items += [{}] * (min(place, 1000) + 1 - len(items))
    items[place] = _set(_mapping(items[place]), rest, value) if rest else value
    return {**values, key: items}


class _Found:
    """What the values say, the shallowest key first; ``unused`` is the rest by its path."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.scalars: dict[str, str] = {}
        self.command: list[str] = []
        self.environment: list[Mapping[str, Any]] = []
        self.environment_from: list[Any] = []
        self.labels: dict[str, str] = {}
        self.pod: dict[str, Any] = {}
        self.mounts: list[Any] = []
        self.unused: dict[str, Any] = {}
        self._commands: dict[str, list[str]] = {}
        level: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), values)]
        while level:
            below: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []
            for path, mapping in level:
                for key, value in mapping.items():
                    if not self._take(path, key, value) and value is not None:
                        if isinstance(value, dict) and value:
                            below.append(((*path, key), value))
                        else:
                            self.unused[".".join((*path, key))] = value
            level = below
        for key in _COMMANDS:
            self.command += self._commands.get(key, [])

    def _take(self, path: tuple[str, ...], key: str, value: Any) -> bool:
        plain = _plain(key)
        if field := _SCALARS.get(plain):
            said = text(value)
            if said is not None and field not in self.scalars:
                self.scalars[field] = said
            return said is not None
        if plain == "serviceaccount":
            said = text(value) or text(_mapping(value).get("name"))
            if said and "service_account" not in self.scalars:
                self.scalars["service_account"] = said
            return bool(said)
        if path and _plain(path[-1]) in ("datadog", "dd") and plain in _DATADOG and (said := text(value)):
            self._add_environment([{"name": _DATADOG[plain], "value": said}])
            return True
        readers: list[tuple[Sequence[str] | Mapping[str, str], Callable[[str, Any], bool]]] = [
            (_COMMANDS, self._take_command),
            (_ENVIRONMENTS, lambda _, value: self._take_environment(value)),
            (_ENVIRONMENT_FROM, lambda _, value: self._extend(self.environment_from, value)),
            (_LABELS, lambda _, value: self._take_labels(value)),
            (_MOUNTS, lambda _, value: self._extend(self.mounts, value)),
            (_VOLUMES, self._take_pod),
        ]
        return next((read(plain, value) for keys, read in readers if plain in keys), False)

    def _take_command(self, key: str, value: Any) -> bool:
        words = [str(word) for word in _list(value) if not isinstance(word, (dict, list))]
        if not words:
            return value in ([], "")
        self._commands.setdefault(key, words)
        return True

    def _take_environment(self, value: Any) -> bool:
        if isinstance(value, dict):
            self._add_environment(
                [
                    {"name": name, "value": text(said)}
                    if text(said) is not None
                    else {
                        "name": name,
                        **(said if "valueFrom" in _mapping(said) or "value" in _mapping(said) else {"valueFrom": said}),
                    }
                    for name, said in value.items()
                    if said is not None
                ]
            )
            return True
        if isinstance(value, list):
            self._add_environment(each for each in value if isinstance(each, dict) and "name" in each)
            return True
        return False

    def _add_environment(self, entries: Iterable[Mapping[str, Any]]) -> None:
        known = {each["name"] for each in self.environment}
        self.environment += [each for each in entries if each["name"] not in known]

    def _take_labels(self, value: Any) -> bool:
        if isinstance(value, dict):
            self.labels |= {
                name: str(said) for name, said in value.items() if text(said) is not None and name not in self.labels
            }
        return isinstance(value, dict)

    def _take_pod(self, key: str, value: Any) -> bool:
        if value:
            self.pod.setdefault(_VOLUMES[key], value)
        return True

    @staticmethod
    def _extend(found: list[Any], value: Any) -> bool:
        found += _list(value)
        return True


def _plain(key: str) -> str:
    return re.sub(r"[-_]", "", key).lower()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
