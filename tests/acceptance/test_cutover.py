"""k8s/cutover.sh against a stand-in for kubectl, and the daemon's part of it with the whole program.

That no slot is missed or run twice is rehearsed in tests/unit/pipeline/test_takeover.py, on a simulated clock.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.cluster_tools import ROOT, run
from tests.acceptance.program import Place

# Answers as a cluster with these CronJobs would, and notes what it was asked for.
KUBECTL = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
asked = sys.argv[1:]
with (here / "asked").open("a") as file:
    file.write(json.dumps(asked) + "\\n")
assert asked[:2] == ["--namespace", "monitoring"]
cluster = json.loads((here / "cluster.json").read_text())
match asked[2:]:
    case ["patch", "cronjob", name, *rest]:
        patch = json.loads(rest[rest.index("--patch") + 1])
        assert set(patch) == ({{"status"}} if "--subresource=status" in rest else {{"spec", "metadata"}})
        cluster[name].update(patch.get("spec") or patch["status"])
        marks = patch.get("metadata", {{}}).get("annotations", {{}})
        cluster[name] = {{key: value for key, value in (cluster[name] | marks).items() if value is not None}}
        (here / "cluster.json").write_text(json.dumps(cluster))
    case ["get", "cronjob", name, "--output", path]:
        print(str(cluster[name].get(path.removesuffix("}}").rpartition(".")[2]) or "").replace("True", "true"), end="")
    case ["exec", "deployment/infra-health", "--", "infra-health", "status", "--slots"]:
        print((here / "slots").read_text(), end="")
    case ["set", "env", "deployment/infra-health", *_] | ["rollout", "status", "deployment/infra-health", *_]:
        pass
    case _:
        sys.exit(f"unknown: {{asked}}")
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o755)
    cronjobs = {
        # As the replaced chart names it.
        "dashboard-cronjob-cronjob": {"lastScheduleTime": "2026-01-31T12:10:00Z"},
        "training-health-cronjob": {"lastScheduleTime": "2026-01-31T12:00:00Z"},
        "eval-health-cronjob": {"creationTimestamp": "2026-01-31T11:30:00Z"},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(cronjobs))
    return tmp_path


def cutover(cluster: Path, *words: str) -> tuple[int, list[list[str]], dict[str, Any]]:
    environ = os.environ | {"PATH": f"{cluster}{os.pathsep}{os.environ['PATH']}", "SETTLE": "0"}
    answer = subprocess.run(
        [ROOT / "k8s/cutover.sh", *words], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    asked = cluster / "asked"
    calls = [json.loads(line)[2:] for line in asked.read_text().splitlines()] if asked.exists() else []
    return answer.returncode, calls, json.loads((cluster / "cluster.json").read_text())


def test_there_the_cronjobs_are_suspended_before_their_last_slots_are_read(cluster: Path) -> None:
    code, calls, cronjobs = cutover(cluster, "live")
    assert code == 0
    assert all(cronjob["suspend"] is True for cronjob in cronjobs.values())
    found = ["get"] * 4  # one of the three is not named as its release is
    assert [call[0] for call in calls] == found + ["get", "patch"] * 3 + ["get"] * 4 + ["set", "rollout"]
    assert calls[-2][3:] == [
        "INFRA_HEALTH_MODE=live",
        "INFRA_HEALTH_COLLECTORS__CI__STARTS_AFTER=2026-01-31T12:10:00Z",
        "INFRA_HEALTH_COLLECTORS__TRAINING__STARTS_AFTER=2026-01-31T12:00:00Z",
        "INFRA_HEALTH_COLLECTORS__EVAL__STARTS_AFTER=2026-01-31T11:30:00Z",
    ]


def test_back_the_cronjobs_go_on_after_the_daemons_last_slots(cluster: Path) -> None:
    """One that was suspended before stays so; a second try, after a step that failed, changes nothing."""
    before = json.loads((cluster / "cluster.json").read_text())
    before["eval-health-cronjob"]["suspend"] = True
    (cluster / "cluster.json").write_text(json.dumps(before))
    cutover(cluster, "live")
    assert cutover(cluster, "live")[0] == 0
    (cluster / "asked").unlink()
    (cluster / "slots").write_text("ci 2026-01-31T13:40:00Z\ntraining 2026-01-31T13:00:00Z\neval none\n")
    code, calls, cronjobs = cutover(cluster, "back")
    assert code == 0
    assert calls[4][3] == "INFRA_HEALTH_MODE=shadow"
    assert calls[5][0] == "rollout", "the daemon has left before a CronJob starts"
    assert cronjobs["dashboard-cronjob-cronjob"] == {"lastScheduleTime": "2026-01-31T13:40:00Z", "suspend": False}
    assert cronjobs["training-health-cronjob"] == {"lastScheduleTime": "2026-01-31T13:00:00Z", "suspend": False}
    assert cronjobs["eval-health-cronjob"] == {"creationTimestamp": "2026-01-31T11:30:00Z", "suspend": True}


def test_a_name_that_no_cronjob_has_ends_it_before_anything_is_suspended(cluster: Path) -> None:
    code, calls, cronjobs = cutover(cluster, "live", "dashboard-cronjob=ci", "dashboard=ci")
    assert code != 0
    assert {call[0] for call in calls} == {"get"}
    assert not any("suspend" in cronjob for cronjob in cronjobs.values())


def test_other_names_can_be_given_and_nothing_happens_without_a_direction(cluster: Path) -> None:
    code, calls, _ = cutover(cluster, "live", "dashboard-cronjob=ci-second")
    assert code == 0
    assert calls[-2][4] == "INFRA_HEALTH_COLLECTORS__CI_SECOND__STARTS_AFTER=2026-01-31T12:10:00Z"
    before = len(calls)
    code, calls, _ = cutover(cluster)
    assert (code, len(calls)) == (2, before)


def test_helm_takes_the_release_that_migrate_writes(here: Place) -> None:
    told = json.loads(here.ask("migrate", "--json", str(ROOT / "tests/payloads/migration/rendered.yaml")).stdout)
    (config := here.folder / "infra-health.yaml").write_text(told["config"])
    (release,) = yaml.safe_load(told["release"])
    values = yaml.safe_dump(release["values"][0])
    chart = (release["name"], ROOT / "k8s/chart", "--values", "-", "--set-file", f"config={config}")
    answer = run("helm", "template", *chart, stdin=values)
    assert answer.returncode == 0, answer.stderr


def test_the_daemon_takes_over_after_the_slot_that_it_is_told(here: Place) -> None:
    del here.config["collectors"]["ci"]
    here.config["collectors"]["training"]["schedule"] = "0 0 1 1 *"
    here.write_config()
    new_year = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC)
    for after, slots in ((new_year, "none"), (new_year - timedelta(seconds=1), f"{new_year:%Y-%m-%dT%H:%M:%SZ}")):
        with here.daemon(environ={"INFRA_HEALTH_COLLECTORS__TRAINING__STARTS_AFTER": after.isoformat()}) as daemon:
            if after == new_year:
                assert daemon.get("/api/v1/runs")["runs"] == [], "the CronJob ran the slot"
            else:
                (run,) = daemon.wait_until_quiet()
                assert run["scheduled_at"] == slots
            told = here.run("status", "--slots", "--url", str(daemon.http.base_url))
            assert told.stdout == f"training {slots}\n"
            assert daemon.end() == 0
