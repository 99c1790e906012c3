"""A ``github_ci`` collector on a simulated GitHub; time passes by hand, and what it keeps outlives a restart."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from service.collectors.github_ci import GithubCi, GithubCiSettings
from service.collectors.github_ci.deliveries import Deliveries, read_run
from service.collectors.registry import CollectorState, Context
from service.demo.github_rows import Attempt, Repository, Run
from service.domain.runs import CollectResult
from service.domain.samples import Kind
from service.github.client import Github
from tests.world import TOKEN, InProcess, Simulated, World, truth

NAMESPACE = "metta.infra.cron."
JOBS, RED_MINUTES = "ci.jobs.timed_out", "ci.branch.red_minutes"
PULLS = {"github.hotfix.count", "github.force_merge.count", "github.reverts.count", "github.bugs.count"}
QUEUE = {"ci.queue.runs", "ci.queue.oldest_minutes"}
BRANCH = {"ci.workflow.success", "ci.workflow.success_ratio", "ci.workflow.cancelled", "ci.workflow.other_failing"}
DAY, HOUR, CYCLE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=10)


class KeptState(CollectorState):
    """The store's part: a mapping."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def read(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def take(self, result: CollectResult) -> None:
        for key, value in result.state.items():
            if value is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = value


@dataclass
class Stage:
    """``settings``: the collector's keys; ``restart`` takes up changes of them."""

    world: World
    github: Simulated
    client: Github
    http: httpx.AsyncClient
    settings: dict[str, Any]
    state: KeptState = field(default_factory=KeptState)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        keys = {"type": "github_ci", "schedule": "*/10 * * * *"} | self.settings
        self.asked = GithubCiSettings.model_validate(keys)
        self.deliveries = Deliveries(self.github.clock)
        context = Context("ci", self.client, self.http, self.state, deliveries=self.deliveries)
        self.collector = GithubCi(self.asked, context)
        self.deliveries.expect({"ci": self.collector.repositories})

    def deliver(self, run: Run, attempt: Attempt, repository: Repository | None = None) -> bool:
        """What GitHub tells when the attempt has ended; whether it is of concern."""
        repository, at = repository or self.world.repository, attempt.ended or self.world.now
        event = {"action": "completed", "workflow_run": repository.run_json(run, at), "repository": repository.json()}
        told = read_run(json.dumps(event).encode())
        return told is not None and self.deliveries.add(told)

    async def collect_changes(self) -> CollectResult | None:
        """A run by webhook; None where there is no need for one, or nothing new."""
        self.github.app.asked.clear()
        if not await self.collector.has_changes(self.world.now):
            return None
        result = await self.collector.collect_changes(self.world.now)
        self.state.take(result)
        return result if result.samples else None

    async def collect(self) -> CollectResult:
        self.github.app.asked.clear()
        result = await self.collector.collect(self.world.now)
        self.state.take(result)
        return result

    async def values(self) -> dict[str, float]:
        return values_of(await self.collect())

    async def collect_until_whole(self) -> int:
        """How many cycles it took until the week of jobs was read."""
        for count in range(1, 9):
            if JOBS in await self.values():
                return count
            self.pass_time()
        raise AssertionError("the week of jobs was not read within eight cycles")

    async def collect_until_counted_by_search(self) -> None:
        """The two cycles in which pull requests are missing rather than counted by an index that lags."""
        for _ in range(2):
            await self.collect()

    def truth(self, values: dict[str, float] | None = None) -> dict[str, float]:
        """What must be told; without the jobs and red minutes where ``values`` don't have them: the week may take some
        cycles, and of runs that nobody watched the attempts' ends are not known."""
        expected = truth(self.world.repository, self.world.now, self.asked)
        for name in (JOBS, RED_MINUTES):
            if values is not None and name not in values:
                expected.pop(name, None)
        return expected

    def pass_time(self, by: timedelta = CYCLE) -> None:
        self.world.now += by

    @property
    def cost(self) -> tuple[int, int]:
        """Requests and points of the last cycle."""
        return len(self.github.app.asked), sum(each.points for each in self.github.app.asked)


def values_of(result: CollectResult) -> dict[str, float]:
    """Gauges by the metric's name; ``github.bugs.count:label`` for a label's."""
    return {
        ":".join(filter(None, (sample.metric.name.removeprefix(NAMESPACE), sample.tags.get("label")))): sample.value
        for sample in result.samples
        if sample.metric.kind is Kind.GAUGE
    }


def values_by_repository(result: CollectResult) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in result.samples:
        if sample.metric.kind is Kind.GAUGE:
            found[sample.tags["repo"]][sample.metric.name.removeprefix(NAMESPACE)] = sample.value
    return found


def parts_of(result: CollectResult) -> list[str]:
    return [failure.part for failure in result.failures]


@asynccontextmanager
async def staged(world: World, token: str | None = TOKEN, **settings: Any) -> AsyncIterator[Stage]:
    github = Simulated(world)
    async with httpx.AsyncClient(transport=InProcess(github.app)) as http:
        yield Stage(world, github, github.client(http, token), http, settings)


def small_world() -> World:
    """Two workflows on main, three runs: success, failure then success, cancelled; a pull request of each kind."""
    from service.demo.github_rows import Pull

    world = World.empty()
    world.add_workflow(1, "Tests")
    world.add_workflow(2, "Nightly")
    hour = world.now.replace(microsecond=0) - HOUR
    world.add_run(1, hour, "success")
    world.add_run(2, hour - HOUR, "failure", "success")
    world.add_run(1, hour - 2 * HOUR, "cancelled")
    for number, label in enumerate(("hotfix", "force_merge", "revert"), 1):
        world.repository.pulls.append(Pull(number, hour, (label,)))
    return world
