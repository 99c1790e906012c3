"""Jobs: configured collectors, and the tags that their samples leave with."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from service.config import ConcurrencyPolicy
from service.domain.cron import Schedule
from service.domain.naming import key
from service.domain.samples import REQUIRED_TAGS, SERVICE, Kind, Metric, Sample, Status
from service.pipeline.ports import Collector, Reporting

UP = Metric("metta.infra.collector.up", help="1 when the last run succeeded, else 0")
DURATION = Metric("metta.infra.collector.duration", unit="second", help="Time the last run took, retries included")
SAMPLES = Metric("metta.infra.collector.samples", help="Samples that the last run collected")
SUCCESS_AGE = Metric("metta.infra.collector.success_age", unit="second", help="Time since the last success")
POINTS_LOST = Metric("metta.infra.collector.points_lost", help="Points lost within the last 24 hours")
QUOTA_REMAINING = Metric("metta.infra.collector.quota_remaining", help="Requests that GitHub's primary limit leaves")
QUOTA_LIMIT = Metric("metta.infra.collector.quota_limit", help="Requests an hour that GitHub's primary limit allows")
QUOTA_METRICS = (QUOTA_REMAINING, QUOTA_LIMIT)
COLLECTOR_METRICS = (UP, DURATION, SAMPLES, SUCCESS_AGE, POINTS_LOST, *QUOTA_METRICS)

_STATUSES = frozenset(status.value for status in Status)
# The required tags that a sample brings, and what they say where it does not.
_BEFORE_ENV = tuple(
    (name, "unknown" if name == "status" else "none") for name in REQUIRED_TAGS[: REQUIRED_TAGS.index("env")]
)
_REQUIRED = frozenset(REQUIRED_TAGS)


@dataclass(frozen=True, slots=True)
class Origin:
    """The tags that say which installation speaks: env, and version where it is known."""

    env: str
    version: str | None = None

    def tags(self, service: str) -> dict[str, str]:
        version = {"version": self.version} if self.version else {}
        return {"env": self.env, "service": service, **version}


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One configured collector with everything that decides when it runs and how its samples are tagged."""

    name: str
    type: str
    collector: Collector
    schedule: Schedule
    origin: Origin
    service: str
    zone: ZoneInfo
    enabled: bool = True
    policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline: timedelta | None = None
    active_deadline: timedelta = timedelta(seconds=300)
    backoff_limit: int = 3
    jitter: timedelta = timedelta(0)
    max_age: timedelta = timedelta(hours=24)
    tags: Mapping[str, str] = field(default_factory=dict)
    starts_after: datetime | None = None
    _ours: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ours", {**self.origin.tags(SERVICE), **self.tags})

    @property
    def offset(self) -> timedelta:
        """How much later than its slots this job starts: below ``jitter``, by the name, so the same each time."""
        return self.jitter * (zlib.crc32(self.name.encode()) / 2**32)

    def stamp(self, sample: Sample, interval: int) -> Sample:
        """``sample`` as it leaves: every required tag, then the collector's configured tags, then its own.

        ``interval``: the schedule's, in seconds, for a count that brings none.
        A required tag that a collector does not fill says so ("none") instead of leaving a hole in the boards' groups.
        """
        own = sample.tags
        if own.get("status", "unknown") not in _STATUSES:
            own = {**own, "status": "unknown"}  # an outside collector may have a verdict of its own
        tags = {name: own.get(name, unsaid) for name, unsaid in _BEFORE_ENV}
        tags.update(self._ours)
        for name, value in own.items():
            if key(name) not in _REQUIRED:
                tags[name] = value
        covered = (sample.interval or interval) if sample.metric.kind is Kind.COUNT else None
        # Not dataclasses.replace, which takes three times as long; a snapshot may bring a hundred thousand.
        return Sample(sample.metric, sample.value, sample.at, tags, sample.measured_at, covered, sample.evidence)

    @property
    def check_tags(self) -> dict[str, str]:
        """What a check's stable series carry beside the check's own tags: nothing that flips."""
        return {"env": self.origin.env, "service": SERVICE}

    def reported(self, now: datetime) -> list[Sample]:
        """What the collector itself has to say of its health."""
        values = self.collector.own_values(now) if isinstance(self.collector, Reporting) else {}
        return [self.own_sample(metric, value, now) for metric, value in values.items() if math.isfinite(value)]

    def own_sample(self, metric: Metric, value: float, now: datetime) -> Sample:
        """A value of the daemon's own health, tagged with the CronJob that this job replaces."""
        return Sample(metric, value, now, {"collector": self.name, **self.origin.tags(self.service)})
