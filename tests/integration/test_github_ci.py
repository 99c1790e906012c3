"""``github_ci`` over real HTTP against a simulated GitHub: every value equals the truth, or is not sent."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from service.adapters.github import Github
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.github_ci import GithubCi, workflows
from service.collectors.registry import Context
from service.domain.errors import Rejected, Unauthorized, Unavailable
from service.domain.runs import Collected
from service.domain.samples import Kind
from tests.github_world import (
    CONCLUSIONS,
    NOW,
    Asked,
    Attempt,
    Pull,
    SimWorkflow,
    World,
    durations,
    random_world,
    truth,
)
from tests.integration.github_server import (
    HTML,
    TOKEN,
    FakeClock,
    GithubServer,
    Reply,
    client_of,
    github_at,
    secret,
)

NAMESPACE = "metta.infra.cron."
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
RUNS = {"ci.workflow.success", "ci.workflow.cancelled", "ci.workflow.flaky_tests", "ci.workflow.other_failing"}
JOBS = "ci.jobs.timed_out"
PULLS = {"github.hotfix.count", "github.force_merge.count", "github.reverts.count", "github.bugs.count"}


@dataclass
class Memory:
    kept: dict[str, bytes] = field(default_factory=dict)

    async def read(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def take(self, collected: Collected) -> None:
        for key, value in collected.remember.items():
            if value is not None:
                self.kept[key] = value


@dataclass
class Stage:
    """A collector on a simulated GitHub. ``restart`` is what a new process would find: the memory, nothing else."""

    world: World
    server: GithubServer
    clock: FakeClock
    memory: Memory
    settings: dict[str, Any]
    github: Github
    http: httpx.AsyncClient
    is_whole: bool = True  # the jobs of the week were told; they may come some cycles later than the rest

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        settings = GithubCiSettings.model_validate({"type": "github_ci", "schedule": "*/10 * * * *"} | self.settings)
        self.collector = GithubCi(settings, Context("ci", self.github, self.http, self.memory))

    async def collect(self) -> Collected:
        collected = await self.collector.collect(self.world.now)
        self.memory.take(collected)
        self.is_whole = JOBS in values_of(collected)
        return collected

    async def values(self) -> dict[str, float]:
        return values_of(await self.collect())

    async def collect_until_whole(self) -> None:
        for _ in range(8):
            await self.collect()
            if self.is_whole:
                return
            self.pass_time()
        raise AssertionError("the week of jobs was not read within eight cycles")

    def truth(self) -> dict[str, float]:
        ids = {each.name: each.id for each in self.world.workflows}
        found = {key: tuple(_id(ids, entry) for entry in self.settings.get(key, ())) for key in LISTS}
        values = truth(self.world, Asked(found["tests_blocking_merge"], found["benchmarks"]))
        if not self.is_whole:
            del values[JOBS]
        return values

    def pass_time(self, by: timedelta = timedelta(minutes=10)) -> None:
        self.world.now += by
        self.clock.passed += by.total_seconds()


LISTS = ("tests_blocking_merge", "benchmarks")


def _id(ids: dict[str, int], entry: str) -> int:
    return int(entry) if entry.isdigit() else ids[entry]


def values_of(collected: Collected) -> dict[str, float]:
    """By the metric's name; distributions and labelled counts left out."""
    return {
        sample.metric.name.removeprefix(NAMESPACE): sample.value
        for sample in collected.samples
        if sample.metric.kind is Kind.GAUGE and "label" not in sample.tags
    }


@asynccontextmanager
async def staged(world: World, token: str | None = TOKEN, **settings: Any) -> AsyncIterator[Stage]:
    clock = FakeClock()
    async with (
        github_at(world) as server,
        httpx.AsyncClient(verify=False) as http,  # loading the certificates would take most of a test's time
        client_of(server, secret(token), clock=clock, client=http) as github,
    ):
        yield Stage(world, server, clock, Memory(), settings, github, http)


def small_world() -> World:
    """Two workflows on main, three runs: success, failure then success, cancelled; a pull request of each kind."""
    world = World()
    world.workflows += [SimWorkflow(1, "Tests", ".github/workflows/tests.yml")]
    world.workflows += [SimWorkflow(2, "Nightly", ".github/workflows/nightly.yml")]
    hour = NOW.replace(microsecond=0) - HOUR
    world.add_run(1, hour, "success")
    world.add_run(2, hour - HOUR, "failure", "success")
    world.add_run(1, hour - 2 * HOUR, "cancelled")
    world.pulls += [Pull(hour, (label,)) for label in ("hotfix", "force_merge", "revert")]
    return world


# Truth


@pytest.mark.parametrize("seed", range(12))
async def test_every_value_equals_the_truth_cycle_after_cycle(seed: int) -> None:
    rng = random.Random(seed)
    rate = rng.choice([0.3, 6, 40, 150])
    world = random_world(seed, workflows=rng.choice([1, 6, 40, 110]), runs_a_day=rate, days=rng.choice([2, 33, 70]))
    ids = [each.id for each in world.workflows]
    lists: dict[str, Any] = {
        key: tuple(str(each) for each in rng.sample(ids, rng.randint(0, min(2, len(ids))))) for key in LISTS
    }
    async with staged(world, **lists) as stage:
        for _ in range(4):
            collected = await stage.collect()
            assert values_of(collected) == stage.truth()
            assert collected.faults == ()
            stage.pass_time()
            for _ in range(rng.randint(0, 5)):
                created = world.now.replace(microsecond=0) - timedelta(minutes=rng.randint(3, 9))
                world.add_run(rng.choice(ids), created, rng.choice(CONCLUSIONS), rng.choice(CONCLUSIONS))
            if rng.random() < 0.5:
                stage.restart()


async def test_the_samples_are_what_the_dashboards_expect() -> None:
    async with staged(small_world(), tests_blocking_merge=("Tests", "nightly.yml")) as stage:
        collected = await stage.collect()
        assert [list(sample.tags) for sample in collected.samples[:1]] == [
            ["source", "workflow_category", "workflow_name", "task", "check", "condition", "status"]
        ]
        told = {
            sample.metric.name: (sample.value, sample.tags["condition"], sample.tags["status"])
            for sample in collected.samples
        }
        assert told == {
            "metta.infra.cron.ci.workflow.tests_blocking_merge": (1, "> 0", "pass"),
            "metta.infra.cron.ci.workflow.other_failing": (0, "< 2", "pass"),
            "metta.infra.cron.ci.workflow.success": (1, "=1.0", "pass"),
            "metta.infra.cron.ci.workflow.success_ratio": (1, "=1.0", "pass"),
            "metta.infra.cron.ci.workflow.flaky_tests": (1, "< 10", "pass"),
            "metta.infra.cron.ci.workflow.cancelled": (1, "< 10", "pass"),
            "metta.infra.cron.ci.jobs.timed_out": (0, "< 10", "pass"),
            "metta.infra.cron.github.hotfix.count": (1, "< 5", "pass"),
            "metta.infra.cron.github.force_merge.count": (1, "< 7", "pass"),
            "metta.infra.cron.github.reverts.count": (1, "< 1", "fail"),
            "metta.infra.cron.github.bugs.count": (0, "none", "unknown"),
        }
        # No pre-merge run, so no duration; no list, so no benchmarks at all.
        assert [tags["check"] for tags in collected.unmeasured] == ["p90_minutes"]


async def test_the_window_is_exact_to_the_second() -> None:
    world = World(now=NOW.replace(microsecond=0))
    world.workflows.append(SimWorkflow(1, "Tests", "tests.yml"))
    for seconds in (-1, 0, 1):
        world.add_run(1, world.now - DAY + timedelta(seconds=seconds), "cancelled")
        world.pulls.append(Pull(world.now - 7 * DAY + timedelta(seconds=seconds), ("hotfix",)))
    async with staged(world) as stage:
        values = await stage.values()
        assert (values["ci.workflow.cancelled"], values["github.hotfix.count"]) == (2, 2)
        world.now += timedelta(milliseconds=1)
        values = await stage.values()
        assert (values["ci.workflow.cancelled"], values["github.hotfix.count"]) == (1, 1)


async def test_a_rerun_of_an_old_run_counts_in_the_window() -> None:
    world = random_world(3, runs_a_day=40)
    async with staged(world) as stage:
        await stage.collect()
        old = next(run for run in world.newest_first() if run.created < NOW - 20 * DAY and run.branch == "main")
        stage.pass_time()
        started = world.now.replace(microsecond=0) - timedelta(minutes=8)
        old.attempts = [old.attempts[0], Attempt(started, started + timedelta(minutes=2), "cancelled")]
        for _ in range(36):
            if await stage.values() == stage.truth():
                break
            stage.pass_time()
        else:
            pytest.fail("the re-run was not found within six hours")


async def test_a_rerun_of_the_oldest_run_that_github_lets_run_again_is_found_by_a_cold_start() -> None:
    world = small_world()
    for hours in range(1, 800):
        world.add_run(2, NOW - hours * HOUR, "success")
    oldest = world.add_run(1, NOW - 30 * DAY - 20 * HOUR, "success")
    oldest.attempts.append(Attempt(NOW - 21 * HOUR, NOW - 20 * HOUR, "cancelled"))
    async with staged(world) as stage:
        assert await stage.values() == stage.truth()


async def test_deleted_runs_are_forgotten() -> None:
    world = random_world(5, runs_a_day=60)
    async with staged(world) as stage:
        await stage.collect()
        gone = [run for run in world.runs if run.created > NOW - DAY][::3]
        world.runs = [run for run in world.runs if run not in gone]
        # The latest runs of one workflow, all of them, and its older ones far behind the window are still there.
        busiest = max({run.workflow_id for run in world.runs}, key=[run.workflow_id for run in world.runs].count)
        world.runs = [run for run in world.runs if run.workflow_id != busiest or run.created < NOW - 2 * DAY]
        stage.pass_time()
        values = await stage.values()
        # A deleted run's jobs were ended by their limit all the same.
        assert values | {JOBS: 0} == stage.truth() | {JOBS: 0}


async def test_a_workflow_keeps_its_old_result_while_its_latest_run_is_run_again() -> None:
    world = small_world()
    world.add_run(1, NOW - 50 * DAY, "failure")
    latest = world.add_run(1, NOW - timedelta(minutes=50), "success")
    world.runs = [run for run in world.runs if run.workflow_id == 2 or run in (latest, world.runs[-2])]
    async with staged(world, tests_blocking_merge=["Tests"]) as stage:
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 1
        latest.attempts.append(Attempt(world.now.replace(microsecond=0)))
        stage.pass_time()
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 0
        latest.last.ended, latest.last.conclusion = world.now, "success"
        stage.pass_time()
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 1


async def test_no_run_is_missed_while_new_ones_come_and_old_ones_go_between_the_requests() -> None:
    for seed in range(3):
        rng = random.Random(seed)
        world = random_world(seed, runs_a_day=300, days=3)
        ids = [each.id for each in world.workflows]

        def disturb(line: str, rng: random.Random = rng, world: World = world, ids: list[int] = ids) -> None:
            if "actions/runs?" not in line:
                return
            for _ in range(rng.choice([0, 0, 1, 3])):
                # Skipped runs change no number, but shift all pages.
                world.add_run(rng.choice(ids), NOW.replace(microsecond=0), "skipped")
            if rng.random() < 0.3:
                world.runs.remove(next(run for run in world.newest_first() if run.last.conclusion == "skipped"))

        async with staged(world) as stage:
            stage.server.before = disturb
            for _ in range(4):
                assert await stage.values() == stage.truth()
                stage.pass_time(timedelta(seconds=1))


async def test_a_lagging_index_of_filtered_lists_does_not_matter() -> None:
    world = small_world()
    # Only the filtered list knows of this workflow's last run, half a year ago.
    world.workflows.append(SimWorkflow(3, "Yearly", "yearly.yml"))
    for number in range(30):
        world.add_run(3, NOW - 180 * DAY + number * HOUR, "skipped")
    world.add_run(3, NOW - 190 * DAY, "failure")
    for hours in range(1, 900):
        world.add_run(2, NOW - hours * HOUR, "success")
    async with staged(world) as stage:
        assert (await stage.values())["ci.workflow.other_failing"] == 1
        world.add_run(3, world.now.replace(microsecond=0) - timedelta(minutes=1), "success")
        world.runs[-1].last.ended = world.now.replace(microsecond=0)
        stage.pass_time()
        assert (await stage.values())["ci.workflow.other_failing"] == 0


async def test_a_disabled_workflow_counts_only_when_it_is_listed() -> None:
    world = small_world()
    world.workflows[1].state = "disabled_manually"
    world.add_run(2, NOW - timedelta(minutes=30), "failure")
    async with staged(world) as stage:
        assert (await stage.values())["ci.workflow.other_failing"] == 0
    async with staged(world, benchmarks=["Nightly"]) as stage:
        assert (await stage.values())["ci.workflow.benchmarks"] == 0


async def test_a_name_that_repeats_means_all_workflows_of_that_name() -> None:
    world = small_world()
    world.workflows[1].name = "Tests"
    world.add_run(2, NOW - timedelta(minutes=30), "failure")
    async with staged(world, tests_blocking_merge=["Tests"]) as stage:
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 0


async def test_an_entry_that_means_no_workflow_is_a_fault_with_a_remedy() -> None:
    for entry in ("Tets", "999"):
        async with staged(small_world(), tests_blocking_merge=["Tests", entry]) as stage:
            collected = await stage.collect()
            assert "ci.workflow.tests_blocking_merge" not in values_of(collected)
            (fault,) = collected.faults
            assert fault.part == "tests_blocking_merge"
            assert f'"{entry}"' in fault.reason
            assert "infra-health list-workflows" in fault.reason


async def test_an_id_that_github_does_not_list_is_looked_up_by_its_runs() -> None:
    world = small_world()
    world.add_run(77, NOW - HOUR, "failure")
    async with staged(world, benchmarks=[77]) as stage:
        assert (await stage.values())["ci.workflow.benchmarks"] == 0


async def test_labels_are_quoted_so_that_the_search_means_them() -> None:
    world = small_world()
    world.pulls.append(Pull(NOW - DAY, ('needs "care", now',)))
    async with staged(world, hotfix_labels=["hotfix", 'needs "care", now'], revert_labels=[]) as stage:
        values = await stage.values()
        assert values["github.hotfix.count"] == 2
        assert "github.reverts.count" not in values


async def test_workflows_are_listed_beyond_the_first_page() -> None:
    world = random_world(1, workflows=230, runs_a_day=1)
    async with staged(world) as stage:
        found = await workflows(stage.github, world.repo)
        assert [each.id for each in found] == [each.id for each in world.workflows]


# What happened once


async def test_each_ended_attempt_is_told_once_with_its_end_across_restarts() -> None:
    for seed in range(4):
        rng = random.Random(seed)
        world = random_world(seed, workflows=6, runs_a_day=250, days=3)
        async with staged(world) as stage:
            told: list[tuple[Any, ...]] = []
            expected: set[tuple[Any, ...]] = set()
            for _ in range(7):
                expected.update(durations(world))
                collected = await stage.collect()
                assert collected.faults == ()
                for sample in collected.samples:
                    if sample.metric.kind is Kind.DISTRIBUTION:
                        assert sample.tags["workflow"] in {each.name for each in world.workflows}
                        told.append((sample.at, sample.value, sample.tags["kind"], sample.tags["conclusion"]))
                stage.pass_time()
                _go_on(world, rng)
                if rng.random() < 0.5:
                    stage.restart()
            assert sorted(told) == sorted(expected)
            assert len(told) > 20


def _go_on(world: World, rng: random.Random) -> None:
    """What ten minutes bring: runs that end, runs that are run again at once, new ones."""
    now = world.now.replace(microsecond=0)
    for run in world.newest_first()[:40]:
        if run.last.conclusion is None and rng.random() < 0.5:
            run.last.ended = now - timedelta(seconds=rng.randrange(400))
            run.last.conclusion = rng.choice(["success", "failure", "cancelled"])
            if rng.random() < 0.5:
                run.attempts.append(Attempt(run.last.ended))
    for _ in range(3):
        world.add_run(rng.choice(world.workflows).id, now - timedelta(minutes=9), None, event="push")


async def test_a_job_that_its_limit_ended_is_told_from_other_cancellations() -> None:
    world = small_world()
    run = world.add_run(2, NOW.replace(microsecond=0) - 3 * DAY, "cancelled", "failure", "success")
    run.attempts[0].overtime = run.attempts[1].overtime = True
    world.add_run(1, NOW.replace(microsecond=0) - 8 * DAY, "timed_out")
    world.add_run(1, NOW.replace(microsecond=0) - 6 * DAY, "timed_out", branch="topic")
    async with staged(world) as stage:
        assert (await stage.values())[JOBS] == 3
        sample = next(each for each in (await stage.collect()).samples if each.metric.name.endswith(JOBS))
        assert [each.conclusion for each in sample.evidence] == ["cancelled", "cancelled", "timed_out"]
        assert all("/job/" in each.url and each.workflow for each in sample.evidence)


async def test_without_the_right_to_read_annotations_the_jobs_are_not_told_and_the_others_are() -> None:
    world = small_world()
    async with staged(world) as stage:
        stage.server.fail("annotations", Reply.of({"message": "Resource not accessible"}, 403))
        collected = await stage.collect()
        assert values_of(collected).keys() == stage.truth().keys()
        assert JOBS not in values_of(collected)
        assert [each.part for each in collected.faults] == ["jobs ended by their time limit"]


async def test_open_bugs_are_counted_with_and_without_their_sub_labels() -> None:
    world = random_world(3, workflows=2, runs_a_day=1)
    for graphql in (True, False):
        async with staged(world, bug_sub_labels=["crash"], thresholds={"bugs": 5}) as stage:
            if not graphql:
                stage.server.fail("graphql", Reply.of({"message": "Not Found"}, 404))
            collected = await stage.collect()
            bugs = [each for each in collected.samples if each.metric.name.endswith("github.bugs.count")]
            counted = {each.tags.get("label"): (each.value, each.tags["condition"]) for each in bugs}
            assert counted == {
                None: (world.open_with(["bug"]), "< 5"),
                "crash": (world.open_with(["bug", "crash"]), "< 5"),
            }


async def test_every_number_has_its_evidence_newest_first() -> None:
    world = random_world(8, workflows=12, runs_a_day=60)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        collected = await stage.collect()
        for sample in collected.samples:
            if sample.metric.kind is not Kind.GAUGE or not sample.value:
                continue
            times = [each.at for each in sample.evidence if each.at]
            assert 0 < len(times) <= 20, sample.metric.name
            assert times == sorted(times, reverse=True)
            assert all(each.url.startswith("https://github.com/") for each in sample.evidence)
        cancelled = next(each for each in collected.samples if each.metric.name.endswith("workflow.cancelled"))
        assert {each.conclusion for each in cancelled.evidence} == {"cancelled"}


# Cost


async def test_a_steady_cycle_costs_ten_requests_and_eight_points_at_most() -> None:
    world = random_world(1, workflows=40, runs_a_day=300)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        assert stage.server.most_in_flight <= 20
        for _ in range(8):
            stage.pass_time()
            for minutes in (7, 4):
                world.add_run(3, world.now.replace(microsecond=0) - timedelta(minutes=minutes), "skipped")
            stage.server.take_asked()
            assert await stage.values() == stage.truth()
            asked = stage.server.take_asked()
            assert len(asked) <= 10
            assert sum(each.cost for each in asked) <= 8


async def test_a_cycle_that_finds_reruns_and_cancelled_runs_costs_no_more() -> None:
    world = random_world(1, workflows=40, runs_a_day=300)
    rng = random.Random(5)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        told = 0
        for _ in range(24):
            stage.pass_time()
            end = world.now.replace(microsecond=0)
            for _ in range(2):
                conclusion = rng.choice(["success"] * 14 + ["failure", "cancelled"])
                run = world.add_run(3, end - timedelta(minutes=rng.randrange(5, 10)), conclusion)
                run.last.ended = end
            if rng.random() < 0.2:
                failed = world.add_run(4, end - timedelta(minutes=30), "failure", "success")
                failed.attempts[-1] = replace(failed.attempts[-1], started=end - timedelta(minutes=9), ended=end)
            stage.server.take_asked()
            values = await stage.values()
            assert values == stage.truth()
            told += JOBS in values
            asked = stage.server.take_asked()
            assert len(asked) <= 10
            assert sum(each.cost for each in asked) <= 8
        assert told >= 18


async def test_the_memory_survives_a_restart_and_stays_small() -> None:
    world = random_world(1, workflows=40, runs_a_day=300)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        stage.server.take_asked()
        stage.pass_time()
        stage.restart()
        assert await stage.values() == stage.truth()
        assert stage.is_whole
        assert len(stage.server.take_asked()) <= 10
        assert sum(map(len, stage.memory.kept.values())) < 64_000


@pytest.mark.parametrize("memory", [b"", b"no zlib", b"x\x9c\x03\x00\x00\x00\x00\x01"])
async def test_a_memory_that_can_not_be_read_is_a_cold_start(memory: bytes) -> None:
    async with staged(small_world()) as stage:
        stage.memory.kept["ci"] = memory
        assert await stage.values() == stage.truth()


async def test_another_branch_starts_cold() -> None:
    async with staged(small_world()) as stage:
        await stage.collect()
        stage.settings["branch"] = "release"
        stage.restart()
        assert (await stage.values())["ci.workflow.cancelled"] == 0


async def test_a_small_quota_is_not_burned() -> None:
    world = random_world(2, workflows=12, runs_a_day=60)
    async with staged(world, token=None) as stage:
        stage.server.limit = 60
        for _ in range(6):
            values = await stage.values()
            assert values.keys() >= PULLS | {"ci.workflow.success"}
            stage.pass_time()
        assert stage.server.used["core"] <= 60


async def test_the_whole_list_is_read_again_after_a_long_silence() -> None:
    world = random_world(4, runs_a_day=60)
    async with staged(world) as stage:
        await stage.collect()
        stage.pass_time(3 * DAY)
        for hours in range(1, 70):
            world.add_run(hours % 9 + 1, world.now.replace(microsecond=0) - hours * HOUR, "failure", "success")
        assert await stage.values() == stage.truth()


# Faults: right numbers or none, and the next cycle recovers


FAULTS = {
    "bad gateway": Reply(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
    "cut body": Reply(200, b'{"total_count": 3, "workflow_runs": [', {"content-type": "application/json"}, cut=7),
    "page": HTML,
    "other json": Reply.of({"message": "hello"}),
    "forbidden": Reply.of({"message": "Resource not accessible"}, 403),
    "gone": Reply.of({"message": "Not Found"}, 404),
    "secondary limit": Reply.of({"message": "You have exceeded a secondary rate limit"}, 403, retry_after="60"),
    "primary limit": Reply.of(
        {"message": "API rate limit exceeded"}, 403, x_ratelimit_remaining="0", x_ratelimit_reset="4102444800"
    ),
    "other host": Reply(302, b"", {"location": "https://evil.example/"}),
    "moved": Reply(301, b"", {"location": "/elsewhere"}),
}
PARTS = {
    "everything": ".",
    "runs": r"actions/runs\?",
    "first page": r"actions/runs\?.*page=1$",
    "a page of the window": r"actions/runs\?.*page=2$",
    "an older page": r"actions/runs\?.*page=7$",
    "workflows": r"actions/workflows\?",
    "runs of a workflow": r"actions/workflows/\d+/runs",
    "attempts": r"/attempts/",
    "jobs": r"runs/\d+/jobs",
    "annotations": "annotations",
    "graphql": "graphql",
    "search": "graphql|search/issues",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_leaves_right_numbers_or_none_and_the_next_cycle_recovers(fault: str) -> None:
    world = random_world(7, workflows=12, runs_a_day=130, days=8)
    for run in world.runs:
        if run.created < NOW - 2 * DAY and run.id % 9:
            run.attempts = [replace(run.last, conclusion="success")]  # with few jobs to look into, so that it is quick
    start = world.now
    async with staged(world, tests_blocking_merge=["1"], benchmarks=["12"]) as stage:
        for part, pattern in PARTS.items():
            world.now = start
            stage.memory.kept.clear()
            stage.restart()
            for cycle in ("cold", "steady"):
                where = f"{fault}, {part}, {cycle}"
                injected = stage.server.fail(pattern, FAULTS[fault])
                try:
                    collected = await stage.collect()
                except (Unavailable, Rejected):
                    assert part == "everything" or "limit" in fault, where
                else:
                    assert values_of(collected).items() <= stage.truth().items(), where
                    assert collected.faults or values_of(collected).keys() == stage.truth().keys(), where
                    assert len({each.part for each in collected.faults}) == len(collected.faults), where
                stage.server.faults.remove(injected)
                stage.pass_time(timedelta(hours=1, minutes=1))
                collected = await stage.collect()
                assert values_of(collected) == stage.truth(), where
                assert collected.faults == (), where
                stage.pass_time()


async def test_a_github_too_slow_for_one_run_is_read_in_several() -> None:
    world = random_world(7, workflows=12, runs_a_day=130, days=8)
    async with staged(world) as stage:
        stage.server.fail(r"actions/runs\?.*page=7$", Reply(502, delay=60))
        with anyio.fail_after(2):
            collected = await stage.collect()
        assert values_of(collected).items() <= stage.truth().items()
        assert values_of(collected).keys() >= PULLS | {"ci.workflow.other_failing"}
        assert [each.part for each in collected.faults] == ["older runs"]
        stage.server.faults.clear()
        stage.server.take_asked()
        stage.pass_time()
        assert await stage.values() == stage.truth()
        assert not [each for each in stage.server.take_asked() if each.target.endswith("page=5")]


async def test_a_part_that_fails_leaves_the_others_standing() -> None:
    async with staged(small_world()) as stage:
        stage.server.fail("graphql|search", Reply.of({"message": "Nope"}, 403))
        collected = await stage.collect()
        assert values_of(collected).keys() >= RUNS
        (fault,) = collected.faults
        assert str(fault).startswith("pull requests: GitHub answered 403: Nope")
        stage.server.faults.clear()
        stage.server.fail("actions/runs", Reply.of({"message": "Nope"}, 403))
        collected = await stage.collect()
        assert values_of(collected).keys() == PULLS
        assert [each.part for each in collected.faults] == ["runs"]


@pytest.mark.parametrize(
    "answer",
    [
        Reply.of({"message": "This endpoint requires you to be authenticated."}, 401),
        Reply.of({"message": "Not Found"}, 404),
        Reply.of({"data": None, "errors": [{"type": "FORBIDDEN", "message": "no"}]}),
        Reply.of({"data": {"hotfix": None, "reverts": {"issueCount": 1}}, "errors": [{"message": "no"}]}),
        Reply.of({"message": "Problems parsing GraphQL"}, 400),
    ],
)
async def test_where_graphql_does_not_answer_search_does(answer: Reply) -> None:
    async with staged(small_world()) as stage:
        stage.server.fail("graphql", answer)
        collected = await stage.collect()
        assert values_of(collected) == stage.truth()
        assert collected.faults == ()


@pytest.mark.parametrize(
    "answer", [Reply.of({"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}), HTML]
)
async def test_a_passing_trouble_of_graphql_leaves_numbers_out_and_a_lasting_one_is_worked_around(
    answer: Reply,
) -> None:
    async with staged(small_world()) as stage:
        fault = stage.server.fail("graphql", answer)
        for _ in range(2):
            collected = await stage.collect()
            assert values_of(collected).keys() & PULLS == set()
            assert [each.part for each in collected.faults] == ["pull requests"]
            stage.pass_time()
            stage.restart()
        assert await stage.values() == stage.truth()
        stage.server.faults.remove(fault)
        stage.pass_time(2 * HOUR)
        stage.world.pulls.append(Pull(stage.world.now - timedelta(minutes=1), ("hotfix",)))
        for _ in range(14):  # some cycles later it is asked again what the index does not know yet
            stage.pass_time(timedelta(minutes=1))
            values = await stage.values()
        assert values == stage.truth()


async def test_a_server_that_counted_before_is_not_replaced_by_its_search_for_one_refusal() -> None:
    async with staged(small_world()) as stage:
        await stage.collect()
        stage.world.pulls.append(Pull(stage.world.now - timedelta(minutes=1), ("hotfix",)))
        for answer in (Reply.of({"message": "Nope"}, 403), Reply.of({"message": "Nope"}, 422)):
            stage.restart()
            fault = stage.server.fail("graphql", answer)
            assert (await stage.values()).keys() & PULLS == set()
            stage.server.faults.remove(fault)
            assert await stage.values() == stage.truth()


async def test_pull_requests_are_counted_before_the_search_knows_them_and_beyond_a_page() -> None:
    world = small_world()
    for seconds in range(1, 231):
        world.pulls.append(
            Pull(world.now.replace(microsecond=0) - timedelta(seconds=10 * seconds), ("hotfix", "revert"))
        )
    async with staged(world) as stage:
        assert await stage.values() == stage.truth()
        assert len(stage.server.documents) == 3


async def test_a_server_that_lists_no_pull_requests_is_asked_for_them_by_its_search() -> None:
    async with staged(small_world()) as stage:
        stage.server.lists_pulls = False
        assert await stage.values() == stage.truth()
        stage.server.documents.clear()
        stage.pass_time()
        stage.restart()
        assert await stage.values() == stage.truth()
        assert len(stage.server.documents) == 1


async def test_an_incomplete_search_is_a_fault() -> None:
    async with staged(small_world()) as stage:
        stage.server.fail("graphql", Reply.of({"message": "Not Found"}, 404))
        incomplete = Reply.of({"total_count": 0, "incomplete_results": True, "items": []})
        stage.server.fail("search.*revert", incomplete)
        collected = await stage.collect()
        assert values_of(collected).keys() & PULLS == PULLS - {"github.reverts.count"}
        assert [each.part for each in collected.faults] == ["pull requests, reverts"]


async def test_nothing_to_be_had_raises_what_explains_most() -> None:
    async with staged(small_world()) as stage:
        stage.server.fail("actions/runs", Reply(502))
        stage.server.fail("graphql|search", Reply.of({"message": "Validation Failed"}, 422))
        with pytest.raises(Rejected, match="Validation Failed"):
            await stage.collect()
        stage.server.faults.clear()
        stage.server.fail(".", Reply.of({"message": "Bad credentials"}, 401))
        with pytest.raises(Unauthorized):
            await stage.collect()
