"""``infra-health datadog`` as an operator types it, after real runs; and the events of a running daemon."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import SNAPSHOT, Daemon, Place, place, wait_for
from tests.datadog import refusal

APP_KEY = "f" * 40


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        del it.config["collectors"]["ci"]
        it.environ["DD_APP_KEY"] = APP_KEY
        it.intake.app_keys = {APP_KEY}
        it.write_config()
        yield it


def test_push_diff_and_delete_from_the_command_line(here: Place) -> None:
    datadog = here.intake
    assert here.run("--once").returncode == 0
    diff = here.run("datadog", "diff")
    assert diff.returncode == 0, diff.stderr
    assert "would be created" in diff.stdout
    assert datadog.writes == []

    first = here.run("datadog", "push")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "dashboards health: created" in first.stdout
    datadog.writes.clear()
    second = here.run("datadog", "push")
    assert (second.returncode, second.stdout, datadog.writes) == (0, "", [])

    assert here.run("datadog", "push", "tv", "--share").stdout.startswith("https://")

    board = next(each for each in datadog.dashboards.values() if each["title"] == "Infra health")
    board["widgets"].pop()
    datadog.writes.clear()
    refused = here.run("datadog", "push", "dashboards")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert "dashboards health: edited by hand, left alone" in refused.stdout
    assert not any(board["id"] in write for write in datadog.writes)
    assert here.run("datadog", "push", "dashboards", "--force").returncode == 0

    deleted = here.run("datadog", "delete", "dashboards", "monitors")
    assert deleted.returncode == 0, deleted.stderr
    assert (datadog.dashboards, datadog.monitors) == ({}, {})


def test_without_good_keys_it_says_which_to_set_and_shows_none(here: Place) -> None:
    done = here.run("datadog", "push", environ={"DD_APP_KEY": None})
    assert (done.returncode, "DD_APP_KEY" in done.stderr) == (78, True)
    done = here.run("datadog", "push", environ={"DD_API_KEY": "c" * 32, "DD_APP_KEY": "d" * 40})
    assert (done.returncode, "403" in done.stderr) == (1, True)
    assert not [key for key in ("c" * 32, "d" * 40) if key in done.stderr + done.stdout]


def test_a_datadog_that_takes_nothing_is_told_in_a_line(here: Place) -> None:
    here.intake.intercept = lambda received: refusal(503, "away") if received.method != "GET" else None
    done = here.run("datadog", "push", "monitors")
    assert done.returncode == 1
    assert re.search(r"\b503\b", done.stderr)
    assert not re.search("Traceback|urllib3|Retry", done.stderr)


# Events


def collect(here: Place, daemon: Daemon, value: float) -> None:
    here.write_snapshot([SNAPSHOT | {"value": value, "status": "pass" if value > 0.5 else "fail"}])
    run: dict[str, Any] = daemon.http.post("/api/v1/collectors/training/runs", params={"wait": 30}).json()
    assert run["ended"], run


def test_a_flip_is_one_event_and_a_restart_is_none(here: Place) -> None:
    here.config["http"]["public_url"] = "https://health.example"
    here.write_config()
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        collect(here, daemon, 0.2)
        wait_for(lambda: here.intake.events, daemon)
        collect(here, daemon, 0.2)
        daemon.wait_until_quiet()
        assert daemon.end() == 0
    (event,) = here.intake.events
    assert "pass -> fail" in event["title"]
    assert event["alert_type"] == "error"
    for part in ("0.2", "> 0.5", "since", "https://health.example"):
        assert part in event["text"]
    assert {"env:production", "service:infra-health-dashboard", "task:runs_successfully"} <= set(event["tags"])
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        collect(here, daemon, 0.2)
        assert len(here.intake.events) == 1
        collect(here, daemon, 0.9)
        wait_for(lambda: len(here.intake.events) > 1, daemon)
        assert daemon.end() == 0
    assert here.intake.refused == 0
