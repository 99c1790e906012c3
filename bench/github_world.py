"""A synthetic repository: workflows, runs with their attempts and jobs, merged pull requests, as of a movable now."""

import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from service.demo.recording import format_time, parse_time

REPOSITORY = "bench/busy"
REPOSITORY_ID = 4711
_URLS = (
    *("archive", "assignees", "blobs", "branches", "collaborators", "comments", "commits", "compare", "contents"),
    *("contributors", "deployments", "downloads", "events", "forks", "git_commits", "git_refs", "git_tags", "hooks"),
    *("issue_comment", "issue_events", "issues", "keys", "labels", "languages", "merges", "milestones"),
    *("notifications", "pulls", "releases", "stargazers", "statuses", "subscribers", "subscription", "tags", "teams"),
)
_LABELS = ("hotfix", "force-merge", "revert", "docs", "feature", "refactor")

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """``latency`` in seconds a request. One workflow in eight is disabled, one in ten runs once a fortnight."""

    workflows: int = 40
    runs_a_day: int = 300
    pulls_a_day: int = 20
    days: int = 35
    latency: float = 0.05
    seed: int = 20260101
    quota: int = 5000


class World:
    """All that happens from ``days`` before ``start`` until two days after it, and what is visible of it at ``now``."""

    def __init__(self, shape: Shape, start: datetime) -> None:
        self.now = start
        chance = random.Random(shape.seed)
        self.workflows = [_workflow(number, start - timedelta(days=shape.days)) for number in range(shape.workflows)]
        seldom = {row["id"] for row in self.workflows[::10]}
        usual = [row for row in self.workflows if row["id"] not in seldom and row["state"] == "active"]
        begin, total = start - timedelta(days=shape.days), shape.days + 2
        times = sorted(
            begin + timedelta(seconds=chance.randrange(total * 86_400)) for _ in range(shape.runs_a_day * total)
        )
        self.runs = [_run(chance, number, at, chance.choice(usual), _event(chance)) for number, at in enumerate(times)]
        for row in self.workflows[::10]:
            if row["state"] == "active":
                at = begin + timedelta(seconds=chance.randrange(14 * 86_400))
                self.runs += [
                    _run(chance, len(self.runs), at + timedelta(days=day), row, "schedule")
                    for day in range(0, total - 14, 14)
                ]
        self.runs.sort(key=lambda run: run["created"])
        for place, run in enumerate(self.runs):
            run["id"] = 9_000_000_000 + place
        self._created = [run["created"] for run in self.runs]
        merged = sorted(
            begin + timedelta(seconds=chance.randrange(total * 86_400)) for _ in range(shape.pulls_a_day * total)
        )
        self.pulls = [_pull(chance, number, at) for number, at in enumerate(merged, 1)]

    def visible(self) -> list[Row]:
        """The runs of now, newest first."""
        return self.runs[: bisect_right(self._created, self.now)][::-1]

    def state(self, run: Row, number: int | None = None) -> tuple[int, datetime, datetime, str | None]:
        """Of a run's last attempt as of now, or of attempt ``number``: number, start, last change, conclusion."""
        if number is None:
            number = max(1, sum(attempt[0] <= self.now for attempt in run["attempts"]))
        started, ended, conclusion = run["attempts"][number - 1]
        return (number, started, ended, conclusion) if ended <= self.now else (number, started, started, None)

    def run_json(self, base: str, run: Row, number: int | None = None) -> Row:
        """A run as GitHub shows it now, or its attempt ``number``."""
        number, started, updated, conclusion = self.state(run, number)
        repository = repository_json(base)
        url = f"{base}/repos/{REPOSITORY}/actions/runs/{run['id']}"
        workflow = run["workflow"]
        return {
            "id": run["id"],
            "name": workflow["name"],
            "node_id": f"WFR_{run['id']}",
            "head_branch": run["branch"],
            "head_sha": run["sha"],
            "path": workflow["path"],
            "display_title": f"Change {run['id']}",
            "run_number": run["id"] % 10_000,
            "event": run["event"],
            "status": "completed" if conclusion else "in_progress",
            "conclusion": conclusion,
            "workflow_id": workflow["id"],
            "check_suite_id": run["id"] + 1,
            "url": url,
            "html_url": f"https://github.com/{REPOSITORY}/actions/runs/{run['id']}",
            "pull_requests": [],
            "created_at": format_time(run["created"]),
            "updated_at": format_time(updated),
            "run_attempt": number,
            "run_started_at": format_time(started),
            "jobs_url": f"{url}/jobs",
            "previous_attempt_url": f"{url}/attempts/{number - 1}" if number > 1 else None,
            "workflow_url": f"{base}/repos/{REPOSITORY}/actions/workflows/{workflow['id']}",
            "repository": repository,
            "head_repository": repository,
        }

    def jobs(self, run: Row, attempts: Sequence[int]) -> list[Row]:
        rows = []
        for number in attempts:
            started, ended, conclusion = run["attempts"][number - 1]
            for place, name in enumerate(("lint", "test", "package")):
                done = ended <= self.now
                verdict = conclusion if name == "test" else "success"
                rows.append(
                    {
                        "id": run["id"] * 10 + number * 3 + place,
                        "run_id": run["id"],
                        "run_attempt": number,
                        "name": name,
                        "workflow_name": run["workflow"]["name"],
                        "head_branch": run["branch"],
                        "status": "completed" if done else "in_progress",
                        "conclusion": verdict if done else None,
                        "created_at": format_time(started),
                        "started_at": format_time(started),
                        "completed_at": format_time(ended) if done else None,
                        "labels": ["ubuntu-latest"],
                    }
                )
        return rows

    def searched(self, query: str) -> list[Row]:
        """Merged pull requests by ``label:`` (commas mean or, repeated means and) and ``merged:``, newest first."""
        rows = [pull for pull in self.pulls if pull["merged"] <= self.now]
        for key, quoted, plain in re.findall(r'(\w+):(?:"([^"]*)"|(\S+))', query):
            value = quoted or plain
            if key == "repo" and value.lower() != REPOSITORY:
                return []
            if key == "label":
                wanted = {label.strip('"') for label in value.split(",")}
                rows = [pull for pull in rows if wanted & set(pull["labels"])]
            if key == "merged":
                low, _, high = value.removeprefix(">=").removeprefix(">").partition("..")
                until = parse_time(high) if high not in ("", "*") else self.now
                rows = [pull for pull in rows if parse_time(low) <= pull["merged"] <= until]
        return rows[::-1]


def _workflow(number: int, created: datetime) -> Row:
    file = f"workflow-{number:02}.yml"
    return {
        "id": 1000 + number,
        "node_id": f"W_{number}",
        "name": f"Workflow {number:02}",
        "path": f".github/workflows/{file}",
        "file": file,
        "state": "disabled_manually" if number % 8 == 7 else "active",
        "created_at": format_time(created),
        "updated_at": format_time(created),
    }


def _event(chance: random.Random) -> str:
    return chance.choices(("push", "schedule", "pull_request", "merge_group"), (30, 15, 45, 10))[0]


def _run(chance: random.Random, number: int, created: datetime, workflow: Row, event: str) -> Row:
    attempts, started = [], created
    while True:
        ended = started + timedelta(seconds=chance.randint(40, 900))
        conclusion = chance.choices(("success", "failure", "cancelled", "skipped", "timed_out"), (85, 8, 4, 2, 1))[0]
        attempts.append((started, ended, conclusion))
        if conclusion != "failure" or len(attempts) == 3 or chance.random() > 0.4:
            break
        started = ended + timedelta(seconds=chance.randint(30, 7200))
    branch = "main" if event in ("push", "schedule") else f"change/{number}"
    sha = f"{chance.getrandbits(160):040x}"
    return {
        "created": created,
        "workflow": workflow,
        "event": event,
        "branch": branch,
        "sha": sha,
        "attempts": attempts,
    }


def _pull(chance: random.Random, number: int, merged: datetime) -> Row:
    labels = [label for label in _LABELS if chance.random() < 0.12]
    return {"number": number, "merged": merged, "labels": labels}


def pull_json(base: str, pull: Row) -> Row:
    merged = format_time(pull["merged"])
    return {
        "url": f"{base}/repos/{REPOSITORY}/issues/{pull['number']}",
        "id": 70_000 + pull["number"],
        "number": pull["number"],
        "title": f"Change {pull['number']}",
        "state": "closed",
        "labels": [{"id": _LABELS.index(label), "name": label} for label in pull["labels"]],
        "closed_at": merged,
        "pull_request": {"merged_at": merged},
    }


@lru_cache
def repository_json(base: str) -> Row:
    """As heavy as GitHub's, which comes twice with every run."""
    url = f"{base}/repos/{REPOSITORY}"
    owner, name = REPOSITORY.split("/")
    return {
        "id": REPOSITORY_ID,
        "node_id": "R_4711",
        "name": name,
        "full_name": REPOSITORY,
        "private": False,
        "fork": False,
        "owner": {"login": owner, "id": 1, "type": "Organization", "url": f"{base}/users/{owner}"},
        "default_branch": "main",
        "url": url,
        **{f"{part}_url": f"{url}/{part}" for part in _URLS},
    }
