"""Log records as they are kept for readers: what was said, when, how loud, and of what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Logged:
    """One record, its secrets masked already. ``level``: debug, info, warning, error or critical."""

    time: datetime
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
