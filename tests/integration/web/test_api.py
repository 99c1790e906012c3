"""The API over real HTTP: every route, every answer of its contract."""

import re
from typing import Any

import anyio
import pytest
from msgspec.structs import asdict
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from service.collectors.github_ci.state import encode
from service.collectors.github_ci.weekly_runs import KEY, WeeklyRuns, WorkflowWeek
from service.domain.delivery import DeliveryStatus
from service.domain.errors import Rejected, TooLarge, Unavailable
from service.domain.runs import Cause, LogLine, PartialFailure
from service.domain.samples import Evidence
from service.store import Store
from tests.integration.web.stage import START, Stage, a_check, problem_of

CI = "/api/v1/collectors/ci"
RUNS = f"{CI}/runs"


async def follow(stage: Stage, address: str | None, name: str) -> list[dict[str, Any]]:
    """All there are, page by page of three at most."""
    found = []
    while address:
        body = await stage.json(address)
        assert 0 < len(body[name]) <= 3
        found += body[name]
        address = body["next"]
    return found


async def test_probes_and_page_tell_what_is_wrong_and_what_time_mends_is_a_warning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def probe(path: str, status: int, verdict: str) -> str:
        answer = await stage.client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (status, verdict)
        return answer.text

    for path in ("/livez", "/healthz", "/readyz"):
        await probe(path, 200, "ok")
    version = await stage.json("/version")
    assert (version["version"], version["commit"], version["started"]) == ("1.2.3", "abc1234", "2026-03-04T05:00:00Z")
    stage.context.reload_error = "config.yaml:3:1: collectors: unknown key"
    await probe("/readyz", 200, "warn")
    monkeypatch.setattr(Store, "trouble", "the disk is full")
    for told in (await probe("/readyz", 503, "fail"), (await stage.client.get("/")).text):
        assert "config.yaml:3:1" in told
        assert "the disk is full" in told
    await probe("/livez", 200, "ok")
    stage.clock.ahead += 60  # the scheduler's timer stands
    await probe("/livez", 503, "fail")


async def test_collectors_show_schedule_last_run_and_last_error_and_the_unknown_is_a_404_that_names_the_known(
    stage: Stage,
) -> None:
    stage.collectors["ci"].error = Rejected("no token")
    run = await stage.run()
    first, second = (await stage.json("/api/v1/collectors"))["collectors"]
    assert first == await stage.json(first["links"]["self"])
    assert (first["schedule"], first["next_run"]) == ("*/10 * * * *", "2026-03-04T05:10:00Z")
    assert (first["last_run"]["outcome"], first["last_success"], second["last_run"]) == ("Failed", None, None)
    failure = {"run": run.id, "at": "2026-03-04T05:00:00Z", "outcome": "Failed", "errors": ["no token"]}
    assert first["last_error"] == failure
    body = problem_of(await stage.client.get("/api/v1/collectors/trainin"), 404)
    assert (body["known"], body["instance"]) == (["ci", "training"], "/api/v1/collectors/trainin")
    assert "did you mean training?" in body["detail"]
    for path in ("collectors/nope/runs", "collectors/nope/pause", "collectors/nope/snapshots", "runs/nope/cancel"):
        problem_of(await stage.client.post(f"/api/v1/{path}"), 404)
    runs = ("runs?collector=nope", "runs?before=pruned", "runs/nope", "runs/nope/samples", "runs/nope/log")
    for path in (*runs, "collectors/", "collectors/ci/history/0", "collectors/ci/checks/otfix"):
        problem_of(await stage.client.get(f"/api/v1/{path}"), 404)


async def test_a_trigger_answers_with_the_runs_address_and_a_run_is_cancelled_once(stage: Stage) -> None:
    stage.collectors["ci"].gate = anyio.Event()
    answer = await stage.client.post(f"{RUNS}?wait=0.01")
    assert (answer.status_code, answer.json()["started"]) == (202, True)
    run = await stage.json(answer.headers["location"])
    assert (run["id"], run["outcome"], run["ended"], run["duration"]) == (answer.json()["id"], "Running", None, None)
    assert problem_of(await stage.client.post(f"{RUNS}?wait=1"), 409)["run"] == run["id"]
    first, second = (await stage.client.post("/api/v1/runs")).json()["runs"]
    assert (first["id"], first["started"]) == (run["id"], False)
    assert (second["collector"], second["started"]) == ("training", True)
    await stage.context.scheduler.active.wait(second["id"], 10)
    while stage.context.waiting.value:  # callers beyond the bound of waiting ones are told to come back
        stage.context.waiting.acquire_nowait()
    refused = await stage.client.post("/api/v1/collectors/training/runs?wait=300")
    problem_of(refused, 429)
    assert int(refused.headers["retry-after"]) > 0
    assert (await stage.client.post("/api/v1/collectors/training/runs")).status_code == 202
    cancel = f"/api/v1/runs/{run['id']}/cancel"
    assert (await stage.client.post(cancel)).status_code == 202
    await stage.context.scheduler.active.wait(run["id"], 10)
    assert (await stage.json(answer.headers["location"]))["outcome"] == "Cancelled"
    assert problem_of(await stage.client.post(cancel), 409)["type"].endswith("run-ended")


async def test_a_trigger_that_is_not_understood_or_comes_too_early_starts_nothing(stage: Stage) -> None:
    """What the API's description can't say of parameters and bodies."""
    for actor in (b"\xff", "a\u202eb".encode()):
        problem_of(await stage.client.post(RUNS, headers={b"x-actor": actor}), 400)
    for text in (b"\xff\xfe", b'{"reason": "\\ud800"}', b"[" * 5000):
        problem_of(await stage.client.post(RUNS, content=text), 400)
    stage.collectors["training"].waits_for = "waiting for a first push"
    body = problem_of(await stage.client.post("/api/v1/collectors/training/runs"), 409)
    assert "aiting for a first push" in body["detail"]
    assert (await stage.json("/api/v1/collectors/training"))["note"] == "waiting for a first push"
    assert not (await stage.json("/api/v1/runs"))["runs"]


async def test_pause_and_resume_answer_with_the_collector_and_keep_who_asked_and_why(stage: Stage) -> None:
    form = {b"x-actor": "Jörg".encode(), b"content-type": b"application/x-www-form-urlencoded"}  # as curl -d sends
    answer = await stage.client.post(f"{CI}/pause", headers=form, content=b'{"reason": "a deploy"}')
    assert (answer.status_code, answer.json()["paused"], answer.json()["next_run"]) == (200, True, None)
    assert (await stage.json("/api/v1/state"))["collectors"]["paused"] == 1
    (entry,) = await stage.context.store.runs.audit_entries()
    assert (entry.action, entry.collector) == ("pause", "ci")
    assert (entry.actor.source, entry.actor.name, entry.actor.reason) == ("127.0.0.1", "Jörg", "a deploy")
    answer = await stage.client.post(f"{CI}/resume")
    assert (answer.status_code, answer.json()["paused"]) == (200, False)


async def test_runs_and_their_samples_are_filtered_and_paged_without_gap_or_repeat(stage: Stage) -> None:
    behind = Evidence("Fix <it>", "https://github.com/o/r/pull/7", START, "merged", "main")
    stage.collectors["ci"].samples = [a_check(i, label=f"l{i}", evidence=[behind]) for i in range(5)]
    stage.collectors["ci"].failures = [PartialFailure("502", "pull requests")]
    stage.collectors["training"].error = Rejected("no token")
    runs = [await stage.run("ci" if i % 2 else "training") for i in range(7)][::-1]
    ids = [run.id for run in runs]
    since = "since=2026-03-04T05:00:21Z"
    filters = {"": ids, "collector=ci": ids[1::2], "outcome=Failed": ids[::2], since: ids[:2]}
    for query, wanted in filters.items():
        assert [run["id"] for run in await follow(stage, f"/api/v1/runs?limit=3&{query}", "runs")] == wanted
    for query, told in (("since=yesterday", "no time such as"), ("limi=1", "no such name; did you mean limit?")):
        assert told in problem_of(await stage.client.get(f"/api/v1/runs?{query}"), 422)["detail"]

    address = f"/api/v1/runs/{ids[1]}"
    view = await stage.json(address)
    assert (view["outcome"], view["errors"]) == ("Partial", ["pull requests: 502"])
    seen = await follow(stage, f"{address}/samples?limit=3", "samples")
    assert (await stage.json(f"{address}/samples"))["total"] == runs[1].samples == len(seen)
    first = next(sample for sample in seen if sample["metric"] == "ci.hotfix.count")
    assert (first["kind"], first["delivery"], first["tags"]["task"]) == ("gauge", "pending", "hotfix")
    assert first["evidence"][0]["title"] == "Fix <it>"
    await stage.context.scheduler.set_jobs([])
    assert [run["id"] for run in await follow(stage, "/api/v1/runs?collector=ci", "runs")] == ids[1::2], "its history"


async def test_a_fault_of_the_daemon_is_logged_whole_and_told_to_nobody(stage: Stage) -> None:
    stage.context.log = None  # type: ignore[assignment]  # a bug
    with capture_logs() as logged:
        answer = await stage.client.get("/api/v1/log")
    assert "NoneType" not in answer.text
    (entry,) = logged
    assert entry["incident"] in problem_of(answer, 500)["detail"]
    assert entry["exc_info"]


async def test_a_snapshot_is_handed_over_and_run_after_the_active_run_and_one_that_is_refused_runs_nothing(
    stage: Stage,
) -> None:
    address, training = "/api/v1/collectors/training/snapshots", stage.collectors["training"]
    for error, status in ((TooLarge("it is too large"), 413), (Rejected("no JSON"), 422), (Unavailable("full"), 503)):
        training.error = error
        problem_of(await stage.client.post(address, content=b"[]"), status)
        assert not stage.context.scheduler.active.runs()
    training.error = None
    active = await stage.hold("training")
    answer = await stage.client.post(address, content=b"[]", headers={"idempotency-key": "one"})
    assert (answer.status_code, training.pushed) == (202, [(b"[]", "one")])
    await stage.end(active)
    await stage.context.scheduler.active.wait(answer.json()["id"], 10)
    runs = (await stage.json("/api/v1/runs"))["runs"]
    assert {run["id"]: run["cause"] for run in runs} == {answer.json()["id"]: "push", active.id: "http"}
    problem_of(await stage.client.post(f"{CI}/snapshots", content=b"[]"), 404)


async def test_checks_tell_value_verdict_since_and_evidence_and_their_history(stage: Stage) -> None:
    evidence = Evidence("Nightly #7", "https://github.com/a/b/actions/runs/7", START, "failure", "Nightly")
    stage.collectors["ci"].samples = [a_check(evidence=[evidence]), a_check(1, "pass", check="p90")]
    await stage.run()
    assert (await stage.json(f"{CI}/checks"))["total"] == 2
    first, _ = sorted(await follow(stage, f"{CI}/checks?limit=1", "checks"), key=lambda check: check["tags"]["check"])
    assert (first["status"], first["value"], first["condition"]) == ("fail", 12.0, "< 10")
    assert (first["why"], first["since"]) == ("12 is not < 10", "2026-03-04T05:00:00Z")
    assert first["evidence"][0]["url"] == "https://github.com/a/b/actions/runs/7"
    for asked, count in (("ci.hotfix.count", 2), ("hotfix.count", 2), ("p90", 1)):
        assert len((await stage.json(f"{CI}/checks/{asked}"))["checks"]) == count

    stage.collectors["ci"].samples = [a_check(8.0, "pass", "in [5, 9]")]
    await stage.run()
    history = await stage.json(first["links"]["history"])
    shared = {"at": "2026-03-04T05:00:00Z", "failed": True, "threshold": 9.0, "threshold_low": 5.0}
    assert history["hours"] == [{"low": 8.0, "high": 12.0, "last": 8.0, **shared}]
    assert [(each["status"], each["value"]) for each in history["cycles"]] == [("fail", 12.0), ("pass", 8.0)]

    stage.clock.ahead += 86400 * 2
    (old,) = (await stage.json(f"{CI}/checks/n"))["checks"]
    assert (old["status"], old["why"]) == ("unknown", "the value is too old to judge by")
    assert old["since"] == "2026-03-05T05:00:00Z"


async def test_the_state_changes_its_revision_with_what_is_shown_and_a_runs_log_is_there_while_it_runs_and_after(
    stage: Stage,
) -> None:
    before = await stage.json("/api/v1/state")
    stage.clock.ahead += 2
    assert (await stage.json("/api/v1/state"))["revision"] == before["revision"]
    run = await stage.hold()
    stage.context.log.add(LogLine(START, "info", "page 3 of 7", {"run": run.id, "left": 4}))
    line = {"time": "2026-03-04T05:00:00Z", "level": "info", "message": "page 3 of 7", "fields": {"left": 4}}
    assert (await stage.json(f"/api/v1/runs/{run.id}/log"))["lines"] == [line]
    stage.clock.ahead += 1
    during = await stage.json("/api/v1/state")
    assert during["active"] == [run.id]
    await stage.end(run)
    assert (await stage.json(f"/api/v1/runs/{run.id}/log"))["lines"] == [line]
    assert (await stage.json("/api/v1/log?limit=1"))["lines"][0]["message"] == "page 3 of 7"
    after = await stage.json("/api/v1/state")
    stage.collectors["ci"].samples = [a_check(3.0, "pass")]
    await stage.run(cause=Cause.WEBHOOK)
    by_webhook = await stage.json("/api/v1/state")
    assert len({each["revision"] for each in (before, during, after, by_webhook)}) == 4
    assert after["collectors"] == {"total": 2, "failing": 0, "running": 0, "paused": 0}
    assert (after["checks"]["failing"], after["next_run"]["collector"]) == (1, "ci")


async def test_metrics_are_prometheus_text(stage: Stage) -> None:
    await stage.run()
    stage.context.telemetry.points(DeliveryStatus.DELIVERED, 3)
    await stage.client.post("/api/v1/collectors/training/pause")
    answer = await stage.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines, check = (
        answer.text.splitlines(),
        'check="n",collector="ci",label="",repo="",task="hotfix",workflow_name="main"',
    )
    for line in (
        'runs_total{collector="ci",outcome="Complete"} 1.0',
        'runs_total{collector="training",outcome="Failed"} 0.0',
        'run_duration_seconds_bucket{collector="ci",le="5.0"} 1.0',
        'points_total{status="delivered"} 3.0',
        'collector_paused{collector="training"} 1.0',
        'collector_interval_seconds{collector="ci"} 600.0',
        f'collector_last_success_timestamp_seconds{{collector="ci"}} {START.timestamp()}',
        f"check_state{{{check}}} 1.0",
        f"check_value{{{check}}} 12.0",
        f"check_threshold{{{check}}} 10.0",
    ):
        assert f"infra_health_{line}" in lines, line
    assert "_created" not in answer.text
    parse: Any = text_string_to_metric_families  # the library left it untyped
    families = [each.name for each in parse(answer.text)]
    assert len(families) == len(set(families)) > 20


async def test_the_weeks_workflows_are_told_the_worst_first_with_what_is_not_known(stage: Stage) -> None:
    address, url = f"{CI}/workflows", "https://a/b?query=workflow%3A%22Te%20st%22%20is%3Afailure"
    assert (await stage.json(address))["workflows"] == []
    tests = WorkflowWeek("acme/a", "Te st", 2, 1, 0.5, 2.8, 1, url)
    nightly = WorkflowWeek("acme/a", "Nightly", 1, 0, 0.0, None, 0, url)
    lint = WorkflowWeek("acme/b", "Lint", 1, 1, 1.0, 0.1, 0, "")
    kept = (WeeklyRuns("acme/a", START, [nightly, tests]), WeeklyRuns("acme/b", START, [lint]), WeeklyRuns("acme/c"))
    await stage.context.store.states.write("ci", {KEY + each.repo: encode(each) for each in kept} | {"acme/a": b"?"})
    found = await stage.json(address)
    assert [each["until"] and each["repo"] for each in found["repositories"]] == ["acme/a", "acme/b", None]
    assert found["workflows"] == [asdict(each) for each in (lint, tests, nightly)]
    for by, first in (("p90_minutes", "Te st"), ("reruns", "Te st"), ("failures", "Lint")):
        assert (await stage.json(f"{address}?by={by}&limit=1"))["workflows"][0]["workflow"] == first
    page = (await stage.client.get("/collectors/ci?by=failures")).text
    told = " ".join(re.sub("<[^>]+>", " ", page[page.index('id="workflows"') :]).split())
    assert "Lint acme/b 1 of 1, 100 % 0.1 0" in told
    assert "Nightly (failed runs, opens a in a new tab) acme/a 0 of 1, 0 % – 0" in told
    assert "acme/c: older runs are still to be read" in told
