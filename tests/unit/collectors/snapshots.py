"""A snapshot's records, as a pipeline would publish them."""

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2025, 1, 14, 15, 30, tzinfo=UTC)
RECORD = {
    "metric": "hearts",
    "workflow_name": "arena",
    "task": "runs_successfully",
    "check": "reward_threshold",
    "condition": "> 0.5",
    "value": 0.92,
    "status": "pass",
    "timestamp": "2025-01-14T15:00:00Z",
    "tags": {"workflow": "training"},
}
# As `--dry-run` prints a sample.
PRINTED: dict[str, Any] = {
    "metric": "queue",
    "value": 7,
    "tags": {"zone": "a"},
    "kind": "count",
    "timestamp": 1736866800.5,
}


def record(**changes: Any) -> dict[str, Any]:
    """A valid one; a field set to ... is left out."""
    return {name: value for name, value in (RECORD | changes).items() if value is not ...}
