"""The simulated GitHub answers as GitHub does, or tests and the demo show what production does not do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from service.collectors.github_ci import GithubCiSettings
from service.demo.recording import create_app, load_repositories
from tests.integration.github.conftest import RUNS, WORKFLOWS
from tests.world import NOW, Simulated, served, truth

DEMO = "/repos/ionic-team/ionic-framework/actions/runs"
# The recorded runs on attempt 2 of which the recording tells how the first attempt ended.
RERUN = {7984708931, 7867878488, 7669946636, 7137986008, 7124408050}


async def list_runs(http: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    """The rows of every page, by the links."""
    answer = (await http.get(url)).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["workflow_runs"]
    return found + (await list_runs(http, answer.links["next"]["url"]) if "next" in answer.links else [])


async def test_a_filtered_list_lags_behind_the_unfiltered_one(server: Simulated, http: httpx.AsyncClient) -> None:
    server.world.add_workflow(1)
    server.world.add_run(1, NOW - timedelta(minutes=30), "success")
    server.world.add_run(1, NOW - timedelta(hours=2), "failure", None)
    assert len(await list_runs(http, server.url + RUNS)) == 2
    for lagging in (f"{RUNS}?branch=main", f"{WORKFLOWS}/1/runs"):
        (run,) = await list_runs(http, server.url + lagging)
        assert (run["run_attempt"], run["conclusion"]) == (2, None)
    assert await list_runs(http, f"{server.url}{RUNS}?branch=main&status=completed") == []


async def test_the_demo_shows_recorded_runs_as_of_now(http: httpx.AsyncClient) -> None:
    async with served(create_app()) as url:
        runs = await list_runs(http, url + DEMO)
        assert len(runs) == 101
        newest = max(datetime.fromisoformat(run["updated_at"]) for run in runs)
        assert timedelta(minutes=3) < datetime.now(UTC) - newest < timedelta(minutes=6)
        assert {run["id"] for run in runs if run["run_attempt"] == 2} == RERUN
        for id in RERUN:
            assert (await http.get(f"{url}{DEMO}/{id}/attempts/1")).json()["conclusion"] == "failure"


def test_the_demos_numbers_are_red_and_green() -> None:
    ionic, phishbench = load_repositories(NOW)
    asked = {"type": "github_ci", "schedule": "@hourly", "history_window": "30d"}
    lists = {"tests_blocking_merge": ["Stencil Nightly Build"]}
    values = truth(ionic, NOW, GithubCiSettings.model_validate(asked | lists))
    assert values["ci.workflow.tests_blocking_merge"] == 0
    values = truth(phishbench, NOW, GithubCiSettings.model_validate(asked | {"branch": "master"}))
    assert values["ci.workflow.success"] == 1
