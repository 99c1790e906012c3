"""One pass over collectors, for ``--once`` and ``collect``: the daemon's own path, without its timer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from service.config.settings import Settings
from service.daemon.wiring import Wiring, open_wiring, read_pushes
from service.domain.delivery import DeliveryStatus
from service.domain.runs import Actor, Cause, CollectResult, Outcome, Run, new_run_id
from service.domain.samples import Metric, Sample
from service.pipeline.enrich import prepare_samples
from service.pipeline.job import Job
from service.pipeline.runner import RunHandle, Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store

# So long a pass waits for Datadog; what is not delivered by then stays stored.
DELIVERY_TIMEOUT = 30.0
# What the daemon sends of itself and of checks, beside the collectors' own samples.
HEALTH_PREFIX = "metta.infra.collector."
_OWN_PREFIXES = ("metta.infra.check.", HEALTH_PREFIX)

Progress = Callable[[str], None]


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
            "delivery": {key: getattr(self, key) for key in ("delivered", "pending", "lost", "trouble")},
        }


async def run_pass(
    settings: Settings,
    environ: Mapping[str, str],
    names: Sequence[str] | None,
    push: bool,
    progress: Progress,
    report: Callable[[Pass], int],
) -> int:
    """Runs the named collectors (None: all enabled ones) once, concurrently; returns ``report``'s exit code.

    Without ``push`` nothing is kept or sent. Raises ConfigError, for example when another process writes to the state
    directory.
    """
    async with open_wiring(settings, environ, writes=push) as wiring:
        jobs, waiting = await select_jobs(wiring.build_jobs(settings), names)
        if push:
            result = await _collect_and_deliver(jobs, settings, wiring, progress)
        else:
            result = Pass(await collect_only(jobs, wiring, progress))
        wiring.exit_code = report(replace(result, waiting=waiting))
    return wiring.exit_code


async def select_jobs(jobs: Iterable[Job], names: Sequence[str] | None) -> tuple[list[Job], dict[str, str]]:
    """The named ones, else all enabled ones; those of them that can't run yet by name, with the reason."""
    ready, waiting = [], {}
    for job in jobs:
        if job.settings.enabled if names is None else job.name in names:
            await read_pushes(job)
            if reason := getattr(job.collector, "waits_for", None):
                waiting[job.name] = reason
            else:
                ready.append(job)
    return ready, waiting


async def collect_only(jobs: Sequence[Job], wiring: Wiring, progress: Progress) -> list[CollectorPass]:
    """Asks each collector once; keeps and sends nothing."""
    clock, done = wiring.clock, dict[str, CollectorPass]()
    runner = Runner(wiring.store, clock, wiring.attempts, on_stored=lambda: None, retry=False)

    async def collect(job: Job) -> None:
        now = clock.now()
        handle = RunHandle(Run(new_run_id(job.name, now), job.name, Cause.ONCE, now), Actor("once"))
        result = await runner.attempt(job, handle)
        samples, bad = prepare_samples(job, result.samples, now)
        run = replace(handle.run, ended=clock.now(), samples=len(samples))
        if bad:
            run = replace(run, outcome=Outcome.PARTIAL, errors=(*run.errors, *bad))
        done[job.name] = CollectorPass(run, samples, result)
        progress(f"{len(done)} of {len(jobs)} collectors done")

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(collect, job)
    return [done[job.name] for job in jobs]


async def _collect_and_deliver(jobs: Sequence[Job], settings: Settings, wiring: Wiring, progress: Progress) -> Pass:
    """Collects, stores and delivers, one try each: ``backoff_limit`` is the daemon's."""
    store, clock, forwarder = wiring.store, wiring.clock, wiring.build_forwarder(settings)
    ended: dict[str, Run] = {}

    def on_end(run: Run) -> None:
        ended[run.collector] = run
        progress(f"{len(ended)} of {len(jobs)} collectors done")

    runner = Runner(store, clock, wiring.attempts, on_stored=lambda: None, on_end=on_end, retry=False)
    async with anyio.create_task_group() as tasks:
        scheduler = Scheduler(runner, store, clock, tasks)
        wiring.set_mode(settings, scheduler, forwarder)
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
        lost=sum(state.lost.values()),
        trouble=state.trouble
        or store.trouble
        or ", ".join(f"{count} {status}" for status, count in state.lost.items())
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
