"""From rendered CronJobs to a configuration that loads, and to the daemon's release: tests/golden/migrated_*.yaml."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli.main import main
from service.collectors.registry import settings_of
from service.config.loader import load
from tests.golden.generate import FOLDER, MANIFESTS


def migrate(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["migrate", *map(str, arguments)], input=stdin)


@pytest.mark.parametrize(
    ("manifests", "code", "left_alone"),
    [
        ("cluster.yaml", 0, ["pr-similarity-cache-cronjob-cronjob"]),  # the cluster of today
        ("rendered.yaml", 1, []),  # one of them can't be a collector
        ("programs.yaml", 0, ["secret"]),
    ],
)
def test_what_is_written_is_a_configuration_and_no_secret_is_copied(
    manifests: str, code: int, left_alone: list[str], tmp_path: Path
) -> None:
    answer = migrate("-", "--json", stdin=(MANIFESTS / manifests).read_text())
    told = json.loads(answer.stdout)
    assert (answer.exit_code, told["config"]) == (code, (FOLDER / f"migrated_{manifests}").read_text())
    assert [each["name"] for each in told["left_alone"]] == left_alone
    assert all(f"# not carried over: {note}" in told["config"] for note in told["notes"])
    assert not [secret for secret in ("0123456789", "hunter22") if secret in answer.output]
    # All of it is right but for a program that the image lacks.
    (tmp_path / "config.yaml").write_text(told["config"].replace("/opt/probes/gpu", "cat"))
    collectors = load(tmp_path / "config.yaml", {}, settings_of).settings.collectors
    assert [*collectors] == [each["name"] for each in told["collectors"] if each["carried"]]


ODD = """
kind: List
items:
- kind: CronJob
  metadata: {name: first, namespace: ml}
  spec: &spec
    schedule: "@hourly"
    jobTemplate: {spec: {template: {spec: {containers: [
      {command: [bash, -c, 'METTA_GITHUB_HOTFIX_LABELS="hot fix,fire" x collect ci --push']}]}}}}
- {kind: CronJob, metadata: {name: second, namespace: ml}, spec: *spec}
- kind: CronJob
  metadata: {name: third}
  spec: {schedule: "@hourly", jobTemplate: {spec: {template: {spec: {containers: [
    {command: [curl, -H, "Authorization: Bearer abcdef", -u, "me:hunter22", "https://x"], envFrom: 5}]}}}}}
- kind: CronJob
  metadata: {name: fourth}
  spec: {schedule: "@hourly", jobTemplate: {spec: {template: {spec: {containers: [{command: [env, -u, cat]}]}}}}}
"""


def test_shared_parts_quoted_variables_credentials_and_what_no_server_would_take() -> None:
    answer = migrate("-", "--json", stdin=ODD)
    told = json.loads(answer.stdout)
    assert [each["name"] for each in told["collectors"]] == ["ci", "ci-second", "fourth"]
    assert told["config"].count('hotfix_labels:\n    - "hot fix"\n    - fire\n') == 2
    assert "namespace: ml\n" in told["config"]
    assert "NAMESPACE=ml k8s/cutover.sh live first=ci " in told["config"]
    assert ([each["name"] for each in told["left_alone"]], "abcdef" in answer.output) == (["third"], False)
    assert "hunter22" not in answer.output


def test_a_file_that_was_there_is_kept(tmp_path: Path) -> None:
    for source in ("cluster.yaml", "rendered.yaml", "cluster.yaml"):
        migrate(MANIFESTS / source, "-o", tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == (tmp_path / "config.yaml.bak").read_text()
    assert (tmp_path / "config.yaml.bak1").exists()


def test_what_is_no_rendered_manifest_is_refused_with_the_remedy() -> None:
    for text, reason in (("kind: CronJob\nspec: [", "standard input:2:8: is no YAML"), ("a: b", "holds no CronJob")):
        answer = migrate("-", stdin=text)
        assert (answer.exit_code, reason in answer.stderr) == (78, True), answer.stderr
        assert "`helmfile template | infra-health migrate -`" in answer.stderr
