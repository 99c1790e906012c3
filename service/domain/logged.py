"""Log records as they are kept for readers: what was said, when, how loud, and of what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# Control characters but tab and line feed, what turns the writing direction, and halves of surrogate pairs, which no
# stream can write.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Logged:
    """One record, its secrets masked already. ``level``: debug, info, warning, error or critical."""

    time: datetime
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def harmless(text: str) -> str:
    """``text`` with its control characters spelt out: what a server sent must not steer the terminal."""
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
