"""The daemon as an operator meets it: start, look, trigger, reload, drain, kill."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import SNAPSHOT, Place, place, wait_for

# A collector of somebody else's package; it does as the file beside it says.
OUTSIDE = """
import os
import time
from pathlib import Path

import anyio

from service.plugin import CollectorSettings, CollectResult, Metric, Sample

QUEUE = Metric("acme.queue.length", help="Jobs in the queue")


class Settings(CollectorSettings):
    order: Path


class Queue:
    Settings = Settings
    metrics = (QUEUE,)

    def __init__(self, settings, context):
        self.order = settings.order

    async def collect(self, now):
        order = self.order.read_text().strip()
        if order == "raise":
            raise RuntimeError("a bug in the outside collector")
        if order == "leak":
            raise RuntimeError("refused: " + os.environ["GITHUB_TOKEN"])
        while order == "ignore":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
        while order == "hang" and self.order.read_text().strip() == "hang":
            await anyio.sleep(0.05)
        return CollectResult((Sample(QUEUE, 7, now, {"queue": "gpu"}),))
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        yield it


def add_outside_collector(here: Place, order: str, **settings: object) -> Path:
    """Installs the package into a folder of its own, as pip would, and configures its collector."""
    packages = here.folder / "packages"
    (packages / "acme-1.0.dist-info").mkdir(parents=True)
    (packages / "acme.py").write_text(OUTSIDE)
    (packages / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (packages / "acme-1.0.dist-info" / "entry_points.txt").write_text("[infra_health.collectors]\nqueue = acme:Queue\n")
    here.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    file = here.folder / "order"
    file.write_text(order)
    here.config["collectors"]["queue"] = {
        "type": "queue",
        "schedule": "0 * * * *",
        "order": str(file),
        **settings,
    }
    here.write_config()
    return file


def test_a_start_runs_what_missed_its_slot_and_delivers_it(here: Place) -> None:
    with here.daemon() as daemon:
        runs = daemon.wait_until_quiet()
        assert {(run["collector"], run["outcome"]) for run in runs} == {("ci", "Complete"), ("training", "Complete")}
        # Within half a minute of its slot a run is not late enough to count as caught up.
        assert {run["cause"] for run in runs} <= {"catch-up", "schedule"}
        assert all(run["scheduled_at"] < run["started"] for run in runs)
        assert daemon.http.get("/livez").status_code == daemon.http.get("/readyz").status_code == 200
        assert sum(run["delivery"]["delivered"] for run in runs) == here.intake.accepted
        assert all(run["samples"] == run["delivery"]["delivered"] for run in runs)
        assert (here.intake.refused, here.intake.dropped) == (0, 0)
        assert daemon.end() == 0


def test_collectors_that_end_together_share_a_request(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert here.requests == 1


def test_a_restart_within_a_slot_runs_nothing_again(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert daemon.end() == 0
    with here.daemon() as daemon:
        # A slot may come between the two starts; it is a slot of its own.
        runs = [run for run in daemon.get("/api/v1/runs")["runs"] if run["scheduled_at"]]
        slots = [(run["collector"], run["scheduled_at"]) for run in runs]
        assert len(slots) == len(set(slots)) >= 2


def test_a_killed_daemon_loses_no_point(here: Place) -> None:
    with here.daemon(environ={"DD_API_KEY": "f" * 32}) as daemon:
        wait_for(lambda: [run for run in daemon.get("/api/v1/runs")["runs"] if run["ended"]], daemon)
        stored = {run["id"]: run["samples"] for run in daemon.get("/api/v1/runs")["runs"] if run["ended"]}
        daemon.process.kill()
    assert here.intake.accepted == 0
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        for run_id, samples in stored.items():
            assert daemon.get(f"/api/v1/runs/{run_id}")["delivery"]["delivered"] == samples


def test_a_run_that_was_killed_is_interrupted_not_running(here: Place) -> None:
    add_outside_collector(here, "hang")
    with here.daemon() as daemon:
        # Told once the run is stored.
        wait_for(
            lambda: ("run started", "queue") in [(each["message"], each.get("collector")) for each in daemon.records],
            daemon,
        )
        run = daemon.get("/api/v1/collectors/queue")["running"]
        daemon.process.kill()
    with here.daemon() as daemon:
        assert daemon.get(f"/api/v1/runs/{run}")["outcome"] == "Interrupted"
        assert daemon.get("/api/v1/collectors/queue")["running"] is None


def test_sigterm_during_a_run_lets_it_end_and_delivers_it(here: Place) -> None:
    order = add_outside_collector(here, "hang")
    with here.daemon() as daemon:
        wait_for(lambda: daemon.get("/api/v1/collectors/queue")["running"], daemon)
        daemon.send(signal.SIGTERM)
        wait_for(lambda: [each for each in daemon.records if each["message"] == "draining"], daemon)
        assert daemon.http.get("/livez").status_code == 200
        refused = daemon.http.post("/api/v1/collectors/training/runs")
        assert refused.status_code == 503
        order.write_text("go")
        assert daemon.process.wait(timeout=30) == 0
    assert [point.value for point in here.intake.points if point.metric == "acme.queue.length"] == [7]


def test_an_outside_collector_that_raises_leaves_the_others_alone(here: Place) -> None:
    add_outside_collector(here, "raise", backoff_limit=0)
    with here.daemon() as daemon:
        runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
        assert runs["queue"]["outcome"] == "BackoffLimitExceeded"
        assert runs["queue"]["errors"] == ["unexpected RuntimeError: a bug in the outside collector"]
        assert runs["ci"]["outcome"] == runs["training"]["outcome"] == "Complete"


def test_a_collector_that_hangs_is_ended_at_its_deadline(here: Place) -> None:
    add_outside_collector(here, "hang", active_deadline=1)
    with here.daemon() as daemon:
        runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
        assert runs["queue"]["outcome"] == "DeadlineExceeded"


def test_a_collector_that_ignores_its_cancellation_holds_up_no_end(here: Place) -> None:
    add_outside_collector(here, "ignore", active_deadline=1)
    with here.daemon() as daemon:
        wait_for(lambda: daemon.get("/api/v1/collectors/queue")["last_error"], daemon)
        assert daemon.end() == 0
    done = here.run("--once", "--json")
    assert done.returncode == 1
    outcomes = {run["collector"]: run["outcome"] for run in json.loads(done.stdout)["runs"]}
    assert outcomes == {"ci": "Complete", "training": "Complete", "queue": "DeadlineExceeded"}


def test_a_collector_that_cannot_be_built_is_named(here: Place) -> None:
    add_outside_collector(here, "go")
    package = here.folder / "packages" / "acme.py"
    package.write_text(package.read_text().replace("self.order = settings.order", "raise KeyError('no such queue')"))
    done = here.run()
    assert done.returncode == 78
    assert "collectors.queue" in done.stderr
    assert "no such queue" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_before_the_daemon_is_ready_ends_it_well(here: Place) -> None:
    add_outside_collector(here, "go")
    package = here.folder / "packages" / "acme.py"
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n" + package.read_text())
    assert here.run().returncode == 0


def test_callers_start_only_so_many_runs_that_overlap(here: Place) -> None:
    add_outside_collector(here, "hang", concurrency_policy="Allow", active_deadline=60)
    with here.daemon() as daemon:
        wait_for(lambda: daemon.get("/api/v1/collectors/queue")["running"], daemon)
        answers = [daemon.http.post("/api/v1/collectors/queue/runs") for _ in range(9)]
        assert [answer.status_code for answer in answers] == [202] * 7 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) > 0


def test_a_trigger_over_http_runs_now_and_waits_for_the_end(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        answer = daemon.http.post("/api/v1/collectors/training/runs?wait=20", headers={"X-Actor": "sre"})
        assert answer.status_code == 200
        assert answer.json()["outcome"] == "Complete"
        assert answer.json()["cause"] == "http"
        samples = daemon.get(answer.json()["links"]["samples"])
        assert "metta.infra.stablesuite.hearts" in {sample["metric"] for sample in samples["samples"]}


def test_sigusr1_runs_all_enabled_collectors(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        daemon.send(signal.SIGUSR1)
        runs = wait_for(
            lambda: (runs := [each for each in daemon.wait_until_quiet() if each["cause"] == "signal"]) and runs, daemon
        )
        assert {run["collector"] for run in runs} == {"ci", "training"}


def test_sighup_takes_over_a_right_configuration_and_keeps_the_old_one_when_it_is_wrong(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        here.config["collectors"]["training"]["schedule"] = "30 * * * *"
        here.config["datadog"] = {"env": "moved"}
        here.config["collectors"]["more"] = {**here.config["collectors"]["training"], "enabled": False}
        here.write_config()
        daemon.send(signal.SIGHUP)
        wait_for(lambda: daemon.get("/api/v1/collectors/training")["schedule"] == "30 * * * *", daemon)
        assert daemon.get("/version")["env"] == "moved", "what is sent has the new one"
        counters = daemon.http.get("/metrics").text
        assert 'infra_health_runs_total{collector="more",outcome="Failed"} 0.0' in counters, (
            "else its first is no increase"
        )
        here.config["collectors"]["training"]["schedule"] = "61 * * * *"
        here.write_config()
        daemon.send(signal.SIGHUP)
        refused = wait_for(lambda: [each for each in daemon.records if "reload refused" in each["message"]], daemon)
        assert "collectors.training.schedule" in refused[0]["reason"]
        assert daemon.get("/api/v1/collectors/training")["schedule"] == "30 * * * *"
        ready = daemon.http.get("/readyz")
        assert ready.status_code == 200
        assert "collectors.training.schedule" in ready.text


def test_a_pause_survives_a_restart_and_a_resume_ends_it(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        url = str(daemon.http.base_url)
        assert here.run("pause", "training", "--url", url, "--reason", "maintenance").returncode == 0
        assert daemon.get("/api/v1/collectors/training")["paused"] is True
        daemon.process.kill()
    with here.daemon() as daemon:
        assert daemon.get("/api/v1/collectors/training")["paused"] is True
        done = here.run("resume", "training", "--url", str(daemon.http.base_url))
        assert done.returncode == 0
        assert daemon.get("/api/v1/collectors/training")["paused"] is False


def test_status_and_trigger_from_the_command_line(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        url = str(daemon.http.base_url)
        status = here.run("status", "--url", url)
        assert status.returncode == 0
        assert "training" in status.stdout
        assert here.run("status", "--probe", "--url", url).returncode == 0
        done = here.run("trigger", "training", "--wait", "20", "--url", url)
        assert done.returncode == 0, done.stderr
        assert "Complete" in done.stdout
        here.write_snapshot("[]")
        assert here.run("trigger", "training", "--wait", "20", "--url", url).returncode == 1
    away = here.run("status", "--url", url)
    assert away.returncode == 1
    assert "no infra-health daemon answers" in away.stderr


def test_a_sending_pass_beside_a_daemon_is_refused_by_name_and_a_dry_run_is_not(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        refused = here.run("--once")
        assert refused.returncode != 0
        assert str(daemon.process.pid) in refused.stderr
        assert here.run("--once", "--dry-run").returncode == 0
        assert here.run("check").returncode == 0


def test_the_daemon_starts_without_a_key_a_token_and_a_source_and_says_what_to_set(here: Place) -> None:
    del here.config["collectors"]["training"]["source"]
    here.write_config()
    with here.daemon(environ={"DD_API_KEY": None, "GITHUB_TOKEN": None}) as daemon:
        wait_for(lambda: "DD_API_KEY" in daemon.http.get("/readyz").text, daemon)
        assert daemon.http.get("/readyz").status_code == 200
        training = wait_for(lambda: daemon.get("/api/v1/collectors/training")["last_error"], daemon)
        assert "TRAINING_HEALTH_FILE" in str(training)
        assert "GITHUB_DASHBOARD_TOKEN" in daemon.text


def test_secrets_are_in_no_log_and_on_no_page(here: Place) -> None:
    here.environ["INFRA_HEALTH_TOKEN"] = "t0ken-of-the-operators"
    add_outside_collector(here, "leak", backoff_limit=0)
    with here.daemon("-v") as daemon:
        runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
        assert runs["queue"]["errors"] == ["unexpected RuntimeError: refused: ********"]
        paths = ("/", "/readyz", "/metrics", "/api/v1/collectors", "/api/v1/runs", "/api/v1/log")
        pages = [daemon.http.get(path).text for path in (*paths, f"/api/v1/runs/{runs['queue']['id']}/log")]
        assert "error.stack" in pages[-1]
        assert daemon.http.post("/api/v1/runs").status_code == 401
        assert daemon.end() == 0
        for secret in (here.environ["DD_API_KEY"], here.environ["GITHUB_TOKEN"], here.environ["INFRA_HEALTH_TOKEN"]):
            assert not [page for page in (*pages, daemon.text) if secret in page]


def test_a_taken_port_ends_the_start_with_a_clear_message(here: Place) -> None:
    with here.daemon() as daemon:
        here.config["http"]["port"] = daemon.http.base_url.port
        here.config["state_dir"] = str(here.folder / "other")
        here.write_config()
        done = here.run()
        assert done.returncode == 78
        assert str(daemon.http.base_url.port) in done.stderr


def test_ctrl_c_ends_the_demo_with_exit_code_0(here: Place) -> None:
    with here.daemon("--demo", environ={"INFRA_HEALTH_LOG__FORMAT": "json", "INFRA_HEALTH_HTTP__PORT": "0"}) as daemon:
        runs = daemon.wait_until_quiet()
        assert {run["collector"] for run in runs} == {"ci", "ci-phishbench", "training", "eval"}
        assert {run["outcome"] for run in runs} == {"Complete"}
        assert daemon.end(signal.SIGINT) == 0


def test_a_failed_check_is_seen_in_the_samples_it_sends(here: Place) -> None:
    here.write_snapshot([SNAPSHOT | {"value": 0.1, "status": "fail"}])
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        states = [
            point.value
            for point in here.intake.points
            if point.metric == "metta.infra.check.state" and "workflow_name:arena" in point.tags
        ]
        assert states == [1]
