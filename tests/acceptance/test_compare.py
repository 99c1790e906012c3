"""``infra-health compare`` with the whole program: what the replaced tool would have sent, beside a stored run.

That each rule of the replaced tool is found as a cause: tests/unit/cutover/test_legacy_rules.py.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.demo.github import SimulatedGithub
from tests.acceptance.program import Place, place
from tests.world import World

CI = "metta.infra.cron.ci.workflow."


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    now = datetime.now(UTC)
    world = World.empty(now=now)
    world.add_workflow(1, "Tests")
    for hours, conclusion in ((2, "success"), (1, "failure")):
        world.add_run(1, now - timedelta(hours=hours), conclusion)
    with place(tmp_path, SimulatedGithub([world.repository], lambda: datetime.now(UTC))) as it:
        it.config["mode"] = "shadow"
        it.config["collectors"]["ci"] |= {"repo": world.repository.name, "tests_blocking_merge": ["Tests"]}
        it.config["collectors"]["ci"]["benchmarks"] = []
        it.write_config()
        yield it


def test_each_difference_gets_its_cause_and_one_without_a_cause_raises_the_alarm(here: Place) -> None:
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
    assert found["metta.infra.stablesuite.hearts"]["verdict"] == "same"
    assert found[f"{CI}flaky_tests"]["verdict"] == "same"
    assert causes[f"{CI}success_ratio"] == ["new: the CronJobs did not send it"]
    assert causes[f"{CI}success"] == ["the share of good runs, not whether all are good"]
    assert causes[f"{CI}benchmarks"] == ["nothing to measure: the CronJob sent a number all the same"]
    assert not any(metric.startswith(("shadow.", "metta.infra.check.")) for metric in found)

    shifted = [each | {"value": each["value"] + 17.25} for each in theirs[:-1]]
    told = compare(shifted, "--format", "markdown", code=1)
    assert "| metric | check | CronJobs | infra-health | why |" in told
    assert told.count("UNEXPLAINED") == len(shifted)
