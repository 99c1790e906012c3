"""The board of the daemon in memory (``web_stage``): cycles are its ended runs, checks what the test says."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from service.domain.checks import Check
from service.domain.difference import changes
from service.domain.history import Cell, CheckHistory, Cycle, Hour, check_id
from service.domain.points import Fate, StoredSample
from service.domain.runs import Run
from service.domain.samples import Kind
from service.web.board import CheckBoard, CollectorBoard, Difference, Past, QuotaView, State
from service.web.check_views import CheckView
from service.web.operations import Operations
from service.web.views import RunView


class StageBoard:
    """Meets ``service.web.board.Board``."""

    def __init__(self, daemon: Operations, history: list[Run], known: list[Check], now: datetime) -> None:
        self.web_hosts = frozenset({"github.com"})
        self.limits: list[QuotaView] = []
        self.hours: list[Hour] = []
        self._daemon = daemon
        self._history = history
        self._known = known
        self._now = now

    async def collectors(self, names: Iterable[str] | None = None) -> list[CollectorBoard]:
        wanted = [each.name for each in await self._daemon.collectors()] if names is None else list(names)
        return [self._board(name) for name in wanted]

    async def past(self, boards: Iterable[CollectorBoard], picked: Iterable[tuple[CollectorBoard, CheckBoard]]) -> Past:
        picked = list(picked)
        cycles = {board.name: self._cycles(board.name) for board in (*boards, *(board for board, _ in picked))}
        checks = {
            check.id: CheckHistory(
                {each.number: Cell(check.view.status, False, check.view.value) for each in cycles[board.name]},
                tuple(self.hours),
            )
            for board, check in picked
        }
        return Past(cycles, checks)

    async def left(self, run_id: str) -> RunView | None:
        if run_id != "ci-gone":
            return None
        return RunView(
            id=run_id, collector="ci", cause="not kept", started=self._now, ended=self._now, outcome="Failed"
        )

    def quota(self) -> list[QuotaView]:
        return self.limits

    async def difference(self, run: RunView) -> Difference | None:
        older = self._history[[each.id for each in self._history].index(run.id) + 1 :]
        before = [each for each in older if each.job == run.collector]
        if not before or not run.ended:
            return None
        tags = {"task": "jobs_cancelled", "condition": "< 10"}
        old, new = (
            StoredSample("ci.cancelled", Kind.GAUGE, value, self._now, {**tags, "status": status}, Fate.DELIVERED, "")
            for value, status in ((3.0, "pass"), (12.0, "fail"))
        )
        return Difference(before[0].id, changes([old], [new]), True)

    async def state(self) -> State:
        return State.of(
            self._now,
            await self._daemon.collectors(),
            await self.collectors(),
            active=[run.id for run in self._history if not run.ended],
            delivery=self._daemon.delivery(),
            quota=self.limits,
            ready=await self._daemon.ready(),
        )

    def _cycles(self, name: str) -> list[Cycle]:
        return [
            Cycle(number, run.id, run.started.timestamp(), run.seconds or 0.0, run.outcome.value)
            for number, run in enumerate(reversed(self._history), 1)
            if run.job == name and run.outcome
        ]

    def _board(self, name: str) -> CollectorBoard:
        checks = [
            CheckBoard(
                id=check_id(name, check.key),
                view=CheckView.of(name, check, None, self._now, timedelta(hours=24)),
            )
            for check in self._known
        ]
        return CollectorBoard(name, len(self._cycles(name)), checks)
