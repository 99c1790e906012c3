"""A helmfile whose releases use a shared CronJob chart.

What a value means is known by its key, wherever in the values a chart wants it (``schedule``, ``cronjob.schedule``,
``job.concurrencyPolicy`` ...), for the chart itself is not run. Values merge as helmfile merges them: a chart's own
values.yaml where the chart lies in a folder, then ``values`` in their order, then ``set``; mappings by key, lists whole
(https://helmfile.readthedocs.io/en/latest/#configuration).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.domain.errors import ConfigError
from service.migration import texts
from service.migration.chart_values import Found, jobs, merge
from service.migration.manifests import text
from service.migration.workload import Workload

_DEEPEST_BASE = 5
# {{ .Release.Name }}, also as {{`{{ .Release.Name }}`}}, which helmfile leaves for the release's own turn.
_OF_RELEASE = re.compile(r"\{\{-?\s*(?:`\{\{\s*)?\.Release\.(Name|Namespace)\s*(?:\}\}`\s*)?-?\}\}")
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


def workloads(documents: Sequence[Any], name: str, folder: Path) -> tuple[list[Workload], list[str]]:
    """Every release, and what else is to be told. Files that are named are read beside the helmfile."""
    told: list[str] = []
    merged = _merged(documents, name, folder, told)
    templates = _mapping(merged.get("templates"))
    told += [
        f"{name}: the helmfile {_mapping(each).get('path', each)} in it was not read; name it as well"
        for each in _list(merged.get("helmfiles"))
    ]
    releases = [each for each in merged["releases"] if isinstance(each, dict)]
    found = [
        workload
        for release in releases
        for workload in _workloads(_rendered(_inherited(release, templates)), name, folder)
    ]
    return found, told


def _merged(documents: Sequence[Any], name: str, folder: Path, told: list[str], depth: int = 0) -> dict[str, Any]:
    """The documents over their bases. As in helmfile, lists of several documents (their releases) are joined."""
    merged: dict[str, Any] = {}
    for document in documents:
        if not isinstance(document, dict):
            continue
        layers = [document]
        for base in _list(document.get("bases")) if depth < _DEEPEST_BASE else ():
            below = _documents(folder / str(base), str(base), "the base", told) or ()
            layers.insert(-1, _merged(below, str(base), (folder / str(base)).parent, told, depth + 1))
        for layer in layers:
            joined = {
                key: [*merged[key], *layer[key]]
                for key in merged.keys() & layer.keys()
                if isinstance(merged[key], list) and isinstance(layer[key], list)
            }
            merged = merge(merged, layer) | joined
    return merged


def _rendered(release: Any, own: Mapping[str, Any] | None = None) -> Any:
    """``release`` with what its templates say of the release itself: its name and its namespace."""
    own = release if own is None else own
    if isinstance(release, dict):
        return {key: _rendered(value, own) for key, value in release.items()}
    if isinstance(release, list):
        return [_rendered(each, own) for each in release]
    if not isinstance(release, str):
        return release
    return _OF_RELEASE.sub(lambda match: text(own.get(match[1].lower())) or match[0], release)


def _inherited(release: Mapping[str, Any], templates: Mapping[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {}
    for each in _list(release.get("inherit")):
        template = _mapping(templates.get(str(_mapping(each).get("template"))))
        left_out = _list(_mapping(each).get("except"))
        base = merge(base, {key: value for key, value in template.items() if key not in left_out})
    both = merge(base, release)
    # helmfile appends a release's values to those of what it inherits.
    both["values"] = [*_list(base.get("values")), *_list(release.get("values"))]
    return both


def _workloads(release: Mapping[str, Any], origin: str, folder: Path) -> Iterable[Workload]:
    notes: list[str] = []
    values, is_whole = _values(release, folder, notes)
    about = {f"release.{key}": value for key, value in release.items() if key not in _ABOUT_RELEASE}
    for key in ("installed", "condition"):
        if key in release and text(release[key]) != "true":
            notes.append(f"the release has {key}: {text(release[key])}")
    for job, its_values in jobs(values):
        found = Found(its_values)
        scalars = dict(found.scalars)
        if text(release.get("installed")) == "false":
            scalars["suspend"] = "true"  # it does not run there either
        name = str(release.get("name") or "unnamed")
        yield Workload(
            name=f"{name}-{job}" if job else name,
            kind="release",
            origin=origin,
            command=found.command,
            environment=found.environment,
            environment_from=found.environment_from,
            labels=found.labels,
            pod=found.pod,
            mounts=found.mounts,
            unused=found.unused | about,
            notes=list(notes),
            chart=text(release.get("chart")),
            is_whole=is_whole,
            **scalars,
        )


def _values(release: Mapping[str, Any], folder: Path, notes: list[str]) -> tuple[dict[str, Any], bool]:
    """The merged values, and whether every file of them could be read."""
    values: dict[str, Any] = {}
    is_whole = True
    chart = folder / str(release.get("chart") or "")
    if release.get("chart") and (chart / "values.yaml").is_file():
        found = _file(chart / "values.yaml", "values.yaml of the chart", notes)
        is_whole, values = found is not None, found or {}
    for each in [*_list(release.get("values")), *_list(release.get("valuesTemplate"))]:
        if isinstance(each, dict):
            values = merge(values, each)
        elif isinstance(each, str):
            found = _file(folder / each, each, notes)
            is_whole = is_whole and found is not None
            values = merge(values, found or {})
    for each in [*_list(release.get("set")), *_list(release.get("setString"))]:
        item = _mapping(each)
        if "name" in item:
            value = item.get("values", item.get("value"))
            values = _set(values, re.split(r"(?<!\\)\.", str(item["name"])), value)
    return values, is_whole


def _file(path: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    documents = _documents(path, name, "the values file", notes)
    if documents is None:
        return None
    values: dict[str, Any] = {}
    for document in documents:
        values = merge(values, _mapping(document))
    return values


def _documents(path: Path, name: str, what: str, notes: list[str]) -> Sequence[Any] | None:
    """What a file beside the helmfile holds; None, and a note, when it can't be read."""
    if texts.is_template(name):
        notes.append(f"{what} {name} is named by a template; it was not read")
        return None
    try:
        documents, told = texts.read(path.read_text(encoding="utf-8-sig"), name)
    except (OSError, ValueError) as error:
        notes.append(f"{what} {name} can't be read ({type(error).__name__}): what it says is not carried over")
        return None
    except ConfigError as error:
        notes.append(f"{error}; what it says is not carried over")
        return None
    notes += [f"{name}: {each}" for each in told]
    return documents


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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
