"""Which commands are collectors', in whatever arrangement."""

import pytest

from service.migration.command import calls

COLLECTORS = {
    "words": ["uv", "run", "python", "-m", "devops.datadog.cli", "collect", "ci", "--push"],
    "a line": ["uv run python -m devops.datadog.cli collect ci --push"],
    "a shell": ["/bin/bash", "-c", "uv run python -m devops.datadog.cli collect ci --push"],
    "a shell's options": [
        "bash",
        "-euo",
        "pipefail",
        "-c",
        "cd /app && exec uv run python -m devops.datadog.cli collect ci --push",
    ],
    "a script of lines": [
        "sh",
        "-ec",
        "set -x\ncd /app\nuv run python -m devops.datadog.cli \\\n  collect ci --push\necho done",
    ],
    "entrypoint": ["/entrypoint.sh", "python", "-m", "devops.datadog.cli", "collect", "ci", "--push"],
    "options first": ["python", "-m", "devops.datadog.cli", "collect", "--push", "ci"],
    "a redirection": ["sh", "-c", "python -m devops.datadog.cli collect ci --push >> /var/log/ci.log 2>&1"],
    "a path": ["python", "/app/devops/datadog/cli.py", "collect", "ci", "--push"],
    "ours": ["infra-health", "collect", "ci", "--push"],
    "args as one string": ["uv", "run", "python -m devops.datadog.cli collect ci --push"],
    "login shell": ["bash", "-lc", "uv run python -m devops.datadog.cli collect ci --push || exit 1"],
}


@pytest.mark.parametrize("command", COLLECTORS.values(), ids=COLLECTORS)
def test_a_collector_is_known_in_every_arrangement(command: list[str]) -> None:
    (call,) = calls(command)
    assert (call.names, call.pushes) == (("ci",), True)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["pg_dump", "collect"],
        ["python", "-m", "garbage", "collect", "heap"],
        ["sh", "-c", "echo collect; ls"],
        ["python", "-m", "devops.datadog.cli", "list"],
        ["python", "-m", "devops.datadog.cli", "collect"],
        ["sh", "-c", "echo 'not closed collect"],
    ],
)
def test_other_commands_are_none(command: list[str]) -> None:
    assert calls(command) == []


def test_without_push_nothing_was_sent() -> None:
    for options in ([], ["--dry-run"], ["--push", "--dry-run"]):
        (call,) = calls(["python", "-m", "devops.datadog.cli", "collect", "ci", *options])
        assert not call.pushes


def test_a_line_may_collect_several_and_set_variables() -> None:
    line = "export DD_ENV=production; METTA_GITHUB_REPO=a/b python -m devops.datadog.cli collect ci --push && "
    line += "python -m devops.datadog.cli collect training eval -o /tmp/x.json --push"
    first, second = calls(["sh", "-c", line])
    assert first.environment == {"DD_ENV": "production", "METTA_GITHUB_REPO": "a/b"}
    assert second.environment == {"DD_ENV": "production"}
    assert (second.names, second.options) == (("training", "eval"), ("-o", "/tmp/x.json", "--push"))
