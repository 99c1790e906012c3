"""The replaced collector's rules on a busy repository, beside a shadow's values: each difference gets its cause."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from bench.github_sim import simulated
from bench.github_world import REPOSITORY, Shape
from tests.acceptance.program import place

BLOCKING, BENCHMARKS = ["Workflow 01", "Workflow 02", "Workflow 03"], ["Workflow 04"]
ACTIONS = f"/repos/{REPOSITORY}/actions"


def replaced(base: str, now: datetime) -> list[dict[str, Any]]:
    """What ``collect ci -o`` of the replaced tool would hold: its first pages, its windows, its readings."""
    found: list[dict[str, Any]] = []

    def emit(metric: str, value: float, *about: str) -> None:
        tags = dict(zip(("workflow_name", "task", "check"), about, strict=True))
        sample = {"metric": f"metta.infra.cron.{metric}", "value": value, "tags": tags, "kind": "gauge"}
        found.append(sample | {"timestamp": now.isoformat()})

    with httpx.Client(base_url=base, trust_env=False) as client:

        def get(path: str, key: str, **query: str | int) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = client.get(path, params=query).raise_for_status().json()[key]
            return rows

        workflows = get(f"{ACTIONS}/workflows", "workflows")
        latest = {
            each["id"]: runs[0]["conclusion"]
            for each in workflows
            if (
                runs := get(
                    f"{ACTIONS}/workflows/{each['id']}/runs", "workflow_runs", branch="main", status="completed"
                )
            )
        }
        others = [each for each in workflows if each["name"] not in BLOCKING + BENCHMARKS and each["state"] == "active"]
        failing = sum(latest.get(each["id"], "success") != "success" for each in others)
        emit("ci.workflow.other_failing", failing, "latest_state_of_main", "other_workflows", "failing_count")
        day = f">={now - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
        on_main = get(f"{ACTIONS}/runs", "workflow_runs", branch="main", created=day, per_page=100)
        cancelled = sum(run["conclusion"] == "cancelled" for run in on_main)
        emit("ci.workflow.cancelled", cancelled, "ci_smoothness", "jobs_cancelled", "count")
        ended = [run for run in get(f"{ACTIONS}/runs", "workflow_runs", created=day, per_page=100) if run["conclusion"]]
        minutes = sorted(
            (datetime.fromisoformat(run["updated_at"]) - datetime.fromisoformat(run["created_at"])).total_seconds() / 60
            for run in ended
        )
        place, rest = divmod(0.9 * (len(minutes) - 1), 1)
        low, high = minutes[int(place)], minutes[min(int(place) + 1, len(minutes) - 1)]
        emit(
            "ci.workflow.duration.p90",
            low + rest * (high - low),
            "ci_smoothness",
            "workflow_duration",
            "p90_minutes",
        )
        query = f"repo:{REPOSITORY} is:pr is:merged label:force-merge merged:>={now - timedelta(days=7):%Y-%m-%d}"
        merged = client.get("/search/issues", params={"q": query}).json()["total_count"]
        emit("github.force_merge.count", merged, "commit_history", "force_merges", "weekly_count")
    return found


def test_each_named_cause_is_found_where_it_is_one(tmp_path: Path) -> None:
    with simulated(Shape(latency=0)) as simulation, place(tmp_path) as here:
        here.environ["GITHUB_API_URL"] = simulation.base
        ci = here.config["collectors"]["ci"]
        ci |= {"repo": REPOSITORY, "tests_blocking_merge": BLOCKING, "benchmarks": BENCHMARKS}
        here.config = {**here.config, "mode": "shadow", "collectors": {"ci": ci}}
        here.write_config()
        with here.daemon() as daemon:
            daemon.wait_until_quiet()
            theirs = replaced(simulation.base, simulation.now())
            found, code = compared(here.folder, theirs, here)
            assert code == 0, found
            assert found["ci.workflow.other_failing"] == ["workflows beyond the first page", "cancelled runs counted"]
            assert found["ci.workflow.cancelled"] == ["window cut at 100 runs"]
            # At midnight the two windows are one.
            assert found["github.force_merge.count"] in (["whole-day window of pull requests"], [])
            assert {
                "all runs instead of pre-merge ones",
                "cancelled runs counted",
                "window cut at 100 runs",
            } <= set(found["ci.workflow.duration.p90"])
            for sample in theirs:
                sample["value"] += 17.25
            found, code = compared(here.folder, theirs, here)
            assert code == 1
            assert not any(found[each["metric"].removeprefix("metta.infra.cron.")] for each in theirs)


def compared(folder: Path, theirs: list[dict[str, Any]], here: Any) -> tuple[dict[str, list[str]], int]:
    (folder / "ci.json").write_text(json.dumps(theirs))
    answer = here.run("compare", "--against", "ci.json", "--json")
    values = json.loads(answer.stdout)["values"]
    return {each["metric"].removeprefix("metta.infra.cron."): each["causes"] for each in values}, answer.returncode
