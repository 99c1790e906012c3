"""A run that ends at GitHub is at Datadog within seconds, by a webhook or a watched page; the poll repairs the rest."""

import hashlib
import hmac
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.demo.github import SimulatedGithub
from service.demo.github_rows import Run
from tests.acceptance.program import CI, Daemon, Place, place, wait_for
from tests.world import World

SECRET = "the-secret-of-this-test"
SOON = 15.0  # seconds


@pytest.fixture
def world() -> World:
    now = datetime.now(UTC).replace(microsecond=0)
    world = World.empty(now=now)
    world.add_workflow(1, "Tests")
    world.add_run(1, now - timedelta(hours=1), "success")
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


def deliver_a_run(daemon: Daemon, world: World, conclusion: str) -> None:
    row = world.repository.run_json(end_a_run(world, conclusion), datetime.now(UTC))
    body = json.dumps({"action": "completed", "workflow_run": row, "repository": row["repository"]}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "workflow_run", "X-Hub-Signature-256": f"sha256={signature}"}
    assert daemon.http.post("/api/v1/webhooks/github", content=body, headers=headers).status_code == 202


def values(here: Place, metric: str) -> list[float]:
    """What Datadog was told of the collector, or of the workflow that blocks merges: 0 pass, 1 fail."""
    points = [point for point in list(here.intake.points) if point.metric == f"metta.infra.{metric}"]
    return [point.value for point in points if metric != "check.state" or "check:workflow_passing" in point.tags]


def wait_for_state(here: Place, daemon: Daemon, state: float) -> None:
    wait_for(lambda: values(here, "check.state")[-1] == state, daemon, SOON)


def test_what_a_delivery_tells_is_told_within_seconds_and_what_dies_with_the_daemon_by_the_next_poll(
    here: Place, world: World
) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert values(here, "check.state") == [0]
        for conclusion, state in (("failure", 1), ("success", 0)):
            deliver_a_run(daemon, world, conclusion)
            wait_for_state(here, daemon, state)
        runs = daemon.wait_until_quiet()
        assert [run["cause"] for run in runs] == ["webhook"] * 2 + ["start"]
        assert {run["outcome"] for run in runs} == {"Complete"}
        assert len(values(here, "collector.up")) == 1
        deliver_a_run(daemon, world, "failure")
        daemon.end(signal.SIGKILL)
    assert values(here, "check.state") == [0, 1, 0]
    with here.daemon() as daemon:
        # What was read before is enough for a run by webhook, so a restart is no blind spot.
        deliver_a_run(daemon, world, "skipped")
        wait_for(lambda: daemon.get("/api/v1/runs")["runs"][0]["cause"] == "webhook", daemon)
        daemon.wait_until_quiet()
        daemon.http.post("/api/v1/collectors/ci/runs").raise_for_status()
        wait_for_state(here, daemon, 1)


def test_a_watched_page_tells_what_no_webhook_can(here: Place, world: World) -> None:
    here.config["collectors"]["ci"]["watch"] = "5s"
    here.write_config()
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        end_a_run(world, "failure")
        wait_for_state(here, daemon, 1)
    (watches,) = [line for line in here.run("check").stdout.splitlines() if "watches" in line]
    assert "720 looks an hour" in watches
