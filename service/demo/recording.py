"""Recorded GitHub repositories: real runs and jobs, their times moved so that the newest run ended minutes ago."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import resources
from typing import Any

Row = Mapping[str, Any]

ENDED_AGO = timedelta(minutes=4)
_HTML = "https://github.com"
# GitHub's own stand-in for people who are gone; the recorded people are left out of the data.
_NOBODY = {"login": "ghost", "id": 10137, "type": "User"}


@dataclass(frozen=True)
class Recording:
    """One repository as recorded. ``runs`` are newest first; times are GitHub's text, already shifted.

    The methods ending in ``_json`` give the objects of GitHub's REST API, with ``base`` as its base address.
    """

    repository: Row
    runs: tuple[Row, ...]
    jobs: tuple[Row, ...]

    @cached_property
    def full_name(self) -> str:
        return str(self.repository["full_name"])

    @cached_property
    def workflows(self) -> tuple[Row, ...]:
        """Derived from the runs: named as in the newest one, created with the oldest one, all active."""
        found: dict[int, dict[str, Any]] = {}
        for run in self.runs:
            row = {"id": run["workflow_id"], "name": run["name"], "path": run["path"], "state": "active"}
            found.setdefault(row["id"], row)["created_at"] = run["created_at"]
        return tuple(found[key] for key in sorted(found))

    def workflow(self, id_or_file: str) -> Row | None:
        return _first(row for row in self.workflows if id_or_file in (str(row["id"]), row["path"].rpartition("/")[2]))

    def run(self, run_id: int) -> Row | None:
        return _first(run for run in self.runs if run["id"] == run_id)

    def attempt(self, run_id: int, number: int) -> Row | None:
        """One attempt of a run, None where the recording does not tell how it ended.

        Only last attempts were recorded. The first attempt of a run follows from a job that the second one carried
        over (it started before its attempt): GitHub carries jobs over only when those that did not succeed are run
        again, so the first attempt failed, not before the end of that job.
        """
        run = self.run(run_id)
        if run is None or not 1 <= number <= run["run_attempt"]:
            return None
        if number == run["run_attempt"]:
            # As GitHub does: the attempt's created_at is its own, not the run's.
            return {**run, "created_at": run["run_started_at"]}
        carried = [job for job in self.jobs_of(run_id, 2) if job["started_at"] < job["created_at"]]
        if number != 1 or not carried:
            return None
        return {
            **run,
            "run_attempt": 1,
            "conclusion": "failure",
            "run_started_at": run["created_at"],
            "updated_at": max(job["completed_at"] for job in carried),
        }

    def jobs_of(self, run_id: int, attempt: int | None = None) -> list[Row]:
        """The recorded jobs of a run, of all attempts or one."""
        return [job for job in self.jobs if job["run_id"] == run_id and attempt in (None, job["run_attempt"])]

    def repository_json(self, base: str) -> Row:
        owner = self.full_name.partition("/")[0]
        return {
            **self.repository,
            "owner": {"login": owner, "type": "Organization"},
            "html_url": f"{_HTML}/{self.full_name}",
            "url": f"{base}/repos/{self.full_name}",
        }

    def workflow_json(self, base: str, row: Row) -> Row:
        branch = self.repository["default_branch"]
        file = row["path"].rpartition("/")[2]
        return {
            **row,
            "updated_at": row["created_at"],
            "url": f"{base}/repos/{self.full_name}/actions/workflows/{row['id']}",
            "html_url": f"{_HTML}/{self.full_name}/blob/{branch}/{row['path']}",
            "badge_url": f"{_HTML}/{self.full_name}/actions/workflows/{file}/badge.svg",
        }

    def run_json(self, base: str, run: Row, attempt: int | None = None) -> Row:
        """A run as in lists, or one ``attempt`` of it: there jobs and logs are the attempt's."""
        repository = f"{base}/repos/{self.full_name}"
        url = f"{repository}/actions/runs/{run['id']}"
        own = f"{url}/attempts/{attempt}" if attempt else url
        before = f"{url}/attempts/{run['run_attempt'] - 1}" if run["run_attempt"] > 1 else None
        short = {key: self.repository[key] for key in ("id", "node_id", "name", "full_name", "private", "fork")}
        return {
            **run,
            "url": url,
            "html_url": f"{_HTML}/{self.full_name}/actions/runs/{run['id']}",
            "pull_requests": [],
            "actor": _NOBODY,
            "triggering_actor": _NOBODY,
            "referenced_workflows": [],
            "jobs_url": f"{own}/jobs",
            "logs_url": f"{own}/logs",
            "check_suite_url": f"{repository}/check-suites/{run['check_suite_id']}",
            "artifacts_url": f"{url}/artifacts",
            "cancel_url": f"{url}/cancel",
            "rerun_url": f"{url}/rerun",
            "previous_attempt_url": before,
            "workflow_url": f"{repository}/actions/workflows/{run['workflow_id']}",
            "head_commit": None,
            "repository": short,
            "head_repository": short,
        }

    def job_json(self, base: str, job: Row) -> Row:
        repository = f"{base}/repos/{self.full_name}"
        return {
            **job,
            "run_url": f"{repository}/actions/runs/{job['run_id']}",
            "url": f"{repository}/actions/jobs/{job['id']}",
            "html_url": f"{_HTML}/{self.full_name}/actions/runs/{job['run_id']}/job/{job['id']}",
            "check_run_url": f"{repository}/check-runs/{job['id']}",
        }


def load(now: datetime) -> tuple[Recording, ...]:
    """The recorded repositories, each shifted by whole seconds: its newest run ended ``ENDED_AGO`` before ``now``."""
    folder = resources.files("service.demo") / "data" / "github"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(_shifted(json.loads(file.read_text(encoding="utf-8")), now) for file in files)


def parse_time(text: str) -> datetime:
    """GitHub's time stamps, and dates alone (midnight); without a zone it is UTC. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def format_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shifted(recorded: Row, now: datetime) -> Recording:
    # The file may name an instant as of which it is shown: what came later is left out.
    rows = {key: [row for row in recorded[key] if _is_told(row, recorded)] for key in ("runs", "jobs")}
    ended = max(parse_time(run["updated_at"]) for run in rows["runs"])
    shift = timedelta(seconds=(now - ENDED_AGO - ended) // timedelta(seconds=1))

    def moved(row: Row) -> Row:
        return {
            key: format_time(parse_time(value) + shift) if key.endswith("_at") and value else value
            for key, value in row.items()
        }

    runs, jobs = (tuple(moved(row) for row in rows[key]) for key in ("runs", "jobs"))
    return Recording(recorded["repository"], runs, jobs)


def _is_told(row: Row, recorded: Row) -> bool:
    as_of = recorded.get("as_of")
    return as_of is None or str(row.get("updated_at") or row["completed_at"]) <= as_of


def _first(rows: Iterable[Row]) -> Row | None:
    return next(iter(rows), None)
