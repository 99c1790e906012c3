"""What becomes of the workloads: stanzas, shared settings, the patch of the Deployment, and what is left alone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.config import CollectorSettings
from service.config_values import is_secret_name
from service.migration import command as commands
from service.migration.stanza import RENDER, REPLACED, Environment, Stanza, Types, check, name_apart, plain, stanza_of
from service.migration.texts import is_template
from service.migration.workload import Workload

_TAGS = "tags.datadoghq.com/"
# Labels that say whose object it is, not what the team wants to know of it.
_BOOKKEEPING = re.compile(
    r"(app\.kubernetes\.io|helm\.sh|batch\.kubernetes\.io|tags\.datadoghq\.com|admission\.datadoghq\.com)/.*"
    r"|controller-uid|job-name|pod-template-hash|chart|release|heritage"
)


@dataclass(slots=True)
class Plan:
    """``patch_notes``: what differs between the CronJobs so that one Deployment can't have it.

    ``left_alone``: workloads that are no collectors, with the reason. ``undecided``: those of them that may be some.
    """

    stanzas: list[Stanza] = field(default_factory=list)
    datadog: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    environment_from: list[Any] = field(default_factory=list)
    service_account: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    pod: dict[str, Any] = field(default_factory=dict)
    mounts: list[Any] = field(default_factory=list)
    patch_notes: list[str] = field(default_factory=list)
    left_alone: list[tuple[Workload, str]] = field(default_factory=list)
    undecided: list[Workload] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.undecided and not any(stanza.why_not for stanza in self.stanzas)


def plan(workloads: Sequence[Workload], types: Types) -> Plan:
    """``types``: the installed collectors' settings by type name."""
    result = Plan()
    carried: list[tuple[Workload, Environment]] = []
    for workload in workloads:
        found, reason = _collects(workload, types)
        if not found:
            result.left_alone.append((workload, reason))
            continue
        for call in found:
            environment = _environment(workload, call)
            carried.append((workload, environment))
            for name in call.names:
                result.stanzas.append(stanza_of(name, workload, call, environment, types, len(call.names)))
    # The CronJobs share a chart; what uses another is most likely no collector, whatever its values say.
    charts = {workload.chart for workload, _ in carried if workload.chart}
    result.undecided = [each for each, _ in result.left_alone if not each.is_whole and each.chart in charts]
    name_apart(result.stanzas)
    _share(result, carried, types)
    for stanza in result.stanzas:
        check(stanza, types)
    return result


def _collects(workload: Workload, types: Types) -> tuple[list[commands.Call], str]:
    """The calls that are carried over, or why there is none."""
    found = commands.calls(workload.command)
    if not found and not workload.is_whole:
        return [], "may run a collector: not all of its values could be read"
    if not found and workload.schedule and not workload.command:
        return [], f"says no command; {RENDER} knows what its chart runs"
    if not found:
        return [], "runs no collector"
    if not any(call.pushes for call in found):
        return [], "collects without --push: it never sent anything"
    known = []
    for call in found:
        names = tuple(name for name in call.names if name in REPLACED or name in types or is_template(name))
        if names and call.pushes:
            known.append(replace(call, names=names))
    unknown = sorted({name for call in found for name in call.names} - {name for call in known for name in call.names})
    return known, f"collects {', '.join(unknown)}, which is no collector here" if unknown else ""


def _environment(workload: Workload, call: commands.Call) -> dict[str, Mapping[str, Any]]:
    """The variables by name, those of the labels filled in, those of the shell line last."""
    environment: dict[str, Mapping[str, Any]] = {}
    for entry in workload.environment:
        name = str(entry.get("name"))
        source = entry.get("valueFrom")
        path = str(source.get("fieldRef", {}).get("fieldPath", "")) if isinstance(source, dict) else ""
        label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
        if label and label[1] in workload.labels:
            environment[name] = {"name": name, "value": workload.labels[label[1]]}
        elif source is not None:
            environment[name] = {"name": name, "valueFrom": source}
        elif entry.get("value") is not None:
            environment[name] = {"name": name, "value": str(entry["value"])}
    for tag in ("env", "service", "version"):
        if f"{_TAGS}{tag}" in workload.labels:
            name = f"DD_{tag.upper()}"
            environment.setdefault(name, {"name": name, "value": workload.labels[f"{_TAGS}{tag}"]})
    for name, value in call.environment.items():
        environment[name] = {"name": name, "value": value}
    return environment


def _share(result: Plan, carried: Sequence[tuple[Workload, Environment]], types: Types) -> None:
    """What all CronJobs have in common becomes the Deployment's; of the rest a collector's own goes to its stanza."""
    by_name: dict[str, list[tuple[Workload, Mapping[str, Any]]]] = {}
    for workload, environment in carried:
        for name, entry in environment.items():
            by_name.setdefault(name, []).append((workload, entry))
    lines = [stanza for stanza in result.stanzas if stanza.source.kind == "crontab line"]
    legacy = {name for cls in types.values() for name in _legacy_of(cls)}
    moved: set[str] = set()
    for name, entries in by_name.items():
        distinct = _distinct(entry for _, entry in entries)
        first = distinct[0]
        value = first.get("value")
        if name == "DD_SERVICE":
            continue
        if name in ("DD_ENV", "DD_VERSION", "DD_SITE") and len(distinct) == 1 and value and not is_template(value):
            key = name.removeprefix("DD_").lower()
            result.datadog[key] = value
            if key == "site":
                result.environment[name] = first
            else:
                result.labels[f"{_TAGS}{key}"] = value
        elif any(is_template(str(entry.get("value"))) for entry in distinct):
            result.patch_notes.append(f"{name}: only the template knows its value")
        elif is_secret_name(name) and value is not None:
            result.patch_notes.append(
                f"{name} stands in the source as plain text: put it into the Secret infra-health instead"
            )
        elif name in legacy and (len(distinct) > 1 or lines):
            moved.add(name)
        elif len(distinct) > 1:
            said = "; ".join(f"{workload.name}: {entry.get('value', 'from elsewhere')}" for workload, entry in entries)
            result.patch_notes.append(f"{name} differs between the sources: {said}")
        else:
            result.environment[name] = first
    for stanza in result.stanzas:
        _own_settings(stanza, carried, moved, types)
    _share_pods(result, [workload for workload, _ in carried])


def _own_settings(
    stanza: Stanza, carried: Sequence[tuple[Workload, Environment]], moved: set[str], types: Types
) -> None:
    """Variables that one Deployment can't hold for all (two repositories) become keys of the stanza."""
    environment = next(found for workload, found in carried if workload is stanza.source)
    cls = types.get(str(stanza.values["type"]))
    if cls is None:
        return
    own = {name: value for name in moved if (value := plain(environment, name)) is not None}
    for key, value in cls.legacy_environment(stanza.values, own).items():
        stanza.values[key] = value
    for name in sorted(moved & set(environment)):
        if name in _legacy_of(cls) and name not in own:
            stanza.notes.append(f"{name} came from elsewhere (valueFrom) and differs between the sources")


def _share_pods(result: Plan, workloads: Sequence[Workload]) -> None:
    accounts = list(dict.fromkeys(each.service_account for each in workloads if each.service_account))
    readable = [account for account in accounts if not is_template(account)]
    if readable:
        result.service_account = readable[0]
    if len(accounts) > 1 or accounts != readable:
        result.patch_notes.append(f"the sources have the service accounts {', '.join(accounts)}; a pod has one")
    labels = _in_common("label", [each.labels for each in workloads], result.patch_notes)
    result.labels |= {name: value for name, value in labels.items() if not _BOOKKEEPING.fullmatch(name)}
    result.pod = _in_common("pod", [each.pod for each in workloads], result.patch_notes, lists=("volumes",))
    result.mounts = _distinct(mount for each in workloads for mount in each.mounts)
    result.environment_from = _distinct(entry for each in workloads for entry in each.environment_from)


def _in_common(
    what: str, each: Sequence[Mapping[str, Any]], notes: list[str], lists: Sequence[str] = ()
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for mapping in each for name in mapping):
        values = _distinct(mapping[name] for mapping in each if name in mapping)
        if name in lists:
            found[name] = _distinct(item for value in values for item in (value if isinstance(value, list) else []))
        elif len(values) == 1 and not is_template(str(values[0])):
            found[name] = values[0]
        elif not (what == "label" and _BOOKKEEPING.fullmatch(name)):
            notes.append(f"{what} {name} differs between the sources, or only a template knows it: {values}")
    return found


def _legacy_of(cls: type[CollectorSettings]) -> set[str]:
    names = set(cls.legacy_names.values())
    # A snapshot's source has another variable for each category.
    return names | ({"TRAINING_HEALTH_FILE", "EVAL_HEALTH_FILE"} if "source" in cls.model_fields else set())


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
