"""A run that ends at GitHub is at Datadog within seconds, by a webhook or a watched page; the poll repairs the rest."""

import hashlib
import hmac
import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.demo.github import SimulatedGithub
from service.demo.github_rows import Run
from tests.acceptance.program import CI, Daemon, Place, place, wait_for
from tests.world import World

SECRET = "the-secret-of-this-test"
NOW = datetime.now(UTC).replace(microsecond=0)
SOON = 15.0  # seconds


@pytest.fixture
def world() -> World:
    world = World.empty(now=NOW)
    world.add_workflow(1, "Tests")
    world.add_run(1, NOW - timedelta(hours=1), "success")
    return world


@pytest.fixture
def here(tmp_path: Path, world: World) -> Iterator[Place]:
    """Polled at the start alone."""
    with place(tmp_path, SimulatedGithub([world.repository], lambda: datetime.now(UTC))) as it:
        ci = CI | {"repo": world.repository.name, "schedule": "0 0 29 2 *", "tests_blocking_merge": ["Tests"]}
        it.config["collectors"] = {"ci": ci}
        it.environ["GITHUB_WEBHOOK_SECRET"] = SECRET
        it.write_config()
        yield it


def end_a_run(world: World, conclusion: str) -> Run:
    return world.add_run(1, datetime.now(UTC) - timedelta(minutes=5), conclusion)


def deliver(daemon: Daemon, world: World, run: Run) -> httpx.Response:
    row, whole = world.repository.run_json(run, datetime.now(UTC)), world.repository.json()
    body = json.dumps({"action": "completed", "workflow_run": row, "repository": whole}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "workflow_run", "X-Hub-Signature-256": f"sha256={signature}"}
    return daemon.http.post("/api/v1/webhooks/github", content=body, headers=headers)


def state_of_tests(here: Place) -> list[float]:
    """What Datadog was told of the workflow that blocks merges: 0 pass, 1 fail."""
    return [
        point.value
        for point in list(here.intake.points)
        if point.metric == "metta.infra.check.state" and "check:workflow_passing" in point.tags
    ]


def test_what_a_delivery_tells_is_delivered_within_seconds(here: Place, world: World) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert state_of_tests(here) == [0]
        for conclusion in ("failure", "success"):
            began = time.monotonic()
            assert deliver(daemon, world, end_a_run(world, conclusion)).status_code == 202
            wanted = float(conclusion != "success")
            wait_for(lambda: state_of_tests(here)[-1] == wanted, daemon)  # noqa: B023 - called now
            assert time.monotonic() - began < SOON
        runs = daemon.wait_until_quiet()
        assert [run["cause"] for run in runs] == ["webhook"] * 2 + ["start"]
        assert all(run["outcome"] == "Complete" for run in runs)
        up = [point for point in here.intake.points if point.metric == "metta.infra.collector.up"]
        assert len(up) == 1


def test_a_delivery_that_dies_with_the_daemon_is_made_good_by_the_next_poll(here: Place, world: World) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert deliver(daemon, world, end_a_run(world, "failure")).status_code == 202
        daemon.end(signal.SIGKILL)
    assert state_of_tests(here) == [0]
    with here.daemon() as daemon:
        # What was read before is enough for a run by webhook, so a restart is no blind spot.
        assert deliver(daemon, world, end_a_run(world, "skipped")).status_code == 202
        wait_for(lambda: daemon.get("/api/v1/runs")["runs"][0]["cause"] == "webhook", daemon)
        daemon.wait_until_quiet()
        daemon.http.post("/api/v1/collectors/ci/runs").raise_for_status()
        wait_for(lambda: state_of_tests(here)[-1] == 1, daemon)


def test_a_watched_page_tells_what_no_webhook_can(here: Place, world: World) -> None:
    here.config["collectors"]["ci"]["watch"] = "5s"
    here.write_config()
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        began = time.monotonic()
        end_a_run(world, "failure")
        wait_for(lambda: state_of_tests(here)[-1] == 1, daemon)
        assert time.monotonic() - began < SOON
    (watches,) = [line for line in here.run("check").stdout.splitlines() if "watches" in line]
    assert "720 looks an hour" in watches
