"""What has changed between two renderings of a page: lines of the old one, and new ones between them.

The request says which rendering the reader has (https://www.rfc-editor.org/rfc/rfc3229: A-IM, 226 IM Used).
"""

import json
import zlib
from collections.abc import Sequence
from hashlib import blake2b

METHOD = "lines"  # its name in A-IM and IM
_MOST = 32  # renderings that are kept, packed to about a tenth


class Renderings:
    """The last pages that were rendered, by what they hold."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def keep(self, page: bytes) -> str:
        """Its entity tag, by which ``compare`` knows it."""
        tag = f'"{blake2b(page, digest_size=9).hexdigest()}"'
        self._kept[tag] = self._kept.pop(tag, b"") or zlib.compress(page, 1)
        for old in list(self._kept)[:-_MOST]:
            del self._kept[old]
        return tag

    def compare(self, tag: str, page: bytes) -> bytes | None:
        """A JSON list that makes ``page`` of the one with this tag: new lines, and ``[first, count]`` for lines that
        it has already. None where that one is not kept any more."""
        if (packed := self._kept.get(tag)) is None:
            return None
        return json.dumps(compare_lines(_split(zlib.decompress(packed)), _split(page)), separators=(",", ":")).encode()


def compare_lines(old: Sequence[str], new: Sequence[str]) -> list[str | list[int]]:
    """As few steps as a look at each line finds."""
    places = {line: place for place, line in enumerate(old)}
    steps: list[str | list[int]] = []
    for line in new:
        last = steps[-1] if steps else ""
        if isinstance(last, list) and sum(last) < len(old) and old[sum(last)] == line:
            last[1] += 1
        elif (place := places.get(line)) is not None and len(line) > 8:
            steps.append([place, 1])
        else:
            steps.append(line)
    return steps


def _split(page: bytes) -> list[str]:
    return page.decode().split("\n")
