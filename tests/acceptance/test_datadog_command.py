"""``infra-health datadog`` as an operator types it, after real runs; and the events of a running daemon."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.domain.samples import normalize_tag
from tests.acceptance.program import SNAPSHOT, Daemon, Place, place, wait_for
from tests.datadog import refusal
from tests.unit.boards.shapes import texts

APP_KEY = "f" * 40


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        it.environ["DD_APP_KEY"] = APP_KEY
        it.intake.app_keys = {APP_KEY}
        yield it


def series_of(query: str) -> Iterator[tuple[str, set[str], set[str], set[str]]]:
    """Metric, fixed tags, template variables and groups of each series that the query asks for."""
    for metric, scope, by in re.findall(r"\w+:(metta[\w.]+)\{([^}]*)\}(?: by \{([^}]*)\})?", query):
        parts = {part for part in scope.split(",") if part not in ("*", "") and not part.startswith("!")}
        variables = {part for part in parts if part.startswith("$")}
        yield metric, parts - variables, variables, {name for name in by.split(",") if name}


def test_push_diff_and_delete_of_what_the_collectors_really_send(here: Place) -> None:
    datadog, ci = here.intake, here.config["collectors"]["ci"]
    del ci["repo"]
    ci |= {"repositories": ["ReDASers/PhishBench"], "branch": "master", "tests_blocking_merge": ["Unit Test"]}
    here.write_config()
    assert here.run("--once").returncode == 0
    sent: dict[str, list[set[str]]] = {}
    for point in datadog.points:
        tags = {normalize_tag(*tag.partition(":")[::2]) for tag in point.tags}
        sent.setdefault(point.metric, []).append(tags)
    rendered = here.json("datadog", "render")
    asked = [query for kind in ("dashboards", "monitors") for query in texts(rendered[kind])]
    assert len(asked) > 40
    everywhere = {tag.partition(":")[0] for series in sent.values() for tags in series for tag in tags}
    for query in asked:
        series = list(series_of(query))
        assert series, query
        for metric, fixed, variables, groups in series:
            assert {variable[1:] for variable in variables} <= everywhere, query
            # What the recording has nothing to measure of is drawn all the same: a check that is unknown.
            found = [{tag.partition(":")[0] for tag in tags} for tags in sent.get(metric, ()) if fixed <= tags]
            assert not sent.get(metric) or any(groups <= names for names in found), query
    assert {each["metric"] for each in rendered["metadata"]} >= set(sent)
    assert any("stablesuite.hearts{" in query for query in asked)

    diff = here.run("datadog", "diff")
    assert (diff.returncode, "would be created" in diff.stdout, datadog.writes) == (0, True, [])
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
    assert here.run("datadog", "delete", "dashboards", "monitors", "--yes").returncode == 0
    assert (datadog.dashboards, datadog.monitors) == ({}, {})
    assert datadog.refused == 0, datadog.last_refusal


def test_without_good_keys_or_a_datadog_that_takes_something_it_says_what_is_wrong_in_a_line(here: Place) -> None:
    wrong = {"DD_API_KEY": "c" * 32, "DD_APP_KEY": "d" * 40}
    here.intake.intercept = lambda received: refusal(503, "away") if received.method != "GET" else None
    for environ, code, told in (({"DD_APP_KEY": None}, 78, "DD_APP_KEY"), (wrong, 1, "403"), ({}, 1, r"\b503\b")):
        done = here.run("datadog", "push", "monitors", environ=environ)
        assert done.returncode == code
        assert re.search(told, done.stderr)
        assert not re.search("|".join(("Traceback", "urllib3", "Retry", *wrong.values())), done.stderr + done.stdout)


def test_a_flip_is_one_event_and_a_restart_is_none(here: Place) -> None:
    del here.config["collectors"]["ci"]
    here.config["http"]["public_url"] = "https://health.example"
    here.write_config()

    def collect(daemon: Daemon, value: float, events: int) -> None:
        here.write_snapshot([SNAPSHOT | {"value": value, "status": "pass" if value > 0.5 else "fail"}])
        assert daemon.http.post("/api/v1/collectors/training/runs?wait=30").json()["ended"]
        wait_for(lambda: len(here.intake.events) == events, daemon)

    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        collect(daemon, 0.2, 1)
        collect(daemon, 0.2, 1)
        assert daemon.end() == 0
    with here.daemon() as daemon:
        collect(daemon, 0.2, 1)
        collect(daemon, 0.9, 2)
        assert daemon.end() == 0
    failed, passed = here.intake.events
    assert ("pass -> fail" in failed["title"], failed["alert_type"], passed["alert_type"]) == (True, "error", "success")
    for part in ("0.2", "> 0.5", "since", "https://health.example"):
        assert part in failed["text"]
    assert {"env:production", "service:infra-health-dashboard", "task:runs_successfully"} <= set(failed["tags"])
    assert here.intake.refused == 0
