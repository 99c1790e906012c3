"""``infra-health compare`` with the whole program: files of the replaced tool, and Datadog's query API on loopback."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.demo.stage import serve
from tests.acceptance.program import KEY, Place, place

APP_KEY = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as found:
        found.config["mode"] = "shadow"
        found.write_config()
        with found.daemon() as daemon:
            daemon.wait_until_quiet()
            daemon.end()
        yield found


def ours(here: Place) -> list[dict[str, Any]]:
    """What ``collect -o`` of the replaced tool would give, were it right."""
    here.run("collect", "ci", "training", "-o", "theirs.json")
    samples: list[dict[str, Any]] = json.loads((here.folder / "theirs.json").read_text())
    return [
        sample for sample in samples if sample["kind"] != "distribution" and "success_ratio" not in sample["metric"]
    ]


def report(here: Place, samples: list[dict[str, Any]], *more: str, code: int = 0) -> dict[str, dict[str, Any]]:
    (here.folder / "theirs.json").write_text(json.dumps(samples))
    answer = here.run("compare", "--against", "theirs.json", "--json", *more)
    assert answer.returncode == code, answer.stderr + answer.stdout
    return {each["metric"]: each for each in json.loads(answer.stdout)["values"]}


def test_alike_is_said_to_be_alike_and_what_is_new_is_new(here: Place) -> None:
    found = report(here, ours(here))
    assert {each["verdict"] for each in found.values()} <= {"same", "explained"}
    assert found["metta.infra.cron.ci.workflow.cancelled"]["verdict"] == "same"
    assert found["metta.infra.stablesuite.hearts"]["verdict"] == "same"
    assert found["metta.infra.cron.ci.workflow.success_ratio"]["causes"] == ["new: the CronJobs did not send it"]
    assert not any(metric.startswith("shadow.") for metric in found)


def test_what_was_sent_without_anything_to_measure_is_called_so(here: Place) -> None:
    made_up = {"metric": "metta.infra.cron.ci.workflow.benchmarks", "value": 1, "tags": {}, "kind": "gauge"}
    found = report(here, [*ours(here), made_up])
    assert found[str(made_up["metric"])]["causes"] == ["nothing to measure: the CronJob sent a number all the same"]


def test_a_difference_without_a_cause_is_an_alarm(here: Place) -> None:
    samples = ours(here)
    for sample in samples:
        if sample["metric"].endswith("ci.workflow.cancelled"):
            sample["value"] += 12345
        sample["tags"] = [f"{name}:{value}" for name, value in sample["tags"].items()]
    found = report(here, samples, code=1)
    assert found["metta.infra.cron.ci.workflow.cancelled"]["verdict"] == "unexplained"


def test_the_report_for_people(here: Place) -> None:
    (here.folder / "theirs.json").write_text(json.dumps(ours(here)))
    table = here.run("compare", "--against", "theirs.json", "--offline")
    assert "infra-health" in table.stdout
    assert "same" in table.stdout
    text = here.run("compare", "--against", "theirs.json", "--format", "markdown").stdout
    assert "| metric | check | CronJobs | infra-health | why |" in text


def test_a_file_that_is_none_is_refused(here: Place) -> None:
    for content, said in [
        ("[", "is no JSON"),
        ("{}", "no list of samples"),
        ('[{"metric": "m", "value": "1"}]', "no number"),
    ]:
        (here.folder / "theirs.json").write_text(content)
        answer = here.run("compare", "--against", "theirs.json")
        assert answer.returncode == 78
        assert said in answer.stderr
    assert here.run("compare", "--against", "nowhere.json").returncode == 78


def datadog(asked: list[str]) -> Starlette:
    async def query(request: Request) -> Response:
        if (request.headers.get("dd-api-key"), request.headers.get("dd-application-key")) != (KEY, APP_KEY):
            return JSONResponse({"errors": ["Forbidden"]}, status_code=403)
        asked.append(request.query_params["query"])
        metric = asked[-1].partition(":")[2].partition("{")[0]
        now = datetime.now(UTC).timestamp() * 1000
        tags = ["workflow_name:ci_smoothness", "task:jobs_cancelled", "check:count"]
        rows = [{"tag_set": tags, "pointlist": [[now - 600_000, 1.0], [now - 60_000, 0.0], [now, None]]}]
        return JSONResponse({"status": "ok", "series": rows if metric.endswith("cancelled") else []})

    return Starlette(routes=[Route("/api/v1/query", query)])


def test_datadog_is_asked_for_what_the_cronjobs_sent(here: Place) -> None:
    asked: list[str] = []
    with serve(datadog(asked)) as (url,):
        answer = here.run("compare", "--against", "datadog", "--json", environ={"DD_URL": url, "DD_APP_KEY": APP_KEY})
        assert answer.returncode == 0, answer.stderr + answer.stdout
        found = {each["metric"]: each for each in json.loads(answer.stdout)["values"]}
        cancelled = found["metta.infra.cron.ci.workflow.cancelled"]
        assert (cancelled["verdict"], cancelled["theirs"]) == ("same", 0.0)
        wanted = (
            "max:metta.infra.cron.ci.workflow.cancelled{env:production} by {workflow_name,task,check}.rollup(max, 60)"
        )
        assert wanted in asked
        assert not any("shadow" in query or "metta.infra.check" in query for query in asked)
        assert "metta.infra.cron.ci.workflow.benchmarks" in " ".join(asked), "no list, no value of ours: was there one?"
        assert "mode is live" not in answer.stdout
        live = {"DD_URL": url, "DD_APP_KEY": APP_KEY, "INFRA_HEALTH_MODE": "live"}
        assert "mode is live" in here.run("compare", "--against", "datadog", "--json", environ=live).stdout
        refused = here.run("compare", "--against", "datadog", environ={"DD_URL": url, "DD_APP_KEY": "wrong" * 8})
        assert refused.returncode == 1
        assert "403" in refused.stderr
    missing = here.run("compare", "--against", "datadog")
    assert missing.returncode == 78
    assert "DD_APP_KEY" in missing.stderr
