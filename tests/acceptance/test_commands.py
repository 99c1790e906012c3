"""The commands that an operator types beside a daemon: each against the whole program."""

import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click
import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from service.demo.stage import serve
from tests.acceptance.forked import Forked
from tests.acceptance.program import KEY, SNAPSHOT, TOKEN, Daemon, Place, place, wait_for
from tests.aws import moto

WRITE, READ = "t0ken-of-the-operators", "t0ken-of-the-readers"
BEHIND = {"url": "https://ci.example/42", "commit": "3f9a2c", "owner": "@ml", "message": "2 of 8 ranks are slow"}
RECORDS = [SNAPSHOT, SNAPSHOT | {"metric": "sps", "check": "sps", "value": 0.1, "status": "fail"} | BEHIND]

# Module-wide: one daemon serves them all.
pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With a collector ``slow`` that waits for the file gate, and fails where gate.broken is."""
    with place(tmp_path_factory.mktemp("commands")) as it:
        it.write_snapshot(RECORDS)
        it.environ |= {"INFRA_HEALTH_TOKEN": WRITE, "INFRA_HEALTH_READ_TOKEN": READ}
        gate = it.folder / "gate"
        steps = (f"while [ ! -e {gate} ]; do sleep 0.05; done", f"[ ! -e {gate}.broken ] || exit 9")
        command = ["/bin/sh", "-c", "; ".join((*steps, "echo '# TYPE up gauge'", "echo 'up 1'"))]
        it.config["collectors"]["slow"] = {"type": "exec", "schedule": "@yearly", "command": command}
        it.write_config()
        gate.touch()
        yield it


@pytest.fixture(scope="module")
def daemon(here: Place) -> Iterator[Daemon]:
    with here.daemon() as it:
        it.http.headers["authorization"] = f"Bearer {READ}"
        it.wait_until_quiet()
        here.environ["INFRA_HEALTH_URL"] = str(it.http.base_url)
        yield it
        del here.environ["INFRA_HEALTH_URL"]


def fail(here: Place) -> dict[str, Any]:
    """A run of training that failed."""
    here.write_snapshot("[]")
    run: dict[str, Any] = here.json("trigger", "training", "--wait", code=1)
    here.write_snapshot(RECORDS)
    return run


def status_of(here: Place, name: str) -> str:
    return next(line for line in here.run("status").stdout.splitlines() if line.startswith(name))


def on_a_terminal(here: Place, *arguments: str, **environ: str) -> str:
    """What a command writes where both its streams are a terminal."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = Forked(arguments, here.folder, here.whole_environ({"TERM": "xterm-256color", **environ}), its, its)
        os.close(its)
        shown = b""
        with suppress(OSError):  # Linux says so when the last writer is gone
            while part := screen.read(65536):
                shown += part
        assert process.wait(timeout=60) == 0
    return shown.decode()


def test_explain_says_what_is_red_and_why_and_tells_scripts(here: Place, daemon: Daemon) -> None:
    said = here.run("explain").stdout
    for told in (
        "FAIL    2 of 8 ranks are slow",
        "check     metta.infra.stablesuite.sps (",
        "0.1 is not > 0.5, fail since ",
    ):
        assert told in said
    assert "stablesuite.hearts" not in said
    assert re.search(r"evidence  first red: failure Stencil Nightly Build merge .* commit 9be6a91 20.* https:", said)
    assert re.search(r"evidence  arena commit 3f9a2c by @ml .* https://ci.example/42", said)
    (check,) = here.json("explain", "metta.infra.stablesuite.sps")
    assert (check["status"], check["value"], check["condition"]) == ("fail", 0.1, "> 0.5")
    behind = {"title": "arena", "url": "https://ci.example/42", "commit": "3f9a2c", "author": "@ml"}
    assert behind.items() <= check["evidence"][0].items()
    unknown = here.run("explain", "heart")
    assert (unknown.returncode, "metta.infra.stablesuite.hearts" in unknown.stderr) == (1, True)
    for arguments, code in ((("status",), 1), (("explain",), 1), (("explain", "hearts"), 0), (("explain", "sps"), 1)):
        assert here.run(*arguments, "--exit-code").returncode == code, arguments
        assert here.run(*arguments).returncode == 0, arguments


def test_runs_and_logs_are_found_by_collector_run_outcome_and_age(here: Place, daemon: Daemon) -> None:
    good, bad = here.json("trigger", "training", "--wait")["id"], fail(here)["id"]
    here.json("trigger", "training", "--wait")
    said = here.run("runs", good).stdout
    assert ("metta.infra.stablesuite.hearts" in said, "delivered" in said) == (True, True)
    for command in ("runs", "logs"):
        nope = here.run(command, "nope")
        told = nope.stderr.endswith("no collector 'nope'. Known: ci, training, slow.\n")
        assert (nope.returncode, told) == (1, True), nope.stderr
    assert good in here.run("runs").stdout
    for names in (("training",), ("--collector", "training")):
        assert {each["collector"] for each in here.json("runs", *names)} == {"training"}
    found = [run["id"] for run in here.json("runs", "--outcome", "failed", "--since", "2h")]
    assert (bad in found, good in found) == (True, False)
    assert here.json("runs", "training", "--since", "0s") == []
    assert here.run("runs", "--since", "0s").stderr == "No run is kept that fits.\n"
    assert f"run={good}" in here.run("logs").stdout
    assert {line["fields"]["collector"] for line in here.json("logs", "training")} == {"training"}
    assert [line["message"] for line in here.json("logs", good)] == ["run started", "run ended"]
    # Of a run that has ended nothing new comes.
    lines = [json.loads(line) for line in here.run("logs", bad, "-f", "--json").stdout.splitlines()]
    assert [line["message"] for line in lines] == ["run started", "run failed"]


def test_trigger_waits_with_and_without_a_number_and_ends_as_the_run(here: Place, daemon: Daemon) -> None:
    for arguments in (("--wait", "training"), ("training", "--wait", "60")):
        done = here.run("trigger", *arguments)
        assert done.returncode == 0, done.stderr
        assert ("Complete in " in done.stdout, "attempt 1" in done.stderr) == (True, True)
    bad, good = fail(here), here.json("trigger", "training", "--wait")
    row = status_of(here, "training")
    assert re.search(r"Complete .*earlier error \d+ s ago: .*training\.json", row), "it is no present one"
    shown = on_a_terminal(here, "runs", "training", "--limit", "2", NO_COLOR="", COLUMNS="80").splitlines()
    assert all(any(line.startswith(run["id"]) for line in shown) for run in (bad, good)), "what `runs ID` takes"
    assert any("\x1b" in line for line in shown), "in colours"
    assert max(len(click.unstyle(line)) for line in shown) <= 80, shown
    assert bad["errors"][0] in " ".join(" ".join(shown).split()), "a narrow terminal cuts off no error"
    refused = here.run("trigger", "training", environ={"INFRA_HEALTH_TOKEN": None})
    assert (refused.returncode, "bearer token" in refused.stderr) == (1, True)


def test_trigger_waits_for_a_run_that_is_active_already_and_cancel_ends_one(here: Place, daemon: Daemon) -> None:
    gate = here.folder / "gate"
    gate.unlink()
    active = here.json("trigger", "slow")["id"]
    refused = here.run("trigger", "slow")
    assert (refused.returncode, "active" in refused.stderr or "running" in refused.stderr) == (1, True)
    late = here.json("trigger", "slow", "--wait", "0", code=1)
    assert (late["id"], late["ended"]) == (active, None)
    with here.started("trigger", "slow", "--wait") as (waiting, said):
        wait_for(lambda: f"{active}: is active already" in said.read_text())
        gate.touch()
        assert waiting.wait(timeout=60) == 0
        assert f"{active}: Complete in " in said.read_text()
    done = here.run("cancel", active)
    assert (done.returncode, "ended" in done.stderr) == (1, True), "what has ended can't be cancelled"
    gate.unlink()
    refused = here.run("trigger", "slow", "--wait", "abc")
    assert (refused.returncode, "no collector 'abc'. Known: ci" in refused.stderr) == (1, True), refused.stderr
    active = here.json("trigger", "slow")["id"]
    assert here.run("pause", "slow").stdout.startswith("slow: running, paused, ")
    here.run("resume", "slow")
    assert here.run("cancel", active).returncode == 0
    wait_for(lambda: here.json("runs", active)["outcome"] == "Cancelled")
    gate.touch()
    assert re.search(r"Cancelled .*run cancelled \d+ s ago", status_of(here, "slow")), "nothing failed"


def test_several_collectors_are_triggered_paused_and_resumed_at_once(here: Place, daemon: Daemon) -> None:
    runs = here.json("trigger", "ci", "training", "--wait")
    assert [(run["collector"], run["outcome"]) for run in runs] == [("ci", "Complete"), ("training", "Complete")]
    assert {run["collector"] for run in here.json("trigger", "--all", "--wait")} == {"ci", "training", "slow"}
    assert [each["paused"] for each in here.json("pause", "--all", "--reason", "maintenance")] == [True] * 3
    assert here.run("resume", "ci", "training", "slow").stdout.count(": waiting, next run: ") == 3
    some = here.run("pause", "nope", "training", "--reason", "maintenance", environ={"USER": "sre"})
    assert (some.returncode, "training: paused" in some.stdout) == (1, True)
    assert re.search("nope: .* Known: ci, training", some.stderr)
    assert re.search(r"^training +paused .*paused by sre \d+ s ago: maintenance", status_of(here, "training"))
    again = here.run("pause", "training", "--reason", "a deploy").stdout
    assert re.search(r"^training: paused, .*; was paused by sre \d+ s ago: maintenance$", again, re.MULTILINE)
    assert here.json("resume", "training")["paused"] is False


def test_status_tells_checks_delivery_quota_and_collectors_and_probes(here: Place, daemon: Daemon) -> None:
    said = here.run("status").stdout
    for told in (
        r"checks: \d+ pass, [1-9]\d* FAIL, \d+ unknown; `infra-health explain` tells why$",
        r"delivery: ok, \d+ points pending, last accepted ",
        r"GitHub's quota, core: [\d,]+ of [\d,]+ left until ",
        r"infra-health \S+, env production, mode live, up since ",
    ):
        assert re.search(f"^{told}", said, re.MULTILINE)
    whole = here.json("status", environ={"INFRA_HEALTH_TOKEN": None})
    assert (len(whole["collectors"]), whole["ready"]["status"]) == (3, "ok")
    assert whole["checks"]["failing"] == here.run("explain").stdout.count("FAIL ")
    closed = here.run("status", environ={"INFRA_HEALTH_TOKEN": None, "INFRA_HEALTH_READ_TOKEN": None})
    assert (closed.returncode, "INFRA_HEALTH_READ_TOKEN" in closed.stderr) == (1, True)
    (here.folder / "gate.broken").touch()
    run = here.json("trigger", "slow")["id"]
    wait_for(lambda: re.search(r"^slow +retrying \(attempt \d of 4\) .*/bin/sh .*9", status_of(here, "slow")))
    (here.folder / "gate.broken").unlink()
    assert here.run("cancel", run).returncode == 0


def test_the_daemon_is_where_its_configuration_says(here: Place, daemon: Daemon) -> None:
    """Also where something else in the file is wrong."""
    file, port = here.folder / "other.yaml", daemon.http.base_url.port

    def probe(http: str, **environ: str) -> tuple[int, str]:
        file.write_text(f"http: {http}\nkind: of wrong\n")
        alone = {"INFRA_HEALTH_URL": None, "INFRA_HEALTH_READ_TOKEN": None, **environ}
        done = here.run("status", "--probe", "--config", str(file), environ=alone)
        return done.returncode, done.stderr

    for http in (f"{{port: {port}}}", f'{{host: "*", port: {port}}}', f"{{host: localhost, port: {port}}}"):
        assert probe(http)[0] == 0
    assert probe("{port: 9}", INFRA_HEALTH_HTTP__PORT=str(port))[0] == 0
    assert probe("{port: 9}", INFRA_HEALTH_URL=str(daemon.http.base_url))[0] == 0
    code, text = probe('{host: "::", port: 9}')
    assert (code, "no infra-health daemon answers at http://[::1]:9: " in text) == (1, True)

    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"status": "ok"})(scope, receive, send)

    with serve(other) as (url,):
        for command in ("status", "logs"):
            done = here.run(command, "--url", url)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert done.stderr.startswith(f"no infra-health daemon answers at {url}: what answers there "), command


def test_what_is_watched_goes_on_until_ctrl_c_ends_it(here: Place, daemon: Daemon) -> None:
    for command, text in (("status --watch", "checks: "), ("logs -f", "run started")):
        with here.started(*command.split()) as (watching, output):
            wait_for(lambda: text in output.read_text())  # noqa: B023 - called at once
            here.run("trigger", "training")
            wait_for(lambda: output.read_text().count(text) > 1)  # noqa: B023 - called at once
            watching.send_signal(signal.SIGINT)
            assert (watching.wait(timeout=30), "Abort" in output.read_text()) == (0, False)


def test_preview_tells_what_differs_and_sends_and_keeps_nothing(here: Place, daemon: Daemon) -> None:
    daemon.wait_until_quiet()
    # Those of training alone: the daemon's own slots and heartbeats go on meanwhile.
    runs = daemon.get("/api/v1/runs?collector=training")["runs"]
    here.write_snapshot([SNAPSHOT | {"value": 0.3, "status": "fail"}])
    said = here.run("preview", "training").stdout
    (preview,) = here.json("preview", "training")
    here.write_snapshot(RECORDS)
    assert "pass -> fail" in said
    changes = {
        (line["metric"], line["tags"].get("check")): (line["change"], line["value_before"], line["value"])
        for line in preview["differences"]
    }
    assert changes["metta.infra.stablesuite.hearts", "reward_threshold"] == ("changed", 0.92, 0.3)
    assert changes["metta.infra.check.state", "reward_threshold"] == ("changed", 0, 1)
    assert changes["metta.infra.stablesuite.sps", "sps"] == ("gone", 0.1, None)
    assert daemon.get("/api/v1/runs?collector=training")["runs"] == runs
    assert 0.3 not in [point.value for point in here.intake.points]


def test_diagnose_has_a_line_for_each_and_a_remedy_for_what_is_wrong(here: Place, daemon: Daemon) -> None:
    (here.folder / "a-file").write_text("")
    with moto() as address, httpx.Client(base_url=f"{address}/health", verify=False, trust_env=False) as bucket:
        aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        aws |= {"AWS_ENDPOINT_URL": address, "INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE": "s3://health/training/"}
        bucket.put("").raise_for_status()
        wrong = {"DD_API_KEY": "not-the-right-key", "GITHUB_API_URL": "http://127.0.0.1:9"}
        wrong |= {"INFRA_HEALTH_STATE_DIR": str(here.folder / "a-file" / "state")}
        (here.folder / "gate.broken").touch()
        bad = here.run("diagnose", environ=aws | wrong)
        (here.folder / "gate.broken").unlink()
        keyless = here.run("diagnose", environ={"DD_API_KEY": None, "DD_API_KEY_FILE": "/nope"})
        bucket.put("/training/1.json", content=(here.folder / "training.json").read_bytes()).raise_for_status()
        good = here.run("diagnose", environ=aws)
    names = ("GitHub", "webhook secret", "Datadog", "AWS", "clock", "collector training", "collector slow", "state dir")
    assert good.returncode == 0, good.stdout
    assert all(line.startswith(name) for name, line in zip(names, good.stdout.splitlines(), strict=True))
    assert f"process {daemon.process.pid}" in good.stdout
    assert (bad.returncode, "not-the-right-key" in bad.stdout) == (1, False)
    github, _, datadog, _, _, s3, program, state = bad.stdout.splitlines()
    assert "Remedy: check github.api_url" in github
    assert "Remedy: set DD_API_KEY" in datadog
    assert "s3://health/training/: no snapshot is there; publish a snapshot" in s3
    assert "Remedy: set state_dir" in state
    assert program.endswith("exit code 9. Remedy: does it work by hand?"), "no matter of the network"
    assert "Datadog API key: file /nope (DD_API_KEY_FILE): No such file or directory. Remedy: " in keyless.stdout


def test_check_tells_all_and_no_secret(here: Place) -> None:
    assert [each["name"] for each in here.json("list-workflows")] == ["Stencil Nightly Build"]
    done = here.run("check", "--resolved")
    assert done.returncode == 0, done.stderr
    for told in ("The configuration is valid", "series: ", "ionic-team/ionic-framework", "DD_API_KEY (can't change"):
        assert told in done.stdout
    assert not [secret for secret in (KEY, TOKEN, WRITE, READ) if secret in done.stdout + done.stderr]
    assert "as long as an application key" in here.run("check", environ={"DD_API_KEY": "0123456789" * 4}).stdout


def test_a_flare_holds_what_helps_and_no_secret_with_and_without_a_daemon(here: Place, daemon: Daemon) -> None:
    def flare(name: str, *options: str, **environ: str) -> tuple[dict[str, str], str]:
        done = here.run("flare", name, *options, environ=environ)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE((here.folder / name).stat().st_mode) == 0o600
        with zipfile.ZipFile(here.folder / name) as archive:
            contents = {name.partition("/")[2]: archive.read(name).decode() for name in archive.namelist()}
        return contents, done.stdout + done.stderr

    (foreign := here.folder / "foreign").write_text("kept")
    (here.folder / ".alone.zip.part").symlink_to(foreign)  # of somebody else in a common directory
    contents, said = flare("alone.zip", "--url", "http://127.0.0.1:9")
    assert "no infra-health daemon answers" in said
    assert foreign.read_text() == "kept"
    parts = {"settings.json", "versions.json", "state.json", "runs.json", "run_logs.json", "diagnose.json"}
    assert parts <= contents.keys()
    contents, said = flare(
        "bundle.zip",
        AWS_SECRET_ACCESS_KEY="aws-secret-of-somebody",
        HTTPS_PROXY="http://user:pa55word-of-the-proxy@proxy.example:1",
        NO_PROXY="127.0.0.1",
        INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE="https://u:pa55word-of-the-source@h.example/x?sig=presigned-secret",
    )
    assert parts | {"daemon/log.json", "daemon/readyz.json"} <= contents.keys()
    assert "dashboard-collector" in contents["settings.json"]
    assert "run started" in contents["run_logs.json"]
    assert "infra_health_runs_total" in contents["daemon/metrics.txt"]
    secrets = (KEY, TOKEN, WRITE, READ, "aws-secret-of-somebody", "pa55word", "presigned-secret")
    assert [secret for secret in secrets if secret in "".join(contents.values()) + said] == []


def test_completion_offers_commands_and_the_collectors_of_the_daemon_or_the_file(here: Place, daemon: Daemon) -> None:
    assert "_INFRA_HEALTH_COMPLETE" in here.run("completion", "bash").stdout
    environ = {"_INFRA_HEALTH_COMPLETE": "fish_complete", "COMP_WORDS": "infra-health collect ", "COMP_CWORD": "tr"}
    assert "training" in here.run(environ=environ).stdout
    environ = {"_INFRA_HEALTH_COMPLETE": "bash_complete", "COMP_WORDS": "infra-health trigger tr", "COMP_CWORD": "2"}
    assert here.run(environ=environ | {"INFRA_HEALTH_CONFIG": "none.yaml"}).stdout == "plain,training\n"


def test_a_schedule_shows_local_and_utc_time_and_what_daylight_saving_repeats_and_skips(here: Place) -> None:
    """It needs no configuration."""

    def schedule(expression: str, at: str, *options: str) -> str:
        zone = ("--time-zone", "America/New_York", "--at", at, "--count", "2")
        return here.run("schedule", expression, *zone, *options, environ={"INFRA_HEALTH_CONFIG": "none.yaml"}).stdout

    told = schedule("30 1 * * *", "2025-11-01T12:00")
    assert "2025-11-02T01:30:00-04:00  2025-11-02T05:30:00Z  the clock shows this time twice: first time" in told
    (answer,) = json.loads(schedule("30 1 * * *", "2025-11-01T12:00", "--json"))
    assert [(fire["utc"][11:], fire["repeated"]) for fire in answer["fires"]] == [("05:30:00Z", 1), ("06:30:00Z", 2)]
    (answer,) = json.loads(schedule("*/30 2 * * *", "2025-03-08T12:00", "--json"))
    fire = answer["fires"][0]
    assert (fire["utc"], fire["skipped"]) == ("2025-03-10T06:00:00Z", ["2025-03-09T02:00:00", "2025-03-09T02:30:00"])


def test_a_backup_is_a_whole_store_by_which_a_schedule_marks_runs_that_usually_last_longer(
    here: Place, daemon: Daemon
) -> None:
    (state := here.folder / "restored").mkdir()
    environ = {"INFRA_HEALTH_STATE_DIR": str(state)}
    assert "nothing to back up" in here.run("backup", "copy.db", environ=environ).stderr
    told = here.run("backup", str(state / "no" / "copy.db"))
    assert (told.returncode, "can't be written" in told.stderr or "can't be used" in told.stderr) == (78, True)
    told = here.run("backup", str(state / "state.db"))
    assert told.returncode == 0, told.stderr
    assert here.run("backup", str(state / "state.db")).returncode == 0, "an earlier copy is replaced"
    with sqlite3.connect(state / "state.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() > (0,)
        connection.execute("UPDATE runs SET ended = started + 2 * 3600 * 1000000")
    (answer,) = here.json("schedule", "training", "--count", "2", environ=environ)
    assert answer["usual_seconds"] == 7200
    first, second = answer["fires"]
    assert (first["overlaps"], second["overlaps"]) == (False, True)
    assert second["notes"] == ["the run before usually lasts longer: it waits for that run's end (Forbid)"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stats", "Did you mean 'status'?"),
        ("--dry-run", "go with --once"),
        ("--once --only ''", "--only names no collector"),  # what a script's empty variable makes of it
        ("--once --only traning", "configured are: ci, training"),
        ("runs --since yesterday", "--since"),
        ("status --exit-code --watch", "exclude each other"),
        ("schedule '7 7 7 7 8'", "8 is not within 0 to 6"),
        ("collect traning", "did you mean training?; configured are: ci, training, slow"),
    ],
)
def test_wrong_command_lines_are_a_matter_of_usage(here: Place, line: str, told: str) -> None:
    done = here.run(*shlex.split(line))
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("line", "code", "out", "told"),
    [
        ("{} >&-", 0, "", ""),
        ("{} 2>&- <&- | head -1", 0, "{\n", ""),
        ("{} > /dev/full", 1, "", "stdout can't be written: No space left on device\n"),
        ("SSLKEYLOGFILE=/nonexistent/keys {}", 78, "", "environment SSLKEYLOGFILE: .*; unset it\n"),
    ],
)
def test_odd_streams_and_variables_of_libraries_end_in_no_traceback(
    here: Place, line: str, code: int, out: str, told: str
) -> None:
    """A reader that goes early or was never there is no error."""
    command = line.format(f"{sys.executable} -m service check --json")
    environ = here.whole_environ()
    done = subprocess.run(["sh", "-c", command], cwd=here.folder, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, bool(re.fullmatch(told, done.stderr))) == (code, out, True), done.stderr
