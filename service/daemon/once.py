"""One pass over collectors, for ``--once``, ``collect`` and ``preview``: the daemon's own path, without its timer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import anyio

from service.config.settings import Settings
from service.daemon.wiring import Wiring, open_wiring, read_pushes
from service.domain.delivery import DeliveryStatus, StoredSample, to_point
from service.domain.runs import Actor, Cause, CollectResult, Outcome, Run, new_run_id
from service.domain.samples import Kind, Metric, Sample
from service.pipeline.enrich import enrich, prepare_samples
from service.pipeline.job import Job
from service.pipeline.runner import RunHandle, Runner
from service.pipeline.scheduler import Scheduler
from service.store import Store

# So long a pass waits for Datadog; what is not delivered by then stays stored.
_DELIVERY_TIMEOUT = 30.0
# What the daemon sends of itself and of checks, beside the collectors' own samples.
_HEALTH_PREFIX = "metta.infra.collector."
_OWN_PREFIXES = ("metta.infra.check.", _HEALTH_PREFIX)

Change = Literal["new", "gone", "changed", "same"]

# Tags that say how a series is doing, not which one it is.
_VOLATILE_TAGS = ("status", "condition", "version")
_MAX_SAMPLES = 100_000
_RECENT_RUNS = 20

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
            if job.waits_for:
                waiting[job.name] = job.waits_for
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
    await forwarder.flush(began + _DELIVERY_TIMEOUT)
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


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """One series. ``value`` and ``status`` are empty where it would not be sent, ``value_before`` where it was not."""

    change: Change
    metric: str
    tags: Mapping[str, str]
    value: float | None = None
    value_before: float | None = None
    status: str = ""
    status_before: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """One collector's. ``before``: the id of the run that is compared with, None where there is none to compare."""

    run: Run
    before: str | None
    samples: Sequence[Sample] = ()
    changes: Sequence[SeriesChange] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "collector": self.run.collector,
            "outcome": self.run.outcome,
            "errors": [str(error) for error in self.run.errors],
            "compared_with": self.before,
            "samples": [sample.as_json() for sample in self.samples],
            "differences": [asdict(change) for change in self.changes if change.change != "same"],
        }


async def preview(
    settings: Settings, environ: Mapping[str, str], names: Sequence[str] | None, progress: Progress
) -> list[Preview]:
    """Of the named collectors (None: all enabled ones). Works beside a daemon. Raises ConfigError or Unavailable."""
    previews = []
    async with open_wiring(settings, environ, writes=False) as wiring:
        store, clock = wiring.store, wiring.clock
        jobs, _ = await select_jobs(wiring.build_jobs(settings), names)
        for job, done in zip(jobs, await collect_only(jobs, wiring, progress), strict=True):
            enriched = enrich(job, done.result, await store.checks.read(job.name), clock.now())
            samples = [*enriched.samples, *enriched.series]
            before, stored = await _read_last_success(store, job.name)
            previews.append(Preview(done.run, before, samples, compare_series(samples, stored)))
    return previews


async def _read_last_success(store: Store, collector: str) -> tuple[str | None, list[StoredSample]]:
    """Id and samples of the last run that brought something, but for the collector's health: a preview is no run."""
    for run in await store.runs.list(collector, limit=_RECENT_RUNS):
        if run.outcome and run.outcome.succeeded:
            stored, _ = await store.outbox.samples(run.id, 0, _MAX_SAMPLES)
            return run.id, [each for each in stored if not each.point.metric.startswith(_HEALTH_PREFIX)]
    return None, []


def compare_series(now: Iterable[Sample], before: Iterable[StoredSample]) -> list[SeriesChange]:
    """Series by series; of a distribution, whose values are events, each value that would be sent is new."""
    known = {
        _key(each.point.metric, each.kind, each.tags): (each.point.value, each.tags)
        for each in before
        if each.kind is not Kind.DISTRIBUTION
    }
    changes = []
    for sample in now:
        metric, value = sample.metric.name, sample.value
        tags = {name: text for name, _, text in (tag.partition(":") for tag in to_point(sample).tags)}
        value_before, tags_before = known.pop(_key(metric, sample.metric.kind, tags), (None, {}))
        status, status_before = tags.get("status", ""), tags_before.get("status", "")
        change: Change = "same" if (value, status) == (value_before, status_before) else "changed"
        if value_before is None:
            change = "new"
        changes.append(SeriesChange(change, metric, tags, value, value_before, status, status_before))
    for (metric, _, _), (value_before, tags) in known.items():
        gone = SeriesChange("gone", metric, tags, None, value_before, status_before=tags.get("status", ""))
        changes.append(gone)
    return changes


def _key(metric: str, kind: Kind, tags: Mapping[str, str]) -> tuple[str, Kind, frozenset[tuple[str, str]]]:
    return metric, kind, frozenset((name, value) for name, value in tags.items() if name not in _VOLATILE_TAGS)
