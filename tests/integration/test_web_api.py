"""The API over real HTTP: every route, every answer of its contract."""

from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from service.domain.checks import Check
from service.domain.points import Fate
from service.domain.runs import Outcome
from service.domain.samples import Evidence, Status
from tests.integration.web_stage import BEARER, START, TOKEN, Daemon, problem_of, served


async def test_live_and_ready_tell_their_checks() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        for path in ("/livez", "/healthz", "/readyz"):
            answer = await stage.client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        daemon.warning = "the key was refused"
        answer = await stage.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "warn")
        assert "the key was refused" in answer.text


async def test_a_lost_store_ends_readiness_but_not_life() -> None:
    daemon = Daemon(store_open=False)
    async with served(daemon) as stage:
        assert (await stage.client.get("/readyz")).status_code == 503
        assert (await stage.client.get("/readyz")).json()["ok"] is False
        assert (await stage.client.get("/livez")).status_code == 200
        assert (await stage.client.get("/metrics")).status_code == 200
        answer = await stage.client.get("/api/v1/collectors")
        assert problem_of(answer, 503)["type"].endswith("unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_a_stuck_scheduler_ends_life() -> None:
    async with served(Daemon(beats=False)) as stage:
        assert (await stage.client.get("/livez")).status_code == 503


async def test_version_says_what_runs() -> None:
    async with served(Daemon()) as stage:
        body = (await stage.client.get("/version")).json()
        assert body["name"] == "infra-health"
        assert body["version"] == "1.2.3"
        assert body["commit"] == "abc1234"
        assert body["started"] == "2026-03-04T05:00:00Z"


async def test_collectors_show_schedule_last_run_and_last_error() -> None:
    daemon = Daemon()
    daemon.end(daemon.begin("ci"), Outcome.FAILED, "no token")
    async with served(daemon) as stage:
        first, second = (await stage.client.get("/api/v1/collectors")).json()["collectors"]
        assert first == (await stage.client.get(first["links"]["self"])).json()
        assert first["schedule"] == "*/10 * * * *"
        assert first["next_run"] == "2026-03-04T05:10:00Z"
        assert first["last_run"]["outcome"] == "Failed"
        assert first["last_run"]["duration"] == 4.4
        assert first["last_success"] is None
        assert first["last_error"] == {"run": "ci-0", "at": "2026-03-04T05:00:04.400000Z", "errors": ["no token"]}
        assert second["last_run"] is None


async def test_an_unknown_collector_or_run_is_a_404_that_names_the_known() -> None:
    async with served(Daemon()) as stage:
        body = problem_of(await stage.client.get("/api/v1/collectors/nope"), 404)
        assert body["known"] == ["ci", "training"]
        assert body["instance"] == "/api/v1/collectors/nope"
        problem_of(await stage.client.post("/api/v1/collectors/nope/runs"), 404)
        problem_of(await stage.client.post("/api/v1/collectors/nope/pause"), 404)
        problem_of(await stage.client.get("/api/v1/runs?collector=nope"), 404)
        problem_of(await stage.client.get("/api/v1/runs/nope"), 404)
        problem_of(await stage.client.get("/api/v1/runs/nope/samples"), 404)
        problem_of(await stage.client.get("/runs/nope"), 404)
        problem_of(await stage.client.get("/api/v1/collectors/"), 404)


async def test_a_trigger_answers_202_with_the_runs_address() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        answer = await stage.client.post("/api/v1/collectors/ci/runs")
        assert answer.status_code == 202
        assert answer.json()["started"] is True
        run = (await stage.client.get(answer.headers["location"])).json()
        assert run["id"] == answer.json()["id"]
        assert run["outcome"] == "Running"
        assert run["ended"] is run["duration"] is None


async def test_a_trigger_of_a_running_collector_is_a_409_with_the_running_runs_address() -> None:
    daemon = Daemon()
    running = daemon.begin("ci")
    async with served(daemon) as stage:
        answer = await stage.client.post("/api/v1/collectors/ci/runs?wait=1")
        assert problem_of(answer, 409)["run"] == running
        assert answer.headers["location"] == f"/api/v1/runs/{running}"


async def test_a_waiting_trigger_answers_200_with_the_ended_run() -> None:
    daemon = Daemon()
    async with served(daemon) as stage, anyio.create_task_group() as tasks:

        async def end() -> None:
            await daemon.waited_for.wait()
            daemon.end("ci-0")

        tasks.start_soon(end)
        answer = await stage.client.post("/api/v1/collectors/ci/runs?wait=300")
        assert answer.status_code == 200
        assert answer.json()["outcome"] == "Complete"
        assert answer.json()["delivery"]["delivered"] == 3
        assert answer.headers["location"] == "/api/v1/runs/ci-0"


async def test_a_waiting_trigger_answers_202_when_the_run_is_not_done_by_then() -> None:
    async with served(Daemon()) as stage:
        answer = await stage.client.post("/api/v1/collectors/ci/runs?wait=0.01")
        assert answer.status_code == 202
        assert answer.json()["id"] == "ci-0"


async def test_waiting_ends_when_the_caller_leaves() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        stream = await stage.connect()
        await stream.send(b"POST /api/v1/collectors/ci/runs?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await daemon.waited_for.wait()
        await stream.aclose()
        await daemon.left.wait()


async def test_callers_beyond_the_bound_of_waiting_ones_are_told_to_come_back() -> None:
    daemon = Daemon(collector_names=[f"c{i}" for i in range(17)])
    async with served(daemon) as stage, anyio.create_task_group() as tasks:
        for name in daemon.collector_names[:16]:
            tasks.start_soon(stage.client.post, f"/api/v1/collectors/{name}/runs?wait=300")
        while len(daemon.history) < 16:
            await anyio.lowlevel.checkpoint()
        answer = await stage.client.post("/api/v1/collectors/c16/runs?wait=300")
        problem_of(answer, 429)
        assert int(answer.headers["retry-after"]) > 0
        assert (await stage.client.post("/api/v1/collectors/c16/runs")).status_code == 202
        for run in list(daemon.history):
            daemon.end(run.id)


async def test_a_sample_shows_what_is_behind_it() -> None:
    daemon = Daemon(samples_each=2)
    daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        first, second = (await stage.client.get("/api/v1/runs/ci-0/samples")).json()["samples"]
        assert first["evidence"] == []
        (behind,) = second["evidence"]
        assert (behind["title"], behind["conclusion"]) == ("Fix <it>", "cancelled")
        page = (await stage.client.get("/runs/ci-0")).text
        assert "evidence (1)" in page
        assert "Fix &lt;it&gt;" in page


@pytest.mark.parametrize("wait", ["-1", "301", "soon", "nan", "inf", ""])
async def test_a_wrong_wait_is_refused_and_starts_nothing(wait: str) -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        body = problem_of(await stage.client.post(f"/api/v1/collectors/ci/runs?wait={wait}"), 422)
        assert body["errors"][0]["where"] == "query.wait"
        assert not daemon.history


async def test_trigger_all_lists_those_that_run_already() -> None:
    daemon = Daemon()
    running = daemon.begin("training")
    async with served(daemon) as stage:
        answer = await stage.client.post("/api/v1/runs")
        assert answer.status_code == 202
        first, second = answer.json()["runs"]
        assert (first["collector"], first["started"]) == ("ci", True)
        assert (second["id"], second["started"]) == (running, False)


async def test_a_draining_daemon_starts_nothing() -> None:
    async with served(Daemon(draining=True)) as stage:
        answer = await stage.client.post("/api/v1/collectors/ci/runs")
        assert problem_of(answer, 503)["type"].endswith("draining")
        problem_of(await stage.client.post("/api/v1/runs"), 503)


async def test_pause_and_resume_answer_with_the_collector() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        answer = await stage.client.post("/api/v1/collectors/ci/pause")
        assert (answer.status_code, answer.json()["paused"], answer.json()["next_run"]) == (200, True, None)
        answer = await stage.client.post("/api/v1/collectors/ci/resume")
        assert (answer.status_code, answer.json()["paused"]) == (200, False)


async def test_who_asked_and_why_reaches_the_daemon() -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        headers = {b"x-actor": "Jörg".encode()}
        await stage.client.post("/api/v1/collectors/ci/pause", headers=headers, json={"reason": "a deploy"})
        (what, name, origin) = daemon.asked[0]
        assert (what, name, origin.source, origin.actor, origin.reason) == (
            "pause",
            "ci",
            "127.0.0.1",
            "Jörg",
            "a deploy",
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"reason": "\\ud800"}', 400),
        (b"[" * 5000, 400),
        (b'"why"', 422),
        (b'{"reason": 1}', 422),
        (b'{"raeson": "x"}', 422),
        (b'{"reason": "' + b"x" * 501 + b'"}', 422),
    ],
)
async def test_a_body_that_is_no_reason_is_refused(body: bytes, status: int) -> None:
    daemon = Daemon()
    async with served(daemon) as stage:
        problem_of(await stage.client.post("/api/v1/collectors/ci/runs", content=body), status)
        assert not daemon.history


@pytest.mark.parametrize("actor", [b"\xff", b"x" * 201, "a\u202eb".encode()])
async def test_an_actor_that_can_not_be_shown_is_refused(actor: bytes) -> None:
    async with served(Daemon()) as stage:
        problem_of(await stage.client.post("/api/v1/runs", headers={b"x-actor": actor}), 400)


async def test_runs_are_paged_newest_first_without_gap_or_repeat() -> None:
    daemon = Daemon()
    for i in range(7):
        daemon.end(daemon.begin("ci" if i % 2 else "training"))
    async with served(daemon) as stage:
        seen, address = [], "/api/v1/runs?limit=3"
        while address:
            body = (await stage.client.get(address)).json()
            assert len(body["runs"]) <= 3
            seen += [run["id"] for run in body["runs"]]
            address = body["next"]
        assert seen == [run.id for run in daemon.history]
        body = (await stage.client.get("/api/v1/runs?collector=ci&limit=2")).json()
        assert {run["collector"] for run in body["runs"]} == {"ci"}
        assert "collector=ci" in body["next"]
        assert (await stage.client.get("/api/v1/runs")).json()["next"] is None


async def test_samples_are_paged_with_their_total() -> None:
    daemon = Daemon(samples_each=5)
    daemon.end(daemon.begin("ci"))
    async with served(daemon) as stage:
        seen, address = [], "/api/v1/runs/ci-0/samples?limit=2"
        while address:
            body = (await stage.client.get(address)).json()
            assert body["total"] == 5
            seen += [sample["value"] for sample in body["samples"]]
            address = body["next"]
        assert seen == [0, 1, 2, 3, 4]
        assert (await stage.client.get("/api/v1/runs/ci-0/samples?offset=99")).json()["next"] is None


@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/runs?limit=0",
        "/api/v1/runs?limit=1e3",
        "/api/v1/runs?limt=3",
        "/api/v1/runs/ci-0/samples?offset=-1",
        "/api/v1/runs/ci-0/samples?limit=1001",
        "/api/v1/runs/ci-0/samples?offset=99999999999999999999",
        "/runs/ci-0?offset=x",
    ],
)
async def test_a_wrong_query_is_a_422(address: str) -> None:
    async with served(Daemon()) as stage:
        assert problem_of(await stage.client.get(address), 422)["errors"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/v1/runs", "GET, HEAD, POST"),
        ("PUT", "/api/v1/collectors/ci", "GET, HEAD"),
        ("GET", "/api/v1/collectors/ci/pause", "POST"),
        ("OPTIONS", "/livez", "GET, HEAD"),
        ("BREW", "/", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_possible_is_a_405_with_those_that_are(method: str, path: str, allowed: str) -> None:
    async with served(Daemon()) as stage:
        answer = await stage.client.request(method, path)
        problem_of(answer, 405)
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/livez", "/metrics", "/version", "/api/v1/runs", "/static/page.css", "/nope"])
async def test_head_answers_as_get_without_the_body(path: str) -> None:
    async with served(Daemon()) as stage:
        get, head = await stage.client.get(path), await stage.client.head(path)
        assert head.status_code == get.status_code
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.content == b""


async def test_a_fault_of_the_daemon_is_logged_whole_and_told_to_nobody() -> None:
    daemon = Daemon(bug="the password is swordfish")
    async with served(daemon) as stage:
        with capture_logs() as logged:
            answer = await stage.client.get("/api/v1/collectors")
        body = problem_of(answer, 500)
        assert "swordfish" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        (entry,) = logged
        assert entry["incident"] in body["detail"]
        assert entry["exc_info"]
        assert entry["path"] == "/api/v1/collectors"
        daemon.bug = None
        assert (await stage.client.get("/api/v1/collectors")).status_code == 200


async def test_metrics_are_prometheus_text_or_openmetrics_by_what_is_accepted() -> None:
    daemon = Daemon(paused={"training"})
    async with served(daemon) as stage:
        daemon.end(daemon.begin("ci"))
        stage.telemetry.run_ended(daemon.history[0], 0.03)
        stage.telemetry.points(Fate.DELIVERED, 3)
        answer = await stage.client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.text.splitlines()
        for line in (
            'infra_health_runs_total{collector="ci",outcome="Complete"} 1.0',
            'infra_health_runs_total{collector="training",outcome="Failed"} 0.0',
            'infra_health_run_duration_seconds_bucket{collector="ci",le="5.0"} 1.0',
            'infra_health_run_start_lateness_seconds_bucket{le="0.05"} 1.0',
            'infra_health_points_total{fate="delivered"} 3.0',
            'infra_health_points_total{fate="expired"} 0.0',
            'infra_health_requests_total{status="304",target="github"} 1.0',
            "infra_health_active_runs 0.0",
            "infra_health_outbox_points 7.0",
            "infra_health_event_loop_lag_seconds 0.002",
            'infra_health_github_quota_remaining{resource="core"} 4990.0',
            'infra_health_collector_paused{collector="training"} 1.0',
        ):
            assert line in lines, line
        success = 'infra_health_collector_last_success_timestamp_seconds{collector="ci"} '
        assert [float(line.removeprefix(success)) for line in lines if line.startswith(success)] == [START.timestamp()]
        assert any(line.startswith("infra_health_build_info{") and 'commit="abc1234"' in line for line in lines)
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
        assert "_created" not in answer.text
        answer = await stage.client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=nonsense; q=0.9, text/plain"}
        )
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.text.endswith("# EOF\n")


async def test_the_token_opens_write_calls() -> None:
    async with served(Daemon(), token=TOKEN, in_cluster=True) as stage:
        assert (await stage.client.post("/api/v1/runs", headers=BEARER)).status_code == 202
        assert (await stage.client.get("/api/v1/runs")).status_code == 200


async def test_checks_tell_value_condition_status_since_and_evidence() -> None:
    key = (("source", "cron"), ("workflow_name", "main"), ("task", "tests"), ("check", "flaky_tests"))
    evidence = Evidence("Nightly #7", "https://github.com/a/b/actions/runs/7", START, "failure", "Nightly")
    red = Check(key, Status.FAIL, "< 10", START, 12.0, START, "metta.infra.cron.ci.workflow.flaky", (evidence,))
    unmeasured = Check((*key[:3], ("check", "p90")), Status.UNKNOWN, "< 5.0", START)
    old = Check(key, Status.PASS, "< 10", START, 1.0, START - timedelta(days=2), "old")
    async with served(Daemon(known_checks=[red, unmeasured, old])) as stage:
        body = (await stage.client.get("/api/v1/collectors/ci/checks")).json()
        assert body["total"] == 3
        first, second, third = body["checks"]
        assert (first["status"], first["value"], first["condition"]) == ("fail", 12.0, "< 10")
        assert (first["why"], first["since"]) == ("12 is not < 10", "2026-03-04T05:00:00Z")
        assert first["evidence"][0]["url"] == "https://github.com/a/b/actions/runs/7"
        assert (second["status"], second["value"], second["metric"]) == ("unknown", None, "")
        assert (third["status"], third["why"]) == ("unknown", "the value is too old to judge by")
        assert third["since"] == "2026-03-03T05:00:00Z"
        for asked in ("metta.infra.cron.ci.workflow.flaky", "workflow.flaky", "flaky"):
            one = (await stage.client.get(f"/api/v1/collectors/ci/checks/{asked}")).json()
            assert [check["metric"] for check in one["checks"]] == [red.metric]
        problem_of(await stage.client.get("/api/v1/collectors/ci/checks/laky"), 404)
        problem_of(await stage.client.get("/api/v1/collectors/nope/checks"), 404)
        page = (await stage.client.get("/api/v1/collectors/ci/checks?limit=2")).json()
        assert len((await stage.client.get(page["next"])).json()["checks"]) == 1


async def test_a_runs_log_and_the_daemons_last_lines_are_there() -> None:
    daemon = Daemon()
    run = daemon.begin("ci")
    async with served(daemon) as stage:
        lines = (await stage.client.get(f"/api/v1/runs/{run}/log")).json()["lines"]
        assert lines == [
            {"time": "2026-03-04T05:00:00Z", "level": "info", "message": "run started", "fields": {"cause": "http"}}
        ]
        problem_of(await stage.client.get("/api/v1/runs/nope/log"), 404)
        assert len((await stage.client.get("/api/v1/log?limit=2")).json()["lines"]) == 2


async def test_a_cursor_that_is_gone_is_told_not_taken_for_the_end() -> None:
    async with served(Daemon()) as stage:
        problem_of(await stage.client.get("/api/v1/runs?before=pruned"), 404)


async def test_the_document_names_every_route_of_the_api_and_no_other() -> None:
    async with served(Daemon()) as stage:
        document = (await stage.client.get("/openapi.json")).json()
        documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        served_here = {
            (method, route.path)
            for route in stage.routes
            for method in (route.methods or set()) - {"HEAD"}
            if route.path.startswith("/api/")
        }
        assert served_here <= documented
        for _, path in documented:
            assert any(route.path == path for route in stage.routes)
