"""The daemon at one instant: collectors, checks, delivery and health, read once for all who ask within a second."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel

from service.domain.checks import Check, check_id
from service.domain.cron import Schedule
from service.domain.delivery import LOST
from service.domain.errors import Unavailable
from service.domain.runs import Mode, Run
from service.pipeline.job import Job
from service.pipeline.scheduler import UnknownCollector
from service.web.schemas import (
    CheckCounts,
    CheckView,
    CollectorCounts,
    Collectors,
    CollectorView,
    DeliveryView,
    Health,
    HealthCheck,
    LastError,
    Lost,
    NextRun,
    QuotaView,
    RunView,
    State,
)

if TYPE_CHECKING:
    from service.web.context import AppContext

Item = TypeVar("Item")

_BEAT_LOST = 15.0  # seconds without a sign of life of the scheduler, which gives one every second
_CHEAP = 0.1  # seconds that a reading may take to be made whenever something changes
_SHARE = 4  # after a reading that took a second, the next one comes four seconds later
_SLICE = 25  # items between two turns for the rest of the loop: a thousand collectors take it 100 ms
_MAX_ACTIVE = 20

# GitHub counts search by the minute and all else by the hour.
# https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
_WINDOWS = {"search": timedelta(minutes=1), "code_search": timedelta(minutes=1)}


@dataclass(frozen=True, slots=True)
class CollectorChecks:
    """One collector's checks with their ids (domain.checks.check_id); ``cycle``: the number of its last cycle."""

    name: str
    cycle: int
    checks: Sequence[tuple[int, CheckView]]


@dataclass
class Overview:
    """``collectors`` and ``checks`` in the configured order, by name."""

    state: State
    collectors: dict[str, CollectorView]
    checks: dict[str, CollectorChecks]

    @cached_property
    def collectors_json(self) -> bytes:
        """All collectors as they are answered; of a thousand it takes too long for the loop, but not for a thread."""
        return Collectors(collectors=list(self.collectors.values())).model_dump_json().encode()

    def collector(self, name: str) -> CollectorView:
        """Raises UnknownCollector."""
        if name not in self.collectors:
            raise UnknownCollector(name, self.collectors)
        return self.collectors[name]


class OverviewReader:
    """Reads the overview once a second at most, or when a run began or ended; never more than a fifth of the time."""

    def __init__(self, context: "AppContext") -> None:
        self._context = context
        self._lock = anyio.Lock()
        self._overview: Overview | None = None
        self._read_at = self._cost = 0.0
        self._signature: object = None
        # By collector: until when they say what is true, if no cycle comes in between.
        self._checks: dict[str, tuple[datetime, CollectorChecks]] = {}

    async def read(self, *, fresh: bool = False) -> Overview:
        """``fresh``: as of now, for who has just changed something. Raises Unavailable."""
        asked = self._context.clock.monotonic()
        async with self._lock:
            if self._overview is None or self._read_at < (asked if fresh else self._due(asked)):
                self._signature, begun = self._sign(), self._context.clock.monotonic()
                self._overview = await self._read()
                self._read_at, self._cost = begun, self._context.clock.monotonic() - begun
            return self._overview

    def _due(self, now: float) -> float:
        """A reading from before then is made anew: at once, where a run began or ended and a reading costs little."""
        pause = _SHARE * self._cost if self._cost > _CHEAP else 0.0
        return now - (pause if self._sign() != self._signature else max(1.0, pause))

    def _sign(self) -> object:
        scheduler = self._context.scheduler
        return [run.id for run in scheduler.active()], list(scheduler.pauses), list(scheduler.jobs)

    async def _read(self) -> Overview:
        context = self._context
        jobs = dict(context.scheduler.jobs)
        collectors = await _read_collectors(context, jobs.values())
        checks = await self._read_checks(jobs)
        ready = await check_readiness(context)
        coming = [(each.next_run, name) for name, each in collectors.items() if each.next_run]
        statuses = [check.status for each in checks.values() for _, check in each.checks]
        state = State(
            now=context.clock.now(),
            revision="",
            collectors=CollectorCounts(
                total=len(collectors),
                failing=sum(each.is_failing for each in collectors.values()),
                running=sum(each.running is not None for each in collectors.values()),
                paused=sum(each.paused for each in collectors.values()),
            ),
            checks=CheckCounts(
                passing=statuses.count("pass"), failing=statuses.count("fail"), unknown=statuses.count("unknown")
            ),
            active=sorted(run.id for run in context.scheduler.active())[:_MAX_ACTIVE],
            next_run=NextRun(collector=min(coming)[1], at=min(coming)[0]) if coming else None,
            delivery=read_delivery(context),
            quota=list(_read_quota(context)),
            warnings=[check for check in ready.checks if check.status != "ok"],
        )
        revision = _revision(state, collectors.values(), checks.values())
        return Overview(state.model_copy(update={"revision": revision}), collectors, checks)

    async def _read_checks(self, jobs: dict[str, Job]) -> dict[str, CollectorChecks]:
        """Checks are read once a cycle of their collector, and when one of them grows too old."""
        store, now = self._context.store, self._context.clock.now()
        cycles = await store.history.last_cycles(list(jobs))
        fresh = {
            name: each
            for name, each in self._checks.items()
            if name in jobs and now < each[0] and each[1].cycle == cycles.get(name, 0)
        }
        behind = [name for name in jobs if name not in fresh]
        found = await store.runs.checks_of(behind) if behind else {}
        async for name in in_slices(behind):
            fresh[name] = _judge(jobs[name], cycles.get(name, 0), found.get(name, []), now)
        self._checks = fresh
        return {name: fresh[name][1] for name in jobs}


async def in_slices(items: Iterable[Item], size: int = _SLICE) -> AsyncIterator[Item]:
    """``items``, with a turn for the rest of the loop after each few."""
    for number, item in enumerate(list(items), 1):
        yield item
        if number % size == 0:
            await anyio.lowlevel.checkpoint()


async def read_run_views(context: "AppContext", runs: Iterable[Run]) -> list[RunView]:
    """Runs with what became of their samples. Raises Unavailable."""
    active = {run.id: run for run in context.scheduler.active()}
    runs = [active.get(run.id, run) for run in runs]
    counts = await context.store.outbox.counts([run.id for run in runs])
    return [RunView.of(run, counts.get(run.id, {})) async for run in in_slices(runs)]


def check_life(context: "AppContext") -> Health:
    """Whether the event loop and the scheduler beat. No thread, no store, no network: it answers under any load."""
    silence = context.clock.monotonic() - context.scheduler.beat
    if silence < _BEAT_LOST:
        return Health(ok=True, checks=(HealthCheck(name="scheduler", status="ok"),))
    detail = f"the scheduler has not beaten for {silence:.0f} s"
    return Health(ok=False, checks=(HealthCheck(name="scheduler", status="fail", detail=detail),))


async def check_readiness(context: "AppContext") -> Health:
    """Not ok while the store is lost, which nothing can do without; what time or an operator mends is a warning."""
    try:
        await context.store.check()
        lost = context.store.trouble
    except Unavailable as error:
        lost = context.store.trouble or str(error)
    refused = context.reload_error
    checks = [
        _warn("configuration", refused and f"the last reload was refused, what held before it holds: {refused}"),
        HealthCheck(name="store", status="fail" if lost else "ok", detail=lost or ""),
    ]
    forwarder, github = context.forwarder.state, context.github
    if context.scheduler.mode is Mode.SHADOW:
        what = "nothing is sent" if forwarder.is_withheld else "metrics have names of their own"
        checks.append(_warn("mode", f"shadow: {what}"))
    troubles = filter(None, (secret.trouble for secret in context.secrets))
    checks.append(_warn("datadog", forwarder.trouble))
    checks.append(_warn("github", github.trouble or github.shortage))
    checks.append(_warn("aws", "; ".join(troubles)))
    return Health(ok=lost is None, checks=tuple(checks))


def read_delivery(context: "AppContext") -> DeliveryView:
    state = context.forwarder.state
    return DeliveryView(
        state="trouble" if state.trouble else "pending" if state.pending else "ok",
        last_accepted=state.last_accepted_at,
        pending=state.pending,
        lost=Lost(**{status.value: count for status, count in state.lost.items() if status in LOST}),
        trouble=state.trouble,
        next_try=state.next_try_at,
    )


async def _read_collectors(context: "AppContext", jobs: Iterable[Job]) -> dict[str, CollectorView]:
    store, scheduler = context.store, context.scheduler
    latest = await store.runs.latest()
    successes, failures = await store.runs.last_successes(), await store.runs.last_failures()
    views = {view.collector: view for view in await read_run_views(context, latest.values())}
    active = {run.collector: run.id for run in reversed(scheduler.active())}
    found = {}
    async for job in in_slices(jobs):
        name = job.name
        if name not in scheduler.jobs:  # a reload took it away between two slices
            continue
        last, failure = views.get(name), failures.get(name)
        found[name] = CollectorView(
            name=name,
            type=job.type,
            schedule=job.schedule.expression,
            schedule_in_words=_describe(job.schedule),
            time_zone=str(job.time_zone),
            service=job.service,
            enabled=job.enabled,
            paused=name in scheduler.pauses,
            running=active.get(name),
            next_run=scheduler.next_run(name),
            last_slot=scheduler.last_slot(name),
            last_run=last,
            last_success=successes.get(name),
            last_error=failure
            and LastError(run=failure.id, at=failure.ended or failure.started, errors=tuple(map(str, failure.errors))),
            samples=last.samples if last else 0,
            note=scheduler.waits_for(name) or getattr(job.collector, "note", None),
        )
    return found


@lru_cache(maxsize=4096)
def _describe(schedule: Schedule) -> str:
    return schedule.describe()


def _read_quota(context: "AppContext") -> Iterable[QuotaView]:
    """GitHub's limits, and what becomes of them by their reset if they are spent on as they were."""
    now = context.clock.now()
    for resource, quota in context.github.quota.items():
        limit, ahead = quota.limit, (quota.reset_at - now).total_seconds()
        remaining = quota.remaining if ahead > 0 else limit
        window = _WINDOWS.get(resource, timedelta(hours=1)).total_seconds()
        # Spent in one go at the window's start, a cycle's requests are no rate: at least ten minutes are assumed.
        rate = (limit - remaining) / max(window - ahead, min(600.0, window))
        left = remaining - rate * max(ahead, 0.0)
        is_short = left < 0 or not remaining
        yield QuotaView(
            resource=resource,
            limit=limit,
            remaining=remaining,
            reset_at=quota.reset_at,
            left_at_reset=max(0, int(left)),
            empty_at=now + timedelta(seconds=remaining / rate if remaining else 0) if is_short else None,
        )


def _revision(state: State, collectors: Iterable[CollectorView], checks: Iterable[CollectorChecks]) -> str:
    """Changes with what is shown; not with the clock, and not with how far a quota has run down."""
    text = state.model_dump_json(exclude={"now", "revision", "quota"})
    short = [quota.resource for quota in state.quota if quota.empty_at]
    paused = [each.name for each in collectors if each.paused]
    digest = blake2b(text.encode(), digest_size=8)
    for part in chain(short, paused, (f"{each.name}:{each.cycle}" for each in checks)):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()


def _judge(job: Job, cycle: int, checks: Iterable[Check], now: datetime) -> tuple[datetime, CollectorChecks]:
    """The checks as they are now, and the instant at which the first of them will be too old to say so."""
    catalogue = {metric.name: metric for metric in job.collector.metrics}
    views = [
        (check_id(job.name, each.key), CheckView.of(job.name, each, catalogue.get(each.metric), now, job.max_age))
        for each in checks
    ]
    ends = [view.measured_at + job.max_age for _, view in views if view.measured_at]
    until = min((end for end in ends if end >= now), default=now + job.max_age)
    return until + timedelta(microseconds=1), CollectorChecks(job.name, cycle, views)


def _warn(name: str, trouble: str | None) -> HealthCheck:
    return HealthCheck(name=name, status="warn" if trouble else "ok", detail=trouble or "")
