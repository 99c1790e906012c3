"""The whole program in shadow mode and beside a watcher: what leaves, under which name, and who is told of it."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.demo.stage import serve
from tests.acceptance.program import Place, wait_for

PATH = "2f1f5b3e-0000-4d0a-9a53-3f0a8c1b9b7e"


def watcher(calls: list[str], status: int = 200) -> Starlette:
    async def ping(request: Request) -> Response:
        calls.append(request.url.path + ("?rid" if "rid" in request.query_params else ""))
        return Response("OK", status_code=status, headers={"Location": "http://127.0.0.1:9/elsewhere"})

    return Starlette(routes=[Route("/{path:path}", ping, methods=["GET", "POST", "HEAD"])])


def test_a_shadow_whose_watchers_are_lost_sends_under_names_of_its_own_and_gives_nothing_away(here: Place) -> None:
    """Of the watchers one is away, the other one answers with an address elsewhere."""
    with serve(watcher([], 302)) as (url,):
        here.config["collectors"]["ci"]["heartbeat_url"] = f"{url}/{PATH}"
        here.write_config()
        environ = {"INFRA_HEALTH_MODE": "shadow", "INFRA_HEALTH_HEARTBEAT_URL": f"http://127.0.0.1:9/{PATH}"}
        with here.daemon("-v", environ=environ) as daemon:
            runs = daemon.wait_until_quiet()
            assert {run["outcome"] for run in runs} == {"Complete"}
            assert all(run["delivery"]["delivered"] == run["samples"] > 0 for run in runs)
            sent = {point.metric for point in here.intake.points}
            assert "shadow.metta.infra.cron.ci.workflow.success" in sent
            assert all(metric.startswith("shadow.metta.") for metric in sent)
            assert daemon.end() == 0
            lost = [each["reason"] for each in daemon.records if "heartbeat_url" in each["message"]]
            assert sorted(lost) == ["ConnectError", "answered 302"], "each is told once"
        assert PATH not in daemon.text
        with here.daemon() as daemon:
            # The CronJobs ran the slot that the shadow ran: going live waits for the next one.
            assert len(daemon.wait_until_quiet()) == len(runs)


def test_a_watcher_hears_of_start_success_and_failure(here: Place) -> None:
    calls: list[str] = []
    del here.config["collectors"]["ci"]
    here.write_config()
    with serve(watcher(calls)) as (url,):
        environ = {"INFRA_HEALTH_HEARTBEAT_URL": f"{url}/{PATH}"}
        with here.daemon(environ=environ) as daemon:
            wait_for(lambda: len(calls) >= 2, daemon)
            daemon.wait_until_quiet()
            here.write_snapshot("no snapshot")
            daemon.http.post("/api/v1/collectors/training/runs").raise_for_status()
            wait_for(lambda: len(calls) >= 4, daemon)
        assert calls == [f"/{PATH}{end}" for end in ("/start?rid", "?rid", "/start?rid", "/fail?rid")]
        checked = here.run("check", "--resolved", environ=environ)
        assert PATH not in daemon.text + checked.stdout + checked.stderr
        assert "heartbeat_url: '********'" in checked.stdout


def test_series_beyond_ten_times_the_bound_are_held_back_and_shown(here: Place) -> None:
    record = {"metric": "hearts", "task": "t", "check": "c", "condition": "> 0", "value": 1}
    here.write_snapshot([record | {"workflow_name": f"w{n}"} for n in range(60)])
    here.config["max_series"] = 5
    del here.config["collectors"]["ci"]
    here.write_config()
    with here.daemon() as daemon:
        (run,) = daemon.wait_until_quiet()
        held = run["delivery"]["throttled"]
        assert (run["delivery"]["delivered"], held) == (50, run["samples"] - 50)
        assert f'infra_health_points_total{{status="throttled"}} {held}.0' in daemon.http.get("/metrics").text
        assert any("series within an hour" in str(record.get("reasons")) for record in daemon.records)
        assert "of a series beyond ten times max_series" in daemon.http.get("/").raise_for_status().text
    assert "more than max_series (5)" in here.run("check").stdout
    once = here.run("--once")
    assert (once.returncode, "throttled" in once.stderr, "not in time" in once.stderr) == (1, True, False)
