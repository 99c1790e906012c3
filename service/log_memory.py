"""The last log records, and those of each run under way: bounded, so that no storm of lines costs memory.

What is kept here has passed the masking of ``logs``; threads may log at once.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.domain.logged import Logged

_RECENT = 1000
# Lines a run: its first ones tell how the trouble began, its last ones how it ended.
_FIRST, _LAST = 50, 150
_LONGEST_TEXT, _LONGEST_STACK = 2_000, 8_000  # characters


class _RunLines:
    def __init__(self) -> None:
        self.first: list[Logged] = []
        self.last: deque[Logged] = deque(maxlen=_LAST)
        self.count = 0

    def add(self, line: Logged) -> None:
        self.count += 1
        if len(self.first) < _FIRST:
            self.first.append(line)
        else:
            self.last.append(line)

    def all(self) -> list[Logged]:
        left_out = self.count - len(self.first) - len(self.last)
        if not left_out:
            return [*self.first, *self.last]
        gap = Logged(self.last[0].time, "info", f"{left_out} lines are left out here")
        return [*self.first, gap, *self.last]


class LogMemory:
    """``keep`` is told every record; ``open`` and ``close`` frame a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Logged] = deque(maxlen=_RECENT)
        self._runs: dict[str, _RunLines] = {}

    def keep(self, line: Logged) -> None:
        line = replace(line, message=_cut(line.message, _LONGEST_TEXT), fields=_bounded(line.fields))
        with self._lock:
            self._recent.append(line)
            if lines := self._runs.get(str(line.fields.get("run"))):
                fields = {name: value for name, value in line.fields.items() if name not in ("run", "collector")}
                lines.add(replace(line, fields=fields))

    def recent(self, limit: int = _RECENT) -> list[Logged]:
        """The last records, oldest first."""
        with self._lock:
            return list(self._recent)[-limit:]

    def open(self, run_id: str) -> None:
        """From now on the lines of this run are kept apart."""
        with self._lock:
            self._runs[run_id] = _RunLines()

    def of_run(self, run_id: str) -> list[Logged]:
        """The lines so far of a run that is under way, empty for any other."""
        with self._lock:
            lines = self._runs.get(run_id)
            return lines.all() if lines else []

    def close(self, run_id: str) -> None:
        """Forgets the run's lines: they are stored, or nobody will ask."""
        with self._lock:
            self._runs.pop(run_id, None)


def _bounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _cut(value, _LONGEST_STACK if "stack" in name else _LONGEST_TEXT) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _cut(text: str, most: int) -> str:
    # The end of a stack says where it broke.
    return text if len(text) <= most else f"{text[: most // 4]} ... {text[-most * 3 // 4 :]}"
