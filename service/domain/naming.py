"""Names and tags as Datadog takes them, made valid where samples become stored points.

Lower-casing and underscores in tags are left to Datadog, so that a condition travels as written. Rules:
https://docs.datadoghq.com/developers/guide/what-best-practices-are-recommended-for-naming-metrics-and-tags/
"""

import re
from collections.abc import Mapping
from functools import lru_cache

import orjson

from service.domain.samples import REQUIRED_TAGS

LONGEST = 200  # characters, of a metric's name and of a tag "name:value" alike

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.]")
# Control characters, line and paragraph separators, and the halves of surrogate pairs, which no JSON text can hold.
_NOT_IN_A_TAG = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLACE = {name: place for place, name in enumerate(REQUIRED_TAGS)}


def metric_name(name: str) -> str | None:
    """``name`` with what Datadog doesn't take as underscores, cut to 200; None when it does not begin with a letter."""
    if not name[:1].isascii() or not name[:1].isalpha():
        return None
    return _NOT_IN_A_NAME.sub("_", name)[:LONGEST]


def tag(name: str, value: str) -> str | None:
    """``name:value`` without what Datadog refuses, None when nothing is left to say (no letter first, no value)."""
    text = f"{name}:{value}"
    if not text.isprintable():
        text = _NOT_IN_A_TAG.sub("_", text)
    text = text[:LONGEST].rstrip(": ")
    if not name[:1].isalpha() or not value.strip(": ") or len(text) <= len(name):
        return None
    return text


def encode_tags(tags: Mapping[str, str], refused: list[str] | None = None) -> str:
    """A JSON list of ``name:value``: the same tags give the same text, required tags first, the others by name.

    Tags that Datadog could not take are left out; their names go into ``refused``.
    """
    names = _ordered(tuple(tags))
    parts = [_encoded(name, tags[name]) for name in names]
    if "" in parts:
        if refused is not None:
            refused += [name for name, part in zip(names, parts, strict=True) if not part]
        parts = [part for part in parts if part]
    return f"[{','.join(parts)}]"


# Most tags are the same from sample to sample and from run to run.
@lru_cache(maxsize=4096)
def _encoded(name: str, value: str) -> str:
    text = tag(name, value)
    return orjson.dumps(text).decode() if text else ""


@lru_cache(maxsize=256)
def _ordered(names: tuple[str, ...]) -> list[str]:
    return sorted(names, key=lambda name: (_PLACE.get(name, len(_PLACE)), name))
