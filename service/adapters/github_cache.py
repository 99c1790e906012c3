"""Bodies by ETag: an answer that did not change costs GitHub nothing and us no quota."""

from collections import OrderedDict
from dataclasses import dataclass

import zstandard

# One address, as one token sees it: GitHub's ETags belong to the token.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A body and the validator under which GitHub would send it again."""

    etag: str
    packed: bytes

    def body(self, limit: int) -> bytes:
        return zstandard.ZstdDecompressor().decompress(self.packed, max_output_size=limit)


def pack(etag: str, body: bytes | bytearray) -> Entry:
    """CPU work: a megabyte of runs takes some milliseconds and becomes a twentieth."""
    packed = zstandard.ZstdCompressor(level=1).compress(body)
    # A copy: zstandard gives what it made in a buffer for the worst case, which stays as large as the body.
    return Entry(etag, bytes(memoryview(packed)))


class EtagCache:
    """The bodies used last, up to ``limit`` bytes as packed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def get(self, key: Key) -> Entry | None:
        entry = self._entries.get(key)
        if entry:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        self.drop(key)
        self._entries[key] = entry
        self._size += len(entry.packed)
        while self._size > self._limit:
            _, oldest = self._entries.popitem(last=False)
            self._size -= len(oldest.packed)

    def drop(self, key: Key) -> None:
        if entry := self._entries.pop(key, None):
            self._size -= len(entry.packed)
