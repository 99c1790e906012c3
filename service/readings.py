"""What operators see of the daemon, by HTTP or on a page: the reading half of the web's ``Operations``."""

from collections import deque
from collections.abc import Iterable

from service import logs
from service.adapters.store import SqliteStore
from service.board import DaemonBoard
from service.domain.errors import Unavailable
from service.domain.runs import Run
from service.parts import Edges
from service.pipeline.deliver import Delivery
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.pipeline.reserve import Reserve
from service.pipeline.schedule import Timer
from service.scrape import LAGS, in_turns, scraped
from service.web.check_views import CheckView, is_meant
from service.web.metrics import Snapshot
from service.web.operations import UnknownCollector
from service.web.views import (
    Check,
    CollectorView,
    DeliveryView,
    EvidenceView,
    Health,
    Info,
    LastError,
    LogLine,
    Lost,
    RunView,
    SampleView,
)

# The timer proves its life every second; so long without one and the daemon is stuck.
_BEAT_LOST = 15.0


class DaemonReadings:
    """Meets ``service.web.operations.Readings``."""

    def __init__(
        self,
        info: Info,
        *,
        clock: Clock,
        store: SqliteStore,
        reserve: Reserve,
        dispatcher: Dispatcher,
        timer: Timer,
        delivery: Delivery,
        edges: Edges,
        github_api_url: str,
    ) -> None:
        self.info = info
        self.board = DaemonBoard(
            self, clock=clock, store=store, dispatcher=dispatcher, edges=edges, github_api_url=github_api_url
        )
        self.reload_error: str | None = None
        self.lags: deque[float] = deque(maxlen=LAGS)
        self._clock = clock
        self._store = store
        self._reserve = reserve
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
        try:
            await self._store.check()
            lost = self._reserve.trouble
        except Unavailable as error:
            lost = self._reserve.trouble or str(error)
        ok = lost is None
        checks.append(Check(name="store", status="ok" if ok else "fail", detail=lost or ""))
        if self._dispatcher.is_shadow:
            detail = (
                "shadow: nothing is sent" if self._delivery.withholds else "shadow: metrics have names of their own"
            )
            checks.append(_warned("mode", detail))
        checks.append(_warned("datadog", self._delivery.state.trouble))
        checks.append(_warned("github", self._edges.github.trouble or self._edges.github.budget.thinning))
        troubles = (secret.trouble for secret in self._edges.credentials)
        checks.append(_warned("aws", "; ".join(trouble for trouble in troubles if trouble)))
        return Health(ok=ok, checks=tuple(checks))

    # Collectors

    async def collectors(self) -> list[CollectorView]:
        return await self._views(self._dispatcher.jobs.values())

    async def collector(self, name: str) -> CollectorView:
        return (await self._views([self._job(name)]))[0]

    async def checks(self, name: str, metric: str | None = None) -> list[CheckView]:
        job = self._job(name)
        now, catalogue = self._clock.now(), {each.name: each for each in job.collector.metrics}
        return [
            CheckView.of(name, check, catalogue.get(check.metric), now, job.max_age)
            for check in await self._store.checks(name)
            if metric is None or is_meant(check, metric)
        ]

    # Runs

    async def runs(self, collector: str | None = None, limit: int = 50, before: str | None = None) -> list[RunView]:
        if collector is not None:
            self._job(collector)
        stored = await self._store.runs(collector, limit, before)
        return await self._run_views(stored)

    async def run(self, run_id: str) -> RunView | None:
        # A run that was started this instant, or while the store is lost, is not stored.
        run = self._in_memory().get(run_id) or await self._store.run(run_id)
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
                evidence=tuple(EvidenceView.of(each) for each in sample.evidence),
            )
            for sample in samples
        ]
        return views, total

    async def run_log(self, run_id: str) -> list[LogLine]:
        # Once a run is stored, so are its lines; until then they are in memory.
        lines = logs.memory.of_run(run_id) or await self._store.run_log(run_id)
        return [LogLine.of(line) for line in lines]

    def recent_log(self, limit: int) -> list[LogLine]:
        return [LogLine.of(line) for line in logs.memory.recent(limit)]

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
        return await scraped(self._clock, self._store, self._dispatcher, self._delivery, self._edges, self.lags)

    # Inside

    def _job(self, name: str) -> Job:
        jobs = self._dispatcher.jobs
        if name not in jobs:
            raise UnknownCollector(name, jobs)
        return jobs[name]

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
                last_slot=self._dispatcher.last_live_slot(job.name),
                last_run=views[latest[job.name].id] if job.name in latest else None,
                last_success=successes.get(job.name),
                last_error=_last_error(failures.get(job.name)),
                samples=latest[job.name].samples if job.name in latest else 0,
                note=getattr(job.collector, "note", None),
            )
            async for job in in_turns(jobs)
            if job.name in self._dispatcher.jobs
        ]

    async def _run_views(self, runs: Iterable[Run]) -> list[RunView]:
        known = self._in_memory()
        runs = [known.get(run.id, run) for run in runs]
        try:
            fates = await self._store.fates_of([run.id for run in runs])
        except Unavailable:
            if any(run.id not in known for run in runs):
                raise
            fates = {}  # what is in memory can be told while the store is lost
        return [RunView.of(run, fates.get(run.id, {})) async for run in in_turns(runs)]

    def _in_memory(self) -> dict[str, Run]:
        return {run.id: run for run in self._dispatcher.all_active()} | self._reserve.kept_runs()


def _warned(name: str, trouble: str | None) -> Check:
    return Check(name=name, status="warn" if trouble else "ok", detail=trouble or "")


def _last_error(run: Run | None) -> LastError | None:
    if run is None:
        return None
    return LastError(run=run.id, at=run.ended or run.started, errors=tuple(str(fault) for fault in run.faults))
