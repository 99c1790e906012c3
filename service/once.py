"""One pass over collectors, for ``--once`` and ``collect``: the daemon's own path, without its timer."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from service.adapters.store import SqliteStore
from service.config import Settings, most_series
from service.domain.points import LOST, Fate
from service.domain.runs import Cause, Collected, Run, Slot, new_run_id
from service.domain.samples import Sample
from service.ending import leave_within
from service.parts import Edges, build_jobs, edges, open_store, set_mode
from service.pipeline.active import failed, succeeded
from service.pipeline.ask import ask, reason_of
from service.pipeline.clock import SystemClock
from service.pipeline.deliver import Delivery
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.leaving import stamped
from service.pipeline.reserve import Reserve
from service.pipeline.run import Runner

# So long a pass waits for Datadog; what is not delivered by then stays stored.
DELIVERY_SECONDS = 30.0
_STUBBORN = 2.0  # seconds for a cancelled collector to stop before the process ends without it


@dataclass(frozen=True, slots=True)
class Passed:
    """One collector's part of a pass. ``collected``: where nothing was kept, what the collector brought."""

    run: Run
    samples: Sequence[Sample]
    collected: Collected = field(default_factory=Collected)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass came to. ``undelivered`` counts points that still wait or were lost."""

    runs: Sequence[Passed]
    delivered: int = 0
    waiting: int = 0
    lost: int = 0
    trouble: str | None = None
    seconds: float = 0.0

    @property
    def undelivered(self) -> int:
        return self.waiting + self.lost

    def as_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {
                    "collector": each.run.job,
                    "run": each.run.id,
                    "outcome": each.run.outcome,
                    "seconds": each.run.seconds,
                    "errors": [str(fault) for fault in each.run.faults],
                    "samples": [sample.as_json() for sample in each.samples],
                }
                for each in self.runs
            ],
            "delivery": {
                "delivered": self.delivered,
                "waiting": self.waiting,
                "lost": self.lost,
                "trouble": self.trouble,
            },
        }


async def run_pass(
    settings: Settings,
    environ: Mapping[str, str],
    names: Sequence[str] | None,
    push: bool,
    tell: Callable[[str], None],
    report: Callable[[Pass], int],
) -> int:
    """Runs the named collectors (None: all enabled ones) once, concurrently; gives ``report``'s exit code.

    Without ``push`` nothing is kept or sent. ``report`` is called when all is kept; a collector that can't be stopped
    then holds up nothing. Raises ConfigError, for example when another process writes to the state directory.
    """
    wanted = chosen(settings, names)
    async with anyio.create_task_group() as attempts:
        if push:
            store = await open_store(settings, SystemClock())
        else:
            store = await SqliteStore.open_reading(settings.state_dir)
        try:
            async with edges(settings, environ) as parts:
                jobs = [job for job in build_jobs(settings, parts, store) if job.name in wanted]
                result = await (_push(jobs, settings, parts, store, tell, attempts) if push else look(jobs, tell))
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()
        code = report(result)
        attempts.cancel_scope.cancel()
        leave_within(_STUBBORN, code)
    return code


def chosen(settings: Settings, names: Sequence[str] | None) -> set[str]:
    """The named collectors, else all enabled ones."""
    return {name for name, each in settings.collectors.items() if each.enabled} if names is None else set(names)


async def look(jobs: Sequence[Job], tell: Callable[[str], None]) -> Pass:
    """Collects without keeping anything."""
    clock = SystemClock()
    results: dict[str, Passed] = {}

    async def try_once(job: Job) -> None:
        now = clock.now()
        run = Run(new_run_id(job.name, now), Slot(job.name, None, Cause.ONCE), now, attempts=1)
        collected = Collected()
        samples: list[Sample] = []
        try:
            with anyio.fail_after(job.active_deadline.total_seconds()):
                collected = await ask(job, now)
            samples, bad = stamped(job, collected, now)
            run = succeeded(run, replace(collected, faults=(*collected.faults, *bad)))
        except TimeoutError:
            run = failed(run, f"not done within {job.active_deadline.total_seconds():g} s")
        except Exception as error:  # noqa: BLE001 - whatever foreign code did, it is the fault of its run alone
            run = failed(run, reason_of(error))
        results[job.name] = Passed(replace(run, ended=clock.now(), samples=len(samples)), samples, collected)
        tell(f"{len(results)} of {len(jobs)} collectors done")

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(try_once, job)
    return Pass([results[job.name] for job in jobs])


async def _push(
    jobs: Sequence[Job],
    settings: Settings,
    parts: Edges,
    store: SqliteStore,
    tell: Callable[[str], None],
    attempts: TaskGroup,
) -> Pass:
    """Collects, keeps and delivers, one try each: ``backoff_limit`` is the daemon's."""
    clock = SystemClock()
    fates: Counter[Fate] = Counter()

    def count(fate: Fate, points: int) -> None:
        fates[fate] += points

    results: dict[str, Passed] = {}

    def ended(run: Run, samples: Sequence[Sample]) -> None:
        results[run.job] = Passed(run, samples)
        tell(f"{len(results)} of {len(jobs)} collectors done")

    reserve = Reserve(store)
    delivery = Delivery(
        reserve,
        parts.intake,
        clock,
        observe=count,
        historical=settings.datadog.historical,
        max_series=most_series(settings),
    )
    set_mode(settings, store, reserve, delivery)
    store.observe = reserve.observe = delivery.account
    runner = Runner(reserve, clock, attempts, stored=lambda: None, quota=parts.quota, ended=ended, retry=False)
    async with anyio.create_task_group() as tasks:
        dispatcher = Dispatcher(runner, reserve, clock, tasks)
        dispatcher.set_jobs(jobs)
        for run in [dispatcher.trigger(job.name, Cause.ONCE) for job in jobs]:
            ended_run = await dispatcher.wait(run.id)
            if ended_run and run.job not in results:
                results[run.job] = Passed(ended_run, [])
    tell("delivering")
    began = clock.monotonic()
    await delivery.flush(began + DELIVERY_SECONDS)
    async with delivery.paused():
        await reserve.repay()
    waiting = await reserve.count_waiting()
    lost = {fate: fates[fate] for fate in LOST if fates[fate]}
    return Pass(
        [results[job.name] for job in jobs],
        fates[Fate.DELIVERED],
        waiting,
        sum(lost.values()),
        delivery.state.trouble
        or reserve.trouble
        or ", ".join(f"{points} {fate.name.lower().replace('_', ' ')}" for fate, points in lost.items())
        or None,
        clock.monotonic() - began,
    )
