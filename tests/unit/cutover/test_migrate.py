"""From rendered CronJobs to a configuration that loads, and to the daemon's release."""

import json
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from service.cli.main import main
from service.collectors.exec import ExecSettings
from service.collectors.github_ci import GithubCiSettings
from service.collectors.registry import settings_of
from service.config.loader import load
from service.config.settings import CollectorSettings
from service.domain.errors import ConfigError

SOURCES = Path(__file__).parents[2] / "payloads/migration"


def migrate(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["migrate", *map(str, arguments)], input=stdin)


def told_of(*cronjobs: dict[str, Any]) -> Any:
    return json.loads(migrate("-", "--json", stdin=yaml.safe_dump_all(cronjobs)).stdout)


def loaded(folder: Path) -> dict[str, CollectorSettings]:
    return dict(load(folder / "config.yaml", {}, settings_of).settings.collectors)


def cronjob(name: str, *command: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    container = {"name": "cronjob", "command": list(command), "env": variables}
    job = {"template": {"spec": {"containers": [container], "restartPolicy": "OnFailure"}}}
    spec = {"schedule": "@hourly", "jobTemplate": {"spec": job}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


def values(told: Any) -> Any:
    """Those of the release, without what each release has."""
    assert textwrap.indent(told["release"], "#   ") in told["config"], "at its end as a comment"
    (release,) = yaml.safe_load(told["release"])
    assert (release["name"], release["set"]) == ("infra-health", [{"name": "config", "file": "infra-health.yaml"}])
    (own,) = release["values"]
    assert (own.pop("image").keys(), own.pop("persistence")) == ({"registry", "name", "tag"}, {"enabled": True})
    assert own["extraEnv"].pop(0) == {"name": "INFRA_HEALTH_MODE", "value": "shadow"}
    return {key: value for key, value in own.items() if value}


def test_the_cluster_of_today(tmp_path: Path) -> None:
    answer = migrate(SOURCES / "cluster.yaml", "--json")
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    (tmp_path / "config.yaml").write_text(told["config"])
    collectors = loaded(tmp_path)
    assert [(name, each.schedule, each.service, each.backoff_limit) for name, each in collectors.items()] == [
        ("ci", "*/10 * * * *", "dashboard-collector", 3),
        ("training", "0 * * * *", "training-health-collector", 3),
        ("eval", "0 * * * *", "eval-health-collector", 3),
    ]
    ci = collectors["ci"]
    assert isinstance(ci, GithubCiSettings)
    assert ci.tests_blocking_merge == ("163901189", "159707309", "159704559")
    assert ci.benchmarks == ("159541672",)
    for part in (
        "not carried over: container.resources: {limits: {cpu: 500m, memory: 2Gi}",
        '# - pr-similarity-cache-cronjob-cronjob: "0 0 * * *" what',
        "k8s/cutover.sh live dashboard-cronjob-cronjob=ci training-health-cronjob-cronjob=training",
    ):
        assert part in told["config"]
    assert load(tmp_path / "config.yaml", {}, settings_of).settings.datadog.env == "production"
    assert values(told) == {
        "serviceAccount": {"create": False, "name": "standard-service-account"},
        "datadog": {"env": "production", "site": "datadoghq.com"},
    }


def test_what_a_cronjob_says_comes_over_and_what_has_no_counterpart_stands_there(tmp_path: Path) -> None:
    answer = migrate(SOURCES / "rendered.yaml", "--json", "-o", tmp_path / "config.yaml")
    assert answer.exit_code == 1, "one of them can't be a collector"
    assert set(loaded(tmp_path)) == {"ci", "ci-second-repository", "backup"}
    ci, second, backup = loaded(tmp_path).values()
    assert isinstance(ci, GithubCiSettings)
    assert isinstance(second, GithubCiSettings)
    assert isinstance(backup, ExecSettings)
    assert (ci.time_zone.key, ci.concurrency_policy, ci.service) == ("Europe/Berlin", "Replace", "dashboard-collector")
    assert (ci.starting_deadline, ci.active_deadline) == (timedelta(seconds=120), timedelta(seconds=480))
    assert (ci.backoff_limit, ci.successful_runs_history_limit, ci.failed_runs_history_limit) == (2, 5, 0)
    # What a manifest leaves out is Kubernetes' default.
    assert (second.enabled, second.concurrency_policy, second.backoff_limit) == (False, "Allow", 6)
    assert (second.successful_runs_history_limit, second.failed_runs_history_limit) == (3, 1)
    # Not the Deployment's: the other one ran without them.
    assert (ci.repo, ci.thresholds.flaky_tests, second.thresholds.flaky_tests) == ("Metta-AI/metta", 10, 10)
    assert second.repo == "acme/second"
    text = (tmp_path / "config.yaml").read_text()
    for part in (
        'flaky_tests: "1e1"',
        "# NOT CARRIED OVER: schedule: day of week '7'",
        '#   schedule: "0 3 * * 7"',
        "spec.ttlSecondsAfterFinished: 3600",
        "metadata.labels.owner: ml-team",
        "pod.annotations.iam: none",
        "DD_VERSION was 1e3: here it is the tag of the image",
        "put it into the release's Secret",
    ):
        assert part in text
    assert "helm.sh" not in text
    assert values(json.loads(answer.stdout)) == {
        "serviceAccount": {"create": False, "name": "standard-service-account"},
        "podLabels": {"team": "infra"},
        "extraEnvFrom": [{"configMapRef": {"name": "ci-settings"}}],
        "datadog": {"env": "production"},
    }
    assert "0123456789abcdef" not in text + answer.output, "a key that stood in a manifest is copied nowhere"


def test_variables_that_differ_between_the_cronjobs_are_told() -> None:
    one = cronjob("one", "collect", "ci", "--push", env={"REGION": "a", "ZONE": "z", "DD_SERVICE": "mine"})
    other = cronjob("other", "collect", "eval", "--push", env={"REGION": "b", "EVAL_HEALTH_FILE": "s3://b/e.json"})
    secret = {"name": "GITHUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "gh", "key": "token"}}}
    other["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"].append(secret)
    told = told_of({"kind": "List", "items": [one, other]})  # as kubectl prints them
    assert told["notes"] == ["REGION differs between the CronJobs: {value: a}, {value: b}"]
    assert values(told) == {"extraEnv": [{"name": "ZONE", "value": "z"}, secret]}
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
        settings = loaded(tmp_path)["gpu-probes"]
        assert isinstance(settings, ExecSettings)
        assert (settings.command, settings.service) == ((program, "$(ZONE)"), "gpu")
        assert (settings.environment, settings.pass_environment) == ({"ZONE": "1e3"}, ("API_TOKEN",))
        return
    assert f"there is no program {program}: put it into the daemon's image" in words
    with pytest.raises(ConfigError, match=r"config.yaml:\d+:\d+: collectors.gpu-probes.command: there is no program"):
        loaded(tmp_path)


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


def test_without_a_file_the_configuration_is_printed_and_a_file_that_was_there_is_kept(tmp_path: Path) -> None:
    printed = migrate(SOURCES / "cluster.yaml").stdout
    for source in ("cluster.yaml", "rendered.yaml", "cluster.yaml"):
        migrate(SOURCES / source, "-o", tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == (tmp_path / "config.yaml.bak").read_text() == printed
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
