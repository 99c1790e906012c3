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
from service.web.board import CheckBoard, CollectorBoard, Difference, QuotaView, State
from service.web.charts import BARS
from service.web.check_views import CheckView
from service.web.operations import Operations
from service.web.views import RunView

_REACH = timedelta(days=7)
_MOST_COMPARED = 5_000  # samples of a run
_MOST_DRAWN = 1_000  # checks whose history is kept at hand


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of a job: its last cycles, and its checks with their ids."""

    cycles: tuple[Cycle, ...] = ()
    checks: Sequence[tuple[int, Check]] = ()


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
        self._known: dict[str, _Known] = {}
        self._drawn: dict[int, tuple[int, CheckHistory]] = {}

    async def collectors(self, names: Iterable[str] | None = None) -> list[CollectorBoard]:
        configured = self._dispatcher.jobs
        jobs = [configured[name] for name in (configured if names is None else names) if name in configured]
        stamps = await self._store.last_cycles([job.name for job in jobs])
        await self._read({name: stamp for name, stamp in stamps.items() if self._stamp(name) != stamp})
        for gone in self._known.keys() - configured.keys():
            del self._known[gone]
        return [self._board(job) async for job in in_turns(jobs)]

    async def histories(self, picked: Iterable[tuple[CollectorBoard, CheckBoard]]) -> Mapping[int, CheckHistory]:
        wanted = {check.id: board for board, check in picked}
        missing = {each: board for each, board in wanted.items() if self._drawn.get(each, (None,))[0] != board.stamp}
        boards = {board.name: board for board in missing.values()}
        if missing:
            numbers = [cycle.number for board in boards.values() for cycle in board.cycles]
            found = await self._store.check_histories(list(missing), numbers, self._clock.now() - _REACH)
            for each, history in found.items():
                self._drawn[each] = missing[each].stamp, history
        if len(self._drawn) > _MOST_DRAWN:
            self._drawn = {each: self._drawn[each] for each in wanted}
        return {each: self._drawn[each][1] for each in wanted}

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
            await self._operations.collectors(),
            await self.collectors(),
            active=[run.id for run in self._dispatcher.all_active()],
            delivery=self._operations.delivery(),
            quota=self.quota(),
            ready=await self._operations.ready(),
        )

    def _stamp(self, name: str) -> int:
        known = self._known.get(name)
        return known.cycles[-1].number if known and known.cycles else 0

    async def _read(self, changed: Mapping[str, int]) -> None:
        """Brings what is known of these jobs up to date: the new cycles, and the checks as they are now."""
        if not changed:
            return
        fresh = await self._store.cycles({name: self._stamp(name) for name in changed}, BARS)
        checks = await self._store.checks_of(list(changed))
        for name in changed:
            before = self._known[name].cycles if name in self._known else ()
            self._known[name] = _Known(
                cycles=(*before, *fresh.get(name, ()))[-BARS:],
                checks=[(check_id(name, check.key), check) for check in checks.get(name, ())],
            )

    def _board(self, job: Job) -> CollectorBoard:
        known = self._known.get(job.name) or _Known()
        now, catalogue = self._clock.now(), {each.name: each for each in job.collector.metrics}
        checks = [
            CheckBoard(number, CheckView.of(job.name, check, catalogue.get(check.metric), now, job.max_age))
            for number, check in known.checks
        ]
        return CollectorBoard(job.name, self._stamp(job.name), known.cycles, checks)
