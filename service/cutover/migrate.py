"""Turns rendered CronJob manifests into config.yaml and the chart's release in a helmfile. Text in, text out.

Where a field is left out, Kubernetes' own default counts:
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/cron-job-v1/
"""

import copy
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import yaml
from pydantic import ValidationError

from service.collectors.registry import installed_names, settings_of
from service.config.masking import MASK, is_secret_name, mask, mask_address, redact, secrets_in_environment
from service.domain.errors import ConfigError

REMEDY = (
    "rendered CronJob manifests are read, from `helmfile template | infra-health migrate -`, `helm template` or "
    "`kubectl get cronjobs -o yaml`"
)
# What the replaced system's collectors are here.
_REPLACED: Mapping[str, Mapping[str, str]] = {
    "ci": {"type": "github_ci", "service": "dashboard-collector"},
    "training": {"type": "snapshot", "category": "training", "service": "training-health-collector"},
    "eval": {"type": "snapshot", "category": "evaluation", "service": "eval-health-collector"},
}
_NAMESPACE = "monitoring"  # docs/cutover.md, and k8s/cutover.sh where it is told no other
_JOB = "spec.jobTemplate.spec"
# Setting, part of a CronJob, field, and what it is where it is left out.
_SETTINGS: Sequence[tuple[str, str, str, Any]] = (
    ("schedule", "spec", "schedule", None),
    ("time_zone", "spec", "timeZone", None),
    ("concurrency_policy", "spec", "concurrencyPolicy", "Allow"),
    ("starting_deadline", "spec", "startingDeadlineSeconds", None),
    ("active_deadline", _JOB, "activeDeadlineSeconds", None),
    ("backoff_limit", _JOB, "backoffLimit", 6),
    ("successful_runs_history_limit", "spec", "successfulJobsHistoryLimit", 3),
    ("failed_runs_history_limit", "spec", "failedJobsHistoryLimit", 1),
)
_TAG = "tags.datadoghq.com/"
_UNIFIED = ("DD_ENV", "DD_SERVICE", "DD_VERSION", "DD_SITE")
# What tools write for themselves, and what the API server fills in.
_NOT_TOLD = re.compile(
    r"([\w.-]+\.)?((kubernetes|k8s|helm|kustomize)\.(io|sh)|datadoghq\.com)/.*"
    r"|chart|release|heritage|app|controller-uid|job-name|pod-template-hash"
    r"|name|terminationMessagePath|terminationMessagePolicy|dnsPolicy|schedulerName|serviceAccount"
)
# Behind the name of a secret, a scheme of Authorization, or a user (``-u ann:...``, which ``python -u`` is not).
_SECRET_ARGUMENT = re.compile(
    r"((?:token|key|secret|password)(?:=|,?\s+)|authorization:\s*\w+\s|(?:-u|--user)(?:=|,?\s+)'?[\w.@-]+:)([^\s,\]]+)",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(r"""\b([A-Z_][A-Z0-9_]*)=("[^"]*"|'[^']*'|[^\s;&|()<>]*)""")

Environment = dict[str, dict[str, Any]]  # {value} or {valueFrom} by name


@dataclass(slots=True)
class Stanza:
    """One collector of config.yaml. ``cronjob``: the name of the CronJob that it was.

    ``notes``: what the CronJob says that has no counterpart, and what else should be known.
    ``problem``: why it can't be a collector as it stands; it is written as a comment then.
    """

    name: str
    cronjob: str
    values: dict[str, Any]
    notes: list[str]
    problem: str = ""


@dataclass(slots=True)
class Migration:
    """``others``: CronJobs whose command is not known or holds a secret.

    ``values``: of the release of k8s/chart, what the CronJobs' pods had; of accounts and labels the first counts.
    ``namespaces``: of those that are carried over.
    ``notes``: what differs between the CronJobs, so that one release can't have it.
    """

    stanzas: list[Stanza] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        """The release's."""
        return next(iter(self.namespaces), _NAMESPACE)


def read_cronjobs(content: bytes, title: str) -> list[dict[str, Any]]:
    """The CronJobs among the manifests of a file. Raises ConfigError."""
    try:
        # Each is taken apart, and those that share a part by a YAML anchor share it no more.
        objects = _objects(yaml.safe_load_all(content))
        found = [copy.deepcopy(item) for item in objects if item.get("kind") == "CronJob"]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or type(error).__name__
        raise ConfigError(f"{title}{where}: is no YAML: {problem}; {REMEDY}") from None
    if not found:
        raise ConfigError(f"{title}: holds no CronJob; {REMEDY}")
    return found


def _objects(documents: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The objects, those of a list (``kubectl get``) one by one."""
    for each in documents:
        if isinstance(each, dict) and isinstance(each.get("items"), list):
            kind = str(each.get("kind", "")).removesuffix("List")
            yield from _objects({"kind": kind, **item} for item in each["items"] if isinstance(item, dict))
        elif isinstance(each, dict):
            yield each


def migrate(cronjobs: Iterable[dict[str, Any]]) -> Migration:
    """What becomes of CronJobs; they are taken apart."""
    result = Migration()
    environments = [_add_cronjob(item, result) for item in cronjobs]
    # What the CronJobs have in common is the release's; what a collector reads is in its stanza.
    for name in dict.fromkeys(chain.from_iterable(environments)):
        entries = [environment[name] for environment in environments if name in environment]
        value = entries[0].get("value")
        if name == "DD_SERVICE" or (value and any(_find_settings(each.values, name, "1") for each in result.stanzas)):
            continue
        if is_secret_name(name) and value is not None:
            result.notes.append(f"{name} stands in a manifest as plain text: put it into the release's Secret")
        elif any(entry != entries[0] for entry in entries):
            result.notes.append(f"{name} differs between the CronJobs: {', '.join(map(_flow, entries))}")
        elif name == "DD_VERSION":
            result.notes.append(f"DD_VERSION was {_flow(value)}: here it is the tag of the image")
        elif value and name in ("DD_ENV", "DD_SITE"):
            result.values.setdefault("datadog", {})[name.removeprefix("DD_").lower()] = value
        else:
            result.values.setdefault("extraEnv", []).append({"name": name, **entries[0]})
    if len(set(result.namespaces)) > 1:
        result.notes.append(f"a release has one namespace, not {', '.join(dict.fromkeys(result.namespaces))}")
    return result


def _add_cronjob(item: dict[str, Any], result: Migration) -> Environment:
    """Adds the CronJob's collectors, or what else it runs. The variables of its pod that are no stanza's own.

    What is used is taken out of the manifest: the rest has no counterpart.
    """
    metadata = _take(dict(item), "metadata")
    cronjob = str(metadata.get("name"))
    places = ("template.spec", "template.metadata.labels", "template.metadata.annotations", "template")
    pod, labels, annotations, _ = (_take(item, f"{_JOB}.{place}") for place in places)
    parts = {path: _take(item, path) for path in (_JOB, "spec", "metadata.labels", "metadata.annotations")}
    containers = _list(pod.pop("containers", None), dict) or [{}]
    container = next((each for each in containers if _find_collectors(_read_command(each))), containers[0])
    command = _read_command(container)
    names = _find_collectors(command)
    environment = _read_environment(labels, _list(container.pop("env", None), dict), " ".join(command) if names else "")
    mask(secrets_in_environment({name: str(entry.get("value", "")) for name, entry in environment.items()}))
    is_known = bool(names or _list(container.get("command")))
    for key in ("command", "args"):
        container.pop(key, None)
    runs = _SECRET_ARGUMENT.sub(rf"\1{MASK}", _flow(command)) if command else f"what {container.get('image')} runs"
    values: dict[str, Any] = {"enabled": False} if parts["spec"].pop("suspend", None) is True else {}
    for key, place, name, default in _SETTINGS:
        value = parts[place].pop(name, None)
        if (value := default if value is None else value) is not None:
            values[key] = value
    if not is_known or (MASK in runs and not names):
        result.others.append((cronjob, f'"{values.get("schedule")}" {runs}'))
        return {}
    result.namespaces += [str(metadata["namespace"])] if metadata.get("namespace") else []
    has_more_variables = bool(container.get("envFrom"))
    _add_pod(pod, container, labels, result)
    for kind, others in (("containers", containers), ("initContainers", _list(pod.get("initContainers"), dict))):
        pod[kind] = [each.get("name") for each in others if each is not container]
    notes = [f"ran {runs}"]
    if "active_deadline" not in values:
        notes.append("no activeDeadlineSeconds: here a run is ended after 5m")
    if has_more_variables and not names:
        notes.append("of the variables of envFrom the program gets those that pass_environment names")
    for path, part in {**parts, "pod": pod, "pod.annotations": annotations, "container": container}.items():
        left = {key: value for key, value in part.items() if value and not _NOT_TOLD.fullmatch(str(key))}
        notes += [f"not carried over: {path}.{key}: {_flow(value)}" for key, value in left.items()]
    stanzas: dict[str, Mapping[str, Any]] = {name: _REPLACED.get(name, {"type": name}) for name in names}
    for name, own in (stanzas or {cronjob: _to_program(command, environment, notes)}).items():
        stanza = Stanza(_choose_name(name, cronjob, result.stanzas), cronjob, {**own, **values}, list(notes))
        _take_settings(stanza, {name: entry["value"] for name, entry in environment.items() if entry.get("value")})
        result.stanzas.append(stanza)
    return {name: entry for name, entry in environment.items() if name not in stanza.values.get("environment", ())}


def _add_pod(pod: dict[str, Any], container: dict[str, Any], labels: Mapping[str, Any], result: Migration) -> None:
    """Takes what the release's pod shall have, too."""
    for each in _list(container.pop("envFrom", None)):
        if each not in (more := result.values.setdefault("extraEnvFrom", [])):
            more.append(each)
    if account := pod.pop("serviceAccountName", None):
        first = result.values.setdefault("serviceAccount", {"create": False, "name": account})["name"]
        if account != first:
            result.notes.append(f"a pod has one account, {first}, not {account}, too")
    for name, text in labels.items():
        if not _NOT_TOLD.fullmatch(str(name)):
            result.values.setdefault("podLabels", {}).setdefault(name, str(text))


def _to_program(command: Sequence[str], environment: Environment, notes: list[str]) -> dict[str, Any]:
    """A command that is no collector of ours, as a stanza of type exec.

    Variables that are plain are the program's alone; what comes from elsewhere, and what seems to be secret, is the
    release's, from where it is passed on. Those of Datadog every program gets as the daemon is configured itself.
    """
    own = {name: entry for name, entry in environment.items() if name not in _UNIFIED}
    plain = {name: entry["value"] for name, entry in own.items() if "value" in entry and not is_secret_name(name)}
    passed = [name for name in own if name not in plain]
    notes.append("runs no collector of ours: what it prints on stdout becomes samples, see docs/collectors.md")
    if any(re.search(r"\$\(\w+\)", word) for word in (*command, *plain.values())):
        notes.append("Kubernetes puts values in the place of $(NAME); here nothing does")
    values = {"type": "exec", "command": list(command), "environment": plain, "pass_environment": passed}
    return {key: value for key, value in values.items() if value}


def _read_command(container: Mapping[str, Any]) -> list[str]:
    return [str(word) for key in ("command", "args") for word in _list(container.get(key))]


def _find_collectors(command: Sequence[str]) -> list[str]:
    """The NAMEs of ``collect NAME... --push`` that are collectors here, also in a line for a shell. Without --push
    nothing was ever sent."""
    words = [part for word in command for part in re.split(r"[\s;&|()<>'\"]+", word)]
    if "collect" not in words or "--push" not in words:
        return []
    known = {*_REPLACED, *installed_names()}
    return [word for word in words[words.index("collect") + 1 :] if word in known]


def _read_environment(labels: Mapping[str, Any], entries: Iterable[dict[str, Any]], line: str) -> Environment:
    """What comes from a label has that label's value; a shell's ``line`` may set more before what it collects."""
    tags = [tag for tag in ("env", "service", "version") if _TAG + tag in labels]
    environment = {f"DD_{tag.upper()}": {"value": str(labels[_TAG + tag])} for tag in tags}
    for entry in entries:
        name, source = str(entry.get("name")), entry.get("valueFrom")
        if not source:
            environment[name] = {"value": str(entry.get("value") or "")}
        elif name not in environment:
            environment[name] = {"valueFrom": source}
    for name, text in _ASSIGNMENT.findall(re.split(r"\bcollect\b", line)[0]):
        environment[name] = {"value": text[1:-1] if text[:1] in ("'", '"') else text}
    return environment


def _find_settings(values: Mapping[str, Any], variable: str, text: str) -> dict[str, Any]:
    """The keys of the stanza's type that the variable sets, dotted where nested."""
    return settings_of(values["type"]).legacy_environment(values, {variable: text})


def _take_settings(stanza: Stanza, variables: Mapping[str, str]) -> None:
    """Adds the keys that the variables set. A stanza that ``check`` would refuse is none."""
    values = stanza.values
    values["service"] = variables.get("DD_SERVICE", values.get("service", "infra-health"))
    for variable, text in variables.items():
        for key, value in _find_settings(values, variable, text).items():
            outer, _, inner = key.partition(".")
            values |= {outer: {**values.get(outer, {}), inner: value}} if inner else {key: value}
            stanza.notes.append(f"{key} was {variable}")
    try:
        settings = settings_of(values["type"]).model_validate(values)
        values |= {key: list(value) for key in values if isinstance(value := getattr(settings, key), tuple)}
    except ValidationError as error:
        problems = {each["loc"]: each["msg"].removeprefix("Value error, ") for each in error.errors(include_url=False)}
        # It is the CronJob's image that had the program.
        if missing := problems.pop(("command",), ""):
            stanza.notes.append(f"{missing}: put it into the daemon's image, or `check` refuses the stanza")
        stanza.problem = "; ".join(f"{'.'.join(map(str, place))}: {text}" for place, text in problems.items())


def _choose_name(name: str, cronjob: str, stanzas: Iterable[Stanza]) -> str:
    """Two CronJobs of one collector (two repositories) become two: the later one by its CronJob's name."""
    taken = [stanza.name for stanza in stanzas]
    name = re.sub("[^a-z0-9]+", "-", (f"{name}-{cronjob}" if name in taken else name).lower())[:48].strip("-")
    return next(each for each in (name, *(f"{name}-{number}" for number in range(2, 999))) if each not in taken)


def _list(value: Any, kind: type = object) -> list[Any]:
    """Those of this kind, of what should be a list but was validated by nobody."""
    return [each for each in value if isinstance(each, kind)] if isinstance(value, list) else []


def _take(item: dict[str, Any], path: str) -> dict[str, Any]:
    """Takes the mapping at ``path`` out of the manifest, which nobody has validated."""
    *names, last = path.split(".")
    for name in names:
        item = part if isinstance(part := item.get(name), dict) else {}
    part = item.pop(last, None)
    return part if isinstance(part, dict) else {}


def to_config(migration: Migration) -> str:
    """config.yaml: a stanza a collector, with what has no counterpart as comments above it."""
    live = [stanza for stanza in migration.stanzas if not stanza.problem]
    blocks = [
        "# Written by `infra-health migrate`. `infra-health check` validates it and prints the next runs;\n"
        "# docs/cutover.md is the way from the CronJobs to the daemon.\n",
        "#mode: shadow  # until the values are compared: collects beside the CronJobs, sends under names of its own\n"
        "max_series: 100\n",
        "collectors:\n" if live else "collectors: {}\n",
    ]
    for stanza in migration.stanzas:
        notes = [f"CronJob {stanza.cronjob}", *stanza.notes]
        text = _dump({stanza.name: stanza.values})
        if stanza.problem:
            notes.append(f"NOT CARRIED OVER: {stanza.problem}")
            text = _comment(text)
        blocks.append(textwrap.indent(_comment("\n".join(notes)) + text, "  "))
    if datadog := migration.values.get("datadog"):
        blocks.append(_dump({"datadog": datadog}))
    if migration.others:
        title = "What these CronJobs run is known to their images alone, or names a secret in the manifest:"
        blocks.append(_comment("\n- ".join([title, *map(": ".join, migration.others)])))
    pairs = " ".join(f"{stanza.cronjob}={stanza.name}" for stanza in live)
    elsewhere = f"NAMESPACE={migration.namespace} " if migration.namespace != _NAMESPACE else ""
    notes = [
        "The release of k8s/chart for the CronJobs' helmfile (docs/cutover.md); this file is its infra-health.yaml:",
        textwrap.indent(to_release(migration), "  ").rstrip(),
        *(f"not carried over: {note}" for note in migration.notes),
        f"To cut over: {elsewhere}k8s/cutover.sh live {pairs}",
        "Then, before anything is applied again: `live` here, `suspend: true` in the values of the CronJobs' releases.",
    ]
    return "\n".join([*blocks, _comment("\n".join(notes))])


def to_release(migration: Migration) -> str:
    """The daemon's release as an item of a helmfile, in shadow mode at first, with what the CronJobs' pods had."""
    mode = {"name": "INFRA_HEALTH_MODE", "value": "shadow"}
    values = {
        "image": {"registry": "REGISTRY", "name": "infra-health", "tag": "TAG"},
        **migration.values,
        "persistence": {"enabled": True},
        "extraEnv": [mode, *migration.values.get("extraEnv", ())],
    }
    release = {"name": "infra-health", "chart": "./infra-health", "namespace": migration.namespace, "values": [values]}
    return _dump([{**release, "set": [{"name": "config", "file": "infra-health.yaml"}]}])


class _Dumper(yaml.SafeDumper):
    """Quotes text unless it begins like a word: 1e3 is text to PyYAML, but a number to Kubernetes."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        is_plain = re.fullmatch(r"[A-Za-z][\w./-]+", text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)


def _flow(value: Any) -> str:
    """``value`` on one line, without secrets."""
    text = yaml.safe_dump(value, default_flow_style=True, width=100_000, allow_unicode=True)
    return redact(mask_address(text.removesuffix("...\n").strip()))


def _comment(text: str) -> str:
    return textwrap.indent(f"{text.rstrip()}\n", "# ")
