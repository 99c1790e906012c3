"""``infra-health migrate``: from what ran before to a configuration that ``check`` accepts, and a patch for kubectl."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.cluster_tools import ROOT, run

SOURCES = ROOT / "tests/payloads/migration"


def program(folder: Path, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def migrated(folder: Path, *sources: str | Path, code: int = 0) -> tuple[Any, Any, subprocess.CompletedProcess[str]]:
    """config.yaml as data, after ``check`` accepted it, the patch as data, and the answer."""
    answer = program(folder, "migrate", *sources, "-o", "config.yaml")
    assert answer.returncode == code, answer.stderr
    checked = program(folder, "check", "--json")
    assert checked.returncode == 0, checked.stderr
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return config, yaml.safe_load((folder / "k8s-patch.yaml").read_text()), answer


def test_a_helmfile_with_anchors_merges_values_files_and_templates(tmp_path: Path) -> None:
    config, patch, answer = migrated(tmp_path, SOURCES / "helmfile.yaml")
    shared = {
        "time_zone": "America/New_York",
        "concurrency_policy": "Forbid",
        "starting_deadline": "300s",
        "backoff_limit": 3,
        "successful_runs_history_limit": 3,
        "failed_runs_history_limit": 3,
    }
    hourly = {"type": "snapshot", "schedule": "0 * * * *", **shared}
    assert config["collectors"] == {
        "ci": {
            "type": "github_ci",
            "schedule": "*/10 * * * *",
            "service": "dashboard-collector",
            "active_deadline": "540s",
            **shared,
        },
        "training": {**hourly, "category": "training", "service": "training-health-collector", "enabled": False},
        "eval": {**hourly, "category": "evaluation", "service": "eval-health-collector"},
    }
    assert config["datadog"] == {"env": "production", "site": "datadoghq.com"}
    container = patch["spec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [
        {"name": "CI_TESTS_BLOCKING_MERGE_WORKFLOWS", "value": "163901189,159707309,159704559"},
        {"name": "CI_BENCHMARKS_WORKFLOWS", "value": "159541672"},
        {"name": "GITHUB_DASHBOARD_TOKEN", "valueFrom": {"secretKeyRef": {"name": "gh", "key": "token"}}},
        {"name": "DD_SITE", "value": "datadoghq.com"},
        {"name": "EVAL_HEALTH_FILE", "value": "s3://b/eval.json"},
    ]
    assert patch["spec"]["template"]["spec"]["serviceAccountName"] == "standard-service-account"
    assert patch["metadata"]["labels"] == {"tags.datadoghq.com/env": "production"}
    text = (tmp_path / "config.yaml").read_text()
    assert "not carried over: resources.limits.memory: 2Gi" in text
    assert "the values file missing.yaml can't be read" in text
    assert "kube-prometheus-stack: left alone" in answer.stderr
    assert "backup: left alone" in answer.stderr
    assert "DEPLOYED: only the template knows its value" in answer.stderr


def test_rendered_manifests_come_over_exactly_and_what_cannot_stands_there(tmp_path: Path) -> None:
    config, patch, answer = migrated(tmp_path, SOURCES / "rendered.yaml", code=1)
    assert config["collectors"] == {
        "ci": {
            "type": "github_ci",
            "schedule": "*/10 * * * *",
            "time_zone": "Europe/Berlin",
            "service": "dashboard-collector",
            "concurrency_policy": "Replace",
            "starting_deadline": "120s",
            "active_deadline": "480s",
            "backoff_limit": 2,
            "successful_runs_history_limit": 5,
            "failed_runs_history_limit": 0,
            # Not the Deployment's: the other one ran without it.
            "thresholds": {"flaky_tests": "1e1"},
        },
        # What a manifest leaves out is Kubernetes' default.
        "ci-second-repository": {
            "type": "github_ci",
            "schedule": "@hourly",
            "service": "dashboard-collector",
            "enabled": False,
            "concurrency_policy": "Allow",
            "backoff_limit": 6,
            "successful_runs_history_limit": 3,
            "failed_runs_history_limit": 1,
            "repo": "acme/second",
        },
    }
    text = (tmp_path / "config.yaml").read_text()
    assert "# NOT CARRIED OVER: schedule" in text
    assert '#   schedule: "0 3 * * 7"' in text
    assert "spec.jobTemplate.spec.ttlSecondsAfterFinished: '3600'" in text
    assert "metadata.labels.owner: ml-team" in text
    assert "helm.sh" not in text
    pod = patch["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "snapshots", "persistentVolumeClaim": {"claimName": "snapshots"}}]
    assert pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": "ci-settings"}}]
    assert patch["metadata"]["labels"]["team"] == "infra"
    everything = text + (tmp_path / "k8s-patch.yaml").read_text() + answer.stdout + answer.stderr
    assert "0123456789abcdef" not in everything, "a key that stood in the manifest is copied nowhere"
    assert "put it into the Secret infra-health" in everything


def test_a_release_whose_values_are_missing_is_no_release_without_a_collector(tmp_path: Path) -> None:
    values = "values: [{schedule: '*/10 * * * *', command: [collect, ci, --push]}]"
    (tmp_path / "helmfile.yaml").write_text(
        f"releases:\n- name: ci\n  chart: cronjob\n  {values}\n"
        "- name: eval-health-cronjob\n  chart: cronjob\n  values: [eval.yaml]\n"
    )
    _, _, answer = migrated(tmp_path, "helmfile.yaml", code=1)
    assert "eval-health-cronjob: left alone, it may run a collector" in answer.stderr
    (tmp_path / "eval.yaml").write_text("schedule: '0 * * * *'\ncommand: [collect, eval, --push]\n")
    config, _, _ = migrated(tmp_path, "helmfile.yaml")
    assert set(config["collectors"]) == {"ci", "eval"}


def test_a_second_repository_keeps_its_own(tmp_path: Path) -> None:
    rendered = (SOURCES / "rendered.yaml").read_text()
    (tmp_path / "two.yaml").write_text(
        rendered.replace('CI_FLAKY_TEST_THRESHOLD, value: "1e1"', "METTA_GITHUB_REPO, value: a/b")
    )
    config, _, _ = migrated(tmp_path, "two.yaml", code=1)
    repos = {name: values.get("repo") for name, values in config["collectors"].items()}
    assert repos == {"ci": "a/b", "ci-second-repository": "acme/second"}


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_kubectl_gets_is_a_list(tmp_path: Path, form: str) -> None:
    items = [each for each in yaml.safe_load_all((SOURCES / "rendered.yaml").read_text()) if each["kind"] == "CronJob"]
    listed = {"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}}
    text = json.dumps(listed, indent=4) if form == "json" else yaml.safe_dump(listed)
    answer = program(tmp_path, "migrate", "-", "--json", stdin=text)
    told = json.loads(answer.stdout)
    assert [(each["name"], each["carried"]) for each in told["collectors"]] == [
        ("ci", True),
        ("ci-second-repository", True),
        ("training", False),
    ]
    assert told["left_alone"] == [{"name": "backup", "reason": "runs no collector"}]


def test_a_crontab_and_a_line_of_one(tmp_path: Path) -> None:
    (tmp_path / "crontab").write_text(
        "# m h dom mon dow command\nMAILTO=ops\nCRON_TZ=Europe/Paris\nTRAINING_HEALTH_FILE=/data/t.json\n"
        "30 2 * * mon-7 cd /app && uv run python -m devops.datadog.cli collect training --push\n"
        "@daily /usr/bin/certbot renew\n"
    )
    line = "*/7 * * * * METTA_GITHUB_REPO=a/b python -m devops.datadog.cli collect ci --push"
    config, _, answer = migrated(tmp_path, "crontab", line)
    training, ci = config["collectors"]["training"], config["collectors"]["ci"]
    assert (training["schedule"], training["time_zone"]) == ("30 2 * * 1,2,3,4,5,6,0", "Europe/Paris")
    assert (training["source"], ci["repo"], ci["schedule"]) == ("/data/t.json", "a/b", "*/7 * * * *")
    assert "left alone" in answer.stderr


def test_without_a_file_the_output_is_a_configuration(tmp_path: Path) -> None:
    answer = program(tmp_path, "migrate", SOURCES / "helmfile.yaml")
    (tmp_path / "config.yaml").write_text(answer.stdout)
    assert program(tmp_path, "check", "--json").returncode == 0
    assert "#       - name: CI_BENCHMARKS_WORKFLOWS" in answer.stdout.replace("#         ", "#       "), (
        "the patch is there, too"
    )


def test_a_file_that_was_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("collectors: {}\n")
    migrated(tmp_path, SOURCES / "helmfile.yaml")
    migrated(tmp_path, SOURCES / "rendered.yaml", code=1)
    assert (tmp_path / "config.yaml.bak").read_text() == "collectors: {}\n"
    assert (tmp_path / "config.yaml.bak1").exists(), "the second time as well"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ("just words", "holds no releases, no CronJob and no crontab line"),
        ("", "holds no releases"),
    ],
)
def test_what_can_not_be_read_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "source").write_text(text)
    answer = program(tmp_path, "migrate", "source")
    assert answer.returncode == 78
    assert said in answer.stderr
    assert program(tmp_path, "migrate", "nowhere.yaml").returncode == 78


def test_kustomize_takes_the_patch(tmp_path: Path) -> None:
    migrated(tmp_path, SOURCES / "helmfile.yaml")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "patch.yaml").write_text((tmp_path / "k8s-patch.yaml").read_text())
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["base"], "patches": [{"path": "patch.yaml"}]})
    )
    base = overlay / "base"
    subprocess.run(["cp", "-r", ROOT / "k8s/base", base], check=True)
    rendered = run("kubectl", "kustomize", overlay)
    assert rendered.returncode == 0, rendered.stderr
    (deployment,) = [each for each in yaml.safe_load_all(rendered.stdout) if each["kind"] == "Deployment"]
    variables = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["CI_BENCHMARKS_WORKFLOWS"]["value"] == "159541672"
    assert variables["GITHUB_DASHBOARD_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "gh"
    assert all(("value" in each) != ("valueFrom" in each) for each in variables.values())
    for version in ("1.29.0", "1.37.0"):
        (tmp_path / "all.yaml").write_text(rendered.stdout)
        verdict = run("kubernetes-validate", "--strict", "-k", version, tmp_path / "all.yaml")
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr
