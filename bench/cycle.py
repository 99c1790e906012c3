"""A cycle of github_ci against the sequential collector that it replaces, on the same simulated GitHub."""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import httpx

from bench import Measured
from tests.integration.github_ci.stage import Stage
from tests.world import Simulated, generate
from tests.world.server import simulated

STEADY_CYCLES = 8
LATENCY = 0.05  # seconds, of each answer


class Cycle(NamedTuple):
    seconds: float
    requests: int
    points: int


def run() -> Iterable[Measured]:
    baseline, cold, steady = anyio.run(_measure)
    seconds = median(each.seconds for each in baseline)
    for name, cycles in (("steady", steady), ("cold", [cold])):
        yield Measured(f"requests of a {name} cycle", fmean(each.requests for each in cycles), "", baseline[0].requests)
        yield Measured(f"quota points of a {name} cycle", fmean(each.points for each in cycles), "", baseline[0].points)
        yield Measured(f"time of a {name} cycle", median(each.seconds for each in cycles), "s", seconds)


async def _measure() -> tuple[list[Cycle], Cycle, list[Cycle]]:
    """Sequential cycles; a cold one of the collector and, once the week of jobs is read, steady ones."""
    world = generate(seed=1, ahead=timedelta(hours=3))
    async with simulated(world) as github, httpx.AsyncClient() as http:
        github.app.latency = LATENCY
        baseline = [await _time_sequential(github) for _ in range(3)]
        workflows = [str(each.id) for each in world.repository.workflows]
        settings = {"tests_blocking_merge": workflows[:3], "benchmarks": workflows[3:4]}
        stage = Stage(world, github, github.client(http), http, settings)
        cold = await _time(stage)
        await stage.collect_until_whole()
        steady = []
        for _ in range(STEADY_CYCLES):
            stage.pass_time()
            steady.append(await _time(stage))
        return baseline, cold, steady


async def _time(stage: Stage) -> Cycle:
    began = time.perf_counter()
    result = await stage.collect()
    seconds = time.perf_counter() - began
    assert not result.failures, result.failures
    return Cycle(seconds, *stage.cost)


async def _time_sequential(github: Simulated) -> Cycle:
    github.take_asked()
    began = time.perf_counter()
    await anyio.to_thread.run_sync(_collect_sequentially, github.url, github.world.repository.name, github.world.now)
    seconds, asked = time.perf_counter() - began, github.take_asked()
    return Cycle(seconds, len(asked), sum(each.points for each in asked))


def _collect_sequentially(url: str, repository: str, now: datetime) -> None:
    """A cycle as the replaced CronJob made it: one request after the other, nothing kept; its process start left out.

    40 requests: the first page of workflows, each one's latest run, a page of runs a metric, one search a label.
    """
    with httpx.Client(base_url=url, headers={"authorization": "Bearer bench"}, trust_env=False) as client:

        def get(path: str, **params: str | int) -> Any:
            return client.get(path, params=params).raise_for_status().json()

        actions = f"/repos/{repository}/actions"
        for workflow in get(f"{actions}/workflows")["workflows"]:
            get(f"{actions}/workflows/{workflow['id']}/runs", branch="main", status="completed", per_page=1)
        day = f">={now - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
        get(f"{actions}/runs", branch="main", created=day, per_page=100)
        for status in ("success", "failure", "cancelled"):
            get(f"{actions}/runs", branch="main", created=day, status=status, per_page=100)
        get(f"{actions}/runs", event="pull_request", created=day, per_page=100)
        get(f"{actions}/runs", created=day, per_page=100)
        week = f"{now - timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}"
        for label in ("hotfix", "force-merge", "revert"):
            get("/search/issues", q=f"repo:{repository} is:pr is:merged label:{label} merged:>={week}")
