"""A ``github_ci`` collector on a simulated GitHub; time passes by hand, and what it keeps outlives a restart."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from service.collectors.github_ci import GithubCi, GithubCiSettings, weekly_runs
from service.collectors.github_ci.deliveries import Deliveries, read_run
from service.collectors.registry import CollectorState, Context
from service.demo.github_rows import Attempt, Pull, Repository, Run
from service.domain.runs import CollectResult
from service.domain.samples import Kind, Sample
from service.github.client import Github
from tests.world import HOUR, MINUTE, TOKEN, InProcess, Simulated, World, truth

NAMESPACE, REPO = "metta.infra.cron.", "Metta-AI/metta"
JOBS, RED_MINUTES = "ci.jobs.timed_out", "ci.branch.red_minutes"
PULLS = {"github.hotfix.count", "github.force_merge.count", "github.reverts.count", "github.bugs.count"}
QUEUE = {"ci.queue.runs", "ci.queue.oldest_minutes"}
BRANCH = {"ci.workflow.success", "ci.workflow.success_ratio", "ci.workflow.cancelled", "ci.workflow.other_failing"}
CYCLE = 10 * MINUTE

Week = list[tuple[str, int, int, float | None, int]]


class KeptState(CollectorState):
    """The store's part: a mapping."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def read(self, key: str) -> bytes | None:
        return self.kept.get(key)


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

    def pass_time(self, by: timedelta = CYCLE) -> None:
        self.world.now += by

    # By schedule

    async def collect(self) -> CollectResult:
        self.github.app.asked.clear()
        return self._store(await self.collector.collect(self.world.now))

    async def values(self) -> dict[str, float]:
        return values_of(await self.collect())

    async def collect_truth(self) -> dict[str, float]:
        """The values of a cycle in which nothing fails and each is the true one."""
        result = await self.collect()
        values = values_of(result)
        assert ([str(each) for each in result.failures], values) == ([], self.truth(values))
        return values

    async def collect_until_whole(self) -> None:
        """Until the week of jobs was read."""
        for _ in range(8):
            if JOBS in await self.values():
                return
            self.pass_time()
        raise AssertionError("the week of jobs was not read within eight cycles")

    # Between two of these

    def deliver(self, run: Run, attempt: Attempt | None = None, repository: Repository | None = None) -> bool:
        """Tells that the attempt (the last one) has ended; whether it is of concern."""
        repository, at = repository or self.world.repository, (attempt or run.attempts[-1]).ended or self.world.now
        event = {"action": "completed", "workflow_run": repository.run_json(run, at), "repository": repository.json()}
        told = read_run(json.dumps(event).encode())
        return told is not None and self.deliveries.add(told)

    def end_run(self, *conclusions: str, workflow: int = 1, **more: Any) -> Run:
        """Delivers a run whose last attempt ended less than a minute ago."""
        began = self.world.now - timedelta(minutes=10 * len(conclusions) - 5)
        run = self.world.add_run(workflow, began, *conclusions, **more)
        assert self.deliver(run)
        return run

    async def collect_changes(self) -> CollectResult | None:
        """A run by webhook; None where there is no need for one, or nothing new."""
        self.github.app.asked.clear()
        if not await self.collector.has_changes(self.world.now):
            return None
        result = self._store(await self.collector.collect_changes(self.world.now))
        return result if result.samples else None

    async def changes(self) -> CollectResult:
        """Of a run by webhook that there is need for, and in which nothing fails."""
        result = await self.collect_changes()
        assert result
        assert result.failures == ()
        return result

    async def changed_values(self) -> dict[str, float]:
        return values_of(await self.changes())

    # What there is to compare

    def truth(self, values: dict[str, float] | None = None) -> dict[str, float]:
        """What must be told; of what may be unknown for some cycles, or unread of old, only what ``values`` have."""
        expected = truth(self.world.repository, self.world.now, self.asked)
        values = expected if values is None else values
        for name, true in list(expected.items()):
            is_old_age = "schedule" in name and true > 30 * 24
            if is_old_age and values.get(name, 0) > 30 * 24:
                expected[name] = values[name]
            elif name not in values and (is_old_age or name in (JOBS, RED_MINUTES)):
                del expected[name]
        return expected

    def week(self) -> tuple[datetime | None, Week]:
        """The kept table of the week, and until when it goes."""
        (kept,), found = weekly_runs.read_all([self.state.kept[weekly_runs.KEY + REPO]], "failures")
        assert all(each.failure_share == each.failures / each.runs for each in found)
        return kept.until, sorted(
            (each.workflow, each.runs, each.failures, each.p90_minutes and round(each.p90_minutes, 6), each.reruns)
            for each in found
        )

    @property
    def note(self) -> str:
        return self.collector.note or ""

    @property
    def cost(self) -> tuple[int, int]:
        """Requests and points of the last cycle."""
        return len(self.github.app.asked), sum(each.points for each in self.github.app.asked)

    def was_asked(self, pattern: str) -> int:
        """How many requests of the last cycle hold this."""
        return sum(pattern in each.line for each in self.github.app.asked)

    def _store(self, result: CollectResult) -> CollectResult:
        kept = {**self.state.kept, **result.state}
        self.state.kept = {key: value for key, value in kept.items() if value is not None}
        return result


def sample_of(result: CollectResult, name: str) -> Sample:
    """The only one of this metric."""
    (found,) = [sample for sample in result.samples if sample.metric.name == NAMESPACE + name]
    return found


def values_of(result: CollectResult, repo: str | None = None) -> dict[str, float]:
    """Gauges by the metric's name; ``github.bugs.count:label`` for a label's, ``...schedule_age:w1.yml``."""
    found = {}
    for sample in result.samples:
        name, tags = sample.metric.name.removeprefix(NAMESPACE), sample.tags
        if sample.metric.kind is Kind.GAUGE and repo in (None, tags.get("repo")):
            of = tags.get("workflow_name" if "schedule" in name else "label")
            found[f"{name}:{of}" if of else name] = sample.value
    return found


def durations_of(result: CollectResult) -> list[tuple[Any, ...]]:
    return [
        (sample.at, sample.value, sample.tags["kind"], sample.tags["conclusion"])
        for sample in result.samples
        if sample.metric.kind is Kind.DISTRIBUTION
    ]


def parts_of(result: CollectResult) -> list[str]:
    return [failure.part for failure in result.failures]


@asynccontextmanager
async def staged(world: World, token: str | None = TOKEN, **settings: Any) -> AsyncIterator[Stage]:
    github = Simulated(world)
    async with httpx.AsyncClient(transport=InProcess(github.app)) as http:
        yield Stage(world, github, github.client(http, token), http, settings)


def small_world() -> World:
    """Two workflows on main, three runs: success, failure then success, cancelled; a pull request of each kind."""
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
