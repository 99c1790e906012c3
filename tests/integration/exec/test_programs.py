"""Programs as they are: what they print, how they fail, hang, flood, and what they are given."""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from service.collectors.exec import Exec, ExecSettings, program
from service.collectors.exec.program import MAX_LINES
from service.domain.errors import ConfigError, Rejected, TooLarge, Unavailable
from service.domain.samples import Kind, Status
from service.plugin_testing import Brought, Stage

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
RECORD = {"metric": "temperature", "workflow_name": "gpu", "task": "probe", "check": "heat", "condition": "< 90"}


def stage(source: str, environ: dict[str, str] | None = None, **settings: Any) -> Stage:
    """A Python program of that source."""
    command = [sys.executable, "-c", source]
    given = {"command": command, **settings}
    return Stage(Exec, given, name="gpu", now=NOW, environ={"PATH": os.environ["PATH"], **(environ or {})})


def printing(text: str, **settings: Any) -> Stage:
    return stage(f"import sys; sys.stdout.write({text!r})", **settings)


def values(brought: Brought) -> dict[str, float]:
    return {each.metric.name: each.value for each in brought.samples}


async def test_what_it_prints_becomes_samples_with_their_tags_and_checks_of_the_collector_s_or_a_set_category() -> None:
    tags = {"source": "cron", "workflow_name": "main", "task": "tests", "check": "flaky", "condition": "< 10"}
    old = {"metric": "metta.x", "value": 3, "kind": "gauge", "timestamp": (NOW - timedelta(hours=1)).isoformat()}
    plain = {"metric": "plain", "value": 1, "tags": {"zone": "a"}}  # as a dry run prints it
    hot = {**RECORD, "value": "hot"}
    text = json.dumps([{**RECORD, "value": 71}, hot, {**old, "tags": {**tags, "env": "x"}}, plain])
    own_thresholds = {"category": "hardware", "namespace": "acme", "thresholds": {"gpu/*": "< 70"}}
    for settings, category, name, status in (
        ({}, "gpu", "temperature", Status.PASS),
        (own_thresholds, "hardware", "acme.temperature", Status.FAIL),
    ):
        brought = await printing(text, tags={"team": "infra"}, **settings).run()
        heat, flaky, free = brought.samples
        assert heat.metric.name == name
        assert [heat.tags[name] for name in ("source", "workflow_category", "status")] == ["exec", category, status]
        assert flaky.metric.name == "metta.x"
        assert (flaky.at, flaky.measured) == (NOW, NOW - timedelta(hours=1))
        assert {**tags, "env": "test", "workflow_category": category, "status": "pass"}.items() <= flaky.tags.items()
        own = {"env": "test", "service": "infra-health-dashboard", "team": "infra"}
        assert free.tags == {"source": "exec", "zone": "a", **own}
        assert {(check.name, check.status, check.value) for check in brought.checks} == {
            ("gpu / probe / heat", status, 71),
            ("main / tests / flaky", Status.PASS, 3),
        }
        assert [str(each) for each in brought.failures] == ["record 2: Expected `float`, got `str` - at `$.value`"]


async def test_what_a_program_does_not_print_any_more_is_unknown_at_once(tmp_path: Path) -> None:
    """And a count with a time is sent once."""
    output, triple = tmp_path / "output", {"job": "arena", "criterion": "sps", "operator": ">=", "target": "4"}
    here = stage(f"print(open({str(output)!r}).read())", expect=["gpu/probe/heat", "arena/sps/sps", "fan/*"])
    heat, sps = {**RECORD, "value": 71}, {"metric": "acceptance.value", "value": 5, "tags": triple}
    count = {"metric": "jobs", "value": 2, "kind": "count"}
    found, counts = [], []
    for printed in ([heat], [heat, sps], [sps]):
        output.write_text(json.dumps([*printed, {**count, "timestamp": NOW.timestamp()}, {**count, "value": 1}]))
        brought = await here.run()
        found.append(", ".join(f"{check.tags['check']} {check.status.value}" for check in brought.checks))
        counts.append([each.value for each in brought.samples if each.metric.kind is Kind.COUNT])
        assert [str(each) for each in brought.failures] == ['expect "fan/*": the output has no check of such a name']
        here.advance(minutes=5)
    assert counts == [[2, 1], [1], [1]]
    # What was expected by its name alone goes when the check comes with its own tags.
    assert found == ["heat pass, sps unknown", "heat pass, sps pass", "heat unknown, sps pass"]


OPENMETRICS = """\
# HELP temp Degrees
# TYPE temp gauge
temp{gpu="0"} 71.5
# HELP temp Degrees
temp{gpu="1"} 72 1772625000
# TYPE requests counter
requests_total{code="200"} %d # {trace_id="c"} 1
# TYPE build info
build_info{version="1"} 1
# TYPE took histogram
took_bucket{le="1.0"} 3 # {trace_id="a # b"} 0.5 1772625000
took_bucket{le="+Inf"} 4
took_sum 5
loose NaN"""
PROMETHEUS = """\
# TYPE temp untyped
temp{gpu="0"} 71.5
# a remark
# TYPE requests_total counter
# TYPE late gauge
late{gpu="1"} 72 1772625000000
requests_total{code="200"} %d
# TYPE took summary
took{quantile="0.5"} 1
loose 1 1e300
"""


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (OPENMETRICS, ["build", "loose", "took"]),
        (OPENMETRICS + "\n# EOF\n", ["build", "loose", "took"]),
        (PROMETHEUS, ["loose", "took"]),
    ],
    ids=["OpenMetrics without an end", "OpenMetrics", "Prometheus"],
)
async def test_a_counter_is_a_count_of_its_increase_and_what_is_no_number_is_left_out(
    tmp_path: Path, text: str, left_out: list[str]
) -> None:
    file = tmp_path / "text"
    here = stage(f"print(open({str(file)!r}).read(), end='')")
    increases = []
    for total in (100, 107, 3):
        file.write_text(text % total)
        brought = await here.run()
        counts = [each for each in brought.samples if each.metric.kind is Kind.COUNT]
        increases.append([(each.value, each.tags["code"]) for each in counts])
        gauges = {each.tags.get("gpu"): each for each in brought.samples if each not in counts}
        assert (gauges["0"].metric.name, gauges["0"].value) == ("temp", 71.5)
        assert gauges["1"].at == datetime(2026, 3, 4, 11, 50, tzinfo=UTC)
        assert {each.metric.name for each in gauges.values()} <= {"temp", "late"}
        assert sorted(str(each).split(":")[0] for each in brought.failures) == [f"metric {each}" for each in left_out]
        assert not brought.checks
    assert increases == [[], [(7, "200")], [(3, "200")]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello there", "stdout is neither JSON nor Prometheus text nor OpenMetrics.*: no GPU here$"),
        ('a{x="' + '\\"' * 5_000 + '"} 1', "a line has more than 10,000 characters"),
        ("[", "stdout: no valid JSON at line 1"),
        ("# only this", "stdout holds no sample"),
        ("", "printed nothing on stdout: no GPU here$"),
    ],
)
async def test_what_has_no_known_form_fails_with_what_stderr_said_last(text: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        await stage(f"import sys; print('no GPU here', file=sys.stderr); sys.stdout.write({text!r})").run()


async def test_a_program_that_fails_says_how_and_its_stderr_is_in_the_log(tmp_path: Path) -> None:
    source = "import sys\nfor n in range(1200): print('line', n, file=sys.stderr)\nprint('half\\n'); sys.exit(3)"
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(Unavailable, match=r"exit code 3: line 1195 \| .*1199$"),
    ):
        await stage(source).run()
    assert [each["event"] for each in logs[:MAX_LINES]] == [f"line {number}" for number in range(MAX_LINES)]
    assert (logs[MAX_LINES]["event"], logs[MAX_LINES]["count"]) == ("lines of stderr are left out", 200)
    with pytest.raises(Unavailable, match="ended with signal SIGKILL"):
        await stage("import os; os.kill(os.getpid(), 9)").run()
    with pytest.raises(Unavailable, match="MemoryError"):
        await stage("bytearray(2**30)", memory="512MiB").run()
    with pytest.raises(TooLarge, match="it printed more than 16 MiB"):
        await stage("import sys\nwhile True: sys.stdout.write('x' * 65536)").run()
    odd = tmp_path / "probe"
    odd.write_bytes(b"\x00\x01")
    odd.chmod(0o755)
    with pytest.raises(ConfigError, match="probe can't be started: Exec format error"):
        await Stage(Exec, {"command": [str(odd)]}).run()


# A child that holds stdout open and takes no SIGTERM; the program itself ends after so many seconds.
LEAVES_A_CHILD = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
print(subprocess.Popen([sys.executable, "-c", stubborn]).pid, file=open({!r}, "w"), flush=True)
print('[{{"metric": "a", "value": 1}}]', flush=True)
time.sleep({})
"""


@pytest.mark.parametrize("seconds", [0, 99])
async def test_nothing_of_a_program_is_left_when_it_ends_or_is_told_to(
    seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_PIPE_SECONDS", 0.2)
    file = tmp_path / "pid"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage(LEAVES_A_CHILD.format(str(file), seconds)).run)
        while not (file.exists() and file.read_text()):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.02)
        if seconds:
            tasks.cancel_scope.cancel()
    # A process that was killed needs a moment; it may stay as a zombie where nobody takes it in.
    stat, deadline = anyio.Path(f"/proc/{file.read_text().strip()}/stat"), time.monotonic() + 60
    with suppress(OSError):
        while (await stat.read_text()).rsplit(")", 1)[1].split()[0] != "Z":
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)


async def test_the_environment_is_a_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_API_KEY", "a key of the daemon's process")
    key = tmp_path / "key"
    key.write_text("s3cret of the program\n")
    source = "import json, os; print(json.dumps([{'metric': 'm', 'value': 1, 'tags': dict(os.environ)}]))"
    environ = {"DD_ENV": "prod", "GITHUB_TOKEN": "of the daemon", "AWS_ROLE_ARN": "arn", "LANG": "C.UTF-8"}
    given: dict[str, Any] = {
        "environment": {"ZONE": 7},
        "pass_environment": ["AWS_ROLE_ARN", "NOT_SET"],
        "secrets": {"TOKEN": str(key)},
    }
    (sample,) = (await stage(source, environ, **given).run()).samples
    assert sample.tags.keys() - {"source", "env", "service", "LC_CTYPE"} == {
        *("PATH", "DD_ENV", "LANG", "ZONE", "AWS_ROLE_ARN", "TOKEN"),
    }
    assert (sample.tags["ZONE"], sample.tags["TOKEN"]) == ("7", "********"), "it got its secret, which no sample shows"
    key.unlink()
    with pytest.raises(Unavailable, match=r"no secret TOKEN: put it into .*key \(file .*No such file"):
        await stage(source, **given).run()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/no/such/program"], "there is no program /no/such/program"),
        ("/opt/probe --json", "each of its arguments are items of a list"),
        ([__file__], "is no program that the daemon's user may execute"),
    ],
)
def test_a_program_that_is_not_there_is_an_error_of_the_settings(command: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ExecSettings.model_validate({"type": "exec", "schedule": "@hourly", "command": command})
