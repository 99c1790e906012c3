"""How our objects are found again in Datadog, and how a change by hand is told from ours.

Each object carries a mark: a key, the environment, and two sums. ``wanted`` is the sum of what was pushed, ``kept`` of
what Datadog made of it (it fills in defaults). So without any memory of ours: another ``wanted`` means that the code
or the settings changed, another ``kept`` that somebody edited the object. Titles mean nothing.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from service.domain.naming import kept_value

Content = dict[str, Any]

_PLACE = re.compile(r"\[\d+\]$")
_FEW = 3  # places where the same differs, told one by one
_SHOWN, _BEFORE = 120, 30  # characters of a text that differs, and of what is before the difference

MANAGED = "managed_by:infra-health"
PENDING = "0"  # as ``kept``: the first of two writes, so what differs is Datadog's filling in and nobody's edit
_KEY, _SUM = "infra_health_key:", "infra_health_sum:"
_BOARD = re.compile(
    r"\s*Kept as code[^\[\]]*\[infra-health board=(\S+) env=(\S*) sum=(\w+)\.(\w+)(?: share=([\w-]+))?\]"
)
_METRIC = re.compile(r"\s*\[infra-health (\w+)\.(\w+)\]")


@dataclass(frozen=True, slots=True)
class Mark:
    """``env`` as Datadog keeps a tag's value; empty for metrics, which environments share.

    ``share``: the token of a board's public address. Datadog gives a share by its token only, so the board keeps it.
    """

    key: str
    env: str
    wanted: str
    kept: str
    share: str = ""


def env_of(env: str) -> str:
    return kept_value("env", env)


def digest(content: Any) -> str:
    """A sum over what matters of ``content``: the same for the same content in another spelling of JSON."""
    text = json.dumps(_plain(content), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """A line for each value that differs: ``widgets[2].definition.title: "a" -> "b"``.

    What one key has everywhere, as with a default that Datadog fills in, is one line, after all others.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for place, change in _differences(_plain(before), _plain(after), path):
        alike.setdefault((_PLACE.sub("", place).rsplit(".", 1)[-1], change), []).append(place)
    for (_, change), places in alike.items():
        if len(places) <= _FEW:
            yield from (f"{place}: {change}" for place in places)
    for (key, change), places in alike.items():
        if len(places) > _FEW:
            yield f"{key} in {len(places)} places, first {places[0]}: {change}"


def mark_board(content: Content, mark: Mark) -> Content:
    share = f" share={mark.share}" if mark.share else ""
    text = f"[infra-health board={mark.key} env={mark.env} sum={mark.wanted}.{mark.kept}{share}]"
    told = f"{content['description']}\n\nKept as code: the next push does not overwrite edits unless forced. {text}"
    return {**content, "description": told}


def read_board(description: str | None) -> Mark | None:
    found = _BOARD.search(description or "")
    return Mark(*found.groups(default="")) if found else None


def unmark_board(content: Content) -> Content:
    return {**content, "description": _BOARD.sub("", content.get("description") or "")}


def mark_monitor(content: Content, mark: Mark) -> Content:
    ours = [MANAGED, f"{_KEY}{mark.key}", f"{_SUM}{mark.wanted}.{mark.kept}"]
    return {**content, "tags": [*content["tags"], *ours]}


def read_monitor(content: Mapping[str, Any]) -> Mark | None:
    tags = [tag for tag in content.get("tags") or () if isinstance(tag, str)]
    named = {
        prefix: tag.removeprefix(prefix) for tag in tags for prefix in (_KEY, _SUM, "env:") if tag.startswith(prefix)
    }
    if MANAGED not in tags or _KEY not in named:
        return None
    wanted, _, kept = named.get(_SUM, "").partition(".")
    return Mark(named[_KEY], named.get("env:", ""), wanted, kept)


def unmark_monitor(content: Content) -> Content:
    tags = [tag for tag in content.get("tags") or () if tag != MANAGED and not tag.startswith((_KEY, _SUM))]
    return {**content, "tags": tags}


def mark_metric(content: Content, mark: Mark) -> Content:
    facts = content["metadata"]
    described = f"{facts['description']} [infra-health {mark.wanted}.{mark.kept}]"
    return {**content, "metadata": {**facts, "description": described}}


def read_metric(name: str, content: Mapping[str, Any]) -> Mark | None:
    found = _METRIC.search((content.get("metadata") or {}).get("description") or "")
    return Mark(name, "", *found.groups()) if found else None


def unmark_metric(content: Content) -> Content:
    facts = content.get("metadata") or {}
    return {**content, "metadata": {**facts, "description": _METRIC.sub("", facts.get("description") or "")}}


def _plain(value: Any) -> Any:
    """``value`` without what says nothing: nulls and empties, the ids that Datadog gives to widgets, 5.0 for 5."""
    if isinstance(value, Mapping):
        found = {key: _plain(part) for key, part in value.items() if not (key == "id" and "definition" in value)}
        found = {key: part for key, part in found.items() if part not in (None, "", [], {})}
        if isinstance(found.get("tags"), list):
            found["tags"] = sorted(found["tags"], key=str)
        return found
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            old, new = ((each[place] if place < len(each) else None) for each in (before, after))
            yield from _differences(old, new, f"{path}[{place}]")
    elif before != after or type(before) is not type(after):
        start = 0
        if isinstance(before, str) and isinstance(after, str):
            # Of long texts only the part that differs is of interest.
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            start = max(0, alike - _BEFORE)
        yield path, f"{_shown(before, start)} -> {_shown(after, start)}"


def _shown(value: Any, start: int) -> str:
    if isinstance(value, str) and len(value) > _SHOWN:
        value = f"{'…' if start else ''}{value[start : start + _SHOWN]}{'…' if start + _SHOWN < len(value) else ''}"
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}…"
