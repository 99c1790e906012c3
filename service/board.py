"""The daemon behind the web's ``Board``: the history is read from the store once a cycle, not once a reader."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import anyio

from service.adapters.store import SqliteStore
from service.domain.difference import changes
from service.domain.forecast import forecast
from service.domain.history import JobHistory, check_id
from service.domain.links import web_hosts
from service.parts import Edges
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.scrape import in_turns
from service.web.board import CheckBoard, CollectorBoard, Difference, QuotaView, State
from service.web.charts import BARS
from service.web.check_views import CheckView
from service.web.operations import Operations
from service.web.views import RunView

_REACH = timedelta(days=7)
_MOST_COMPARED = 5_000  # samples of a run


class DaemonBoard:
    """Meets ``service.web.board.Board``."""

    def __init__(
        self,
        operations: Operations,
        *,
        clock: Clock,
        store: SqliteStore,
        dispatcher: Dispatcher,
        edges: Edges,
        github_api_url: str,
    ) -> None:
        self.web_hosts = web_hosts(github_api_url)
        self._operations = operations
        self._clock = clock
        self._store = store
        self._dispatcher = dispatcher
        self._edges = edges
        self._known: dict[str, tuple[int, JobHistory]] = {}

    async def collectors(self, names: Iterable[str] | None = None) -> list[CollectorBoard]:
        configured = self._dispatcher.jobs
        jobs = [configured[name] for name in (configured if names is None else names) if name in configured]
        stamps = await self._store.last_cycles([job.name for job in jobs])
        await self._read([name for name, stamp in stamps.items() if self._known.get(name, (None,))[0] != stamp], stamps)
        for gone in self._known.keys() - configured.keys():
            del self._known[gone]
        return [self._board(job, stamps.get(job.name, 0)) async for job in in_turns(jobs)]

    def quota(self) -> Sequence[QuotaView]:
        now = self._clock.now()
        views = []
        for name, each in self._edges.github.quota.items():
            told = forecast(name, each.limit, each.remaining, each.reset_at, now)
            views.append(
                QuotaView(
                    resource=name,
                    limit=each.limit,
                    remaining=each.limit if each.reset_at <= now else each.remaining,
                    reset_at=each.reset_at,
                    left_at_reset=told.left,
                    empty_at=told.empty_at,
                )
            )
        return views

    async def difference(self, run: RunView) -> Difference | None:
        earlier = [each for each in await self._store.runs(run.collector, 10, run.id) if each.ended and each.samples]
        if not run.ended or not earlier:
            return None
        before, total_before = await self._store.samples(earlier[0].id, 0, _MOST_COMPARED)
        after, total_after = await self._store.samples(run.id, 0, _MOST_COMPARED)
        found = await anyio.to_thread.run_sync(changes, before, after)
        return Difference(earlier[0].id, found, max(total_before, total_after) <= _MOST_COMPARED)

    async def state(self) -> State:
        return State.of(
            self._clock.now(),
            await self._operations.collectors(),
            await self.collectors(),
            active=[run.id for run in self._dispatcher.all_active()],
            delivery=self._operations.delivery(),
            quota=self.quota(),
            ready=await self._operations.ready(),
        )

    async def _read(self, changed: Sequence[str], stamps: dict[str, int]) -> None:
        if not changed:
            return
        found = await self._store.histories(changed, BARS, self._clock.now() - _REACH)
        for name, history in found.items():
            self._known[name] = stamps[name], history

    def _board(self, job: Job, stamp: int) -> CollectorBoard:
        history = self._known.get(job.name, (0, JobHistory()))[1]
        now, catalogue = self._clock.now(), {each.name: each for each in job.collector.metrics}
        checks = [
            CheckBoard(
                id=f"{check_id(job.name, each.check.key):x}",
                view=CheckView.of(job.name, each.check, catalogue.get(each.check.metric), now, job.max_age),
                cells=[each.cells.get(cycle.number) for cycle in history.cycles],
                hours=each.hours,
            )
            for each in history.checks
        ]
        return CollectorBoard(job.name, stamp, history.cycles, checks)
