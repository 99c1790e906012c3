"""The daemon as an operator meets it: start, look, trigger, reload, drain. (Kills: test_no_point_lost.)"""

import fcntl
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.acceptance.forked import Forked
from tests.acceptance.load import add_queue, source_of
from tests.acceptance.program import SNAPSHOT, Daemon, Place, place, wait_for


@dataclass
class Running:
    """A place, and the one daemon that the tests of this file share where it need not start or end for them."""

    here: Place
    daemon: Daemon
    order: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with place(tmp_path_factory.mktemp("running")) as it:
        it.write_snapshot([SNAPSHOT | {"value": 0.1, "status": "fail"}])
        order = add_queue(it, "go", concurrency_policy="Allow", active_deadline=100)
        with it.daemon() as daemon:
            yield Running(it, daemon, order)
            assert daemon.end() == 0


def test_a_first_start_runs_and_delivers_all(running: Running) -> None:
    intake, daemon = running.here.intake, running.daemon
    runs = daemon.wait_until_quiet()
    assert {run["collector"] for run in runs} == {"ci", "training", "queue"}
    assert {run["outcome"] for run in runs} == {"Complete"}
    assert "start" in {run["cause"] for run in runs}
    assert daemon.http.get("/livez").status_code == daemon.http.get("/readyz").status_code == 200
    assert all(run["samples"] == run["delivery"]["delivered"] for run in runs)
    assert sum(run["delivery"]["delivered"] for run in runs) == intake.accepted
    assert (intake.refused, intake.dropped) == (0, 0)
    states = [point.value for point in intake.points if point.metric == "metta.infra.check.state"]
    assert 1 in states, "a failed check"


def test_triggers_over_http_and_by_signal_run_now(running: Running) -> None:
    daemon = running.daemon
    daemon.wait_until_quiet()
    answer = daemon.http.post("/api/v1/collectors/training/runs?wait=30", headers={"X-Actor": "sre"})
    assert answer.status_code == 200
    assert (answer.json()["outcome"], answer.json()["cause"]) == ("Complete", "http")
    samples = daemon.get(answer.json()["links"]["samples"])
    assert "metta.infra.stablesuite.hearts" in {sample["metric"] for sample in samples["samples"]}
    daemon.send(signal.SIGUSR1)
    signalled = wait_for(
        lambda: (runs := [each for each in daemon.wait_until_quiet() if each["cause"] == "signal"]) and runs, daemon
    )
    assert {run["collector"] for run in signalled} == {"ci", "training", "queue"}
    running.order.write_text("hang")
    answers = [daemon.http.post("/api/v1/collectors/queue/runs").status_code for _ in range(10)]
    assert answers == [202] * 8 + [429] * 2, "only so many that overlap"
    running.order.write_text("go")


def test_what_would_write_beside_a_daemon_is_refused_by_name_and_what_reads_is_not(running: Running) -> None:
    here, daemon = running.here, running.daemon
    refused = here.run("--once")
    assert (refused.returncode, f"process {daemon.process.pid}" in refused.stderr) == (78, True)
    assert here.run("--once", "--dry-run").returncode == 0
    port = str(daemon.http.base_url.port)
    other = {"INFRA_HEALTH_STATE_DIR": str(here.folder / "other"), "INFRA_HEALTH_HTTP__PORT": port}
    taken = here.run(environ=other)
    assert (taken.returncode, port in taken.stderr, "Traceback" in taken.stderr) == (78, True, False)


def test_sighup_takes_over_a_right_configuration_and_keeps_the_old_one_when_it_is_wrong(running: Running) -> None:
    here, daemon = running.here, running.daemon

    def reload(message: str) -> dict[str, str]:
        skip = len(daemon.records)
        here.write_config()
        daemon.send(signal.SIGHUP)
        return next(iter(wait_for(lambda: [e for e in daemon.records[skip:] if message in e["message"]], daemon)))

    training = here.config["collectors"]["training"]
    daemon.wait_until_quiet()
    training["max_age"] = "12h"
    training["schedule"] = "30 * * * *"
    here.config["datadog"] = {"env": "moved"}
    here.config["collectors"]["more"] = {**training, "enabled": False}
    here.config["http"]["allowed_hosts"] = ["other.example"]
    changed = reload("configuration reloaded")["changed"]
    assert "1d -> 12h" in str(changed)
    assert "http.allowed_hosts" in str([each for each in daemon.records if "need a restart" in each["message"]])
    assert daemon.http.get("/version", headers={"Host": "other.example"}).status_code == 421, "it does need one"
    assert daemon.get("/api/v1/collectors/training")["schedule"] == "30 * * * *"
    assert daemon.get("/version")["env"] == "moved", "what is sent has the new one"
    counters = daemon.http.get("/metrics").text
    assert 'infra_health_runs_total{collector="more",outcome="Failed"} 0.0' in counters, "its first is an increase"
    training["schedule"] = "61 * * * *"
    assert "collectors.training.schedule" in reload("reload refused")["reason"]
    assert daemon.get("/api/v1/collectors/training")["schedule"] == "30 * * * *"
    ready = daemon.http.get("/readyz")
    assert (ready.status_code, "collectors.training.schedule" in ready.text) == (200, True)
    training["schedule"] = "30 * * * *"
    assert reload("configuration reloaded")["changed"] == "nothing"
    (here.folder / "config.yaml").unlink()
    daemon.send(signal.SIGHUP)
    wait_for(lambda: "is gone" in daemon.http.get("/readyz").text, daemon)
    assert len(daemon.get("/api/v1/collectors")["collectors"]) == 4
    reload("configuration reloaded")


def test_sigterm_lets_a_run_end_and_delivers_it_and_a_restart_within_its_slot_runs_nothing_again(here: Place) -> None:
    order = add_queue(here, "hang")
    with here.daemon() as daemon:
        wait_for(lambda: daemon.get("/api/v1/collectors/queue")["running"], daemon)
        daemon.send(signal.SIGTERM)
        wait_for(lambda: "draining" in daemon.text, daemon)
        assert daemon.http.get("/livez").status_code == 200
        assert daemon.http.post("/api/v1/collectors/training/runs").status_code == 503
        order.write_text("go")
        assert daemon.process.wait(timeout=60) == 0
    assert [point.value for point in here.intake.points if point.metric == "acme.queue.length"] == [7]
    with here.daemon() as daemon:
        # A slot may come between the two starts; it is a slot of its own.
        slots = [(run["collector"], run["scheduled_at"]) for run in daemon.get("/api/v1/runs")["runs"]]
        assert len(slots) == len(set(slots)) >= 3


def test_a_second_signal_ends_the_drain_at_once_whatever_a_collector_does(here: Place) -> None:
    add_queue(here, "ignore", active_deadline=100)
    with here.daemon() as daemon:
        wait_for(lambda: daemon.get("/api/v1/collectors/queue")["running"], daemon)
        daemon.send(signal.SIGINT)
        wait_for(lambda: "draining" in daemon.text, daemon)
        assert daemon.end(signal.SIGINT) == 1
        assert "second signal" in daemon.text


def test_signals_before_the_daemon_is_ready_end_it_well_or_wait_and_a_collector_that_breaks_is_named(
    here: Place,
) -> None:
    add_queue(here, "go")
    package, kills = source_of(here), (f"os.kill(os.getpid(), signal.SIG{name})\n" for name in ("HUP", "USR1", "TERM"))
    source = package.read_text()
    package.write_text(f"import os, signal\n{''.join(kills)}{source}")
    assert here.run().returncode == 0
    package.write_text(source.replace("self.settings = settings", "raise KeyError('no such queue')"))
    done = here.run()
    assert (done.returncode, "Traceback" in done.stderr) == (78, False)
    assert re.search("collectors.queue.*no such queue", done.stderr)


def test_the_daemon_starts_without_a_key_a_token_and_a_source_and_says_what_to_set(here: Place) -> None:
    del here.config["collectors"]["training"]["source"]
    here.write_config()
    with here.daemon(environ={"DD_API_KEY": None, "GITHUB_TOKEN": None}) as daemon:
        wait_for(lambda: "DD_API_KEY" in daemon.http.get("/readyz").text, daemon)
        assert daemon.http.get("/readyz").status_code == 200
        wait_for(lambda: "GITHUB_DASHBOARD_TOKEN" in daemon.text, daemon)
        status = here.run("status", "--url", str(daemon.http.base_url)).stdout
        assert "waiting for a first push" in status
        assert daemon.http.post("/api/v1/collectors/training/runs").status_code == 409


def test_a_log_that_nobody_reads_holds_up_neither_probes_nor_the_end(here: Place) -> None:
    """stderr is a pipe of 4 KiB that nobody drains once the daemon is ready."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ: fewer lines make it full
    process = Forked((), here.folder, here.whole_environ({"INFRA_HEALTH_LOG__LEVEL": "debug"}), writing, writing)
    os.close(writing)
    with os.fdopen(reading) as log:
        try:
            port = next(json.loads(line)["port"] for line in log if '"ready"' in line)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
                training = "/api/v1/collectors/training/runs?wait=10"
                wait_for(lambda: http.post(training).status_code == 200)  # not while the start's own run is active
                for _ in range(20):  # two lines each
                    assert http.post(training).json()["outcome"] == "Complete"
                assert http.get("/livez").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
