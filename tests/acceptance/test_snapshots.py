"""Snapshots as a pipeline and an operator meet them: published, pushed to a running daemon; and keys that change."""

import gzip
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest

from tests.acceptance.load import add_load
from tests.acceptance.program import KEY, SNAPSHOT, Daemon, Place, place, wait_for
from tests.aws import moto, reach
from tests.datadog import ScriptedDatadog

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


def check(daemon: Daemon, name: str) -> dict[str, str]:
    checks: list[dict[str, str]] = daemon.get("/readyz")["checks"]
    return next(each for each in checks if each["name"] == name)


def test_what_is_pushed_or_published_is_delivered_once_with_keys_that_change_and_outlives_a_restart(
    here: Place,
) -> None:
    key, token = here.folder / "key", here.folder / "token"
    key.write_text("0" * 32)
    environ = {"DD_API_KEY": None, "DD_API_KEY_FILE": str(key)}
    assert f"token of the write calls: file {token}" in here.run("check", environ=environ).stdout
    with here.daemon(environ=environ) as daemon:
        assert daemon.get("/api/v1/runs")["runs"] == [], "before a first push there is nothing to run"
        taken = push(daemon, gzip.compress(json.dumps([SNAPSHOT]).encode()))
        assert taken.status_code == 202, taken.text
        run = wait_for(lambda: (run := daemon.get(taken.headers["Location"]))["ended"] and run, daemon)
        assert (run["outcome"], run["cause"]) == ("Complete", "push")
        wait_for(lambda: "refused" in check(daemon, "datadog")["detail"], daemon)
        key.write_text(KEY)
        wait_for(lambda: hearts(here) == [0.92], daemon)
        assert "metta.infra.collector.snapshot_age" in {point.metric for point in here.intake.points}

        token.write_text("second-token")
        bad = push(daemon, [SNAPSHOT, SNAPSHOT | {"value": "x"}], token="second-token")
        (error,) = bad.json()["errors"]
        assert (bad.status_code, error["where"], "value" in error["what"]) == (422, "record 2", True)
        assert push(daemon, gzip.compress(b" " * 70_000_000), token="second-token").status_code == 413
        assert push(daemon, [SNAPSHOT], token="first-token").status_code == 401
        # Whatever was answered 202 arrives, though a run may begin after several came. A series each: those of one
        # series and second would arrive as their sum.
        count = SNAPSHOT | {"metric_kind": "count"}
        bodies = [[count | {"value": float(number), "tags": {"part": str(number)}}] for number in range(12)]
        with ThreadPoolExecutor(2) as pool:  # more at a time may be told to come back
            answers = pool.map(partial(push, daemon, token="second-token"), bodies)
            assert {answer.status_code for answer in answers} == {202}
        wait_for(lambda: sorted(hearts(here)) == [0, 0.92, *range(1, 12)], daemon)

        here.write_snapshot([SNAPSHOT | {"value": 0.77}], "a.json")
        here.write_snapshot(json.dumps(SNAPSHOT | {"check": "b"}), "b.json")
        address = f"{str(daemon.http.base_url).rstrip('/')}{PUSH}"
        done = here.json("publish", "a.json", "b.json", "--to", address, environ={"INFRA_HEALTH_TOKEN": "second-token"})
        assert done["records"] == 2
        wait_for(lambda: daemon.get(httpx.URL(done["run"]).path)["outcome"] == "Complete", daemon)
        assert not [secret for secret in (KEY, "second-token") if secret in daemon.text]
        assert daemon.end() == 0
    printed = json.loads(here.run("collect", "training", "--dry-run").stdout)
    assert [each["value"] for each in printed][:2] == [0.77, 0.92]


def test_bad_records_are_published_nowhere(here: Place) -> None:
    here.write_snapshot([SNAPSHOT | {"task": ""}], "bad.json")
    refused = here.run("publish", "bad.json", "--to", "target.json")
    assert (refused.returncode, "bad.json: 1 of 1 records are bad:\n  record 1: " in refused.stderr) == (1, True)
    assert not (here.folder / "target.json").exists()
    here.write_snapshot([SNAPSHOT], "good.json")
    assert here.run("publish", "good.json", "--to", "out/").returncode == 78
    assert json.loads(here.run("publish", "--schema").stdout)["$id"] == "urn:infra-health:schema:snapshot:1"
    once = here.run("--once")
    assert (once.returncode, "training: waiting for a first push" in once.stderr) == (0, True), "no pass fails of it"


def test_what_was_pushed_right_before_a_kill_is_sent_after_the_restart_once(here: Place) -> None:
    here.config["collectors"]["training"]["schedule"] = "0 0 1 1 *"
    here.write_config()
    with here.daemon() as daemon:
        answer = push(daemon, [SNAPSHOT | {"metric_kind": "count", "value": 0.77}])
        daemon.end(signal.SIGKILL)
    assert answer.status_code == 202
    known: list[set[str]] = []
    for _ in range(2):
        with here.daemon() as daemon:
            wait_for(lambda: hearts(here) == [0.77], daemon)
            known.append({run["id"] for run in daemon.wait_until_quiet()})
    assert hearts(here) == [0.77]
    assert known[0] == known[1], "none for the second restart"


def test_a_key_that_comes_late_from_aws_is_revoked_and_rotated_costs_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon starts while AWS is away, delivers once it answers, holds everything while the key is refused."""
    old, new = "a" * 32, "b" * 32
    good = {old}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reach(f"http://127.0.0.1:{port}", monkeypatch)
    secrets = botocore.session.get_session().create_client("secretsmanager")
    with place(tmp_path, intake=ScriptedDatadog(api_keys=good)) as here:
        here.environ |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        del here.environ["DD_API_KEY"], here.environ["GITHUB_TOKEN"]
        add_load(here, schedule="0 0 1 1 *", gauges=300, distributions=50)
        with here.daemon() as daemon:
            for name in ("aws", "datadog"):
                wait_for(lambda: check(daemon, name)["status"] == "warn", daemon)  # noqa: B023 - called at once
            assert daemon.http.get("/readyz").status_code == 200
            assert here.intake.accepted == 0
            with moto(port):
                secrets.create_secret(Name="datadog/api-key", SecretString=json.dumps({"api_key": old}))
                wait_for(lambda: daemon.quiet_runs(), daemon)
                good.clear()
                started = daemon.http.post("/api/v1/collectors/load/runs?wait=30").raise_for_status().json()
                assert started["outcome"] == "Complete"
                wait_for(lambda: "refused" in check(daemon, "datadog")["detail"], daemon)
                good.add(new)
                secrets.put_secret_value(SecretId="datadog/api-key", SecretString=new)
                runs = daemon.wait_until_quiet()
            assert {run["delivery"]["delivered"] == run["samples"] >= 350 for run in runs} == {True}
            assert check(daemon, "datadog")["status"] == "ok"
            assert daemon.end() == 0
        arrived = Counter((each.metric, each.at, each.value) for each in here.intake.points if "acme" in each.metric)
        assert len(arrived) == 2 * 350
        assert set(arrived.values()) == {1}
        on_disk = b"".join(path.read_bytes() for path in here.state_dir.iterdir())
        assert not [key for key in (old, new) if key in daemon.text or key.encode() in on_disk]
