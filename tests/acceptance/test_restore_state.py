"""k8s/restore-state.sh: the way back from an upgrade whose state an older version refuses.

kubectl is a stand-in that runs the pod's own program on a folder in place of the claim.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.cluster_tools import ROOT, run
from tests.acceptance.pod_security import violations

KUBECTL = """#!{python}
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
asked = sys.argv[1:]
assert asked[:2] == ["--namespace", "monitoring"]
with (here / "asked").open("a") as file:
    file.write(" ".join(asked[2:5]) + "\\n")
match asked[2:]:
    case ["get", "deployment/infra-health", "--output", path]:
        print((here / "claim").read_text() if "claimName" in path else "registry/infra-health:0.2.0", end="")
    case ["scale", "deployment/infra-health", replicas]:
        pass
    case ["run", "infra-health-restore", *rest]:
        text = next(each for each in rest if each.startswith("--overrides=")).removeprefix("--overrides=")
        (here / "pod.json").write_text(text)
        command = json.loads(text)["spec"]["containers"][0]["command"]
        assert command[0] == "python"
        environ = os.environ | {{"INFRA_HEALTH_STATE_DIR": str(here / "state")}}
        sys.exit(subprocess.run([sys.executable, *command[1:]], env=environ).returncode)
    case _:
        sys.exit(f"unknown: {{asked}}")
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "claim").write_text("infra-health-state")
    state = tmp_path / "state"
    state.mkdir()
    files = {"state.db": "7", "state.db-wal": "7 wal", "state.db.v3.bak": "3", "state.db.v5.bak": "5"}
    for name, content in {**files, "state.db.v6.bak": "6", "state.db.newer": "of before"}.items():
        (state / name).write_text(content)
    return tmp_path


def restore(cluster: Path, *words: str) -> tuple[int, list[str], dict[str, str]]:
    environ = os.environ | {"PATH": f"{cluster}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(
        [ROOT / "k8s/restore-state.sh", *words], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    asked = cluster / "asked"
    calls = asked.read_text().splitlines() if asked.exists() else []
    return answer.returncode, calls, {path.name: path.read_text() for path in (cluster / "state").iterdir()}


def test_the_newest_copy_that_the_older_version_knows_takes_the_place_and_nothing_is_lost(cluster: Path) -> None:
    code, calls, files = restore(cluster, "5")
    assert code == 0
    assert files == {
        **{"state.db": "5", "state.db.newer": "of before", "state.db.newer1": "7", "state.db.newer1-wal": "7 wal"},
        **{"state.db.v3.bak": "3", "state.db.v5.bak": "5", "state.db.v6.bak": "6"},
    }
    assert [call.split()[0] for call in calls] == ["get", "get", "scale", "run", "scale"]
    assert [call for call in calls if call.startswith("scale")] == [
        "scale deployment/infra-health --replicas=0",
        "scale deployment/infra-health --replicas=1",
    ]


def test_without_a_fitting_copy_nothing_changes_and_the_daemon_is_started_again(cluster: Path) -> None:
    code, calls, files = restore(cluster, "2")
    assert code != 0
    assert (files["state.db"], files["state.db-wal"]) == ("7", "7 wal")
    assert calls[-1] == "scale deployment/infra-health --replicas=1"


def test_without_a_claim_or_a_number_nothing_is_touched(cluster: Path) -> None:
    (cluster / "claim").write_text("")
    assert restore(cluster, "5")[0] == 1
    code, calls, _ = restore(cluster, "v5")
    assert (code, len(calls)) == (2, 2)


def test_its_pod_is_one_that_a_restricted_namespace_takes(cluster: Path, tmp_path: Path) -> None:
    restore(cluster, "5")
    pod: dict[str, Any] = json.loads((cluster / "pod.json").read_text())
    pod |= {"kind": "Pod", "metadata": {"name": "infra-health-restore", "namespace": "monitoring"}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    verdict = run("kubernetes-validate", "--strict", "-k", "1.37.0", tmp_path / "pod.yaml")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert list(violations(pod["spec"])) == []
