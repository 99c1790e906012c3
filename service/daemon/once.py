"""One pass over collectors, for ``--once`` and ``collect``: the daemon's own path, without its timer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from service.config.settings import Settings, max_series_per_hour, shadow_prefix
from service.daemon.app import force_exit_after
from service.daemon.wiring import Clients, build_jobs, has_unread_push, open_clients, open_store
from service.domain.delivery import LOST, DeliveryStatus
from service.domain.errors import HealthError
from service.domain.runs import Actor, Cause, CollectResult, Mode, Outcome, PartialFailure, Run, new_run_id
from service.domain.samples import Metric, Sample
from service.pipeline.clock import Clock, SystemClock
from service.pipeline.enrich import prepare_samples
from service.pipeline.forwarder import Forwarder
from service.pipeline.job import Job
from service.pipeline.runner import Runner, ask_collector
from service.pipeline.scheduler import Scheduler
from service.store import Store

# So long a pass waits for Datadog; what is not delivered by then stays stored.
DELIVERY_TIMEOUT = 30.0
# What the daemon sends of itself and of checks, beside the collectors' own samples.
HEALTH_PREFIX = "metta.infra.collector."
_OWN_PREFIXES = ("metta.infra.check.", HEALTH_PREFIX)
_STOP_TIMEOUT = 2.0  # seconds for a cancelled collector to stop before the process ends without it


@dataclass(frozen=True, slots=True)
class CollectorPass:
    """One collector's part of a pass. ``result``: what it brought, where nothing was kept."""

    run: Run
    samples: Sequence[Sample] = ()
    result: CollectResult = field(default_factory=CollectResult)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass came to; ``delivered``, ``pending`` and ``lost`` count points.

    ``waiting``: collectors that can't run yet (no snapshot was ever pushed), and why.
    """

    collectors: Sequence[CollectorPass]
    waiting: Mapping[str, str] = field(default_factory=dict)
    delivered: int = 0
    pending: int = 0
    lost: int = 0
    trouble: str | None = None
    seconds: float = 0.0

    @property
    def undelivered(self) -> int:
        return self.pending + self.lost

    def as_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {
                    "collector": each.run.collector,
                    "run": each.run.id,
                    "outcome": each.run.outcome,
                    "seconds": each.run.seconds,
                    "errors": [str(error) for error in each.run.errors],
                    "samples": [sample.as_json() for sample in each.samples],
                }
                for each in self.collectors
            ],
            "delivery": {
                "delivered": self.delivered,
                "pending": self.pending,
                "lost": self.lost,
                "trouble": self.trouble,
            },
        }


async def run_pass(
    settings: Settings,
    environ: Mapping[str, str],
    names: Sequence[str] | None,
    push: bool,
    progress: Callable[[str], None],
    report: Callable[[Pass], int],
) -> int:
    """Runs the named collectors (None: all enabled ones) once, concurrently; returns ``report``'s exit code.

    Without ``push`` nothing is kept or sent. ``report`` is called when all is kept; a collector that can't be stopped
    then holds up nothing. Raises ConfigError, for example when another process writes to the state directory.
    """
    async with anyio.create_task_group() as attempts:
        clock = SystemClock()
        store = await (open_store(settings, clock) if push else Store.open_reading(settings.state_dir))
        try:
            async with open_clients(settings, environ) as clients:
                jobs, waiting = await select_jobs(build_jobs(settings, clients, store), names)
                if push:
                    result = await _collect_and_deliver(jobs, settings, clients, store, clock, progress, attempts)
                else:
                    result = Pass(await collect_only(jobs, clock, progress))
                result = replace(result, waiting=waiting)
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()
        code = report(result)
        attempts.cancel_scope.cancel()
        force_exit_after(_STOP_TIMEOUT, code)
    return code


async def select_jobs(jobs: Iterable[Job], names: Sequence[str] | None) -> tuple[list[Job], dict[str, str]]:
    """The named ones, else all enabled ones; those of them that can't run yet by name, with the reason."""
    ready, waiting = [], {}
    for job in jobs:
        if job.enabled if names is None else job.name in names:
            await has_unread_push(job)
            if reason := getattr(job.collector, "waits_for", None):
                waiting[job.name] = reason
            else:
                ready.append(job)
    return ready, waiting


async def collect_only(jobs: Sequence[Job], clock: Clock, progress: Callable[[str], None]) -> list[CollectorPass]:
    """Asks each collector once; keeps and sends nothing."""
    done: dict[str, CollectorPass] = {}

    async def collect(job: Job) -> None:
        now = clock.now()
        run = Run(new_run_id(job.name, now), job.name, Cause.ONCE, now, attempts=1)
        result, outcome = CollectResult(), Outcome.FAILED
        samples: list[Sample] = []
        errors: list[PartialFailure] = []
        try:
            with anyio.fail_after(job.active_deadline.total_seconds()):
                result = await ask_collector(job, now)
        except TimeoutError:
            errors = [PartialFailure(f"not done within {job.active_deadline.total_seconds():g} s")]
        except HealthError as error:
            errors = [PartialFailure(str(error))]
        else:
            samples, bad = prepare_samples(job, result.samples, now)
            errors = [*result.failures, *bad]
            outcome = Outcome.PARTIAL if errors else Outcome.COMPLETE
        run = replace(run, ended=clock.now(), outcome=outcome, errors=tuple(errors), samples=len(samples))
        done[job.name] = CollectorPass(run, samples, result)
        progress(f"{len(done)} of {len(jobs)} collectors done")

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(collect, job)
    return [done[job.name] for job in jobs]


async def _collect_and_deliver(
    jobs: Sequence[Job],
    settings: Settings,
    clients: Clients,
    store: Store,
    clock: Clock,
    progress: Callable[[str], None],
    attempts: TaskGroup,
) -> Pass:
    """Collects, stores and delivers, one try each: ``backoff_limit`` is the daemon's."""
    forwarder = Forwarder(
        store.outbox,
        clients.intake,
        clock,
        historical=settings.datadog.historical,
        max_series=max_series_per_hour(settings),
    )
    store.mode = settings.mode
    is_withheld = settings.mode is Mode.SHADOW and settings.shadow_prefix is None
    forwarder.set_shadow(shadow_prefix(settings), is_withheld=is_withheld)
    ended: dict[str, Run] = {}

    def on_end(run: Run) -> None:
        ended[run.collector] = run
        progress(f"{len(ended)} of {len(jobs)} collectors done")

    runner = Runner(store, clock, attempts, on_stored=lambda: None, on_end=on_end, retry=False)
    async with anyio.create_task_group() as tasks:
        scheduler = Scheduler(runner, store, clock, tasks)
        scheduler.mode = settings.mode
        await scheduler.set_jobs(jobs)
        for job in jobs:
            await scheduler.trigger(job.name, Cause.ONCE, Actor("once"))
    progress("delivering")
    began = clock.monotonic()
    await forwarder.flush(began + DELIVERY_TIMEOUT)
    await store.recover()
    state = forwarder.state
    return Pass(
        [CollectorPass(ended[job.name], await _read_samples(store, ended[job.name])) for job in jobs],
        delivered=state.counts[DeliveryStatus.DELIVERED],
        pending=(await store.outbox.pending()).samples,
        lost=sum(state.counts[status] for status in LOST),
        trouble=state.trouble
        or store.trouble
        or ", ".join(f"{state.counts[status]} {status}" for status in LOST if state.counts[status])
        or None,
        seconds=clock.monotonic() - began,
    )


async def _read_samples(store: Store, run: Run) -> list[Sample]:
    """What the collector brought, as it was stored: without the daemon's own series."""
    stored, _ = await store.outbox.samples(run.id, 0, run.samples)
    return [
        Sample(Metric(each.point.metric, each.kind), each.point.value, each.at, each.tags)
        for each in stored
        if not each.point.metric.startswith(_OWN_PREFIXES)
    ]
