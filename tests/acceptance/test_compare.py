"""``infra-health compare`` with the whole program: what the replaced tool would have sent, beside a stored run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from service.demo.github import SimulatedGithub
from tests.acceptance.program import TOKEN, place
from tests.world import generate

CI = "metta.infra.cron."
REPOSITORY = "Metta-AI/metta"
BLOCKING = ["1", "2", "3"]


def replaced(base: str, now: datetime) -> dict[str, float]:
    """The values of the replaced tool: of its first pages, its windows, its readings."""
    with httpx.Client(
        base_url=base, verify=False, trust_env=False, headers={"authorization": f"Bearer {TOKEN}"}
    ) as client:

        def get(path: str, key: str, **query: str | int) -> list[dict[str, Any]]:
            answer = client.get(f"/repos/{REPOSITORY}/actions/{path}", params=query)
            rows: list[dict[str, Any]] = answer.raise_for_status().json()[key]
            return rows

        conclusions = []
        for workflow in get("workflows", "workflows"):
            if workflow["state"] == "active" and str(workflow["id"]) not in BLOCKING:
                runs = get(f"workflows/{workflow['id']}/runs", "workflow_runs", branch="main", status="completed")
                conclusions += [run["conclusion"] for run in runs[:1]]
        day = f">={now - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
        on_main = get("runs", "workflow_runs", branch="main", created=day, per_page=100)
        query = f"repo:{REPOSITORY} is:pr is:merged label:hotfix merged:>={now - timedelta(days=7):%Y-%m-%dT00:00:00Z}"
        merged = client.get("/search/issues", params={"q": query}).raise_for_status().json()["total_count"]
    return {
        f"{CI}ci.workflow.other_failing": sum(conclusion != "success" for conclusion in conclusions),
        f"{CI}ci.workflow.cancelled": sum(run["conclusion"] == "cancelled" for run in on_main),
        f"{CI}github.hotfix.count": merged,
    }


def test_each_difference_gets_its_cause_and_one_without_a_cause_raises_the_alarm(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    world = generate(seed=3, runs_a_day=500, days=8, now=now)
    # Of a week only the pull requests count.
    world.repository.runs = [run for run in world.repository.runs if run.created > now - timedelta(hours=26)]
    for run in world.repository.runs:
        run.branch = "topic" if run.fork else run.branch  # the CronJobs took a fork's main for ours
    github = SimulatedGithub([world.repository], lambda: datetime.now(UTC))
    with place(tmp_path, github=github) as here:
        ci = here.config["collectors"]["ci"]
        ci |= {"repo": REPOSITORY, "tests_blocking_merge": BLOCKING, "benchmarks": []}
        here.config["mode"] = "shadow"
        here.write_config()
        here.run("collect", "ci", "training", "--push", "-o", "ours.json")
        samples = json.loads((tmp_path / "ours.json").read_text())
        samples = [each for each in samples if each["kind"] == "gauge" and "success_ratio" not in each["metric"]]
        for metric, value in replaced(here.environ["GITHUB_API_URL"], datetime.now(UTC)).items():
            next(each for each in samples if each["metric"] == metric)["value"] = value
        samples.append({"metric": f"{CI}ci.workflow.benchmarks", "value": 1, "tags": {}, "kind": "gauge"})

        (here.folder / "theirs.json").write_text(json.dumps(samples))
        answer = here.run("compare", "--against", "theirs.json", "--json")
        found = {each["metric"]: each for each in json.loads(answer.stdout)["values"]}
        causes = {metric: each["causes"] for metric, each in found.items()}
        assert answer.returncode == 0, found
        assert found["metta.infra.stablesuite.hearts"]["verdict"] == "same"
        assert found[f"{CI}ci.workflow.flaky_tests"]["verdict"] == "same"
        assert causes[f"{CI}ci.workflow.success_ratio"] == ["new: the CronJobs did not send it"]
        assert causes[f"{CI}ci.workflow.cancelled"] == ["window cut at 100 runs"]
        failing = causes[f"{CI}ci.workflow.other_failing"]
        assert set(failing) <= {"workflows beyond the first page", "cancelled runs counted"}
        assert causes[f"{CI}ci.workflow.benchmarks"] == ["nothing to measure: the CronJob sent a number all the same"]
        # At midnight the two windows are one.
        assert causes[f"{CI}github.hotfix.count"] in (["whole-day window of pull requests"], [])
        assert not any(metric.startswith(("shadow.", "metta.infra.check.")) for metric in found)

        for sample in samples[:-1]:
            sample["value"] += 17.25
        (tmp_path / "theirs.json").write_text(json.dumps(samples))
        answer = here.run("compare", "--against", "theirs.json", "--format", "markdown")
        assert answer.returncode == 1
        assert "| metric | check | CronJobs | infra-health | why |" in answer.stdout
        assert "UNEXPLAINED" in answer.stdout
        assert answer.stdout.count("UNEXPLAINED") == len(samples) - 1
