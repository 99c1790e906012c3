"""Jobs: configured collectors, with all that decides when they run and how their samples are tagged."""

import math
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Protocol

import anyio

from service.config.clients import to_health_error
from service.config.settings import CollectorSettings
from service.domain import cron
from service.domain.cron import Every, Schedule
from service.domain.errors import HealthError, Unexpected
from service.domain.runs import Cause, ChangeCollector, Collector, CollectResult, ConcurrencyPolicy
from service.domain.samples import SERVICE, Metric

UP = Metric("metta.infra.collector.up", help="1 when the last run succeeded, else 0")
DURATION = Metric("metta.infra.collector.duration", unit="second", help="Time the last run took, retries included")
SAMPLES = Metric("metta.infra.collector.samples", help="Samples that the last run collected")
SUCCESS_AGE = Metric("metta.infra.collector.success_age", unit="second", help="Time since the last success")
POINTS_LOST = Metric("metta.infra.collector.points_lost", help="Points lost within the last 24 hours")
COLLECTOR_METRICS = (UP, DURATION, SAMPLES, SUCCESS_AGE, POINTS_LOST)

# Further back a schedule can't have a slot: the search for the next one ends there as well.
_FIVE_YEARS = timedelta(days=5 * 366)


class Revisions(Protocol):
    """What the runner needs of a collector's state: the revision of each key as it was read (collectors.registry)."""

    revisions: dict[str, int]


@dataclass(frozen=True, eq=False)
class Job:
    """One configured collector. ``env``, ``version``: the tags that all of an installation's samples carry."""

    name: str
    collector: Collector
    settings: CollectorSettings
    env: str
    version: str | None = None
    state: Revisions | None = None

    @cached_property
    def schedule(self) -> Schedule:
        return cron.parse(self.settings.schedule)

    @property
    def forbids(self) -> bool:
        return self.settings.concurrency_policy is ConcurrencyPolicy.FORBID

    @property
    def replaces(self) -> bool:
        return self.settings.concurrency_policy is ConcurrencyPolicy.REPLACE

    @property
    def waits_for(self) -> str | None:
        """What the collector waits for before it can run ("waiting for a first push"), None when it can."""
        return self._read_line("waits_for")

    @property
    def note(self) -> str | None:
        """What the operator should know of the collector."""
        return self._read_line("note")

    @property
    def offset(self) -> timedelta:
        """How much later than its slots this job starts: below its jitter, by the name, so the same each time."""
        return self.settings.jitter * (zlib.crc32(self.name.encode()) / 2**32)

    @property
    def check_tags(self) -> dict[str, str]:
        """What a check's stable series carry beside the check's own tags: nothing that flips."""
        return {"env": self.env, "service": SERVICE}

    async def collect(self, now: datetime, cause: Cause = Cause.SCHEDULE) -> CollectResult:
        """What the collector brings, of what changed alone where ``cause`` is webhook.

        Raises HealthError; what it raises otherwise comes as Unexpected.
        """
        try:
            if cause is Cause.WEBHOOK and isinstance(self.collector, ChangeCollector):
                return await self.collector.collect_changes(now)
            result = await self.collector.collect(now)
            if not isinstance(result, CollectResult):
                raise Unexpected(f"collect returned {type(result).__name__} instead of a CollectResult")
            return result
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # by its run: the deadline has come, or the daemon ends
            # It awaited something that was cancelled. Let out, that would end the daemon.
            raise Unexpected("the collector was cancelled by something of its own") from error
        except HealthError:
            raise
        except Exception as raised:  # a collector may be anybody's code
            inner = raised
            while isinstance(inner, ExceptionGroup):  # of one with a task group: what a client said, else the first
                inner = (inner.subgroup(HealthError) or inner).exceptions[0]
            if isinstance(inner, HealthError):
                raise inner from raised
            text = f"unexpected {type(inner).__name__}: {inner}"
            raise to_health_error(inner) or Unexpected(text) from raised

    def _read_line(self, name: str) -> str | None:
        try:
            line: str | None = getattr(self.collector, name, None)
        except Exception as error:  # noqa: BLE001 - anybody's code
            return f"its {name} raised an unexpected {type(error).__name__}: {error}"
        return line

    def is_too_late(self, slot: datetime, now: datetime) -> bool:
        """Whether ``slot`` may not start any more."""
        return self.settings.starting_deadline is not None and now - slot > self.settings.starting_deadline

    def find_latest_slot(self, after: datetime | None, now: datetime) -> datetime | None:
        """The latest slot (UTC) later than ``after`` that has come at ``now``, None where there is none.

        ``after``: None for a job that never ran, which has missed its last slot.
        """
        if after is None and isinstance(self.schedule, Every):
            return now.replace(microsecond=0)  # a period has no instants of its own: it begins now
        if after is not None:
            slot = self.schedule.latest(after, now, self.settings.time_zone)
            return slot and slot.astimezone(UTC)
        # In growing spans: to look through those of years takes its time.
        span, slot = timedelta(minutes=2), None
        while slot is None and span < _FIVE_YEARS:
            span = min(8 * span, _FIVE_YEARS)
            slot = self.schedule.latest(now - span, now, self.settings.time_zone)
        return slot and slot.astimezone(UTC)

    def find_next_start(self, after: datetime, last: datetime | None) -> datetime | None:
        """The first start (UTC) later than ``after``, None when there is none. ``last``: the job's last slot."""
        after -= self.offset
        if isinstance(self.schedule, Every) and last:
            # A period counts on from the last slot, not from now.
            after = self.schedule.latest(last, after, self.settings.time_zone) or last
        slot = self.schedule.next(after, self.settings.time_zone)
        # In UTC: local time counts wrong over a daylight-saving change.
        return slot.astimezone(UTC) + self.offset if slot else None
