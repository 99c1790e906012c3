"""``infra-health datadog`` as an operator types it, after real runs; and the events of a running daemon."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.collectors.ci_metrics import durations, to_samples
from service.collectors.ci_runs import to_page
from service.collectors.ci_settings import Thresholds
from service.demo.stage import serve
from tests.acceptance.program import SNAPSHOT, Place, place, wait_for
from tests.datadog_server import API_KEY, APP_KEY, FakeDatadog
from tests.unit.boards.test_boards import texts

TAGGED = {"repo": "Ionic-Framework"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        it.config["collectors"]["ci"]["tags"] = dict(TAGGED)
        it.config["collectors"]["eval"] = {
            "type": "snapshot",
            "schedule": "0 * * * *",
            "category": "evaluation",
            "source": str(it.write_snapshot([SNAPSHOT | {"metric": "pass_rate", "task": "Remote Eval"}], "eval.json")),
        }
        it.write_config()
        yield it


def sent(here: Place) -> list[tuple[str, dict[str, str]]]:
    """Metric and tags of all that arrived, tags as Datadog keeps them."""
    found = []
    for point in here.intake.points:
        tags = dict(tag.partition(":")[::2] for tag in point.tags)
        found.append((point.metric, {name: re.sub(r"[^\w\-:./]", "_", text.lower()) for name, text in tags.items()}))
    return found


def sent_durations() -> list[tuple[str, dict[str, str]]]:
    """The distribution as the collector sends it; no run of the recording ended within the last 55 minutes."""
    recorded = json.loads((Path(__file__).parents[1] / "payloads" / "github" / "ionic_nightly_runs.json").read_text())
    run = next(run for run in to_page(1, recorded, "main").runs if run.on_branch)
    both = [run, replace(run, event="pull_request")]
    samples, _ = to_samples(durations(both, {}), Thresholds(), run.updated, {"repo": "ionic-framework"})
    return [(sample.metric.name, {**sample.tags, "env": "production"}) for sample in samples]


def questions(query: str) -> Iterator[tuple[str, dict[str, str], list[str], list[str]]]:
    """Metric, fixed tags, template variables and groups of each series that the query asks for."""
    for metric, scope, by in re.findall(r"\w+:(metta[\w.]+)\{([^}]*)\}(?: by \{([^}]*)\})?", query):
        parts = [part for part in scope.split(",") if part != "*"]
        fixed = dict(part.partition(":")[::2] for part in parts if not part.startswith("$"))
        yield (
            metric,
            fixed,
            [part[1:] for part in parts if part.startswith("$")],
            [name for name in by.split(",") if name],
        )


def answers(samples: list[tuple[str, dict[str, str]]], query: str) -> bool:
    """Whether each series that the query asks for was sent, with every tag that it names."""
    return all(
        any(name == metric and fixed.items() <= tags.items() and set(by) <= set(tags) for name, tags in samples)
        for metric, fixed, _, by in questions(query)
    )


def test_boards_and_monitors_name_only_what_the_collectors_send(here: Place) -> None:
    assert here.run("--once").returncode == 0
    samples = sent(here) + sent_durations()
    # What the recording has nothing to measure of: the check is there, as unknown, and so is its state.
    measured = {metric for metric, _ in samples}
    unmeasured = {
        (tags["task"], tags["check"])
        for metric, tags in samples
        if metric == "metta.infra.check.state" and ("metta.infra.check.age", tags) not in samples
    }
    done = here.run("datadog", "render")
    assert done.returncode == 0, done.stderr
    rendered = json.loads(done.stdout)
    asked = [query for kind in ("dashboards", "monitors") for query in texts(rendered[kind])]
    assert len(asked) > 50
    for query in asked:
        series = list(questions(query))
        assert series, query
        if any((fixed.get("task"), fixed.get("check")) in unmeasured for _, fixed, _, _ in series):
            assert all(metric not in measured or answers(samples, query) for metric, *_ in series), query
            continue
        assert answers(samples, query), query
    everywhere = {name for _, tags in samples for name in tags}
    assert {variable for query in asked for _, _, found, _ in questions(query) for variable in found} <= everywhere
    named = {each["metric"] for each in rendered["metadata"]}
    assert {metric for metric, _ in samples} <= named
    assert any("hearts" in query for query in asked)
    assert any("task:remote_eval" in query for query in asked)


def test_push_diff_and_delete_from_the_command_line(here: Place) -> None:
    assert here.run("--once", "--only", "training,eval").returncode == 0
    del here.config["collectors"]["ci"]
    here.write_config()
    datadog = FakeDatadog(fills=True)
    with serve(datadog.app()) as (url,):
        environ = {"DD_URL": url, "DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}
        diff = here.run("datadog", "diff", environ=environ)
        assert diff.returncode == 0, diff.stderr
        assert "would be created" in diff.stdout
        assert datadog.writes == []

        first = here.run("datadog", "push", environ=environ)
        assert first.returncode == 0, first.stderr + first.stdout
        assert "dashboards health: created" in first.stdout
        datadog.writes.clear()
        second = here.run("datadog", "push", environ=environ)
        assert (second.returncode, second.stdout, datadog.writes) == (0, "", [])

        share = here.run("datadog", "push", "tv", "--share", environ=environ)
        assert share.stdout.strip() == datadog.shares[0]["public_url"]
        assert here.run("datadog", "push", "tv", "--share", environ=environ).stdout == share.stdout
        assert len(datadog.shares) == 1

        here.config["collectors"]["training"]["schedule"] = "30 */2 * * *"
        here.write_config()
        changed = json.loads(here.run("datadog", "push", "monitors", "--json", environ=environ).stdout)["objects"]
        updated = {each["key"]: each["changes"] for each in changed if each["outcome"] == "updated"}
        assert set(updated) == {"collector-down.training", "checks.training", "points-lost.training"}
        assert all(updated.values())

        board = next(each for each in datadog.dashboards.values() if each["title"] == "Infra health")
        board["widgets"].pop()
        datadog.writes.clear()
        refused = here.run("datadog", "push", "dashboards", environ=environ)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        assert "dashboards health: edited by hand, left alone" in refused.stdout
        assert not any(board["id"] in write for write in datadog.writes)
        assert here.run("datadog", "push", "dashboards", "--force", environ=environ).returncode == 0

        deleted = here.run("datadog", "delete", "dashboards", "monitors", environ=environ)
        assert deleted.returncode == 0, deleted.stderr
        assert (datadog.dashboards, datadog.monitors) == ({}, {})
        assert datadog.refusals == []


def test_a_new_training_metric_gets_its_row_at_the_next_push(here: Place) -> None:
    here.run("--once", "--only", "training")
    before = here.run("datadog", "render", "dashboards").stdout
    here.write_snapshot([SNAPSHOT, SNAPSHOT | {"metric": "sps", "check": "sps_threshold", "condition": "> 40000"}])
    here.run("--once", "--only", "training")
    after = here.run("datadog", "render", "dashboards").stdout
    assert "stablesuite.sps" not in before
    assert "stablesuite.sps" in after
    assert "y = 40000" in after


def test_without_an_application_key_it_says_which_to_set(here: Place) -> None:
    done = here.run("datadog", "push")
    assert done.returncode == 78
    assert "DD_APP_KEY" in done.stderr
    assert here.run("datadog", "render").returncode == 0


def test_wrong_keys_fail_the_push_and_are_not_shown(here: Place) -> None:
    with serve(FakeDatadog().app()) as (url,):
        keys = {"DD_URL": url, "DD_API_KEY": "c" * 32, "DD_APP_KEY": "d" * 40}
        done = here.run("datadog", "push", environ=keys)
    assert done.returncode == 1
    assert "c" * 32 not in done.stderr + done.stdout
    assert "403" in done.stderr


# Events


def flip(here: Place, value: float) -> None:
    here.write_snapshot([SNAPSHOT | {"value": value, "status": "pass" if value > 0.5 else "fail"}])


def collect(here: Place, daemon: Any) -> Mapping[str, Any]:
    run: dict[str, Any] = daemon.http.post("/api/v1/collectors/training/runs", params={"wait": 30}).json()
    assert run["ended"], run
    return run


def test_a_flip_is_one_event_and_a_restart_is_none(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        del here.config["collectors"]["ci"]
        here.config["http"]["public_url"] = "https://health.example"
        here.write_config()
        with here.daemon() as daemon:
            daemon.wait_until_quiet()
            flip(here, 0.2)
            collect(here, daemon)
            wait_for(lambda: here.intake.events, daemon)
            collect(here, daemon)
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
            collect(here, daemon)
            flip(here, 0.9)
            collect(here, daemon)
            wait_for(lambda: len(here.intake.events) > 1, daemon)
            assert daemon.end() == 0
        assert ["fail -> pass" in each["title"] for each in here.intake.events] == [False, True]
        assert here.intake.refused == 0


def test_a_shadow_tells_of_no_change(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        del here.config["collectors"]["ci"]
        here.write_config()
        with here.daemon(environ={"INFRA_HEALTH_MODE": "shadow"}) as daemon:
            daemon.wait_until_quiet()
            flip(here, 0.2)
            collect(here, daemon)
            assert daemon.end() == 0
        with here.daemon() as daemon:
            flip(here, 0.9)
            collect(here, daemon)
            wait_for(lambda: here.intake.events, daemon)
            assert daemon.end() == 0
        (event,) = here.intake.events
        assert "fail -> pass" in event["title"]


class Drowned(FakeDatadog):
    """Reads are answered, writes are not."""

    async def _answer(self, request: Request) -> Response:
        if request.method == "GET":
            return await super()._answer(request)
        self.writes.append(request.url.path)
        return JSONResponse({"errors": ["Service Unavailable"]}, 503)


class Elsewhere(FakeDatadog):
    """Not Datadog: every address answers well, with something of its own."""

    async def _answer(self, request: Request) -> Response:
        self.writes += [request.url.path] if request.method != "GET" else []
        return JSONResponse({"status": "ok"})


@pytest.mark.parametrize("command", ["diff", "push"])
def test_an_address_that_is_not_datadogs_is_told_and_gets_nothing(here: Place, command: str) -> None:
    elsewhere = Elsewhere()
    with serve(elsewhere.app()) as (url,):
        keys = {"DD_URL": url, "DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}
        done = here.run("datadog", command, environ=keys)
    assert done.returncode == 1
    assert "is it Datadog's API?" in done.stderr
    assert "Traceback" not in done.stderr
    assert elsewhere.writes == []


def test_a_push_gives_up_on_a_datadog_that_takes_nothing(here: Place) -> None:
    datadog = Drowned()
    with serve(datadog.app()) as (url,):
        keys = {"DD_URL": url, "DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}
        done = here.run("datadog", "push", "monitors", environ=keys)
    assert done.returncode == 1
    assert len(datadog.writes) == 3
    assert re.search(r"Datadog takes nothing now; \d+ were not tried", done.stderr)
