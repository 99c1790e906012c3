"""A cycle of github_ci against the sequential collector that it replaces, on the same simulated GitHub."""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import fmean, median

import anyio
import httpx

from bench import Measured
from bench.github_sim import Simulation, simulated
from bench.github_world import REPOSITORY, Row
from service.adapters.github import Github
from service.adapters.secrets import Secret
from service.collectors.github_ci import GithubCi
from service.collectors.registry import Context
from service.demo.recording import format_time

STEADY_CYCLES = 8
BETWEEN = 600.0  # seconds of the simulation from cycle to cycle


def run() -> Iterable[Measured]:
    with simulated() as simulation:
        replaced = [_replaced(simulation) for _ in range(3)]
        cold, *steady = anyio.run(_ours, simulation)
    seconds = median(taken for taken, _ in replaced)
    counts = replaced[0][1]
    for name, cycles in (("steady", steady), ("cold", [cold])):
        for title, key in (("requests", "requests"), ("quota points", "points")):
            ours = fmean(counted[key] for _, counted in cycles)
            yield Measured(f"{title} of a {name} cycle", ours, "", counts[key], counted=True)
        yield Measured(f"time of a {name} cycle", median(taken for taken, _ in cycles), "s", seconds)


class _Memory(dict[str, bytes]):
    """What the collector remembered, as the store would keep it."""

    async def read(self, key: str) -> bytes | None:
        return self.get(key)


async def _ours(simulation: Simulation) -> list[tuple[float, Row]]:
    """Seconds and counts of a cold cycle and of those that follow, ten minutes apart."""
    github = Github(simulation.base, Secret("GitHub token", "", "bench"), "bench")
    memory = _Memory()
    settings = GithubCi.Settings.model_validate(
        {
            "type": "github_ci",
            "schedule": "*/10 * * * *",
            "repo": REPOSITORY,
            "tests_blocking_merge": ["Workflow 01", "Workflow 02", "Workflow 03"],
            "benchmarks": ["Workflow 04"],
        }
    )
    taken = []
    async with httpx.AsyncClient() as http:
        collector = GithubCi(settings, Context("ci", github, http, memory))
        simulation.counts()
        for _ in range(1 + STEADY_CYCLES):
            now = simulation.now()
            started = time.perf_counter()
            collected = await collector.collect(now)
            taken.append((time.perf_counter() - started, simulation.counts()))
            if collected.faults:
                raise RuntimeError(f"the cycle is not whole: {'; '.join(map(str, collected.faults))}")
            for key, value in collected.remember.items():
                if value is None:
                    memory.pop(key, None)
                else:
                    memory[key] = value
            simulation.advance(BETWEEN)
    await github.aclose()
    return taken


def _replaced(simulation: Simulation) -> tuple[float, Row]:
    """Seconds and counts of a cycle as the replaced CronJob made it: one request after the other, nothing kept.

    40 requests: the first page of workflows, each one's latest run, a page of runs a metric, one search a label.
    Its process start is left out.
    """
    now = simulation.now()
    simulation.counts()
    started = time.perf_counter()
    with httpx.Client(base_url=simulation.base, headers={"authorization": "Bearer bench"}, trust_env=False) as client:

        def get(path: str, **params: str | int) -> Row:
            answer: Row = client.get(path, params=params).raise_for_status().json()
            return answer

        actions = f"/repos/{REPOSITORY}/actions"
        for workflow in get(f"{actions}/workflows")["workflows"]:
            get(f"{actions}/workflows/{workflow['id']}/runs", branch="main", status="completed", per_page=1)
        day = f">={format_time(now - timedelta(days=1))}"
        get(f"{actions}/runs", branch="main", created=day, per_page=100)
        get(f"{actions}/runs", branch="main", created=day, status="success", per_page=100)
        get(f"{actions}/runs", branch="main", created=day, status="failure", per_page=100)
        get(f"{actions}/runs", branch="main", created=day, status="cancelled", per_page=100)
        get(f"{actions}/runs", event="pull_request", created=day, per_page=100)
        get(f"{actions}/runs", created=day, per_page=100)
        for label in ("hotfix", "force-merge", "revert"):
            get("/search/issues", q=_merged(label, now))
    return time.perf_counter() - started, simulation.counts()


def _merged(label: str, now: datetime) -> str:
    week = format_time(now - timedelta(days=7))
    return f"repo:{REPOSITORY} is:pr is:merged label:{label} merged:>={week}"
