"""The daemon at one instant, read once for all who ask within a second; one collector, check or run as of now."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import chain

import anyio
import anyio.to_thread

from service.collectors.github_ci import weekly_runs
from service.collectors.github_ci.weekly_runs import Order, WeeklyRuns, WorkflowWeek
from service.domain.checks import Check, check_id, status_at
from service.domain.delivery import DeliveryStatus
from service.domain.errors import UnknownCollector
from service.domain.runs import Pause, Run
from service.domain.samples import Metric, Status
from service.pipeline.job import Job
from service.store import Replica
from service.web import health
from service.web.context import OVERVIEW, AppContext
from service.web.formats import RUNNING, describe_schedule, explain, summarize, tone
from service.web.health import HealthCheck, State
from service.web.schemas import RunView

_MAX_ACTIVE = 20


@dataclass(frozen=True, slots=True)
class CurrentCollector:
    """One configured collector now. ``delivery``: of its last run; ``running``: the id of the active one.

    ``last_slot``: the last one that was run in live mode. ``note``: what its operator should know.
    """

    job: Job
    last: Run | None
    delivery: Mapping[DeliveryStatus, int]
    last_success: datetime | None
    last_failure: Run | None
    running: str | None
    pause: Pause | None
    next_run: datetime | None
    last_slot: datetime | None
    note: str | None

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def schedule_in_words(self) -> str:
        return describe_schedule(self.job.schedule.expression)

    @property
    def paused(self) -> bool:
        return self.pause is not None

    @property
    def max_attempts(self) -> int:
        """Of a run, before it fails."""
        return self.job.settings.backoff_limit + 1

    @property
    def last_run(self) -> RunView | None:
        return RunView.of(self.last, self.delivery) if self.last else None

    @property
    def samples(self) -> int:
        return self.last.samples if self.last else 0

    @property
    def is_failing(self) -> bool:
        """By the last run that ended: a run under way does not make a failing collector well."""
        last, failure = self.last, self.last_failure
        if not self.job.settings.enabled or last is None:
            return False
        if last.ended and last.outcome:
            return tone(last.outcome) == "bad"
        return bool(failure and failure.ended and (self.last_success is None or failure.ended > self.last_success))

    @property
    def is_retrying(self) -> bool:
        """Between two attempts of a run, or in a further one."""
        return self.last is not None and self.last.ended is None and bool(self.last.errors)

    @property
    def state(self) -> tuple[str, str]:
        """What to call it, and its tone."""
        last = self.last
        if last and self.is_retrying:
            return f"Retrying (attempt {last.attempts} of {self.max_attempts})", "warn"
        if self.running:
            return "Running", "busy"
        if not self.job.settings.enabled:
            return "Disabled", "idle"
        if self.pause:
            return "Paused", "warn"
        if last is None:
            return "No run yet", "idle"
        outcome = last.outcome if last.ended and last.outcome else RUNNING
        colour = tone(outcome)
        return {"good": "Healthy", "bad": "Failing"}.get(colour, outcome), colour


@dataclass(frozen=True, slots=True)
class CurrentCheck:
    """A check now: its ``status`` is unknown once its value is too old, and ``since`` then.

    ``catalogued``: its metric as the collector describes it, None where it does not.
    """

    collector: str
    check: Check
    catalogued: Metric | None
    status: Status
    since: datetime

    @property
    def id(self) -> int:
        return check_id(self.collector, self.check.key)

    @property
    def why(self) -> str:
        return explain(self.check, self.status)

    @property
    def summary(self) -> str:
        return summarize(self.check, self.catalogued, self.status)


@dataclass(frozen=True, slots=True)
class Overview:
    """The daemon at one instant. ``collectors`` and ``checks`` by the collector's name, in the configured order."""

    state: State
    collectors: Mapping[str, CurrentCollector]
    checks: Mapping[str, Sequence[CurrentCheck]]

    def collector(self, name: str) -> CurrentCollector:
        """Raises UnknownCollector."""
        if found := self.collectors.get(name):
            return found
        raise UnknownCollector(name, self.collectors)

    @property
    def every_check(self) -> list[CurrentCheck]:
        return [check for each in self.checks.values() for check in each]


async def read_overview(context: AppContext) -> Overview:
    """Not older than a second, nor than the last act of an operator. Raises Unavailable."""

    async def read() -> Overview:
        jobs = dict(context.scheduler.jobs)
        facts = await _read_facts(context)
        replicas = await context.store.replicas.list() if context.store.replicas else []
        found = await context.store.checks.read_all(list(jobs))
        warnings = [check for check in (await health.check_readiness(context)).checks if check.status != "ok"]

        def work() -> Overview:
            collectors = {name: _view(context, job, facts) for name, job in jobs.items()}
            checks = {name: _judge(context, job, found.get(name, ())) for name, job in jobs.items()}
            return Overview(_sum_up(context, facts, collectors, checks, replicas, warnings), collectors, checks)

        # Of a thousand collectors it takes longer than the loop may stand still.
        return await anyio.to_thread.run_sync(work, limiter=context.threads)

    return await context.cache.get(OVERVIEW, read)


async def read_collector(context: AppContext, name: str) -> CurrentCollector:
    """As of now. Raises UnknownCollector or Unavailable."""
    return _view(context, find_job(context, name), await _read_facts(context, name))


async def read_checks(context: AppContext, name: str) -> list[CurrentCheck]:
    """The collector's checks as of now. Raises UnknownCollector or Unavailable."""
    job, checks = find_job(context, name), await context.store.checks.read(name)
    return await anyio.to_thread.run_sync(_judge, context, job, checks, limiter=context.threads)


async def read_week(context: AppContext, name: str, by: Order) -> tuple[list[WeeklyRuns], list[WorkflowWeek]]:
    """The week of each repository that the collector has read, and of their workflows, the worst first.

    Raises UnknownCollector or Unavailable.
    """
    find_job(context, name)
    stored = await context.store.states.read_all(name, weekly_runs.KEY)
    return await anyio.to_thread.run_sync(weekly_runs.read_all, stored.values(), by, limiter=context.threads)


def find_job(context: AppContext, name: str) -> Job:
    """Raises UnknownCollector."""
    if job := context.scheduler.jobs.get(name):
        return job
    raise UnknownCollector(name, context.scheduler.jobs)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is on record of collectors, by name; ``delivery``: of their latest runs, by id."""

    latest: Mapping[str, Run]
    delivery: Mapping[str, Mapping[DeliveryStatus, int]]
    successes: Mapping[str, datetime]
    failures: Mapping[str, Run]
    active: Mapping[str, Sequence[str]]  # the ids of the runs under way, the oldest first


async def _read_facts(context: AppContext, name: str | None = None) -> _Facts:
    """Of one collector, or of all."""
    runs, active = context.store.runs, defaultdict(list)
    latest = await runs.latest(name)
    delivery = await context.store.outbox.counts([run.id for run in latest.values()])
    successes, failures = await runs.last_successes(name), await runs.last_failures(name)
    for run in context.scheduler.active.runs():
        active[run.collector].append(run.id)
        if run.collector in latest and latest[run.collector].id == run.id:
            latest[run.collector] = run  # what it has come to is not on record before its end
    for run in context.scheduler.elsewhere:
        active[run.collector].append(run.id)
    return _Facts(latest, delivery, successes, failures, active)


def _view(context: AppContext, job: Job, facts: _Facts) -> CurrentCollector:
    scheduler, name, now = context.scheduler, job.name, context.clock.now()
    last, pause, slot = facts.latest.get(name), scheduler.pauses.get(name), scheduler.last_slot(name)
    *known_for, next_run = context.next_runs.get(name, (None, None, now))
    if known_for != [job, slot] or (next_run and now >= next_run):
        next_run = scheduler.next_start(name, now)
        context.next_runs[name] = job, slot, next_run
    return CurrentCollector(
        job=job,
        last=last,
        delivery=facts.delivery.get(last.id, {}) if last else {},
        last_success=facts.successes.get(name),
        last_failure=facts.failures.get(name),
        running=next(iter(facts.active.get(name, ())), None),
        pause=pause,
        next_run=next_run if job.settings.enabled and not pause else None,
        last_slot=slot,
        note=job.waits_for or job.note,
    )


def _judge(context: AppContext, job: Job, checks: Iterable[Check]) -> list[CurrentCheck]:
    catalogue = {metric.name: metric for metric in job.collector.metrics}
    now, max_age = context.clock.now(), job.settings.max_age
    found = []
    for check in checks:
        status, since = status_at(check, now, max_age), check.since
        if status is not check.status and check.measured_at:
            since = check.measured_at + max_age
        found.append(CurrentCheck(job.name, check, catalogue.get(check.metric), status, since))
    return found


def _sum_up(
    context: AppContext,
    facts: _Facts,
    collectors: Mapping[str, CurrentCollector],
    checks: Mapping[str, Sequence[CurrentCheck]],
    replicas: Sequence[Replica],
    warnings: Sequence[HealthCheck],
) -> State:
    views, every = collectors.values(), list(chain.from_iterable(checks.values()))
    statuses = Counter(check.status for check in every)
    coming = min(((each.next_run, each.name) for each in views if each.next_run), default=None)
    now = context.clock.now()
    state = State(
        now=now,
        mode=context.scheduler.mode,
        collectors=health.CollectorCounts(
            total=len(views),
            failing=sum(each.is_failing for each in views),
            running=sum(each.running is not None for each in views),
            paused=sum(each.paused for each in views),
        ),
        checks=health.CheckCounts(
            passing=statuses[Status.PASS], failing=statuses[Status.FAIL], unknown=statuses[Status.UNKNOWN]
        ),
        active=sorted(chain.from_iterable(facts.active.values()))[:_MAX_ACTIVE],
        next_run=health.NextRun(collector=coming[1], at=coming[0]) if coming else None,
        delivery=health.view_delivery(context),
        quota=[health.forecast(*each, now) for each in context.github.quota.items()],
        webhooks=health.view_webhooks(context),
        replicas=[health.ReplicaView.model_validate(each) for each in replicas],
        warnings=warnings,
    )
    # Not with the clock, nor with how far a quota has run down and how much was delivered.
    volatile = {"now", "quota", "webhooks", "replicas"}
    shown = [state.model_dump_json(exclude=volatile), *(each.resource for each in state.quota if each.empty_at)]
    shown += [f"{each.name} {each.pause} {each.job.schedule.expression} {each.last and each.last.id}" for each in views]
    shown += [f"{each.name} {each.last}" for each in views if each.is_retrying]
    shown += [each.id for each in replicas]
    # A run by webhook is none of these, but it brings values.
    shown += [str(max((each.check.measured_at for each in every if each.check.measured_at), default=""))]
    revision = blake2b("\0".join(shown).encode(errors="replace"), digest_size=8).hexdigest()
    return state.model_copy(update={"revision": revision})
