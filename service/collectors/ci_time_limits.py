"""Jobs that their time limit ended: which runs may hold one, and what was found in them. Pure.

GitHub ends a job beyond its ``timeout-minutes`` as ``cancelled``, and only an annotation of its check run tells it from
other cancellations (``timed_out`` is rare). A finished attempt never changes, so each is looked into once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any

from service.collectors import ci_runs
from service.collectors.ci_runs import Run
from service.domain.samples import Evidence

WEEK = timedelta(days=7)
# GitHub's own words: https://github.com/actions/runner, "The job has exceeded the maximum execution time of 6h0m0s"
_SAID = "exceeded the maximum execution time"
_attempt_of = attrgetter("attempt")
# What the time limit of a job can make of its run. A run that succeeded in the end may hold one in an earlier attempt.
_SUSPECT = frozenset({"cancelled", "timed_out", "failure"})


@dataclass(frozen=True, slots=True)
class Suspect:
    """A run that may hold such a job. ``seen``: the attempts up to this one were looked into before."""

    attempt: int
    seen: int
    ended: datetime
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job that ended. ``conclusion``: timed_out or cancelled; others are of no interest."""

    id: int
    attempt: int
    name: str
    conclusion: str
    started: datetime | None
    ended: datetime
    url: str

    @property
    def was_running(self) -> bool:
        """Whether it had begun when it was cancelled: a job that never began can't be too long."""
        return self.started is not None and self.ended > self.started


@dataclass(slots=True)
class TimeLimits:
    """``suspects`` by run id: still to be looked into. ``seen``: the attempt up to which a run was, and its end.

    ``found``: the run and what to show, by job id. ``pending``: the same of jobs of which it is not known yet whether
    their time limit cancelled them.
    ``deep``: how many runs are older than those that the first sweep read; they may have been run again within the
    week. None: there is nothing left to read; -1: the first sweep has not ended.
    ``was_whole``: all of the week was known once, so that what is unknown now came since.
    """

    suspects: dict[int, Suspect] = field(default_factory=dict)
    seen: dict[int, tuple[int, datetime]] = field(default_factory=dict)
    found: dict[int, tuple[int, Evidence]] = field(default_factory=dict)
    pending: dict[int, tuple[int, Evidence]] = field(default_factory=dict)
    deep: int | None = -1
    was_whole: bool = False

    def note(self, run: Run) -> None:
        """Takes down a run that must be looked into."""
        # While a run is run again, the attempts before are over.
        attempt = run.attempt if run.conclusion else run.attempt - 1
        seen = self.seen.get(run.id, (0, run.updated))[0]
        if seen < attempt and self.may_hold(run):
            self.suspects[run.id] = Suspect(attempt, seen, run.updated, run.name)

    @staticmethod
    def may_hold(run: Run) -> bool:
        return run.conclusion in _SUSPECT or run.attempt > 1

    def settle(self, run_id: int, suspect: Suspect, jobs: Iterable[Job]) -> None:
        """Keeps those of its jobs that its time limit ended, or may have: the suspect was looked into."""
        if self.suspects.get(run_id) == suspect:
            del self.suspects[run_id]
        self.seen[run_id] = (suspect.attempt, suspect.ended)
        # A job that a re-run carried over into its attempt is listed there again, with its old times.
        known = [*self.found.values(), *self.pending.values()]
        before = {(each.title, each.at) for run, each in known if run == run_id}
        new = (job for job in jobs if suspect.seen < job.attempt <= suspect.attempt)
        for _, attempt in groupby(sorted(new, key=_attempt_of), _attempt_of):
            fresh = [job for job in attempt if (job.name, job.ended) not in before]
            before |= {(job.name, job.ended) for job in fresh}
            for job in fresh:
                told = run_id, Evidence(job.name, job.url, job.ended, job.conclusion, suspect.name)
                if job.conclusion == "timed_out":
                    self.found[job.id] = told
                elif job.was_running:
                    self.pending[job.id] = told

    def judge(self, job_id: int, is_limit: bool) -> None:
        """Whether a pending job was ended by its time limit."""
        told = self.pending.pop(job_id, None)
        if told and is_limit:
            self.found[job_id] = told

    def trim(self, now: datetime) -> None:
        """Forgets what is older than the week."""
        since = now - WEEK
        self.suspects = {run: each for run, each in self.suspects.items() if each.ended >= since}
        self.seen = {run: each for run, each in self.seen.items() if each[1] >= since}
        self.found = {job: each for job, each in self.found.items() if each[1].at and each[1].at >= since}
        self.pending = {job: each for job, each in self.pending.items() if each[1].at and each[1].at >= since}

    @property
    def is_whole(self) -> bool:
        """Whether all of the week is known."""
        return self.deep is None and not self.waiting

    @property
    def waiting(self) -> int:
        """How many runs and jobs must be looked into."""
        return len(self.suspects) + len(self.pending)

    def dump(self) -> dict[str, Any]:
        return {
            "suspects": [
                [run, each.attempt, each.seen, each.ended.timestamp(), each.name] for run, each in self.suspects.items()
            ],
            "seen": [[run, attempt, ended.timestamp()] for run, (attempt, ended) in self.seen.items()],
            "found": _rows(self.found),
            "pending": _rows(self.pending),
            "deep": self.deep,
            "was_whole": self.was_whole,
        }


def load(state: Mapping[str, Any]) -> TimeLimits:
    """What ``dump`` gave. Raises LookupError, TypeError or ValueError when it is something else."""
    limits = TimeLimits(deep=state["deep"], was_whole=state["was_whole"])
    for run, attempt, seen, ended, name in state["suspects"]:
        limits.suspects[run] = Suspect(attempt, seen, ci_runs.from_epoch(ended), name)
    limits.seen = {run: (attempt, ci_runs.from_epoch(ended)) for run, attempt, ended in state["seen"]}
    for kept, rows in ((limits.found, state["found"]), (limits.pending, state["pending"])):
        for job, run, name, ended, url, conclusion, workflow in rows:
            kept[job] = run, Evidence(name, url, ci_runs.from_epoch(ended), conclusion, workflow)
    return limits


def _rows(jobs: Mapping[int, tuple[int, Evidence]]) -> list[list[Any]]:
    return [
        [job, run, each.title, each.at.timestamp(), each.url, each.conclusion, each.workflow]
        for job, (run, each) in jobs.items()
        if each.at
    ]


def to_jobs(payload: Mapping[str, Any]) -> tuple[int, list[Job]]:
    """How many jobs there are, and those of this page that may have been ended by their time limit.

    https://docs.github.com/rest/actions/workflow-jobs. Raises KeyError, TypeError or ValueError when it is no page.
    """
    rows = payload["jobs"]
    return int(payload["total_count"]), [
        _job(row) for row in rows if row.get("conclusion") in ("cancelled", "timed_out") and row.get("completed_at")
    ]


def is_said(annotations: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a check run's annotations say that the time limit ended the job."""
    return any(_SAID in str(each["message"]).lower() for each in annotations)


def _job(row: Mapping[str, Any]) -> Job:
    started = row.get("started_at")
    return Job(
        int(row["id"]),
        int(row.get("run_attempt") or 1),
        ci_runs.to_text(row.get("name")),
        row["conclusion"],
        ci_runs.to_time(started) if started else None,
        ci_runs.to_time(row["completed_at"]),
        ci_runs.to_url(row.get("html_url")),
    )
