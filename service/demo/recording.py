"""Recorded GitHub repositories as rows: real runs and jobs, moved in time so that the newest run ended minutes ago; and
how they go on: now and then a workflow ends once more, of which the webhook tells.

Neither pull requests nor issues were recorded, and none are made up; the labels that are asked for do exist. Of one
repository no jobs were recorded: each of its runs is shown with one job that ended like the run.
"""

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from itertools import cycle
from threading import Event
from typing import Any

import httpx

from service.demo.github import SimulatedGithub
from service.demo.github_rows import Attempt, Job, Repository, Run, Workflow

_ENDED_AGO = timedelta(minutes=4)
_FIRST_DELIVERY, _INTERVAL = 30.0, 60.0  # seconds
_TOOK = timedelta(minutes=3)
_LABELS = {"hotfix", "force-merge", "revert", "bug"}


def create_app() -> SimulatedGithub:
    """The demo's GitHub: the recorded repositories, as of now."""
    return SimulatedGithub(load_repositories(datetime.now(UTC)), lambda: datetime.now(UTC))


def load_repositories(now: datetime) -> list[Repository]:
    """Each is shifted by whole seconds."""
    folder = resources.files("service.demo") / "data" / "github"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return [_to_repository(json.loads(file.read_text(encoding="utf-8")), now) for file in files]


def _to_repository(recorded: dict[str, Any], now: datetime) -> Repository:
    runs = recorded["runs"]
    shift = now.replace(microsecond=0) - _ENDED_AGO - max(datetime.fromisoformat(row["updated_at"]) for row in runs)
    row, workflows = recorded["repository"], {}
    for run in reversed(runs):  # named as in the newest run
        workflows[run["workflow_id"]] = Workflow(run["workflow_id"], run["name"], run["path"])
    return Repository(
        row["full_name"],
        row["id"],
        row["default_branch"],
        list(workflows.values()),
        [_to_run(run, [job for job in recorded["jobs"] if job["run_id"] == run["id"]], shift) for run in runs],
        labels=set(_LABELS),
        branches={run["head_branch"] for run in runs},
    )


def _to_run(row: dict[str, Any], recorded_jobs: list[dict[str, Any]], shift: timedelta) -> Run:
    """Only last attempts were recorded. The first of two follows from a job that the second one carried over (it
    started before its attempt): GitHub does so only when those that did not succeed are run again, so it failed, not
    before the end of that job. Where nothing was carried over, the recorded attempt is shown as the only one."""

    def at(key: str, of: dict[str, Any]) -> datetime:
        return datetime.fromisoformat(of[key]) + shift

    jobs = [
        Job(job["conclusion"], at("started_at", job), at("completed_at", job), job["name"], id=job["id"])
        for job in recorded_jobs
    ]
    last = Attempt(at("run_started_at", row), at("updated_at", row), row["conclusion"], jobs or None)
    carried = [at("completed_at", job) for job in recorded_jobs if job["started_at"] < job["created_at"]]
    is_rerun = row["run_attempt"] == 2 and bool(carried)
    attempts = [Attempt(at("created_at", row), max(carried), "failure"), last] if is_rerun else [last]
    return Run(
        row["id"],
        row["workflow_id"],
        at("created_at", row),
        attempts,
        row["head_branch"],
        row["event"],
        title=row["display_title"],
        sha=row["head_sha"],
        message=row.get("head_commit", {}).get("message", ""),
    )


def deliver_runs(repository: Repository, url: str, secret: str, end: Event) -> None:
    """Until ``end``: the newest workflow of the default branch succeeds and fails in turn, so that its tile turns."""
    newest = next(run for run in repository.newest_first(datetime.now(UTC)) if run.branch == repository.branch)
    interval = _FIRST_DELIVERY
    with httpx.Client(trust_env=False) as http:
        for number, conclusion in enumerate(cycle(("success", "failure")), 1):
            if end.wait(interval):
                return
            interval, now = _INTERVAL, datetime.now(UTC).replace(microsecond=0)
            attempts = [Attempt(now - _TOOK, now, conclusion)]
            run = replace(newest, id=newest.id + number, created=now - _TOOK, attempts=attempts)
            repository.runs = [run, *repository.runs]  # the server's thread reads the list meanwhile
            row, whole = repository.run_json(run, now), repository.json()
            body = json.dumps({"action": "completed", "workflow_run": row, "repository": whole}).encode()
            signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers = {"X-GitHub-Event": "workflow_run", "X-Hub-Signature-256": f"sha256={signature}"}
            with suppress(httpx.HTTPError):  # the daemon ends first
                http.post(f"{url}api/v1/webhooks/github", content=body, headers=headers)
