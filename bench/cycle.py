"""A cycle of github_ci against the sequential collector that it replaces, on the same simulated GitHub."""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Any

import anyio
import anyio.to_thread
import httpx

from bench import Measured
from service.collectors.github_ci import GithubCi
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.registry import CollectorState, Context
from service.config.settings import StoreSettings
from service.store import Store
from tests.world import Simulated, generate, simulated

STEADY_CYCLES = 8
BETWEEN = timedelta(minutes=10)
LATENCY = 0.05  # seconds, of each answer
_HEADERS = {"authorization": "Bearer bench"}


def run() -> Iterable[Measured]:
    replaced, (cold, *steady) = anyio.run(_measure)
    seconds = median(taken for taken, _ in replaced)
    counts = replaced[0][1]
    for name, cycles in (("steady", steady), ("cold", [cold])):
        for title, key in (("requests", "requests"), ("quota points", "points")):
            ours = fmean(counted[key] for _, counted in cycles)
            yield Measured(f"{title} of a {name} cycle", ours, "", counts[key], counted=True)
        yield Measured(f"time of a {name} cycle", median(taken for taken, _ in cycles), "s", seconds)


Cycle = tuple[float, dict[str, int]]  # seconds; requests and points


async def _measure() -> tuple[list[Cycle], list[Cycle]]:
    world = generate(seed=1, ahead=timedelta(hours=3))
    async with simulated(world) as github:
        github.app.latency = LATENCY
        replaced = []
        for _ in range(3):
            github.take_asked()
            began = time.perf_counter()
            await anyio.to_thread.run_sync(_collect_sequentially, github.url, world.repository.name, world.now)
            replaced.append((time.perf_counter() - began, _count(github)))
        return replaced, await _collect(github)


def _count(github: Simulated) -> dict[str, int]:
    asked = github.take_asked()
    return {"requests": len(asked), "points": sum(each.points for each in asked)}


async def _collect(github: Simulated) -> list[Cycle]:
    """A cold cycle and, once the week of jobs is read, steady ones, ten minutes apart."""
    world = github.world
    settings = GithubCi.Settings.model_validate(
        {
            "type": "github_ci",
            "schedule": "*/10 * * * *",
            "repo": world.repository.name,
            "tests_blocking_merge": [str(each.id) for each in world.repository.workflows[:3]],
            "benchmarks": [str(world.repository.workflows[3].id)],
        }
    )
    cycles: list[Cycle] = []
    is_whole = False
    async with httpx.AsyncClient() as http, anyio.TemporaryDirectory() as folder:
        store = await Store.open(Path(folder), StoreSettings(), lambda: world.now)
        state, deliveries = CollectorState(store.states, "ci"), Deliveries(github.clock)
        collector = GithubCi(settings, Context("ci", github.client(http), http, state, deliveries=deliveries))
        while len(cycles) < 1 + STEADY_CYCLES:
            github.take_asked()
            began = time.perf_counter()
            result = await collector.collect(world.now)
            if not cycles or is_whole:
                cycles.append((time.perf_counter() - began, _count(github)))
            is_whole = is_whole or any(each.metric.name.endswith("jobs.timed_out") for each in result.samples)
            if result.failures and is_whole:
                raise RuntimeError(f"the cycle is not whole: {'; '.join(map(str, result.failures))}")
            await store.states.write("ci", result.state)
            world.now += BETWEEN
        await store.close()
    return cycles


def _collect_sequentially(url: str, repository: str, now: datetime) -> None:
    """A cycle as the replaced CronJob made it: one request after the other, nothing kept; its process start left out.

    40 requests: the first page of workflows, each one's latest run, a page of runs a metric, one search a label.
    """
    with httpx.Client(base_url=url, headers=_HEADERS, trust_env=False) as client:

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
