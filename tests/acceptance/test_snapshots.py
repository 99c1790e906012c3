"""Snapshots as a pipeline and an operator meet them: published, pushed to a running daemon, and what ``check`` says."""

import gzip
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.program import KEY, SNAPSHOT, Daemon, Place, place, wait_for
from tests.aws import moto

PUSH = "/api/v1/collectors/training/snapshots"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        del it.config["collectors"]["ci"]
        del it.config["collectors"]["training"]["source"]
        it.write_config()
        (tmp_path / "token").write_text("first-token\n")
        it.environ["INFRA_HEALTH_TOKEN_FILE"] = str(tmp_path / "token")
        yield it


def push(daemon: Daemon, body: Any, token: str = "first-token") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return daemon.http.post(PUSH, content=content, headers={"Authorization": f"Bearer {token}"})


def hearts(here: Place) -> list[float]:
    return [point.value for point in here.intake.points if point.metric.endswith(".hearts")]


def test_a_pushed_snapshot_is_delivered_and_outlives_a_restart(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        taken = push(daemon, gzip.compress(json.dumps([SNAPSHOT]).encode()))
        assert taken.status_code == 202, taken.text
        location = taken.headers["Location"]
        run = wait_for(lambda: (run := daemon.get(location))["ended"] and run, daemon)
        assert (run["outcome"], run["cause"]) == ("Complete", "http")
        wait_for(lambda: hearts(here) == [0.92], daemon)
        names = {point.metric for point in here.intake.points}
        assert "metta.infra.collector.snapshot_age" in names
        assert daemon.end() == 0
    assert json.loads(here.run("collect", "training", "--dry-run").stdout)[0]["value"] == 0.92


def test_of_snapshots_that_are_pushed_at_once_none_is_lost(here: Place) -> None:
    """Whatever was answered 202 arrives, though a run may begin after several of them came."""
    counts = [
        # A series each: those of one series and second would arrive as their sum.
        SNAPSHOT | {"metric_kind": "count", "value": float(number), "tags": {"part": str(number)}}
        for number in range(12)
    ]
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        with ThreadPoolExecutor(2) as pool:  # more at a time may be told to come back
            answers = list(pool.map(lambda count: push(daemon, [count]).status_code, counts))
        assert answers == [202] * len(counts)
        wait_for(lambda: sorted(hearts(here)) == [count["value"] for count in counts] or None, daemon)
        daemon.wait_until_quiet()
        assert daemon.end() == 0
    assert len(hearts(here)) == len(counts)


def test_what_was_pushed_right_before_a_kill_is_sent_after_the_restart_once(here: Place) -> None:
    here.config["collectors"]["training"]["schedule"] = "0 0 1 1 *"
    here.write_config()
    count = SNAPSHOT | {"metric_kind": "count", "value": 0.77}
    with here.daemon() as daemon:
        daemon.wait_until_quiet()  # the run that was missed while there was no daemon; it finds nothing
        answer = push(daemon, [count])
        daemon.end(signal.SIGKILL)
    assert answer.status_code == 202
    for _ in range(2):
        with here.daemon() as daemon:
            wait_for(lambda: hearts(here) == [0.77], daemon)
            daemon.wait_until_quiet()
            runs = len(daemon.get("/api/v1/runs")["runs"])
    assert hearts(here) == [0.77]
    assert runs <= 3  # none for the second restart


def test_what_is_refused_is_said_and_changes_nothing(here: Place) -> None:
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        before = len(daemon.get("/api/v1/runs")["runs"])
        bad = push(daemon, [SNAPSHOT, SNAPSHOT | {"value": "x"}])
        assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")
        assert bad.json()["errors"] == [{"where": "record 2", "what": "value is text, not a number"}]
        assert push(daemon, b'[{"metric"').status_code == 422
        assert push(daemon, b"[]").status_code == 422
        assert push(daemon, gzip.compress(b" " * 70_000_000)).status_code == 413
        assert push(daemon, [SNAPSHOT], token="wrong").status_code == 401
        assert daemon.http.post(PUSH, json=[SNAPSHOT]).status_code == 401
        assert (
            daemon.http.post(PUSH.replace("training", "none"), headers={"Authorization": "Bearer first-token"})
            .json()["type"]
            .endswith("unknown-collector")
        )
        assert len(daemon.get("/api/v1/runs")["runs"]) == before


def test_tokens_and_keys_that_are_replaced_on_disk_are_taken_over(here: Place) -> None:
    (here.folder / "key").write_text("0" * 32)
    environ = {"DD_API_KEY": None, "DD_API_KEY_FILE": str(here.folder / "key")}
    with here.daemon(environ=environ) as daemon:
        wait_for(lambda: "refused" in (daemon.get("/readyz")["checks"][2]["detail"]), daemon)
        (here.folder / "token").write_text("second-token")
        assert push(daemon, [SNAPSHOT], token="second-token").status_code == 202
        assert push(daemon, [SNAPSHOT], token="first-token").status_code == 401
        (here.folder / "key").write_text(KEY)
        wait_for(lambda: 0.92 in hearts(here), daemon)
        assert KEY not in daemon.text
        assert "second-token" not in daemon.text


def test_publish_to_the_daemon_prints_the_run_and_to_a_file_is_read_by_it(here: Place) -> None:
    here.write_snapshot([SNAPSHOT], "a.json")
    here.write_snapshot(json.dumps(SNAPSHOT | {"check": "b"}), "b.json")
    with here.daemon() as daemon:
        address = f"{str(daemon.http.base_url).rstrip('/')}{PUSH}"
        done = here.run(
            "publish", "a.json", "b.json", "--to", address, "--json", environ={"INFRA_HEALTH_TOKEN": "first-token"}
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["records"] == 2
        wait_for(lambda: daemon.get(httpx.URL(said["run"]).path)["outcome"] == "Complete", daemon)
    here.write_snapshot([SNAPSHOT | {"task": ""}], "bad.json")
    refused = here.run("publish", "bad.json", "--to", "training.json")
    assert refused.returncode == 1
    assert "bad.json: 1 of 1 records are bad:\n  record 1: task is empty" in refused.stderr
    assert here.run("publish", "a.json", "--to", "out/").returncode == 78


def test_check_says_where_each_secret_comes_from_and_which_can_not_change(here: Place) -> None:
    done = here.run("check")
    assert "Datadog API key: environment DD_API_KEY (can't change" in done.stdout
    assert f"token of the write calls: file {here.folder / 'token'}" in done.stdout
    assert KEY not in done.stdout
    assert "first-token" not in done.stdout + done.stderr


def test_the_schema_is_versioned_json(here: Place) -> None:
    schema = json.loads(here.run("schema", "snapshot").stdout)
    assert schema["$id"] == "urn:infra-health:schema:snapshot:1"
    assert schema["$defs"]["record"]["required"][-1] == "value"


def test_a_start_while_aws_is_away_collects_waits_and_delivers_once_the_key_comes(here: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "DD_API_KEY": None,
        "GITHUB_TOKEN": None,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    with here.daemon(environ=environ) as daemon:
        assert push(daemon, [SNAPSHOT]).status_code == 202
        for name in ("aws", "datadog"):
            wait_for(lambda name=name: _check(daemon, name)["status"] == "warn", daemon)
        assert daemon.http.get("/readyz").status_code == 200
        assert hearts(here) == []
        with moto(port) as address:
            secret = {
                "Name": "datadog/api-key",
                "SecretString": json.dumps({"key": KEY}),
                "ClientRequestToken": "1" * 32,
            }
            created = httpx.post(
                f"{address}/",
                json=secret,
                headers={
                    "X-Amz-Target": "secretsmanager.CreateSecret",
                    "Content-Type": "application/x-amz-json-1.1",
                    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20250114/eu-central-1/secretsmanager/aws4",
                },
            )
            assert created.status_code == 200, created.text
            wait_for(lambda: hearts(here) == [0.92], daemon, seconds=90)
        wait_for(lambda: _check(daemon, "datadog")["status"] == "ok", daemon)
        assert KEY not in daemon.text


def _check(daemon: Daemon, name: str) -> dict[str, str]:
    checks: list[dict[str, str]] = daemon.get("/readyz")["checks"]
    return next(each for each in checks if each["name"] == name)
