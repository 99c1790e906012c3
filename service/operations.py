"""What operators see and do, whether by HTTP or by signal: the daemon behind the web's ``Operations``."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import anyio
import structlog

from service.adapters.store import SqliteStore
from service.domain.actions import Action
from service.domain.errors import Unavailable
from service.domain.runs import Cause, Run
from service.parts import Edges
from service.pipeline import dispatch
from service.pipeline.deliver import Delivery
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.pipeline.schedule import Timer
from service.web.metrics import CollectorState, Quota, Snapshot
from service.web.operations import AlreadyRunning, Draining, Origin, UnknownCollector
from service.web.views import (
    Check,
    CollectorView,
    DeliveryView,
    Health,
    Info,
    LastError,
    Lost,
    RunView,
    SampleView,
    Triggered,
)

log = structlog.get_logger(__name__)

# The timer proves its life every second; so long without one and the daemon is stuck.
_BEAT_LOST = 15.0


class DaemonOperations:
    """Meets ``service.web.operations.Operations``."""

    def __init__(
        self,
        info: Info,
        *,
        clock: Clock,
        store: SqliteStore,
        dispatcher: Dispatcher,
        timer: Timer,
        delivery: Delivery,
        edges: Edges,
    ) -> None:
        self.info = info
        self.reload_error: str | None = None
        self.lag: float | None = None
        self._clock = clock
        self._store = store
        self._dispatcher = dispatcher
        self._timer = timer
        self._delivery = delivery
        self._edges = edges

    # Health

    def live(self) -> Health:
        silence = self._clock.monotonic() - self._timer.beat
        beats = silence < _BEAT_LOST
        detail = "" if beats else f"the scheduler has not beaten for {silence:.0f} s"
        return Health(ok=beats, checks=(Check(name="scheduler", status="ok" if beats else "fail", detail=detail),))

    async def ready(self) -> Health:
        checks = [Check(name="configuration", status="ok")]
        if self.reload_error:
            detail = f"the last reload was refused, the configuration before it holds: {self.reload_error}"
            checks = [Check(name="configuration", status="warn", detail=detail)]
        ok = True
        try:
            await self._store.check()
            checks.append(Check(name="store", status="ok"))
        except Unavailable as error:
            ok = False
            checks.append(Check(name="store", status="fail", detail=str(error)))
        checks.append(_warned("datadog", self._delivery.state.trouble))
        checks.append(_warned("github", self._edges.github.trouble or self._edges.github.budget.thinning))
        secrets = (self._edges.api_key.trouble, self._edges.github_token.trouble)
        checks.append(_warned("aws", "; ".join(trouble for trouble in secrets if trouble)))
        return Health(ok=ok, checks=tuple(checks))

    # Collectors

    async def collectors(self) -> list[CollectorView]:
        return await self._views(self._dispatcher.jobs.values())

    async def collector(self, name: str) -> CollectorView:
        return (await self._views([self._job(name)]))[0]

    async def trigger(self, name: str, origin: Origin) -> Triggered:
        self._job(name)
        try:
            run = self._dispatcher.trigger(name, Cause.HTTP, origin.source)
        except dispatch.AlreadyRunning as error:
            raise AlreadyRunning(error.run_id) from error
        except dispatch.Draining as error:
            raise Draining from error
        await self.record("trigger", name, origin, run.id)
        return Triggered(id=run.id, collector=name)

    async def trigger_all(self, origin: Origin) -> list[Triggered]:
        return await self.trigger_enabled(Cause.HTTP, origin)

    async def trigger_enabled(self, cause: Cause, origin: Origin) -> list[Triggered]:
        """Starts every enabled collector that is not running under Forbid."""
        triggered = []
        for job in list(self._dispatcher.jobs.values()):
            if not job.enabled:
                continue
            try:
                run = self._dispatcher.trigger(job.name, cause, origin.source)
            except dispatch.AlreadyRunning as error:
                triggered.append(Triggered(id=error.run_id, collector=job.name, started=False))
            except dispatch.Draining as error:
                raise Draining from error
            else:
                triggered.append(Triggered(id=run.id, collector=job.name))
                await self.record("trigger", job.name, origin, run.id)
        return triggered

    async def pause(self, name: str, origin: Origin) -> None:
        await self._set_paused(name, True, origin)

    async def resume(self, name: str, origin: Origin) -> None:
        await self._set_paused(name, False, origin)

    # Runs

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        run = None
        with anyio.move_on_after(seconds):
            run = await self._dispatcher.wait(run_id)
        if run is None and any(run_id == active.id for active in self._dispatcher.all_active()):
            return None
        view = await self.run(run_id)
        return view if view and view.ended else None

    async def runs(self, collector: str | None = None, limit: int = 50, before: str | None = None) -> list[RunView]:
        if collector is not None:
            self._job(collector)
        stored = await self._store.runs(collector, limit, before)
        return await self._run_views(stored)

    async def run(self, run_id: str) -> RunView | None:
        run = await self._store.run(run_id)
        if run is None:
            # A run that was started this instant is active before it is stored.
            run = next((active for active in self._dispatcher.all_active() if active.id == run_id), None)
        return (await self._run_views([run]))[0] if run else None

    async def samples(self, run_id: str, offset: int, limit: int) -> tuple[list[SampleView], int] | None:
        if await self._store.run(run_id) is None:
            return None
        samples, total = await self._store.samples(run_id, offset, limit)
        views = [
            SampleView(
                metric=sample.metric,
                value=sample.value,
                tags=sample.tags,
                kind=sample.kind.value,
                timestamp=sample.at,
                delivery=sample.fate.name.lower(),
                reason=sample.reason,
            )
            for sample in samples
        ]
        return views, total

    # Delivery and metrics

    def delivery(self) -> DeliveryView:
        state = self._delivery.state
        return DeliveryView(
            state="trouble" if state.trouble else "waiting" if state.waiting else "ok",
            last_accepted=state.last_accepted_at,
            waiting=state.waiting,
            lost=Lost.of(state.lost),
            trouble=state.trouble,
            next_try=state.next_try_at,
        )

    async def metrics_snapshot(self) -> Snapshot:
        try:
            successes = await self._store.last_successes()
        except Unavailable:
            successes = {}
        return Snapshot(
            active_runs=len(self._dispatcher.all_active()),
            waiting=self._delivery.state.waiting,
            lag=self.lag,
            quota={name: Quota(each.remaining, each.limit) for name, each in self._edges.github.quota.items()},
            collectors={name: self._collector_state(job, successes) for name, job in self._dispatcher.jobs.items()},
        )

    # Keeping account

    async def record(self, what: str, target: str, origin: Origin, run: str = "") -> None:
        """Keeps who did what when; an act that can't be kept is done all the same, and said in the log."""
        action = Action(self._clock.now(), what, target, origin.source, origin.actor or "", origin.reason or "", run)
        log.info(what, target=target, source=origin.source, actor=origin.actor, reason=origin.reason)
        try:
            await self._store.act(action)
        except Unavailable as error:
            log.error("an action could not be kept", reason=str(error))  # noqa: TRY400 - the reason says it all

    # Inside

    def _job(self, name: str) -> Job:
        jobs = self._dispatcher.jobs
        if name not in jobs:
            raise UnknownCollector(name, jobs)
        return jobs[name]

    def _collector_state(self, job: Job, successes: Mapping[str, datetime]) -> CollectorState:
        return CollectorState(
            paused=self._dispatcher.is_paused(job.name),
            last_success=successes.get(job.name),
            next_run=self._dispatcher.next_run(job.name),
            interval=job.schedule.interval(self._clock.now(), job.zone),
        )

    async def _set_paused(self, name: str, paused: bool, origin: Origin) -> None:
        self._job(name)
        await self._store.set_paused(name, paused)
        self._dispatcher.set_paused(name, paused)
        await self.record("pause" if paused else "resume", name, origin)

    async def _views(self, jobs: Iterable[Job]) -> list[CollectorView]:
        latest = await self._store.latest_runs()
        successes = await self._store.last_successes()
        failures = await self._store.last_failures()
        views = {view.id: view for view in await self._run_views(latest.values())}
        return [
            CollectorView(
                name=job.name,
                type=job.type,
                schedule=job.schedule.expression,
                schedule_in_words=job.schedule.describe(),
                time_zone=str(job.zone),
                service=job.service,
                enabled=job.enabled,
                paused=self._dispatcher.is_paused(job.name),
                running=next((run.id for run in self._dispatcher.active(job.name)), None),
                next_run=self._dispatcher.next_run(job.name),
                last_run=views[latest[job.name].id] if job.name in latest else None,
                last_success=successes.get(job.name),
                last_error=_last_error(failures.get(job.name)),
                samples=latest[job.name].samples if job.name in latest else 0,
                note=getattr(job.collector, "note", None),
            )
            for job in jobs
        ]

    async def _run_views(self, runs: Iterable[Run]) -> list[RunView]:
        active = {run.id: run for run in self._dispatcher.all_active()}
        runs = [active.get(run.id, run) for run in runs]
        fates = await self._store.fates_of([run.id for run in runs])
        return [RunView.of(run, fates.get(run.id, {})) for run in runs]


def _warned(name: str, trouble: str | None) -> Check:
    return Check(name=name, status="warn" if trouble else "ok", detail=trouble or "")


def _last_error(run: Run | None) -> LastError | None:
    if run is None:
        return None
    return LastError(run=run.id, at=run.ended or run.started, errors=tuple(str(fault) for fault in run.faults))
