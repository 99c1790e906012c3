"""Answers by their ETags: GitHub sends one again for nothing while it has not changed (a 304 is free)."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import zstandard

T = TypeVar("T")
Key = tuple[str, str]  # a token's fingerprint and an address: GitHub's ETags belong to the token


@dataclass(frozen=True, slots=True)
class Entry:
    """A body and the validator under which GitHub would send it again."""

    etag: str
    packed: bytes


class EtagCache:
    """What was used last, bounded in ``max_bytes`` of packed bodies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def keep(self, key: Key, entry: Entry | None) -> None:
        """In place of what was kept under ``key``; what was used longest ago goes."""
        known = self._entries.pop(key, None)
        self._bytes -= len(known.packed) if known else 0
        if entry:
            self._entries[key] = entry
            self._bytes += len(entry.packed)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._entries.popitem(last=False)[1].packed)


def decode_body(
    source: bytes | Entry, etag: str | None, decode: Callable[[bytes], T], max_bytes: int
) -> tuple[T, Entry | None]:
    """The value, and what to keep: the entry itself, or under ``etag`` the body. CPU work."""
    if isinstance(source, Entry):
        return decode(zstandard.decompress(source.packed, max_output_size=max_bytes)), source
    value = decode(source)
    # A copy: zstandard gives what it made in a buffer for the worst case, which stays as large as the body.
    return value, Entry(etag, bytes(memoryview(zstandard.compress(source, 1)))) if etag else None
