"""Log records as they are kept for readers: what was said, when, how loud, and of what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# All but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Logged:
    """One record, its secrets masked already. ``level``: debug, info, warning, error or critical."""

    time: datetime
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def harmless(text: str) -> str:
    """``text`` with its control characters spelt out: what a server sent must not steer the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
