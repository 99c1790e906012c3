"""Samples: what a collector measures and Datadog is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# The tags that say what a sample is about, in the order in which they are written; the dashboards group by them.
CHECK_TAGS = ("workflow_category", "workflow_name", "task", "check")
REQUIRED_TAGS = ("source", *CHECK_TAGS, "condition", "status", "env", "service", "version")
# The `service` tag of everything that is measured; the daemon's metrics of itself carry the replaced CronJob's instead.
SERVICE = "infra-health-dashboard"


class Kind(StrEnum):
    """How Datadog aggregates a metric."""

    GAUGE = "gauge"
    COUNT = "count"
    DISTRIBUTION = "distribution"


class Status(StrEnum):
    """What a check says of its value."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name of the catalogue. ``unit`` is one of Datadog's unit names, empty where it has none."""

    name: str
    kind: Kind = Kind.GAUGE
    unit: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing behind a number (a run, a job, a pull request), for who asks why. It never leaves for Datadog.

    ``url``: where to look, empty where there is no such place. ``conclusion``: as the source words it.
    """

    title: str
    url: str = ""
    at: datetime | None = None
    conclusion: str = ""
    workflow: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series.

    ``value``: what is no finite number is left out of the run and reported.
    ``at``: the instant that Datadog is told, aware.
    ``measured_at``: when the value was true, where that is earlier (a value carried over from an older file).
    ``interval``: seconds that a count covers; filled from the schedule where the collector leaves it None.
    ``evidence``: what is behind the value, newest first.
    """

    metric: Metric
    value: float
    at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    measured_at: datetime | None = None
    interval: int | None = None
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError(f"{self.metric.name}: the time {self.at} has no zone")

    @property
    def measured(self) -> datetime:
        return self.measured_at or self.at

    def as_json(self) -> dict[str, object]:
        """The shape of ``--dry-run`` and ``-o``."""
        return {
            "metric": self.metric.name,
            "value": self.value,
            "tags": dict(self.tags),
            "kind": self.metric.kind.value,
            "timestamp": self.at.isoformat(),
        }
