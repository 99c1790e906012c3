"""The commands that an operator types beside a daemon: each against the whole program."""

import json
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.demo.stage import serve
from tests.acceptance.forked import Forked
from tests.acceptance.program import KEY, SNAPSHOT, TOKEN, Daemon, Place, place, wait_for
from tests.aws import moto

WRITE, READ = "t0ken-of-the-operators", "t0ken-of-the-readers"

# Module-wide: one daemon serves them all.
pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("commands")) as it:
        behind = {"url": "https://ci.example/42", "commit": "3f9a2c", "owner": "@ml"}
        slow = {"metric": "sps", "check": "sps", "value": 0.1, "status": "fail", "message": "2 of 8 ranks are slow"}
        it.write_snapshot([SNAPSHOT, SNAPSHOT | slow | behind])
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
    content = (here.folder / "training.json").read_text()
    here.write_snapshot("[]")
    run: dict[str, Any] = here.json("trigger", "training", "--wait", code=1)
    here.write_snapshot(content)
    return run


def test_explain_says_what_is_red_and_why(here: Place, daemon: Daemon) -> None:
    said = here.run("explain").stdout
    assert "FAIL    2 of 8 ranks are slow" in said
    assert "check     metta.infra.stablesuite.sps (" in said
    assert "0.1 is not > 0.5, fail since " in said
    assert "verdict   as its condition says" in said
    assert "next run" in said
    assert "stablesuite.hearts" not in said
    assert re.search(r"evidence  first red: failure Stencil Nightly Build merge .* commit 9be6a91 20.* https:", said)
    (check,) = here.json("explain", "metta.infra.stablesuite.sps")
    assert (check["status"], check["value"], check["condition"]) == ("fail", 0.1, "> 0.5")
    assert re.search(r"evidence  arena commit 3f9a2c by @ml .* https://ci.example/42", said)
    (evidence,) = check["evidence"]
    assert [evidence[name] for name in ("title", "url", "commit", "author")] == [
        *("arena", "https://ci.example/42", "3f9a2c", "@ml")
    ]
    unknown = here.run("explain", "heart")
    assert (unknown.returncode, "metta.infra.stablesuite.hearts" in unknown.stderr) == (1, True)


def test_runs_and_logs_show_a_run_with_its_samples_and_lines(here: Place, daemon: Daemon) -> None:
    run = here.json("runs", "--collector", "training")[-1]["id"]
    assert run in here.run("runs").stdout
    said = here.run("runs", run).stdout
    assert "metta.infra.stablesuite.hearts" in said
    assert "delivered" in said
    assert [line["message"] for line in here.json("logs", run)] == ["run started", "run ended"]
    assert f"run={run}" in here.run("logs").stdout
    assert here.run("runs", "nope").returncode == 1
    assert {each["collector"] for each in here.json("runs", "training")} == {"training"}, "as the runbook has it"


def test_trigger_waits_with_and_without_a_number_and_ends_as_the_run(here: Place, daemon: Daemon) -> None:
    for arguments in (("--wait", "training"), ("training", "--wait", "60")):
        done = here.run("trigger", *arguments)
        assert done.returncode == 0, done.stderr
        assert "Complete in " in done.stdout
        assert "attempt 1" in done.stderr
    bad, good = fail(here), here.json("trigger", "training", "--wait")
    (row,) = (line for line in here.run("status").stdout.splitlines() if line.startswith("training"))
    assert re.search(r"Complete .* ago: .*training\.json", row), "nobody must take an old error for a present one"
    shown = on_a_terminal(here, "runs", "training", "--limit", "2", NO_COLOR="", COLUMNS="80").splitlines()
    assert all(any(line.startswith(run["id"]) for line in shown) for run in (bad, good)), "what `runs ID` takes"
    assert max(len(click.unstyle(line)) for line in shown) <= 80, shown
    assert bad["errors"][0] in " ".join(" ".join(shown).split()), "a narrow terminal cuts off no error"
    refused = here.run("trigger", "training", environ={"INFRA_HEALTH_TOKEN": None})
    assert (refused.returncode, "bearer token" in refused.stderr) == (1, True)


def test_status_tells_checks_delivery_quota_and_collectors_and_probes(here: Place, daemon: Daemon) -> None:
    first, *summary = here.run("status").stdout.splitlines()
    assert re.fullmatch(r"checks: \d+ pass, [1-9]\d* FAIL, \d+ unknown; `infra-health explain` tells why", first)
    gap = summary.index("")
    head, *rows = summary[gap + 1 :]
    assert head.split("  ")[0] == "collector"
    starts = head.index("state")
    assert all(row[starts - 1] == " " and row[starts] != " " for row in rows), "plain columns in a pipe"
    assert re.search(r"^delivery: ok, \d+ points pending, last accepted ", "\n".join(summary), re.MULTILINE)
    assert re.search(r"^GitHub's quota, core: [\d,]+ of [\d,]+ left until ", "\n".join(summary), re.MULTILINE)
    assert re.search(r"^infra-health \S+, env production, mode live, up since ", "\n".join(summary), re.MULTILINE)
    whole = here.json("status", environ={"INFRA_HEALTH_TOKEN": None})
    assert (len(whole["collectors"]), whole["ready"]["status"]) == (3, "ok")
    assert whole["checks"]["failing"] == here.run("explain").stdout.count("FAIL ")
    closed = here.run("status", environ={"INFRA_HEALTH_TOKEN": None, "INFRA_HEALTH_READ_TOKEN": None})
    assert (closed.returncode, "INFRA_HEALTH_READ_TOKEN" in closed.stderr) == (1, True)
    assert here.run("status", "--probe", environ={"INFRA_HEALTH_READ_TOKEN": None}).returncode == 0
    away = here.run("status", "--url", "http://127.0.0.1:9")
    assert (away.returncode, "no infra-health daemon answers" in away.stderr) == (1, True)


def test_the_daemon_is_where_its_configuration_says(here: Place, daemon: Daemon) -> None:
    """Also where something else in the file is wrong."""
    file, port = here.folder / "other.yaml", daemon.http.base_url.port

    def probe(http: str, *options: str, **environ: str) -> tuple[int, str]:
        file.write_text(f"http: {http}\nkind: of wrong\n")
        done = here.run("status", "--probe", *options, environ={"INFRA_HEALTH_URL": None, **environ})
        return done.returncode, done.stderr

    named = ("--config", str(file))
    for host in ("", 'host: "*", ', "host: 0.0.0.0, ", "host: localhost, "):
        assert probe(f"{{{host}port: {port}}}", *named)[0] == 0
    assert probe(f"{{port: {port}}}", INFRA_HEALTH_CONFIG=str(file))[0] == 0
    assert probe("{port: 9}", *named, INFRA_HEALTH_HTTP__PORT=str(port))[0] == 0
    assert probe("{port: 9}", *named, INFRA_HEALTH_URL=str(daemon.http.base_url))[0] == 0
    for http, address in (("{port: 9}", "127.0.0.1:9"), ('{host: "::", port: 9}', "[::1]:9")):
        code, told = probe(http, *named)
        assert (code, f"no infra-health daemon answers at http://{address}: " in told) == (1, True)
    assert probe("{port: 9}", "--config", "absent.yaml")[0] == 78


def status_of(here: Place, name: str) -> str:
    return next(line for line in here.run("status").stdout.splitlines() if line.startswith(name))


def test_status_tells_who_paused_why_and_what_is_being_retried(here: Place, daemon: Daemon) -> None:
    assert here.run("pause", "training", "--reason", "maintenance", environ={"USER": "sre"}).returncode == 0
    assert re.search(r"^training +paused .*paused by sre \d+ s ago: maintenance", status_of(here, "training"))
    assert here.run("resume", "training").returncode == 0
    broken = here.folder / "gate.broken"
    broken.touch()
    run = here.json("trigger", "slow")["id"]
    retrying = re.compile(r"^slow +retrying \(attempt \d of 4\) .*/bin/sh .*9")
    wait_for(lambda: retrying.search(here.run("status").stdout.partition("collector ")[2].splitlines()[1]))
    broken.unlink()
    assert here.run("cancel", run).returncode == 0


def test_exit_codes_tell_a_script_that_a_check_fails(here: Place, daemon: Daemon) -> None:
    for arguments, code in ((("status",), 1), (("explain",), 1), (("explain", "hearts"), 0), (("explain", "sps"), 1)):
        assert here.run(*arguments, "--exit-code").returncode == code, arguments
        assert here.run(*arguments).returncode == 0, arguments
    assert here.run("status", "--exit-code", "--watch").returncode == 2


@pytest.mark.parametrize(
    ("command", "told"), [("status --watch", "checks: "), ("runs -n 1 --watch", "run  "), ("logs -f", "run started")]
)
def test_what_is_watched_goes_on_until_ctrl_c_ends_it(here: Place, daemon: Daemon, command: str, told: str) -> None:
    with here.start(*command.split()) as (watching, stdout, stderr):
        shown = ""
        while shown.count(told) < 2 and (line := stdout.readline()):
            shown += line
            if command == "logs -f" and shown.count(told) == 1:
                here.run("trigger", "training")
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(timeout=30), stderr.read()) == (0, "")


def test_runs_are_found_by_outcome_and_age_and_logs_by_collector_or_run(here: Place, daemon: Daemon) -> None:
    good = here.json("trigger", "training", "--wait")["id"]
    bad = fail(here)["id"]
    here.json("trigger", "training", "--wait")
    found = [run["id"] for run in here.json("runs", "--outcome", "failed", "--since", "2h")]
    assert (bad in found, good in found) == (True, False)
    assert here.json("runs", "training", "--since", "0s") == []
    assert {line["fields"]["collector"] for line in here.json("logs", "training")} == {"training"}
    # Of a run that has ended nothing new comes.
    lines = [json.loads(line) for line in here.run("logs", bad, "-f", "--json").stdout.splitlines()]
    assert [line["message"] for line in lines] == ["run started", "run failed"]
    for arguments in (("--outcome", "Good"), ("--since", "yesterday")):
        assert here.run("runs", *arguments).returncode == 2, arguments


def test_several_collectors_are_triggered_paused_and_resumed_at_once(here: Place, daemon: Daemon) -> None:
    runs = here.json("trigger", "ci", "training", "--wait")
    assert [(run["collector"], run["outcome"]) for run in runs] == [("ci", "Complete"), ("training", "Complete")]
    assert {run["collector"] for run in here.json("trigger", "--all", "--wait")} == {"ci", "training", "slow"}
    assert [each["paused"] for each in here.json("pause", "--all", "--reason", "maintenance")] == [True] * 3
    assert here.run("resume", "ci", "training", "slow").stdout.count(": waiting, next run: ") == 3
    some = here.run("pause", "nope", "training")
    assert (some.returncode, "nope: " in some.stderr, "training: paused" in some.stdout) == (1, True, True)
    assert here.json("resume", "training")["paused"] is False
    for arguments in ((), ("ci", "--all")):
        assert here.run("trigger", *arguments).returncode == 2, arguments


def test_trigger_waits_for_a_run_that_is_active_already_and_cancel_ends_one(here: Place, daemon: Daemon) -> None:
    gate = here.folder / "gate"
    gate.unlink()
    active = here.json("trigger", "slow")
    refused = here.run("trigger", "slow")
    assert (refused.returncode, "active" in refused.stderr or "running" in refused.stderr) == (1, True)
    late = here.json("trigger", "slow", "--wait", "0", code=1)
    assert (late["id"], late["ended"]) == (active["id"], None)
    with here.start("trigger", "slow", "--wait") as (waiting, stdout, stderr):
        assert f"{active['id']}: is active already" in stderr.readline()
        gate.touch()
        assert waiting.wait(timeout=60) == 0
        assert f"{active['id']}: Complete in " in stdout.read()
    done = here.run("cancel", active["id"])
    assert (done.returncode, "ended" in done.stderr) == (1, True), "what has ended can't be cancelled"
    gate.unlink()
    active = here.json("trigger", "slow")
    assert here.run("cancel", active["id"]).returncode == 0
    wait_for(lambda: here.json("runs", active["id"])["outcome"] == "Cancelled")
    gate.touch()


def test_preview_tells_what_differs_and_sends_and_keeps_nothing(here: Place, daemon: Daemon) -> None:
    daemon.wait_until_quiet()
    # Those of training alone: the daemon's own slots and heartbeats go on meanwhile.
    runs = daemon.get("/api/v1/runs?collector=training")["runs"]
    content = (here.folder / "training.json").read_text()
    here.write_snapshot([SNAPSHOT | {"value": 0.3, "status": "fail"}])
    try:
        done = here.run("preview", "training")
        assert done.returncode == 0, done.stderr
        assert "pass -> fail" in done.stdout
        (preview,) = here.json("preview", "training")
    finally:
        here.write_snapshot(content)
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
    with moto() as address:
        aws: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        aws |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": address}
        aws |= {"INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE": "s3://health/training/"}
        httpx.put(f"{address}/health", verify=False, trust_env=False).raise_for_status()
        wrong = {"DD_API_KEY": "not-the-right-key", "GITHUB_API_URL": "http://127.0.0.1:9"}
        wrong |= {"INFRA_HEALTH_STATE_DIR": str(here.folder / "a-file" / "state")}
        bad = here.run("diagnose", environ=aws | wrong)
        record = (here.folder / "training.json").read_bytes()
        httpx.put(f"{address}/health/training/1.json", content=record, verify=False, trust_env=False).raise_for_status()
        good = here.run("diagnose", environ=aws)
    names = ("GitHub", "webhook secret", "Datadog", "AWS", "clock", "collector training", "collector slow", "state dir")
    assert good.returncode == 0, good.stdout
    assert all(line.startswith(name) for name, line in zip(names, good.stdout.splitlines(), strict=True))
    assert f"process {daemon.process.pid}" in good.stdout
    assert bad.returncode == 1
    github, _, datadog, _, _, s3, _, state = bad.stdout.splitlines()
    assert "Remedy: check github.api_url" in github
    assert "Remedy: set DD_API_KEY" in datadog
    assert "s3://health/training/: no snapshot is there; publish a snapshot" in s3
    assert "Remedy: set state_dir" in state
    assert "not-the-right-key" not in bad.stdout


def test_what_libraries_can_not_use_of_the_environment_is_named(here: Place) -> None:
    for command, name, value, program in (
        ("check", "SSLKEYLOGFILE", "/nonexistent/keys", "infra-health"),
        ("diagnose", "SSL_CERT_FILE", "/nonexistent/ca.pem", ""),
        ("--once --dry-run", "ALL_PROXY", "ftp://x:1", ""),
    ):
        done = here.run(*command.split(), environ={name: value}, program=program)
        assert (done.returncode, name in done.stderr, "Traceback" in done.stderr) == (78, True, False), done.stderr


def on_a_terminal(here: Place, *arguments: str, **environ: str) -> str:
    """What a command writes where both its streams are a terminal."""
    ours, its = pty.openpty()
    environ = os.environ | here.environ | {"TERM": "xterm-256color"} | environ
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = Forked(arguments, here.folder, environ, its, its)
        os.close(its)
        shown = b""
        with suppress(OSError):  # Linux says so when the last writer is gone
            while part := screen.read(65536):
                shown += part
        assert process.wait(timeout=60) == 0
    return shown.decode()


def test_a_terminal_has_colours_but_for_who_wants_none(here: Place, daemon: Daemon) -> None:
    assert "\x1b" in on_a_terminal(here, "explain", NO_COLOR="")
    assert "\x1b" not in on_a_terminal(here, "collect", "training", NO_COLOR="1")


def test_an_address_where_something_else_answers_is_named(here: Place) -> None:
    async def other(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    with serve(Starlette(routes=[Route("/{path:path}", other)])) as (url,):
        for command in ("status", "explain", "runs", "logs"):
            done = here.run(command, "--url", url)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert done.stderr.startswith(f"no infra-health daemon answers at {url}: what answers there "), command
    assert "--url" in here.run("status", "--url", "localhost").stderr


def test_list_workflows_prints_what_the_lists_take(here: Place) -> None:
    assert [each["name"] for each in here.json("list-workflows")] == ["Stencil Nightly Build"]
    done = here.run("list-workflows", "--repo", "phishbench")
    assert (done.returncode, "must be OWNER/NAME" in done.stderr) == (2, True)


def test_check_tells_all_and_no_secret(here: Place) -> None:
    done = here.run("check", "--resolved")
    assert done.returncode == 0, done.stderr
    for told in ("The configuration is valid", "series: ", "ionic-team/ionic-framework", "DD_API_KEY (can't change"):
        assert told in done.stdout
    assert not [secret for secret in (KEY, TOKEN, WRITE, READ) if secret in done.stdout + done.stderr]
    assert "as long as an application key" in here.run("check", environ={"DD_API_KEY": "0123456789" * 4}).stdout


def test_a_flare_holds_what_helps_and_no_secret(here: Place, daemon: Daemon) -> None:
    extra = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret-of-somebody",
        "HTTPS_PROXY": "http://user:pa55word-of-the-proxy@proxy.example:1",
        "NO_PROXY": "127.0.0.1",
        "INFRA_HEALTH_COLLECTORS__TRAINING__SOURCE": "https://u:pa55word-of-the-source@h.example/x?sig=presigned-secret",
    }
    done = here.run("flare", "bundle.zip", environ=extra)
    assert done.returncode == 0, done.stderr
    path = here.folder / "bundle.zip"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    contents = unpack(path)
    wanted = {"settings.json", "versions.json", "state.json", "runs.json", "run_logs.json", "diagnose.json"}
    assert wanted | {"daemon/log.json", "daemon/readyz.json", "daemon/metrics.txt"} <= contents.keys()
    assert "dashboard-collector" in contents["settings.json"]
    assert "run started" in contents["run_logs.json"]
    assert "infra_health_runs_total" in contents["daemon/metrics.txt"]
    secrets = [KEY, TOKEN, WRITE, READ, extra["AWS_SECRET_ACCESS_KEY"], "pa55word", "presigned-secret"]
    everything = "".join(contents.values()) + done.stdout + done.stderr
    assert [secret for secret in secrets if secret in everything] == []


def test_a_flare_needs_no_daemon(here: Place) -> None:
    (foreign := here.folder / "foreign").write_text("kept")
    (here.folder / ".alone.zip.part").symlink_to(foreign)  # of somebody else in a common directory
    done = here.run("flare", "alone.zip", "--url", "http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "no infra-health daemon answers" in done.stderr
    assert "settings.json" in unpack(here.folder / "alone.zip")
    assert foreign.read_text() == "kept"
    assert here.ask("flare", "bundle.rar").exit_code == 2


def unpack(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name).decode() for name in archive.namelist()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_knows_commands_and_collectors(here: Place, shell: str) -> None:
    assert "_INFRA_HEALTH_COMPLETE" in here.ask("completion", shell).stdout
    words: dict[str, str | None] = {"COMP_WORDS": "infra-health collect tr", "COMP_CWORD": "2"}
    if shell == "fish":
        words = {"COMP_WORDS": "infra-health collect ", "COMP_CWORD": "tr"}
    words |= {"_INFRA_HEALTH_COMPLETE": f"{shell}_complete", "INFRA_HEALTH_CONFIG": str(here.folder / "config.yaml")}
    assert "training" in here.ask(environ=words, prog_name="infra-health").stdout


def test_completion_offers_the_names_of_the_running_daemon(here: Place, daemon: Daemon, tmp_path: Path) -> None:
    words: dict[str, str | None] = {"_INFRA_HEALTH_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    words |= {"COMP_WORDS": "infra-health trigger tr", "INFRA_HEALTH_CONFIG": str(tmp_path / "none.yaml")}
    assert here.run(environ=words, program="infra-health").stdout == "plain,training\n"


def test_an_expression_shows_local_and_utc_time_and_what_daylight_saving_repeats(here: Place, tmp_path: Path) -> None:
    """It needs no configuration."""
    zone = ("--time-zone", "America/New_York")
    expression = ["schedule", "30 1 * * *", *zone, "--at", "2025-11-01T12:00", "--count", "2"]
    told = here.ask(*expression, environ={"INFRA_HEALTH_CONFIG": str(tmp_path / "none.yaml")}).stdout
    assert "2025-11-02T01:30:00-04:00  2025-11-02T05:30:00Z  the clock shows this time twice: first time" in told
    assert told.splitlines()[1].split() == ["local", "UTC", "note"], "columns that a pipe can name"
    (answer,) = json.loads(here.ask(*expression, "--json").stdout)
    assert [(fire["utc"], fire["repeated"]) for fire in answer["fires"]] == [
        ("2025-11-02T05:30:00Z", 1),
        ("2025-11-02T06:30:00Z", 2),
    ]


def test_what_daylight_saving_skips_is_named_with_the_fire_after_it(here: Place) -> None:
    expression = ["schedule", "*/30 2 * * *", "--time-zone", "America/New_York", "--at", "2025-03-08T12:00", "--json"]
    (answer,) = json.loads(here.ask(*expression, "--count", "1").stdout)
    (fire,) = answer["fires"]
    assert (fire["utc"], fire["skipped"]) == ("2025-03-10T06:00:00Z", ["2025-03-09T02:00:00", "2025-03-09T02:30:00"])


def test_a_backup_is_a_whole_store_and_a_schedule_marks_runs_that_usually_last_longer(
    here: Place, daemon: Daemon
) -> None:
    state = here.folder / "restored"
    state.mkdir()
    environ: dict[str, str | None] = {"INFRA_HEALTH_STATE_DIR": str(state)}
    assert "nothing to back up" in here.run("backup", "copy.db", environ=environ).stderr
    told = here.run("backup", str(state / "no" / "copy.db"))
    assert (told.returncode, "can't be written" in told.stderr or "can't be used" in told.stderr) == (78, True)
    told = here.run("backup", str(state / "state.db"))
    assert told.returncode == 0, told.stderr
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
    ("arguments", "told"),
    [
        (("stats",), "Did you mean 'status'?"),
        (("collect",), "Missing argument"),
        (("--dry-run",), "go with --once"),
        (("--once", "list"), "without a command"),
        (("runs", "-n", "0"), "not in the range"),
        (("trigger",), "--all"),
        (("schedule", "7 7 7 7 8"), "8 is not within 0 to 6"),
        (("schedule", "* * * * *", "--time-zone", "Europe/Berlim"), "did you mean Europe/Berlin?"),
        (("schedule", "* * * * *", "--at", "tomorrow"), "is no time"),
        (("collect", "traning"), "did you mean training?; configured are: ci, training, slow"),
        (("schedule", "traning"), "no collector is called traning; did you mean training?"),
    ],
)
def test_wrong_command_lines_are_a_matter_of_usage(here: Place, arguments: tuple[str, ...], told: str) -> None:
    done = here.ask(*arguments)
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("end", "code", "out", "told"),
    [
        (">&-", 0, "", ""),
        ("2>&- <&- | head -1", 0, "{\n", ""),
        ("> /dev/full", 1, "", "stdout can't be written: No space left on device\n"),
    ],
)
def test_a_reader_that_goes_early_or_was_never_there_is_no_error(
    here: Place, end: str, code: int, out: str, told: str
) -> None:
    line = f"{sys.executable} -m service check --json {end}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=here.folder, env=os.environ | here.environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, told)
