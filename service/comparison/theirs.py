"""The CronJobs' values: from files of the replaced tool (``collect -o``), or from Datadog."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from service.adapters.datadog_queries import DatadogQueries
from service.comparison.values import Value
from service.domain.errors import ConfigError

_LONGEST = 50 * 2**20  # bytes
_BY = ("workflow_name", "task", "check")
# So far back the newest point of an hourly CronJob is looked for.
_LOOK_BACK = timedelta(hours=3)


def from_file(name: str) -> list[Value]:
    """The samples of a file ("-" is standard input). Raises ConfigError."""
    try:
        data = sys.stdin.buffer.read(_LONGEST) if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: can't be read: {error.strerror}") from error
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{name}: is no JSON: {error}") from error
    rows = content.get("samples", content.get("series")) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise ConfigError(f"{name}: holds no list of samples, as `collect NAME -o FILE` writes it")
    return [_value(row, f"{name}: sample {place}") for place, row in enumerate(rows, 1)]


def from_datadog(
    queries: DatadogQueries, ours: Iterable[Value], unmeasured: Iterable[str], env: str, now: datetime
) -> list[Value]:
    """The newest value of each of the metrics that we have or left out, as the CronJobs sent it.

    Blocking. Raises HealthError.
    """
    found = []
    kinds = dict.fromkeys(sorted(unmeasured), "gauge") | {value.metric: value.kind for value in ours}
    for metric, kind in kinds.items():
        if kind == "distribution":
            continue  # the CronJobs sent none
        for series in queries.query(metric, env, _BY, now - _LOOK_BACK, now):
            if series.points:
                at, value = series.points[-1]
                found.append(Value(metric, value, series.tags, at))
    return found


def _value(row: Any, where: str) -> Value:
    if not isinstance(row, dict) or not isinstance(row.get("metric"), str):
        raise ConfigError(f"{where}: has no metric")
    value = row.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where}: its value is no number")
    at = _time(row.get("timestamp"), where)
    return Value(row["metric"], float(value), _tags(row.get("tags")), at, str(row.get("kind") or "gauge"))


def _tags(tags: Any) -> Mapping[str, str]:
    """A mapping, or a list of ``name:value`` as Datadog takes it."""
    if isinstance(tags, dict):
        return {str(name): str(value) for name, value in tags.items() if value is not None}
    parts: Sequence[tuple[str, str, str]] = [str(tag).partition(":") for tag in tags or ()]
    return {name: value for name, _, value in parts}


def _time(timestamp: Any, where: str) -> datetime | None:
    """ISO 8601, or seconds or milliseconds since the epoch."""
    if timestamp is None or timestamp == "":
        return None
    try:
        if isinstance(timestamp, (int, float)):
            return datetime.fromtimestamp(timestamp / 1000 if timestamp > 1e11 else timestamp, UTC)
        time = datetime.fromisoformat(str(timestamp))
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"{where}: its timestamp can't be read") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
