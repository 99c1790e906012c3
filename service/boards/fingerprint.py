"""Which keys of an object count, its fingerprint, and how two of them differ."""

import hashlib
import json
from collections.abc import Collection, Iterator
from itertools import takewhile, zip_longest
from typing import Any

_MAX_CHANGES = 20
_SHOWN, _BEFORE = 120, 30  # characters of a text that differs, and of what is before the difference


def keys_of(content: Any) -> set[str]:
    """The names of all keys, at any depth."""
    if isinstance(content, dict):
        return set(content).union(*map(keys_of, content.values()))
    return set().union(*map(keys_of, content)) if isinstance(content, list) else set()


def select(value: Any, keys: Collection[str]) -> Any:
    """``value`` with these keys alone, at any depth, without nulls and empties; tags in order, 5.0 as 5."""
    if isinstance(value, dict):
        found = {name: select(part, keys) for name, part in value.items() if name in keys}
        found = {name: part for name, part in found.items() if part not in (None, "", [], {})}
        if isinstance(found.get("tags"), list):
            found["tags"].sort()
        return found
    if isinstance(value, list):
        return [select(part, keys) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fingerprint(selected: Any) -> str:
    """The same for the same content in another spelling of JSON."""
    return hashlib.sha256(json.dumps(selected, sort_keys=True).encode()).hexdigest()[:12]


def overlay(actual: Any, desired: Any, keys: Collection[str]) -> Any:
    """``desired`` with what people have added to ``actual`` under keys that we never set.

    A widget is the same one by its type and title, wherever it is; other parts of a list by their place.
    """

    def identify(place: int, part: Any) -> object:
        definition = part.get("definition") if isinstance(part, dict) else None
        return (definition.get("type"), definition.get("title")) if definition else place

    if isinstance(actual, dict) and isinstance(desired, dict):
        # Widgets get their ids from Datadog, and two of one title must not share one.
        added = {name: part for name, part in actual.items() if name not in keys and name != "id"}
        return added | {name: overlay(actual.get(name), part, keys) for name, part in desired.items()}
    if isinstance(actual, list) and isinstance(desired, list):
        there = {identify(place, each): each for place, each in enumerate(actual)}
        return [overlay(there.get(identify(place, each)), each, keys) for place, each in enumerate(desired)]
    return desired


def describe_changes(actual: Any, desired: Any) -> list[str]:
    """A line for each value that differs: ``widgets[2].definition.title: "a" -> "b"``; of very many the first."""
    found = []
    for path, *pair in _find_changes(actual, desired, ""):
        texts = ["nothing" if each is None else json.dumps(each, ensure_ascii=False) for each in pair]
        # Of long texts only the part that differs is of interest.
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
        start = max(0, same - _BEFORE) if max(map(len, texts)) > _SHOWN else 0
        old, new = (f"{'…' if start else ''}{each[start:][:_SHOWN]}" for each in texts)
        found.append(f"{path}: {old} -> {new}")
    more = len(found) - _MAX_CHANGES
    return found[:_MAX_CHANGES] + ([f"and {more} more"] if more > 0 else [])


def _find_changes(actual: Any, desired: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where they differ. A key that we do not set at that place is none of ours: Datadog fills in defaults."""
    if isinstance(actual, dict) and isinstance(desired, dict):
        for name, part in desired.items():
            yield from _find_changes(actual.get(name), part, f"{path}.{name}".lstrip("."))
    elif isinstance(actual, list) and isinstance(desired, list):
        for place, pair in enumerate(zip_longest(actual, desired)):
            yield from _find_changes(*pair, f"{path}[{place}]")
    elif actual != desired:
        yield path, actual, desired
