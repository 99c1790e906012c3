"""What the values of some chart say of a scheduled command: each value is known by its key, wherever it stands."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from service.migration.manifests import CARRIED, text
from service.migration.texts import list_of, mapping_of

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
_VALUES = {"value", "valueFrom"}
_REFERENCES = {"secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef"}
_ENVIRONMENT_FROM = ("envfrom", "extraenvfrom")
_LABELS = ("podlabels", "labels", "extralabels", "commonlabels")
_MOUNTS = ("volumemounts", "extravolumemounts")
_VOLUMES = {"volumes": "volumes", "extravolumes": "volumes"} | {key.lower(): key for key in CARRIED}
# Values by which a chart sets Datadog's variables: {datadog: {env, service, version, site}} and the like.
_DATADOG_KEYS = ("datadog", "dd")
_DATADOG = {"env": "DD_ENV", "service": "DD_SERVICE", "version": "DD_VERSION", "site": "DD_SITE"}


def jobs(values: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The scheduled commands within ``values``, by name, each with what stands beside them all; one has no name.

    A chart may take several, as a list (``jobs: [{name: a, schedule: ...}]``) or by name (``cronjobs: {a: {...}}``).
    """
    places = list(_scheduled(values, ()))
    if len(places) < 2 and not any(isinstance(step, int) for path in places for step in path):
        return [("", values)]
    common = values
    for path in places:
        common = _without(common, path) or {}
    found = []
    for path in places:
        own: Any = values
        for step in path:
            own = own[step]
        name = text(own.get("name")) or next((str(step) for step in reversed(path) if isinstance(step, str)), "")
        found.append((name, merge(common, {key: value for key, value in own.items() if key != "name"})))
    return found


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings by key, anything else whole."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _scheduled(value: Any, path: tuple[str | int, ...]) -> Iterable[tuple[str | int, ...]]:
    """Where the mappings stand that have both a schedule and a command of their own."""
    if isinstance(value, dict):
        keys = {_folded(key) for key in value}
        if path and keys & set(_COMMANDS) and any(_SCALARS.get(key) == "schedule" for key in keys):
            yield path
            return
    for step, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _scheduled(part, (*path, step))


def _without(value: Any, path: Sequence[str | int]) -> Any:
    """``value`` without what stands at ``path``; places in lists stay, so that other paths still hold."""
    if not isinstance(value, (dict, list)):
        return value
    step, *rest = path
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
    kept = [
        (key, _without(part, rest) if key == step and rest else None if key == step else part) for key, part in pairs
    ]
    if isinstance(value, list):
        kept_parts = [part for _, part in kept]
        return kept_parts if any(part is not None for part in kept_parts) else None
    return {key: part for key, part in kept if part is not None or value[key] is None} or None


class Found:
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
        plain = _folded(key)
        if field := _SCALARS.get(plain):
            said = text(value)
            # The shallowest counts; another one is told.
            return said is not None and self.scalars.setdefault(field, said) == said
        if plain == "serviceaccount":
            account = mapping_of(value)
            if said := text(value) or text(account.get("name")):
                self.scalars.setdefault("service_account", said)
            # Its annotations (an IAM role) are the account's, not the pod's.
            self.unused |= {
                ".".join((*path, key, name)): part
                for name, part in account.items()
                if name != "name" and part not in (None, {}, [])
            }
            return bool(said) or bool(account)
        inside = path and _folded(path[-1]) in _DATADOG_KEYS
        about = plain if inside else next((plain.removeprefix(k) for k in _DATADOG_KEYS if plain.startswith(k)), "")
        if about in _DATADOG and (said := text(value)):
            self._add_environment(path, [{"name": _DATADOG[about], "value": said}])
            return True
        readers: list[tuple[Sequence[str] | Mapping[str, str], Callable[[str, Any], bool]]] = [
            (_COMMANDS, self._take_command),
            (_ENVIRONMENTS, lambda _, value: self._take_environment((*path, key), value)),
            (_ENVIRONMENT_FROM, lambda _, value: self._extend(self.environment_from, value)),
            (_LABELS, lambda _, value: self._take_labels(value)),
            (_MOUNTS, lambda _, value: self._extend(self.mounts, value)),
            (_VOLUMES, self._take_pod),
        ]
        return next((read(plain, value) for keys, read in readers if plain in keys), False)

    def _take_command(self, key: str, value: Any) -> bool:
        words = [str(word) for word in list_of(value) if not isinstance(word, (dict, list))]
        if not words:
            return value in ([], "")
        return self._commands.setdefault(key, words) == words

    def _take_environment(self, path: tuple[str, ...], value: Any) -> bool:
        if isinstance(value, dict):
            value = [_entry(name, said) for name, said in value.items()]
        elif isinstance(value, list):
            value = [_entry(*each.split("=", 1)) if isinstance(each, str) and "=" in each else each for each in value]
        else:
            return value is None
        self._add_environment(path, value)
        return True

    def _add_environment(self, path: Sequence[str], entries: Iterable[Any]) -> None:
        """Each entry that a pod could have; the shallowest of a name counts. The others are told."""
        for place, entry in enumerate(entries):
            name = str(mapping_of(entry).get("name") or "")
            known = next((each for each in self.environment if each["name"] == name), entry)
            if name and known == entry and len(entry) <= 2 and (len(entry) == 1 or entry.keys() & _VALUES):
                self.environment += [entry] if known is entry else []
            else:
                self.unused[".".join((*path, name or str(place)))] = entry

    def _take_labels(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        said = {name: str(label) for name, label in value.items() if text(label) is not None}
        taken = all(self.labels.get(name, label) == label for name, label in said.items())
        self.labels = said | self.labels
        return taken

    def _take_pod(self, key: str, value: Any) -> bool:
        return not value or self.pod.setdefault(_VOLUMES[key], value) == value

    @staticmethod
    def _extend(found: list[Any], value: Any) -> bool:
        found += list_of(value)
        return True


def _entry(name: str, said: Any) -> dict[str, Any]:
    """A pod's variable from ``NAME: value`` or ``NAME: {secretKeyRef: ...}``."""
    if not isinstance(said, dict):
        return {"name": name, "value": text(said) or ""}
    if said.keys() & _VALUES:
        return {"name": name, **said}
    return {"name": name, "valueFrom": said} if said.keys() & _REFERENCES else {"name": name, "as written": said}


def _folded(key: str) -> str:
    return re.sub(r"[-_]", "", key).lower()
