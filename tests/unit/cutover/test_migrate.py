"""From rendered CronJobs to a configuration that loads, and to the daemon's release."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from service.cli.main import main
from service.collectors.exec import ExecSettings
from service.collectors.registry import settings_of
from service.config.loader import load
from service.domain.errors import ConfigError
from tests.golden.generate import FOLDER, MANIFESTS


def migrate(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["migrate", *map(str, arguments)], input=stdin)


def told_of(*cronjobs: dict[str, Any]) -> Any:
    return json.loads(migrate("-", "--json", stdin=yaml.safe_dump_all(cronjobs)).stdout)


def cronjob(name: str, *command: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    container = {"name": "cronjob", "command": list(command), "env": variables}
    job = {"template": {"spec": {"containers": [container], "restartPolicy": "OnFailure"}}}
    spec = {"schedule": "@hourly", "jobTemplate": {"spec": job}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("manifests", "code", "collectors"),
    [
        ("cluster.yaml", 0, ["ci", "training", "eval"]),
        ("rendered.yaml", 1, ["ci", "ci-second-repository", "backup"]),  # one of them can't be a collector
    ],
)
def test_what_is_written_is_a_configuration(manifests: str, code: int, collectors: list[str]) -> None:
    """tests/golden/migrated_*.yaml show what comes over, what has no counterpart, and the release."""
    answer = migrate(MANIFESTS / manifests)
    written = FOLDER / f"migrated_{manifests}"
    assert (answer.exit_code, answer.stdout) == (code, written.read_text())
    assert [*load(written, {}, settings_of).settings.collectors] == collectors
    assert "0123456789abcdef" not in answer.output, "a key that stood in a manifest is copied nowhere"


def test_variables_that_differ_between_the_cronjobs_are_told() -> None:
    one = cronjob("one", "collect", "ci", "--push", env={"REGION": "a", "ZONE": "z", "DD_SERVICE": "mine"})
    other = cronjob("other", "collect", "eval", "--push", env={"REGION": "b", "EVAL_HEALTH_FILE": "s3://b/e.json"})
    secret = {"name": "GITHUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "gh", "key": "token"}}}
    other["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"].append(secret)
    told = told_of({"kind": "List", "items": [one, other]})  # as kubectl prints them
    assert told["notes"] == ["REGION differs between the CronJobs: {value: a}, {value: b}"]
    assert textwrap.indent(told["release"], "#   ") in told["config"]
    assert yaml.safe_load(told["release"])[0]["values"][0]["extraEnv"][1:] == [{"name": "ZONE", "value": "z"}, secret]
    collectors = yaml.safe_load(told["config"])["collectors"]
    assert (collectors["ci"]["service"], collectors["eval"]["source"]) == ("mine", "s3://b/e.json")


@pytest.mark.parametrize("program", [sys.executable, "/opt/probes/gpu"])
def test_a_command_that_is_no_collector_of_ours_is_a_live_stanza_with_a_comment_above_it(
    tmp_path: Path, program: str
) -> None:
    job = cronjob("GPU.probes", program, "$(ZONE)", env={"ZONE": "1e3", "API_TOKEN": "0123456789", "DD_SERVICE": "gpu"})
    job["metadata"]["labels"] = {1: "a number is a key, too"}
    answer = migrate("-", "-o", tmp_path / "config.yaml", stdin=yaml.safe_dump(job))
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / "config.yaml").read_text()
    words = " ".join(text.replace("#", "").split())
    assert words.index("CronJob GPU.probes") < words.index("runs no collector of ours") < words.index("gpu-probes:")
    assert "Kubernetes puts values in the place of $(NAME)" in words
    if program == sys.executable:
        settings = load(tmp_path / "config.yaml", {}, settings_of).settings.collectors["gpu-probes"]
        assert isinstance(settings, ExecSettings)
        assert (settings.command, settings.service) == ((program, "$(ZONE)"), "gpu")
        assert (settings.environment, settings.pass_environment) == ({"ZONE": "1e3"}, ("API_TOKEN",))
        return
    assert f"there is no program {program}: put it into the daemon's image" in words
    with pytest.raises(ConfigError, match=r"config.yaml:\d+:\d+: collectors.gpu-probes.command: there is no program"):
        load(tmp_path / "config.yaml", {}, settings_of)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["uv", "run", "python", "-m", "devops.datadog.cli", "collect", "ci", "--push"], ["ci"]),
        (["collect", "training", "eval", "--push", "--verbose"], ["training", "eval"]),
        (["/bin/bash", "-lc", "cd /app && exec uv run cli collect eval --push >> /var/log/eval 2>&1"], ["eval"]),
        (["collect", "ci", "--dry-run"], ["job"]),
        (["collect", "gpu", "--push"], ["job"]),
        (["prog", "--token=hunter22", "--api-key", "hunter22"], []),
    ],
)
def test_the_collectors_of_a_command(command: list[str], names: list[str]) -> None:
    answer = migrate("-", "--json", stdin=yaml.safe_dump(cronjob("job", *command)))
    told = json.loads(answer.stdout)
    assert [each["name"] for each in told["collectors"]] == names
    assert [each["name"] for each in told["left_alone"]] == ([] if names else ["job"])
    assert answer.exit_code == (0 if names else 1)
    assert "hunter22" not in answer.output


def test_no_cronjob_takes_the_stanza_of_another_whatever_their_names() -> None:
    names = ("a", "b-4", "b", "b", "b")
    told = told_of(*(cronjob(name, "collect", "ci", "--push") for name in names))
    assert len(yaml.safe_load(told["config"])["collectors"]) == len(names)


def test_a_file_that_was_there_is_kept(tmp_path: Path) -> None:
    for source in ("cluster.yaml", "rendered.yaml", "cluster.yaml"):
        migrate(MANIFESTS / source, "-o", tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == (tmp_path / "config.yaml.bak").read_text()
    assert (tmp_path / "config.yaml.bak1").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: CronJob\nspec: [", "standard input:2:8: is no YAML"),
        ("a: {{ .Values.b }}", "is no YAML: found unhashable key"),
        ("30 2 * * 1 collect ci --push", "holds no CronJob"),
    ],
)
def test_what_is_no_rendered_manifest_is_refused_with_the_remedy(text: str, reason: str) -> None:
    answer = migrate("-", stdin=text)
    assert (answer.exit_code, reason in answer.stderr) == (78, True), answer.stderr
    assert "`helmfile template | infra-health migrate -`" in answer.stderr
    assert migrate("*/5 * * * * collect ci --push").exit_code == 78, "a crontab line is no file"
