"""The simulated GitHub answers as GitHub does, or tests and the demo show what production does not do."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.demo.recording import create_app, load_repositories
from tests.world import NOW, Questions, Simulated, World, generate, served, simulated, truth

REPO = "/repos/Metta-AI/metta"
RUNS = f"{REPO}/actions/runs"
# The recorded runs on attempt 2 of which the recording tells how the first attempt ended.
RERUN = {7984708931, 7867878488, 7669946636, 7137986008, 7124408050}


@pytest.fixture
async def simulation() -> AsyncIterator[Simulated]:
    async with simulated(generate(4, workflows=9, runs_a_day=60, days=8)) as simulation:
        yield simulation


async def rows(http: httpx.AsyncClient, url: str, key: str, **query: Any) -> list[dict[str, Any]]:
    """The rows of every page, by the links."""
    found: list[dict[str, Any]] = []
    answer = (await http.get(url, params=query or None)).raise_for_status()
    while True:
        found += answer.json()[key]
        if "next" not in answer.links:
            return found
        answer = (await http.get(answer.links["next"]["url"])).raise_for_status()


async def test_a_filtered_list_lags_behind_the_unfiltered_one(http: httpx.AsyncClient) -> None:
    world = World.empty()
    world.add_workflow(1)
    world.add_run(1, world.now - timedelta(minutes=30), "success", branch="main")
    world.add_run(1, world.now - timedelta(hours=2), "failure", None, branch="main")
    async with simulated(world) as simulation:
        assert len(await rows(http, simulation.url + RUNS, "workflow_runs")) == 2
        for url in (f"{simulation.url}{RUNS}?branch=main", f"{simulation.url}{REPO}/actions/workflows/1/runs"):
            (run,) = await rows(http, url, "workflow_runs")
            assert (run["run_attempt"], run["conclusion"]) == (2, None)
        assert await rows(http, f"{simulation.url}{RUNS}?branch=main&status=completed", "workflow_runs") == []


async def test_the_demo_shows_recorded_runs_as_of_now(http: httpx.AsyncClient) -> None:
    async with served(create_app()) as url:
        runs = await rows(http, f"{url}/repos/ionic-team/ionic-framework/actions/runs", "workflow_runs")
        assert len(runs) == 101
        newest = max(datetime.fromisoformat(run["updated_at"]) for run in runs)
        assert timedelta(minutes=3) < datetime.now(UTC) - newest < timedelta(minutes=6)
        assert {run["id"] for run in runs if run["run_attempt"] == 2} == RERUN
        for id in RERUN:
            first = await http.get(f"{url}/repos/ionic-team/ionic-framework/actions/runs/{id}/attempts/1")
            assert first.json()["conclusion"] == "failure"


def test_the_demos_numbers_are_red_and_green() -> None:
    ionic, phishbench = load_repositories(NOW)
    month = timedelta(days=30)
    asked = Questions(tests_blocking_merge=("Stencil Nightly Build",), history_window=month)
    assert truth(ionic, NOW, asked)["ci.workflow.tests_blocking_merge"] == 0
    assert truth(phishbench, NOW, Questions("master", month))["ci.workflow.success"] == 1
