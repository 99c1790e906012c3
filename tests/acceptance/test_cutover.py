"""From the CronJobs to the daemon and back: ``compare``, k8s/cutover.sh against a stand-in for kubectl, the takeover.

That no slot is missed or run twice is rehearsed in tests/unit/pipeline/test_scheduler.py, on a simulated clock; that
each rule of the replaced tool is found as a cause, in tests/unit/cutover/test_legacy_rules.py.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from service.demo.github import SimulatedGithub
from tests.acceptance.cluster_tools import ROOT, run
from tests.acceptance.program import Place, place
from tests.world import World

CI = "metta.infra.cron.ci.workflow."
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
CRONJOBS: dict[str, dict[str, Any]] = {
    "dashboard-cronjob-cronjob": {"lastScheduleTime": "2026-01-31T12:10:00Z"},  # as the replaced chart names it
    "training-health-cronjob": {"lastScheduleTime": "2026-01-31T12:00:00Z"},
    "eval-health-cronjob": {"creationTimestamp": "2026-01-31T11:30:00Z", "suspend": True},
}


def test_each_difference_gets_its_cause_and_one_without_a_cause_raises_the_alarm(tmp_path: Path) -> None:
    world = World.empty(now=datetime.now(UTC))
    world.add_workflow(1, "Tests")
    for hours, conclusion in ((2, "success"), (1, "failure")):
        world.add_run(1, world.now - timedelta(hours=hours), conclusion)
    with place(tmp_path, SimulatedGithub([world.repository], lambda: datetime.now(UTC))) as here:
        lists = {"tests_blocking_merge": ["Tests"], "benchmarks": []}
        here.config["mode"] = "shadow"
        here.config["collectors"]["ci"] |= {"repo": world.repository.name, **lists}
        here.write_config()
        here.run("collect", "ci", "training", "--push", "-o", "ours.json")
        ours = json.loads((here.folder / "ours.json").read_text())
        theirs = [each for each in ours if each["kind"] == "gauge" and "success_ratio" not in each["metric"]]
        (success,) = (each for each in theirs if each["metric"] == f"{CI}success")
        success["value"] = 0.5
        theirs.append({"metric": f"{CI}benchmarks", "value": 1, "tags": {}, "kind": "gauge"})

        def compare(samples: list[Any], *options: str, code: int) -> str:
            (here.folder / "theirs.json").write_text(json.dumps(samples))
            answer = here.run("compare", "--against", "theirs.json", *options)
            assert answer.returncode == code, answer.stdout + answer.stderr
            return answer.stdout

        found = {each["metric"]: each for each in json.loads(compare(theirs, "--json", code=0))["values"]}
        causes = {metric: each["causes"] for metric, each in found.items()}
        assert found["metta.infra.stablesuite.hearts"]["verdict"] == found[f"{CI}flaky_tests"]["verdict"] == "same"
        assert causes[f"{CI}success_ratio"] == ["new: the CronJobs did not send it"]
        assert causes[f"{CI}success"] == ["the share of good runs, not whether all are good"]
        assert causes[f"{CI}benchmarks"] == ["nothing to measure: the CronJob sent a number all the same"]
        assert not any(metric.startswith(("shadow.", "metta.infra.check.")) for metric in found)

        shifted = [each | {"value": each["value"] + 17.25} for each in theirs[:-1]]
        told = compare(shifted, "--format", "markdown", code=1)
        assert "| metric | check | CronJobs | infra-health | why |" in told
        assert told.count("UNEXPLAINED") == len(shifted)


def cutover(folder: Path, *words: str) -> tuple[int, list[list[str]], dict[str, Any]]:
    """The exit code, what kubectl was asked for by this call, and the CronJobs afterwards."""
    (asked := folder / "asked").write_text("")
    environ = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SETTLE": "0"}
    answer = subprocess.run(
        [ROOT / "k8s/cutover.sh", *words], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    calls = [json.loads(line)[2:] for line in asked.read_text().splitlines()]
    return answer.returncode, calls, json.loads((folder / "cluster.json").read_text())


def test_there_and_back_no_cronjob_runs_beside_the_daemon(tmp_path: Path) -> None:
    """One that was suspended before stays so; a second try, after a step that failed, changes nothing."""
    (kubectl := tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o755)
    (tmp_path / "cluster.json").write_text(json.dumps(CRONJOBS))
    assert cutover(tmp_path)[:2] == (2, []), "no direction"
    code, calls, cronjobs = cutover(tmp_path, "live", "dashboard-cronjob=ci", "dashboard=ci")
    assert (code != 0, {call[0] for call in calls}, cronjobs) == (True, {"get"}, CRONJOBS), "no CronJob has that name"
    code, calls, _ = cutover(tmp_path, "live", "dashboard-cronjob=ci-second")
    assert calls[-2][4] == "INFRA_HEALTH_COLLECTORS__CI_SECOND__STARTS_AFTER=2026-01-31T12:10:00Z"
    code, calls, cronjobs = cutover(tmp_path, "live")
    assert code == 0
    assert all(cronjob["suspend"] is True for cronjob in cronjobs.values())
    order = [call[0] for call in calls if call[0] in ("patch", "set", "rollout") or "lastScheduleTime" in call[-1]]
    assert order == ["patch", *["get"] * 3, "set", "rollout"], "their last slots are read when they are suspended"
    assert calls[-2][3:] == [
        "INFRA_HEALTH_MODE=live",
        "INFRA_HEALTH_COLLECTORS__CI__STARTS_AFTER=2026-01-31T12:10:00Z",
        "INFRA_HEALTH_COLLECTORS__TRAINING__STARTS_AFTER=2026-01-31T12:00:00Z",
        "INFRA_HEALTH_COLLECTORS__EVAL__STARTS_AFTER=2026-01-31T11:30:00Z",
    ]
    (tmp_path / "slots").write_text("ci 2026-01-31T13:40:00Z\ntraining 2026-01-31T13:00:00Z\neval none\n")
    code, calls, cronjobs = cutover(tmp_path, "back")
    assert code == 0
    first = next(place for place, call in enumerate(calls) if call[0] != "get")
    assert calls[first][3] == "INFRA_HEALTH_MODE=shadow"
    assert calls[first + 1][0] == "rollout", "the daemon has left before a CronJob starts"
    assert cronjobs == {
        "dashboard-cronjob-cronjob": {"lastScheduleTime": "2026-01-31T13:40:00Z", "suspend": False},
        "training-health-cronjob": {"lastScheduleTime": "2026-01-31T13:00:00Z", "suspend": False},
        "eval-health-cronjob": CRONJOBS["eval-health-cronjob"],
    }


def test_helm_takes_the_release_that_migrate_writes(here: Place) -> None:
    told = json.loads(here.run("migrate", "--json", str(ROOT / "tests/payloads/migration/rendered.yaml")).stdout)
    (config := here.folder / "infra-health.yaml").write_text(told["config"])
    (release,) = yaml.safe_load(told["release"])
    chart = (release["name"], ROOT / "k8s/chart", "--values", "-", "--set-file", f"config={config}")
    answer = run("helm", "template", *chart, stdin=yaml.safe_dump(release["values"][0]))
    assert answer.returncode == 0, answer.stderr


def test_the_daemon_takes_over_after_the_slot_that_it_is_told(here: Place) -> None:
    training = here.config["collectors"]["training"] | {"schedule": "0 0 1 1 *"}
    here.config["collectors"] = {"training": training, "eval": training}
    here.write_config()
    new_year = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC)
    starts = {"EVAL": new_year, "TRAINING": new_year - timedelta(seconds=1)}
    environ = {f"INFRA_HEALTH_COLLECTORS__{name}__STARTS_AFTER": at.isoformat() for name, at in starts.items()}
    with here.daemon(environ=environ) as daemon:
        (only,) = daemon.wait_until_quiet()
        slot = f"{new_year:%Y-%m-%dT%H:%M:%SZ}"
        assert (only["collector"], only["scheduled_at"]) == ("training", slot), "the CronJob ran the other one's"
        told = here.run("status", "--slots", "--url", str(daemon.http.base_url)).stdout
        assert sorted(told.splitlines()) == ["eval none", f"training {slot}"]
        assert daemon.end() == 0
