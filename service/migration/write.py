"""The plan as text: config.yaml with its comments, and the patch of the Deployment."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from service.config_values import MASK, is_secret_name, shown
from service.migration.plan import Plan
from service.migration.stanza import Stanza

_PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*")
_NO_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_WIDTH = 118


class _Quoted(str):
    """Text that stays text for every reader: 1e3 is a number to Kubernetes, though not to PyYAML."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)
_LONGEST = 2_000  # characters of one thing that is not carried over


def config(plan: Plan, notes: Sequence[str] = ()) -> str:
    """config.yaml: a stanza a collector; what could not be carried over stands as a comment above it.

    ``notes``: what else the sources hold, or could not be read for sure.
    """
    lines = [
        "# Written by `infra-health migrate`. `infra-health check` prints it resolved, with the next runs;",
        "# docs/cutover.md is the way from the CronJobs to the daemon; the project's config.yaml explains other keys.",
        "",
        "#mode: shadow  # until the values are compared: collects beside the CronJobs under names of its own",
        "max_series: 100",
        "",
    ]
    if plan.stanzas:
        lines.append("collectors:" if any(not stanza.why_not for stanza in plan.stanzas) else "collectors: {}")
    else:
        lines.append("collectors: {}  # nothing that was read is a collector")
    for stanza in plan.stanzas:
        lines += _stanza(stanza)
    if plan.datadog:
        lines += ["", "datadog:", *(f"  {key}: {_scalar(value)}" for key, value in plan.datadog.items())]
    if plan.left_alone:
        lines += ["", "# Left alone:"]
        for workload, reason in plan.left_alone:
            told = "; ".join([reason, *workload.notes])
            lines += _comment(f"- {workload.kind} {workload.name} ({workload.origin}): {told}")
    if notes:
        lines += ["", "# Of the sources as a whole:"]
        for note in notes:
            lines += _comment(f"- {note}")
    return "\n".join(lines) + "\n"


def patch(plan: Plan) -> str:
    """A strategic merge patch of the Deployment in k8s/base, for ``patches:`` of an overlay."""
    container: dict[str, Any] = {"name": "infra-health"}
    if plan.environment:
        container["env"] = [_entry(entry) for entry in plan.environment.values()]
    if plan.environment_from:
        container["envFrom"] = plan.environment_from
    if plan.mounts:
        container["volumeMounts"] = plan.mounts
    pod: dict[str, Any] = {"serviceAccountName": plan.service_account} if plan.service_account else {}
    pod |= plan.pod
    if len(container) > 1:
        pod["containers"] = [container]
    document: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "infra-health"}}
    template: dict[str, Any] = {}
    if plan.labels:
        labels = {name: _Quoted(value) for name, value in plan.labels.items()}
        document["metadata"]["labels"] = labels
        template["metadata"] = {"labels": dict(labels)}
    if pod:
        template["spec"] = pod
    if template:
        document["spec"] = {"template": template}
    head = [
        "# Written by `infra-health migrate`: what the CronJobs' pods had, for the Deployment: a file for `patches:`",
        "# of an overlay's kustomization.yaml (production has environment.yaml and account.yaml for the same).",
    ]
    for note in plan.patch_notes:
        head += _comment(f"not carried over: {note}")
    body = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=False
    )
    return "\n".join(head) + "\n" + body


def _stanza(stanza: Stanza) -> list[str]:
    source = stanza.source
    lines = ["", *_comment(f"{source.kind} {source.name} ({source.origin})", "  ")]
    for note in stanza.notes:
        lines += _comment(note, "  ")
    for path, value in source.unused.items():
        lines += _comment(f"not carried over: {path}: {_flow(value, path)}", "  ")
    written = [f"  {stanza.name}:", *_keys(stanza.values, "    ")]
    if stanza.why_not:
        lines += _comment(f"NOT CARRIED OVER: {stanza.why_not}", "  ")
        return lines + [f"  # {line[2:]}" for line in written]
    return lines + written


def _keys(values: Mapping[str, Any], indent: str) -> Iterable[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _keys(value, indent + "  ")
        elif isinstance(value, (list, tuple)):
            yield f"{indent}{key}: [{', '.join(_scalar(part) for part in value)}]"
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    # The base gives DD_SITE a value, and a variable has either that or valueFrom.
    if "valueFrom" in entry:
        return {**entry, "value": None} if entry["name"] == "DD_SITE" else dict(entry)
    return {**entry, "value": _Quoted(entry["value"])}


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXT:
        return text
    return text if re.fullmatch(r"\d+[smhd]", text) else json.dumps(text, ensure_ascii=False)


def _flow(value: Any, path: str = "") -> str:
    text = yaml.safe_dump(
        _masked(value, path.rpartition(".")[2]), default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _masked(value: Any, name: str) -> Any:
    """``value`` without what may be secret."""
    if isinstance(value, dict):
        named = is_secret_name(str(value.get("name", "")))
        return {key: MASK if named and key == "value" else _masked(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part, name) for part in value]
    if isinstance(value, str):
        return MASK if is_secret_name(name) and value else shown(value)
    return value


def _comment(text: str, indent: str = "") -> Sequence[str]:
    lines = textwrap.wrap(
        " ".join(text.split()), _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"{indent}# {line}" for line in lines] or [f"{indent}#"]
