"""The daemon behind the web's ``Board``: the history is read from the store once a cycle, not once a reader."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import anyio

from service.adapters.store import SqliteStore
from service.domain.checks import Check
from service.domain.difference import changes
from service.domain.forecast import forecast
from service.domain.history import CheckHistory, Cycle, check_id
from service.domain.links import web_hosts
from service.parts import Edges
from service.pipeline.dispatch import Dispatcher
from service.pipeline.job import Job
from service.pipeline.ports import Clock
from service.scrape import in_turns
from service.web.board import CheckBoard, CollectorBoard, Difference, Past, QuotaView, State
from service.web.charts import BARS
from service.web.check_views import CheckView
from service.web.operations import Readings
from service.web.views import RunView

_REACH = timedelta(days=7)
_MOST_COMPARED = 5_000  # samples of a run
_MOST_DRAWN = 1_000  # checks whose history is kept at hand


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of a job: its checks with their ids, as of the cycle with the number ``stamp``."""

    stamp: int = 0
    checks: Sequence[tuple[int, Check]] = ()


class DaemonBoard:
    """Meets ``service.web.board.Board``."""

    def __init__(
        self,
        readings: Readings,
        *,
        clock: Clock,
        store: SqliteStore,
        dispatcher: Dispatcher,
        edges: Edges,
        github_api_url: str,
    ) -> None:
        self.web_hosts = web_hosts(github_api_url)
        self._readings = readings
        self._clock = clock
        self._store = store
        self._dispatcher = dispatcher
        self._edges = edges
        self._known: dict[str, _Known] = {}
        self._cycles: dict[str, tuple[Cycle, ...]] = {}
        self._drawn: dict[int, tuple[int, CheckHistory]] = {}

    async def collectors(self, names: Iterable[str] | None = None) -> list[CollectorBoard]:
        configured = self._dispatcher.jobs
        jobs = [configured[name] for name in (configured if names is None else names) if name in configured]
        stamps = await self._store.last_cycles([job.name for job in jobs])
        await self._read({name: stamp for name, stamp in stamps.items() if self._stamp(name) != stamp})
        for gone in self._known.keys() - configured.keys():
            del self._known[gone]
            self._cycles.pop(gone, None)
        return [self._board(job) async for job in in_turns(jobs)]

    async def past(self, boards: Iterable[CollectorBoard], picked: Iterable[tuple[CollectorBoard, CheckBoard]]) -> Past:
        wanted = {check.id: board for board, check in picked}
        cycles = await self._cycles_of({board.name: board.stamp for board in (*boards, *wanted.values())})
        missing = {each: board for each, board in wanted.items() if self._drawn.get(each, (None,))[0] != board.stamp}
        if missing:
            names = {board.name for board in missing.values()}
            numbers = [cycle.number for name in names for cycle in cycles[name]]
            found = await self._store.check_histories(list(missing), numbers, self._clock.now() - _REACH)
            for each, history in found.items():
                self._drawn[each] = missing[each].stamp, history
        if len(self._drawn) > _MOST_DRAWN:
            self._drawn = {each: self._drawn[each] for each in wanted}
        return Past(cycles, {each: self._drawn[each][1] for each in wanted})

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

    async def left(self, run_id: str) -> RunView | None:
        found = await self._store.cycle(run_id)
        if found is None:
            return None
        job, cycle = found
        return RunView(
            id=run_id,
            collector=job,
            cause="not kept any more",
            started=cycle.started,
            ended=cycle.ended,
            outcome=cycle.outcome,
        )

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
            await self._readings.collectors(),
            await self.collectors(),
            active=[run.id for run in self._dispatcher.all_active()],
            delivery=self._readings.delivery(),
            quota=self.quota(),
            ready=await self._readings.ready(),
        )

    def _stamp(self, name: str) -> int:
        known = self._known.get(name)
        return known.stamp if known else 0

    async def _read(self, changed: Mapping[str, int]) -> None:
        """Brings the checks of these jobs up to date. ``changed``: the number of each job's last cycle."""
        if not changed:
            return
        checks = await self._store.checks_of(list(changed))
        for name, stamp in changed.items():
            self._known[name] = _Known(stamp, [(check_id(name, check.key), check) for check in checks.get(name, ())])

    async def _cycles_of(self, stamps: Mapping[str, int]) -> Mapping[str, Sequence[Cycle]]:
        """The last cycles of these jobs; only what is new since the last reading is read."""
        last = {name: known[-1].number if (known := self._cycles.get(name)) else 0 for name in stamps}
        if behind := {name: last[name] for name, stamp in stamps.items() if last[name] < stamp}:
            for name, fresh in (await self._store.cycles(behind, BARS)).items():
                self._cycles[name] = (*self._cycles.get(name, ()), *fresh)[-BARS:]
        return {name: self._cycles.get(name, ()) for name in stamps}

    def _board(self, job: Job) -> CollectorBoard:
        known = self._known.get(job.name) or _Known()
        now, catalogue = self._clock.now(), {each.name: each for each in job.collector.metrics}
        checks = [
            CheckBoard(number, CheckView.of(job.name, check, catalogue.get(check.metric), now, job.max_age))
            for number, check in known.checks
        ]
        return CollectorBoard(job.name, known.stamp, checks)
