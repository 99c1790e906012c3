"""Jobs: configured collectors, and the tags that their samples leave with."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from service.config import ConcurrencyPolicy
from service.domain.cron import Schedule
from service.domain.samples import REQUIRED_TAGS, SERVICE, Kind, Metric, Sample
from service.pipeline.ports import Collector

UP = Metric("metta.infra.collector.up", help="1 when the last run succeeded, else 0")
DURATION = Metric("metta.infra.collector.duration", unit="second", help="Time the last run took, retries included")
SAMPLES = Metric("metta.infra.collector.samples", help="Samples that the last run collected")
SUCCESS_AGE = Metric("metta.infra.collector.success_age", unit="second", help="Time since the last success")
POINTS_LOST = Metric("metta.infra.collector.points_lost", help="Points lost within the last 24 hours")
QUOTA_REMAINING = Metric("metta.infra.collector.quota_remaining", help="Requests that GitHub's primary limit leaves")
COLLECTOR_METRICS = (UP, DURATION, SAMPLES, SUCCESS_AGE, POINTS_LOST, QUOTA_REMAINING)

_BEFORE_ENV = REQUIRED_TAGS[: REQUIRED_TAGS.index("env")]


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
        tags = {name: own.get(name, "unknown" if name == "status" else "none") for name in _BEFORE_ENV}
        tags |= self.origin.tags(SERVICE) | dict(self.tags)
        tags |= {name: value for name, value in own.items() if name not in REQUIRED_TAGS}
        covered = (sample.interval or interval) if sample.metric.kind is Kind.COUNT else None
        return replace(sample, tags=tags, interval=covered)

    def stamp_check(self, sample: Sample) -> Sample:
        """A check's stable series: its own tags plus env and service, nothing that flips."""
        tags = {**sample.tags, "env": self.origin.env, "service": SERVICE}
        return Sample(sample.metric, sample.value, sample.at, tags)

    def own_sample(self, metric: Metric, value: float, now: datetime) -> Sample:
        """A value of the daemon's own health, tagged with the CronJob that this job replaces."""
        return Sample(metric, value, now, {"collector": self.name, **self.origin.tags(self.service)})
