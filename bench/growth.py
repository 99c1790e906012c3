"""How github_ci grows: from 1 to 1,000 repositories, and from 100 to 100,000 runs in the list of one."""

import gc
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import httpx

from bench import Measured
from bench.github_sim import Simulation, simulated
from bench.github_world import REPOSITORY, Shape
from service.adapters.github import Github
from service.adapters.secrets import Secret
from service.collectors.github_ci import GithubCi
from service.collectors.registry import Context

REPOSITORIES = (1, 10, 100, 1000)
RUNS = (100, 1_000, 10_000, 100_000)
DAYS = 35
BETWEEN = 600.0
_UNBOUNDED = 10**7  # the growth is asked for, not what GitHub's limits make of it


def run() -> Iterable[Measured]:
    owner = REPOSITORY.partition("/")[0]
    first: float | None = None
    rest: list[float] = []
    for count in REPOSITORIES:
        names = [f"{owner}/service-{number}" for number in range(count)]
        with simulated(Shape(workflows=4, runs_a_day=6, latency=0.0, quota=_UNBOUNDED)) as simulation:
            took = anyio.run(_cycles, simulation, {"repositories": names})
        first = first or took["steady"]
        rest.append(took["rest"])
        yield Measured(
            f"steady cycle of {count:,} repositories, against so many of one", took["steady"], "s", first * count
        )
    more = (rest[-1] - rest[0]) / (REPOSITORIES[-1] - REPOSITORIES[0])
    yield Measured("resident after its cycles for each repository more", max(0.0, more) / 1024, "KiB")
    for runs in RUNS:
        shape = Shape(runs_a_day=max(1, round(runs / DAYS)), days=DAYS, latency=0.0, quota=_UNBOUNDED)
        with simulated(shape) as simulation:
            took = anyio.run(_cycles, simulation, {"repo": REPOSITORY})
        yield Measured(f"cold cycle with {runs:,} runs", took["cold"], "s")
        yield Measured(f"steady cycle with {runs:,} runs", took["steady"], "s")
        yield Measured(f"kept in the store with {runs:,} runs", took["stored"] / 1024, "KiB", counted=True)
        yield Measured(f"resident more than before, with {runs:,} runs", took["rest"] / 1024, "KiB")


class _Memory:
    """What the collector remembered, in files as the store has it on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, key: str) -> Path:
        return self._directory / key.replace("/", "_")

    async def read(self, key: str) -> bytes | None:
        path = self._path(key)
        return path.read_bytes() if path.exists() else None

    def take(self, key: str, value: bytes | None) -> int:
        self._path(key).write_bytes(value or b"")
        return len(value or b"")


async def _cycles(simulation: Simulation, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds of a cold and a steady cycle, bytes kept in the store, and bytes that stay in memory after them."""
    async with anyio.TemporaryDirectory() as directory, httpx.AsyncClient(trust_env=False) as http:
        memory = _Memory(Path(directory))
        github = Github(simulation.base, Secret("GitHub token", "", "bench"), "bench", most_a_minute=_UNBOUNDED)
        given = {"type": "github_ci", "schedule": "*/10 * * * *", **settings}
        before = _resident()
        collector = GithubCi(GithubCi.Settings.model_validate(given), Context("ci", github, http, memory))
        took: dict[str, float] = {}
        for name in ("cold", "second", "steady"):
            started = time.perf_counter()
            collected = await collector.collect(simulation.now())
            took[name] = time.perf_counter() - started
            if collected.faults:
                raise RuntimeError(f"the cycle is not whole: {collected.faults[0]}")
            took["stored"] = sum(memory.take(key, value) for key, value in collected.remember.items())
            del collected
            simulation.advance(BETWEEN)
        took["rest"] = max(0.0, _resident() - before)
        await github.aclose()
        return took


def _resident() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
