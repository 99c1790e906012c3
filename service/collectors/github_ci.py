"""``github_ci``: the CI health of one repository or of many, each by itself (``ci_repository``), within one quota."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import anyio
import structlog

from service.adapters.github_budget import tally
from service.collectors import ci_fleet, ci_metrics
from service.collectors.ci_cycle import Filling
from service.collectors.ci_fleet import Fleet, Turn
from service.collectors.ci_repository import RepositoryCi, Told
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow, workflows
from service.collectors.registry import Context
from service.domain import cron
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import Collected, Fault
from service.domain.samples import Sample

__all__ = ["FLEET", "GithubCi", "Workflow", "workflows"]

log = structlog.get_logger(__name__)

FLEET = "fleet"
_MEMORY = "ci"
# Repositories at once. Each may hold some megabytes of pages while it is asked; at rest it holds nothing.
_AT_ONCE = 10
# So long a repository may be slower than all others before the cycle goes on without it.
_STRAGGLE = 30.0
# No repository is begun after this share of the cycle's time.
_LAST_CALL = 0.6
_OF_MANY = Filling(sweep=10.0, cold=60, later=10, seconds=20.0, is_eager=False)


def memory_key(settings: GithubCiSettings, repo: str) -> str:
    """Under which key a repository's memory is kept."""
    return f"{_MEMORY} {repo}" if settings.repositories else _MEMORY


class GithubCi:
    """Collects the CI metrics of its repositories; see ``ci_metrics`` for their definitions.

    ``note``: what the operator should know of the last cycle, None when there is nothing.
    """

    Settings = GithubCiSettings
    metrics = ci_metrics.METRICS

    def __init__(self, settings: GithubCiSettings, context: Context) -> None:
        self._name = context.name
        self._settings = settings
        self._github = context.github
        self._memory = context.memory
        self._schedule = cron.parse(settings.schedule)
        self._sweep: str | None = None
        self._repositories = {
            repo: RepositoryCi(
                repo,
                settings,
                context.github,
                context.memory,
                key=memory_key(settings, repo),
                tags={"repo": repo} if settings.repositories else {},
            )
            for repo in settings.all_repositories
        }

    @staticmethod
    def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
        """Metric and condition of each check that these settings ask for."""
        return ci_metrics.expected_checks(settings)

    @property
    def note(self) -> str | None:
        return "; ".join(text for text in (self._sweep, self._github.budget.thinning) if text) or None

    async def collect(self, now: datetime) -> Collected:
        """Samples as of ``now``, faults for the parts that are missing. Raises the worst error when all are missing."""
        fleet = ci_fleet.load(await self._memory.read(FLEET))
        gone = fleet.keep(self._repositories)
        interval = timedelta(seconds=self._schedule.interval(now, self._settings.time_zone))
        results: dict[str, Told | Unavailable | Rejected] = {}
        try:
            await self._ask(fleet, interval, now, results)
        finally:
            self._expect(fleet, interval)
        errors = [each for each in results.values() if isinstance(each, HealthError)]
        if errors and len(errors) == len(results):
            raise max(errors, key=_weight)
        return self._joined(results, fleet, gone)

    async def _ask(
        self, fleet: Fleet, interval: timedelta, now: datetime, results: dict[str, Told | Unavailable | Rejected]
    ) -> None:
        names = tuple(self._repositories)
        if len(names) == 1:
            results[names[0]] = await self._ask_one(names[0], fleet, now, Filling())
            return
        if "core" not in self._github.quota:
            await self._ask_many(ci_fleet.first_turn(fleet, names), fleet, now, results)
        turn = ci_fleet.turn(fleet, names, self._github.quota.get("core"), interval, now)
        await self._ask_many(turn, fleet, now, results)
        sweep = ci_fleet.sweep_text(len(results), turn.cycles, len(names), interval)
        if sweep and not self._sweep:
            log.info("repositories take turns", collector=self._name, reason=sweep)
        self._sweep = sweep

    async def _ask_many(
        self, turn: Turn, fleet: Fleet, now: datetime, results: dict[str, Told | Unavailable | Rejected]
    ) -> None:
        """Asks all, some at once; whoever is much slower than the others is left out of this cycle."""
        names = [name for name in turn.repositories if name not in results]
        started, end = anyio.current_time(), anyio.current_effective_deadline()
        last_call = started + _LAST_CALL * (end - started) if end < math.inf else math.inf
        waiting = list(reversed(names))
        busy: set[str] = set()
        patience = anyio.CancelScope()

        async def work() -> None:
            while waiting and anyio.current_time() < last_call and spent.resources["core"] < turn.points:
                name = waiting.pop()
                busy.add(name)
                try:
                    results[name] = await self._ask_one(name, fleet, now, _OF_MANY)
                except (Unavailable, Rejected) as error:
                    results[name] = error
                    fleet.asked[name] = now
                except Exception as error:
                    # Whatever an answer of one repository breaks, the others' numbers are right.
                    log.exception("a repository's cycle raised an unexpected error", repo=name)
                    results[name] = Unavailable(f"unexpected {type(error).__name__}: {error}")
                    fleet.asked[name] = now
                busy.discard(name)
                if not waiting and len(busy) < _AT_ONCE // 2:
                    patience.deadline = min(patience.deadline, anyio.current_time() + _STRAGGLE)

        with tally() as spent, patience:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(names))):
                    tasks.start_soon(work)
        for name in busy - results.keys():
            results[name] = Unavailable("GitHub answers for it much more slowly than for the others")
            fleet.asked[name] = now

    async def _ask_one(self, name: str, fleet: Fleet, now: datetime, filling: Filling) -> Told:
        told = await self._repositories[name].collect(now, filling)
        fleet.note(name, told.spent, told.is_steady, now)
        return told

    def _expect(self, fleet: Fleet, interval: timedelta) -> None:
        urgent = fleet.urgent(self._repositories)
        if any(name in fleet.costs for name in self._repositories):
            self._github.budget.expect(self._name, ci_fleet.an_hour({"": urgent}, interval)[""])

    def _joined(
        self, results: Mapping[str, Told | Unavailable | Rejected], fleet: Fleet, gone: Sequence[str]
    ) -> Collected:
        is_one = not self._settings.repositories
        samples: list[Sample] = []
        faults: list[Fault] = []
        unmeasured: list[Mapping[str, str]] = []
        remember: dict[str, bytes | None] = {f"{_MEMORY} {repo}": None for repo in gone}
        for name, result in results.items():
            if isinstance(result, Told):
                samples += result.collected.samples
                unmeasured += result.collected.unmeasured
                remember |= result.collected.remember
                faults += [
                    fault if is_one else Fault(fault.reason, f"{name}, {fault.part}")
                    for fault in result.collected.faults
                ]
            else:
                faults.append(Fault(str(result), name))
        remember[FLEET] = fleet.dump()
        return Collected(tuple(samples), tuple(faults), tuple(unmeasured), remember)


def _weight(error: HealthError) -> int:
    """Refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
