"""Which keys of an object count, its fingerprint, and how two of them differ."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from typing import Any

Content = dict[str, Any]

_MAX_CHANGES = 20
_SHOWN, _BEFORE = 120, 30  # characters of a text that differs, and of what is before the difference


def keys_of(content: Any) -> set[str]:
    """The names of all keys, at any depth."""
    if isinstance(content, Mapping):
        return set(content).union(*map(keys_of, content.values()))
    return set().union(*map(keys_of, content)) if isinstance(content, list | tuple) else set()


def restrict(value: Any, keys: Collection[str]) -> Any:
    """``value`` with these keys alone, at any depth, without nulls and empties; tags in order, 5.0 as 5."""
    if isinstance(value, Mapping):
        found = {name: restrict(part, keys) for name, part in value.items() if name in keys}
        found = {name: part for name, part in found.items() if part not in (None, "", [], {})}
        if isinstance(found.get("tags"), list):
            found["tags"] = sorted(found["tags"], key=str)
        return found
    if isinstance(value, list | tuple):
        return [restrict(part, keys) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fingerprint(restricted: Any) -> str:
    """The same for the same content in another spelling of JSON."""
    text = json.dumps(restricted, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def project(actual: Any, desired: Any) -> Any:
    """``actual`` with the keys alone that ``desired`` has at the same place."""
    if isinstance(actual, dict) and isinstance(desired, dict):
        return {name: project(part, desired[name]) for name, part in actual.items() if name in desired}
    if isinstance(actual, list) and isinstance(desired, list):
        return [*(project(*pair) for pair in zip(actual, desired, strict=False)), *actual[len(desired) :]]
    return actual


def overlay(actual: Any, desired: Any, keys: Collection[str]) -> Any:
    """``desired`` with what people have added to ``actual`` under keys that we never set.

    A widget is the same one by its type and title, wherever it is; other parts of a list by their place.
    """
    if isinstance(actual, Mapping) and isinstance(desired, Mapping):
        # Widgets get their ids from Datadog, and two of one title must not share one.
        added = {name: part for name, part in actual.items() if name not in keys and name != "id"}
        return added | {name: overlay(actual.get(name), part, keys) for name, part in desired.items()}
    if isinstance(actual, list) and isinstance(desired, list):
        there = {_identity(each, place): each for place, each in enumerate(actual)}
        return [overlay(there.get(_identity(each, place)), each, keys) for place, each in enumerate(desired)]
    return desired


def describe_changes(before: Any, after: Any) -> list[str]:
    """A line for each value that differs: ``widgets[2].definition.title: "a" -> "b"``; of very many the first."""
    found = list(_changes(before, after, ""))
    more = [f"and {len(found) - _MAX_CHANGES} more"] if len(found) > _MAX_CHANGES else []
    return found[:_MAX_CHANGES] + more


def _identity(part: Any, place: int) -> object:
    definition = part.get("definition") if isinstance(part, Mapping) else None
    return (definition.get("type"), definition.get("title")) if isinstance(definition, Mapping) else place


def _changes(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            yield from _changes(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            old, new = (each[place] if place < len(each) else None for each in (before, after))
            yield from _changes(old, new, f"{path}[{place}]")
    elif before != after or type(before) is not type(after):
        start = 0
        if isinstance(before, str) and isinstance(after, str):
            # Of long texts only the part that differs is of interest.
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            start = max(0, same - _BEFORE)
        yield f"{path}: {_show(before, start)} -> {_show(after, start)}"


def _show(value: Any, start: int) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    start = start if len(text) > _SHOWN else 0
    return f"{'…' if start else ''}{text[start : start + _SHOWN]}{'…' if start + _SHOWN < len(text) else ''}"
