"""Helmfiles as teams write them: what is carried over, and that nothing is left out without a word."""

from pathlib import Path
from typing import Any

from service.collectors import registry
from service.migration import helmfile, texts
from service.migration.plan import Plan, plan

TYPES = {name: kind.Settings for name, kind in registry.installed().items()}


def planned(text: str, folder: Path = Path("nowhere")) -> tuple[Plan, list[str]]:
    documents, unsure = texts.read(text, "helmfile.yaml")
    found, told = helmfile.workloads(documents, "helmfile.yaml", folder)
    return plan(found, TYPES), unsure + told


def stanzas(result: Plan) -> dict[str, dict[str, Any]]:
    return {each.name: each.values for each in result.stanzas if not each.why_not}


def test_a_chart_that_takes_several_commands_gives_a_stanza_for_each() -> None:
    result, _ = planned("""
releases:
- name: by-name
  values:
  - timeZone: Europe/Berlin
    cronjobs:
      ci: {schedule: "*/10 * * * *", command: [collect, ci, --push]}
      cleanup: {schedule: "@daily", command: [rm, -r, /tmp/x]}
      training: {schedule: "0 * * * *", command: [collect, training, --push], timeZone: UTC}
- name: as-list
  values:
  - jobs: [{name: eval, schedule: "30 * * * *", args: "collect eval --push", backoffLimit: 1}]
""")
    found = stanzas(result)
    assert {name: (each["schedule"], each.get("time_zone")) for name, each in found.items()} == {
        "ci": ("*/10 * * * *", "Europe/Berlin"),
        "training": ("0 * * * *", None),
        "eval": ("30 * * * *", None),
    }
    assert found["eval"]["backoff_limit"] == 1
    assert [workload.name for workload, _ in result.left_alone] == ["by-name-cleanup"]


def test_a_variable_of_one_collector_does_not_reach_another_that_ran_without_it() -> None:
    result, _ = planned("""
releases:
- name: ci-grid
  values:
  - {schedule: "@daily", command: [collect, ci, --push], env: {METTA_GITHUB_REPO: a/grid, METTA_GITHUB_BRANCH: develop}}
- name: ci-metta
  values:
  - {schedule: "@daily", command: [collect, ci, --push], env: {METTA_GITHUB_REPO: a/metta, GITHUB_API_URL: https://g}}
- name: training
  values:
  - {schedule: "@daily", command: [collect, training, --push], env: {TRAINING_HEALTH_FILE: /t.json}}
- name: eval
  values:
  - {schedule: "@daily", command: [collect, eval, --push], env: {EVAL_HEALTH_FILE: /e.json}}
""")
    first, second, *_ = stanzas(result).values()
    assert (first["repo"], first["branch"]) == ("a/grid", "develop")
    assert second["repo"] == "a/metta"
    assert "branch" not in second  # it is the default, as it was
    assert set(result.environment) == {"GITHUB_API_URL", "TRAINING_HEALTH_FILE", "EVAL_HEALTH_FILE"}


def test_what_a_pod_can_not_have_is_told() -> None:
    result, _ = planned("""
releases:
- name: dashboard-cronjob
  values:
  - schedule: "@daily"
    command: [collect, ci, --push]
    serviceAccount: {name: standard, annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/x"}}
    datadogService: dashboard-collector
    env: {A: "1"}
    extraEnv: [B=2, {name: A, value: other}, {name: C, fromSecret: c}]
    job: {schedule: "@hourly"}
""")
    (stanza,) = result.stanzas
    assert stanza.values["service"] == "dashboard-collector"
    assert {name: each["value"] for name, each in result.environment.items()} == {"A": "1", "B": "2"}
    assert result.service_account == "standard"
    assert stanza.source.unused == {
        "serviceAccount.annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"},
        "extraEnv.A": {"name": "A", "value": "other"},
        "extraEnv.C": {"name": "C", "fromSecret": "c"},
        "job.schedule": "@hourly",
    }


def test_bases_documents_and_templates_of_the_release_itself(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("templates: {cron: {chart: x, labels: {a: b}, values: [common.yaml]}}\n")
    (tmp_path / "common.yaml").write_text("timeZone: Europe/Berlin\n")
    (tmp_path / "first.yaml").write_text('schedule: "1 * * * *"\n')
    result, told = planned(
        """
bases: [base.yaml, missing.yaml]
---
releases:
- name: first
  inherit: [{template: cron, except: [labels]}]
  values:
  - "{{`{{ .Release.Name }}`}}.yaml"
  - command: [collect, eval, --push]
    datadog: {service: '{{ .Release.Name }}-collector'}
---
releases:
- name: second
  installed: false
  values: [{schedule: "2 * * * *", command: [collect, training, --push]}]
- name: hidden
  values: [{schedule: "2 * * * *", collector: ci}]
- name: "{{ .Values.name }}"
  values: [{schedule: "2 * * * *", command: [collect, "{{ .Values.name }}", --push]}]
""",
        tmp_path,
    )
    first, second = stanzas(result).values()
    assert (first["schedule"], first["time_zone"], first["service"]) == (
        "1 * * * *",
        "Europe/Berlin",
        "first-collector",
    )
    assert second["enabled"] is False, "what is not installed does not run"
    assert told == ["the base missing.yaml can't be read (FileNotFoundError): what it says is not carried over"]
    assert "says no command" in result.left_alone[0][1]
    assert not result.is_whole, (
        "of a collector whose name the template knows nobody should think that it is carried over"
    )
