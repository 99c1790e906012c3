"""A CronJob's command that is no collector of ours becomes a live stanza of type exec."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from service.cli.main import main
from service.collectors.exec import ExecSettings
from service.collectors.registry import settings_of
from service.config.loader import load
from service.cutover.exec_stanza import to_exec_stanza
from service.domain.errors import ConfigError


def test_plain_variables_are_the_programs_own_and_others_are_passed_on() -> None:
    environment: dict[str, dict[str, Any]] = {
        "ZONE": {"value": "a"},
        "EMPTY": {"value": ""},
        "DD_SERVICE": {"value": "gpu"},
        "API_TOKEN": {"value": "0123456789"},
        "NODE": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    }
    values, notes = to_exec_stanza(["probe", "$(ZONE)"], environment)
    assert values == {
        "type": "exec",
        "command": ["probe", "$(ZONE)"],
        "environment": {"ZONE": "a", "EMPTY": ""},
        "pass_environment": ["API_TOKEN", "NODE"],
    }
    assert ["no collector of ours" in notes[0], "$(NAME)" in notes[1]] == [True, True]
    assert to_exec_stanza(["probe"], {})[0] == {"type": "exec", "command": ["probe"]}


def cronjob(command: list[str]) -> str:
    token = {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "gpu", "key": "token"}}}
    env = [{"name": "ZONE", "value": "a"}, {"name": "DD_SERVICE", "value": "gpu-collector"}, token]
    pod = {"containers": [{"name": "c", "command": command[:1], "args": command[1:], "env": env}]}
    spec = {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"backoffLimit": 1, "template": {"spec": pod}}}}
    return yaml.safe_dump({"kind": "CronJob", "metadata": {"name": "GPU.probes"}, "spec": spec})


@pytest.mark.parametrize("program", [sys.executable, "/opt/probes/gpu"])
def test_the_stanza_is_live_with_a_comment_above_it(tmp_path: Path, program: str) -> None:
    file = tmp_path / "config.yaml"
    done = CliRunner().invoke(main, ["migrate", "-", "-o", str(file)], input=cronjob([program, "--json", "1e3"]))
    assert done.exit_code == 0, done.output
    text = file.read_text()
    assert (
        text.index("# CronJob GPU.probes") < text.index("# runs no collector of ours") < text.index("  gpu-probes:\n")
    )
    patch = yaml.safe_load((tmp_path / "k8s-patch.yaml").read_text())
    assert [each["name"] for each in patch["spec"]["template"]["spec"]["containers"][0]["env"]] == ["API_TOKEN"]
    if program != sys.executable:
        assert f"there is no program {program}: put it into the daemon's image" in " ".join(
            text.replace("#", "").split()
        )
        with pytest.raises(
            ConfigError, match=r"config.yaml:\d+:\d+: collectors.gpu-probes.command: there is no program"
        ):
            load(file, {}, settings_of)
        return
    settings = load(file, {}, settings_of).settings.collectors["gpu-probes"]
    assert isinstance(settings, ExecSettings)
    assert settings.command == (program, "--json", "1e3")
    assert (settings.environment, settings.pass_environment) == ({"ZONE": "a"}, ("API_TOKEN",))
    assert (settings.schedule, settings.service, settings.backoff_limit) == ("*/5 * * * *", "gpu-collector", 1)
