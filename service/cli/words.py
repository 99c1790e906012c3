"""Times, values and foreign texts as a person at a terminal reads them."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# Control characters, what turns the writing direction, and halves of surrogate pairs, which no stream can write.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def ago(instant: str | None, missing: str = "never", *, brief: bool = False) -> str:
    """``2026-03-04 05:10:00 (4 min ago)``, ``... (in 6 min)``; UTC as it came. ``brief``: no date when it is today."""
    if not instant:
        return missing
    at = datetime.fromisoformat(instant).astimezone(UTC)
    time = f"{at:%H:%M:%S} ({relative(at)})"
    return time if brief and at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d} {time}"


def relative(at: datetime) -> str:
    seconds = (datetime.now(UTC) - at).total_seconds()
    whole = round(abs(seconds))
    size, unit = next((pair for pair in ((86400, "d"), (3600, "h"), (60, "min")) if whole >= pair[0]), (1, "s"))
    return f"{whole // size} {unit} ago" if seconds >= 0 else f"in {whole // size} {unit}"


def span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def about(tags: Mapping[str, str]) -> str:
    """Which check it is: ``latest_state_of_main / tests_blocking_merge / flaky_tests``."""
    names = ("workflow_name", "task", "check", "label", "repo")
    return " / ".join(tags[name] for name in names if name in tags)


def harmless(text: str) -> str:
    """What a server sent must not steer the terminal."""
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def log_line(line: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(line["time"]).astimezone(UTC)
    stack = line["fields"].get("error.stack")
    fields = {name: value for name, value in line["fields"].items() if name not in ("logger", "error.stack")}
    said = " ".join(f"{name}={value}" for name, value in fields.items())
    text = f"{at:%H:%M:%S} {line['level']:<8} {line['message']}  {said}".rstrip()
    return harmless(text) + (f"\n{harmless(stack)}" if stack else "")
