"""The commands that an operator types beside a daemon: each against the whole program."""

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.demo.stage import serve
from tests.acceptance.program import KEY, SNAPSHOT, TOKEN, Daemon, Place, place, wait_for
from tests.aws import moto

WRITE, READ = "t0ken-of-the-operators", "t0ken-of-the-readers"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("commands")) as it:
        it.write_snapshot([SNAPSHOT, SNAPSHOT | {"metric": "sps", "check": "sps", "value": 0.1, "status": "fail"}])
        it.environ |= {"INFRA_HEALTH_TOKEN": WRITE, "INFRA_HEALTH_READ_TOKEN": READ}
        yield it


@pytest.fixture(scope="module")
def daemon(here: Place) -> Iterator[Daemon]:
    with here.daemon() as it:
        it.http.headers["authorization"] = f"Bearer {READ}"
        it.wait_until_quiet()
        here.environ["INFRA_HEALTH_URL"] = str(it.http.base_url)
        yield it
        del here.environ["INFRA_HEALTH_URL"]


def as_json(here: Place, *arguments: str) -> Any:
    done = here.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_explain_says_what_is_red_and_why(here: Place, daemon: Daemon) -> None:
    said = here.run("explain").stdout
    assert "FAIL    metta.infra.stablesuite.sps" in said
    assert "0.1 is not > 0.5, since " in said
    assert "next run" in said
    assert "stablesuite.hearts" not in said
    assert "failure Stencil Nightly Build 20" in said, "a run that is titled as its workflow is named once"
    assert "PASS    metta.infra.stablesuite.hearts" in here.run("explain", "hearts").stdout
    (check,) = as_json(here, "explain", "metta.infra.stablesuite.sps")
    assert (check["status"], check["value"], check["condition"]) == ("fail", 0.1, "> 0.5")
    assert check["since"]
    unknown = here.run("explain", "heart")
    assert unknown.returncode == 1
    assert "metta.infra.stablesuite.hearts" in unknown.stderr


def test_runs_and_logs_show_a_run_with_its_samples_and_lines(here: Place, daemon: Daemon) -> None:
    found = as_json(here, "runs", "--collector", "training")
    run = found[-1]["id"]
    assert run in here.run("runs").stdout
    said = here.run("runs", run).stdout
    assert "metta.infra.stablesuite.hearts" in said
    assert "delivered" in said
    lines = as_json(here, "logs", run)
    assert [line["message"] for line in lines] == ["run started", "run ended"]
    assert "run started  cause=" in here.run("logs", run).stdout
    assert f"run={run}" in here.run("logs").stdout
    assert here.run("runs", "nope").returncode == 1
    assert {each["collector"] for each in as_json(here, "runs")} == {"ci", "training"}
    assert {each["collector"] for each in as_json(here, "runs", "training")} == {"training"}, "as the runbook has it"


def test_trigger_waits_with_and_without_a_number_and_ends_as_the_run(here: Place, daemon: Daemon) -> None:
    for arguments in (("training", "--wait"), ("--wait", "training"), ("--wait", "30", "training")):
        done = here.run("trigger", *arguments)
        assert done.returncode == 0, done.stderr
        assert "Complete in " in done.stdout
        assert "attempt 1" in done.stderr
    content = (here.folder / "training.json").read_text()
    here.write_snapshot("[]")
    assert here.run("trigger", "training", "--wait").returncode == 1
    here.write_snapshot(content)
    assert here.run("trigger", "training", "--wait").returncode == 0
    (row,) = (line for line in here.run("status").stdout.splitlines() if line.startswith("training"))
    assert re.search(r"Complete .* s ago: .*training\.json", row), "nobody must take an old error for a present one"
    refused = here.run("trigger", "training", environ={"INFRA_HEALTH_TOKEN": None})
    assert refused.returncode == 1
    assert "bearer token" in refused.stderr


def test_reading_needs_the_read_token(here: Place, daemon: Daemon) -> None:
    assert here.run("status", environ={"INFRA_HEALTH_TOKEN": None}).returncode == 0
    closed = here.run("status", environ={"INFRA_HEALTH_TOKEN": None, "INFRA_HEALTH_READ_TOKEN": None})
    assert closed.returncode == 1
    assert "INFRA_HEALTH_READ_TOKEN" in closed.stderr
    assert here.run("status", "--probe", environ={"INFRA_HEALTH_READ_TOKEN": None}).returncode == 0


def test_preview_tells_what_differs_and_sends_and_keeps_nothing(here: Place, daemon: Daemon) -> None:
    daemon.wait_until_quiet()
    runs, points = len(daemon.get("/api/v1/runs")["runs"]), len(here.intake.points)
    content = (here.folder / "training.json").read_text()
    here.write_snapshot([SNAPSHOT | {"value": 0.3, "status": "fail"}])
    try:
        done = here.run("preview", "training")
        assert done.returncode == 0, done.stderr
        assert "pass -> fail" in done.stdout
        (preview,) = as_json(here, "preview", "training")
    finally:
        here.write_snapshot(content)
    changes = {
        (line["metric"], line["tags"].get("check")): (line["change"], line["value_before"], line["value"])
        for line in preview["differences"]
    }
    assert changes["metta.infra.stablesuite.hearts", "reward_threshold"] == ("changed", 0.92, 0.3)
    assert changes["metta.infra.check.state", "reward_threshold"] == ("changed", 0, 1)
    assert changes["metta.infra.stablesuite.sps", "sps"] == ("gone", 0.1, None)
    assert "metta.infra.stablesuite.hearts" in {sample["metric"] for sample in preview["samples"]}
    assert len(daemon.get("/api/v1/runs")["runs"]) == runs
    assert len(here.intake.points) == points


def test_diagnose_has_a_line_for_each_and_a_remedy_for_what_is_wrong(here: Place, daemon: Daemon) -> None:
    done = here.run("diagnose")
    assert done.returncode == 0, done.stdout
    for name, line in zip(
        ("GitHub", "Datadog", "AWS", "clock", "state directory"), done.stdout.splitlines(), strict=True
    ):
        assert line.startswith(name)
    assert f"process {daemon.process.pid}" in done.stdout
    found = as_json(here, "diagnose")
    assert {each["status"] for each in found} == {"ok"}
    bad = here.run("diagnose", environ={"DD_API_KEY": "not-the-right-key", "GITHUB_API_URL": "http://127.0.0.1:9"})
    assert bad.returncode == 1
    github, datadog, *_ = bad.stdout.splitlines()
    assert "fail" in github
    assert "Remedy: check github.api_url" in github
    assert "fail" in datadog
    assert "Remedy: set DD_API_KEY" in datadog
    assert "not-the-right-key" not in bad.stdout


def test_diagnose_finds_a_state_directory_that_cannot_be_used(here: Place) -> None:
    file = here.folder / "a-file"
    file.write_text("")
    done = here.run("diagnose", environ={"INFRA_HEALTH_STATE_DIR": str(file / "state")})
    assert done.returncode == 1
    assert "Remedy: set state_dir" in done.stdout


def test_diagnose_looks_whether_a_snapshot_in_s3_can_be_seen(here: Place) -> None:
    with moto() as address:
        environ = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE": "s3://health/training/",
        }
        httpx.put(f"{address}/health", trust_env=False).raise_for_status()
        missing = here.run("diagnose", environ=environ)
        assert missing.returncode == 1
        assert "s3://health/training/: no object is there; publish a snapshot" in missing.stdout
        httpx.put(f"{address}/health/training/1.json", content=b"[]", trust_env=False).raise_for_status()
        assert "seen: s3://health/training/1.json" in here.run("diagnose", environ=environ).stdout


def test_a_table_in_a_pipe_is_plain_columns(here: Place, daemon: Daemon) -> None:
    head, *rows = here.run("status").stdout.splitlines()
    assert head.split("  ")[0] == "collector"
    assert len(rows) == len(as_json(here, "status")["collectors"])
    starts = head.index("state")
    assert all(row[starts - 1] == " " and row[starts] != " " for row in rows)
    assert (head + "".join(rows)).isascii()


def on_a_terminal(here: Place, *arguments: str, **environ: str) -> str:
    """What a command writes where both its streams are a terminal."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            cwd=here.folder,
            env=os.environ | here.environ | {"TERM": "xterm-256color"} | environ,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        shown = b""
        try:
            while part := screen.read(65536):
                shown += part
        except OSError:  # Linux says so when the last writer is gone
            pass
        assert process.wait(timeout=60) == 0
    return shown.decode()


@pytest.mark.parametrize(
    "command", [("status",), ("explain",), ("list",), ("check",), ("collect", "training")], ids=" ".join
)
def test_no_color_gets_plain_text_on_a_terminal_too(here: Place, daemon: Daemon, command: tuple[str, ...]) -> None:
    assert "\x1b" not in on_a_terminal(here, *command, NO_COLOR="1")


def test_a_terminal_has_colours(here: Place, daemon: Daemon) -> None:
    assert "\x1b" in on_a_terminal(here, "explain", NO_COLOR="")


def test_a_narrow_terminal_cuts_off_no_run_and_no_error(here: Place, daemon: Daemon) -> None:
    content = (here.folder / "training.json").read_text()
    here.write_snapshot("[]")
    here.run("trigger", "training", "--wait")
    here.write_snapshot(content)
    here.run("trigger", "training", "--wait")
    runs = as_json(here, "runs", "training", "--limit", "2")
    shown = on_a_terminal(here, "runs", "training", "--limit", "2", COLUMNS="80")
    assert all(f" {run['id']} " in shown for run in runs), "the id is what `runs ID` takes"
    (error,) = runs[1]["errors"]
    assert f"{runs[1]['id']}: {error}" in shown
    assert re.search(rf"training: \d+ s ago: {re.escape(error)}", on_a_terminal(here, "status", COLUMNS="80"))


def test_an_address_where_something_else_answers_is_named(here: Place) -> None:
    def other(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def another(_: Request) -> Response:
        return JSONResponse(["ok"])

    for endpoint in (other, another):
        with serve(Starlette(routes=[Route("/{path:path}", endpoint)])) as (url,):
            for command in ("status", "explain", "runs", "logs"):
                done = here.run(command, "--url", url)
                assert (done.returncode, done.stdout) == (1, ""), command
                assert done.stderr.startswith(f"no infra-health daemon answers at {url}: what answers there "), command
    assert "--url" in here.run("status", "--url", "localhost").stderr


def test_a_repository_that_is_no_name_is_a_wrong_command_line(here: Place) -> None:
    done = here.run("list-workflows", "--repo", "phishbench")
    assert done.returncode == 2
    assert "must be OWNER/NAME" in done.stderr


@pytest.mark.parametrize("name", ["bundle.tar.gz", "bundle.zip"])
def test_a_flare_holds_what_helps_and_no_secret(here: Place, daemon: Daemon, name: str) -> None:
    extra = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret-of-somebody",
        "HTTPS_PROXY": "http://user:pa55word-of-the-proxy@proxy.example:1",
        "NO_PROXY": "127.0.0.1",
        "INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE": "https://u:pa55word-of-the-source@h.example/x?sig=presigned-secret",
    }
    done = here.run("flare", name, environ=extra)
    assert done.returncode == 0, done.stderr
    path = here.folder / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    contents = unpacked(path)
    wanted = {"settings.json", "versions.json", "state.json", "runs.json", "run_logs.jsonl", "diagnose.json"}
    assert wanted | {"daemon/log.json", "daemon/readyz.json", "daemon/metrics.txt"} <= contents.keys()
    assert "dashboard-collector" in contents["settings.json"]
    assert "run started" in contents["run_logs.jsonl"]
    assert "infra_health_runs_total" in contents["daemon/metrics.txt"]
    secrets = [KEY, TOKEN, WRITE, READ, extra["AWS_SECRET_ACCESS_KEY"], "pa55word", "presigned-secret"]
    everything = "".join(contents.values()) + done.stdout + done.stderr
    assert [secret for secret in secrets if secret in everything] == []


def test_a_flare_needs_no_daemon(here: Place) -> None:
    done = here.run("flare", "alone.zip", "--url", "http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "no infra-health daemon answers" in done.stderr
    assert "settings.json" in unpacked(here.folder / "alone.zip")
    assert here.run("flare", "bundle.rar").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_knows_commands_and_collectors(here: Place, shell: str) -> None:
    done = here.run("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_INFRA_HEALTH_COMPLETE" in done.stdout
    asked = {"_INFRA_HEALTH_COMPLETE": f"{shell}_complete", "COMP_WORDS": "infra-health trigger tr", "COMP_CWORD": "2"}
    asked |= {"COMP_WORDS": "infra-health trigger "} if shell == "fish" else {}
    asked |= {"COMP_CWORD": "tr"} if shell == "fish" else {}
    done = subprocess.run(
        [Path(sys.executable).with_name("infra-health")],
        cwd=here.folder,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "training" in done.stdout


def test_an_http_trigger_leaves_two_lines_that_say_who_asked(here: Place, daemon: Daemon) -> None:
    answer = daemon.http.post(
        "/api/v1/collectors/training/runs?wait=20",
        json={"reason": "after the fix"},
        headers={"authorization": f"Bearer {WRITE}", "x-actor": "sre"},
    )
    run = answer.json()["id"]
    lines = wait_for(lambda: (found := [r for r in daemon.records if r.get("run") == run]) and len(found) > 1 and found)
    assert [line["message"] for line in lines] == ["run started", "run ended"]
    assert lines[0]["collector"] == "training"
    assert (lines[1]["samples"], lines[1]["collected"]) == (answer.json()["samples"], 2), (
        "the page's number and its own"
    )
    assert (lines[0]["actor"], lines[0]["asked_because"]) == ("sre", "after the fix")


def test_a_lasting_fault_is_logged_when_it_begins_changes_and_ends(here: Place, daemon: Daemon) -> None:
    skip = len(daemon.records)
    content = (here.folder / "training.json").read_text()
    for text in ("[]", "[]", "[]", "{", "{", content, content):
        here.write_snapshot(text)
        here.run("trigger", "training", "--wait")
    runs = [each["id"] for each in daemon.get("/api/v1/runs?collector=training&limit=7")["runs"]]

    def told() -> list[dict[str, object]] | None:
        found = [each for each in daemon.records[skip:] if each.get("run") in runs]
        return found if len([each for each in found if each["message"].startswith("run ")]) == 14 else None

    lines = wait_for(told, daemon)
    errors = [each for each in lines if each["status"] in ("warning", "error")]
    assert [each["message"] for each in errors] == ["run failed", "run failed"]
    assert errors[0]["reason"] != errors[1]["reason"] == errors[1]["reason"]
    assert errors[1]["reason_before"] == errors[0]["reason"]
    (works,) = [each for each in lines if each["message"] == "the collector works again"]
    assert works["runs"] == 5


def test_a_reload_logs_what_changed_and_a_missing_file_changes_nothing(here: Place, daemon: Daemon) -> None:
    def reloaded(message: str) -> dict[str, object]:
        skip = len(daemon.records)
        daemon.send(signal.SIGHUP)
        found = wait_for(lambda: [each for each in daemon.records[skip:] if message in each["message"]], daemon)
        line: dict[str, object] = found[0]
        return line

    here.config["collectors"]["training"]["max_age"] = "12h"
    here.config["http"]["allowed_hosts"] = ["other.example"]
    here.write_config()
    assert reloaded("configuration reloaded")["changed"] == {"collectors.training.max_age": "1d -> 12h"}
    config = here.folder / "config.yaml"
    text = config.read_text()
    config.unlink()
    assert "gone" in str(reloaded("reload refused")["reason"])
    assert {each["name"] for each in daemon.get("/api/v1/collectors")["collectors"]} == {"ci", "training"}
    assert "gone" in daemon.http.get("/readyz").text
    config.write_text(text)
    assert reloaded("configuration reloaded")["changed"] == "nothing"


def unpacked(path: Path) -> dict[str, str]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2]: archive.read(name).decode() for name in archive.namelist()}
    with tarfile.open(path) as packed:
        files = {each.name.partition("/")[2]: packed.extractfile(each) for each in packed.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file}
