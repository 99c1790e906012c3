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

# What Datadog keeps of a tag; all else becomes an underscore.
_NOT_KEPT = re.compile(r"[^\w\-:./]")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.]")
# Control characters, line and paragraph separators, and the halves of surrogate pairs, which no JSON text can hold.
_NOT_IN_A_TAG = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r'["\\]')
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


def kept(name: str, value: str) -> str:
    """``name:value`` as Datadog keeps it, which is how a filter has to say it: in lower case, of other characters one
    underscore for all that follow each other and none at the end.
    """
    text = _NOT_KEPT.sub("_", (tag(name, value) or f"{name}:{value}").lower())
    return re.sub("_+", "_", text)[:LONGEST].rstrip("_:")


@lru_cache(maxsize=4096)
def key(name: str) -> str:
    """The tag that Datadog reads where one of this name is sent: ``Workflow name`` is workflow_name, ``env:x`` env."""
    return re.sub("_+", "_", _NOT_KEPT.sub("_", name.partition(":")[0].strip().lower()))


def kept_value(name: str, value: str) -> str:
    return kept(name, value).partition(":")[2]


def plain(text: str) -> str:
    """Foreign text on one line of Datadog's Markdown: it can't make a link, nor end the frame (``%%%``)."""
    line = " ".join(text.replace("%%%", "%").split())
    return "".join(f"\\{char}" if char in "[]*_`" else char for char in line[:200])


def encode_tags(tags: Mapping[str, str], refused: list[str] | None = None) -> str:
    """A JSON list of ``name:value``: the same tags give the same text, required tags first, the others by name.

    Tags that Datadog could not take are left out; their names go into ``refused``.
    """
    order = _order(tuple(tags))
    pairs = [(name, tags[name]) for name in order] if order else tags.items()
    parts = list(map(_encoded.__getitem__, pairs))
    if "" in parts:
        if refused is not None:
            refused += [name for (name, _), part in zip(pairs, parts, strict=True) if not part]
        parts = [part for part in parts if part]
    return f"[{','.join(parts)}]"


class _Encoded(dict[tuple[str, str], str]):
    """Tags as JSON text, empty where Datadog could not take one. Most are the same from run to run."""

    def __missing__(self, pair: tuple[str, str]) -> str:
        if len(self) >= _MOST_ENCODED:
            self.clear()
        text = tag(*pair)
        if not text:
            encoded = ""
        elif text.isascii() and not _ESCAPED.search(text):  # printable, so that it is JSON as it is
            encoded = f'"{text}"'
        else:
            encoded = orjson.dumps(text).decode()
        self[pair] = encoded
        return encoded


_MOST_ENCODED = 16_384  # some 5 MB
_encoded = _Encoded()


@lru_cache(maxsize=256)
def _order(names: tuple[str, ...]) -> list[str] | None:
    """The names in the order in which they are written, None where they are in it already."""
    order = sorted(names, key=lambda name: (_PLACE.get(name, len(_PLACE)), name))
    return None if order == list(names) else order
