"""What a simulated GitHub knows: repositories with their runs, as plain rows, and the JSON that GitHub makes of them.

Rows may lie in the future: all that is shown is shown as of an instant, so a clock that moves makes runs begin and end.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

Json = dict[str, Any]
DELETED = "deleted"  # in place of a fork's name: GitHub shows null where the fork is gone


@dataclass(slots=True)
class Job:
    """``annotation``: the message of its check run. ``id`` 0: derived from the run's."""

    conclusion: str
    started: datetime
    ended: datetime
    name: str = "test"
    annotation: str = ""
    id: int = 0


@dataclass(slots=True)
class Attempt:
    """``ended`` None: it never does. ``jobs`` None: a single one that ended like the attempt. ``status``: while it has
    not ended."""

    started: datetime
    ended: datetime | None = None
    conclusion: str | None = None
    jobs: list[Job] | None = None
    status: str = "in_progress"


@dataclass(slots=True)
class Run:
    """``fork``: full name of the repository that it came from. ``touched``: a later updated_at than that of its end.

    ``message``, ``author``: of the commit; without a message it is the title. ``actor``: whose account began the run.
    """

    id: int
    workflow_id: int
    created: datetime
    attempts: list[Attempt]
    branch: str = "main"
    event: str = "push"
    fork: str = ""
    title: str = ""
    sha: str = ""
    message: str = ""
    author: str = ""
    actor: str = ""
    touched: datetime | None = None

    def seen(self, at: datetime) -> list[Attempt]:
        """Its attempts as far as they had happened at ``at``: the last may be unfinished, the first waits to start."""
        last = self.attempts[-1]
        if last.ended and last.ended <= at:
            return self.attempts
        attempts = self.attempts[:1] + [attempt for attempt in self.attempts[1:] if attempt.started <= at]
        if attempts[-1].ended and attempts[-1].ended > at:
            attempts[-1] = replace(attempts[-1], ended=None, conclusion=None)
        return attempts

    def jobs(self, at: datetime) -> Iterator[tuple[int, Job]]:
        """The jobs of all attempts that began by ``at``, each with its attempt's number."""
        for number, attempt in enumerate(self.seen(at), 1):
            jobs = attempt.jobs
            if jobs is None:
                ended = self.attempts[number - 1].ended
                jobs = [Job(attempt.conclusion or "", attempt.started, ended)] if ended else []
            for place, job in enumerate(jobs):
                if job.started <= at:
                    yield number, job if job.id else replace(job, id=self.id * 1000 + number * 10 + place)


@dataclass(slots=True)
class Workflow:
    id: int
    name: str
    path: str
    state: str = "active"
    created: datetime = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Pull:
    """``merged`` None: it never was. ``updated``: later than the merge (a comment), None where nothing came after."""

    number: int
    merged: datetime | None
    labels: tuple[str, ...] = ()
    title: str = "A change"
    updated: datetime | None = None

    def updated_at(self, at: datetime) -> datetime:
        return max(each for each in (self.merged, self.updated) if each and each <= at)


@dataclass(slots=True)
class Issue:
    number: int
    created: datetime
    labels: tuple[str, ...] = ()
    is_open: bool = True
    title: str = "An issue"


@dataclass
class Repository:
    """``labels`` and ``branches``: those that exist, whether anything carries them or not."""

    name: str
    id: int = 1
    branch: str = "main"
    workflows: list[Workflow] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    branches: set[str] = field(default_factory=set)
    _oldest: Run | None = None

    @property
    def url(self) -> str:
        return f"https://github.com/{self.name}"

    def newest_first(self, at: datetime) -> list[Run]:
        """The runs created by ``at``."""
        if self.runs and self.runs[-1] is not self._oldest:  # one was added at the end
            self.runs.sort(key=attrgetter("created", "id"), reverse=True)
            self._oldest = self.runs[-1]
        return self.runs[bisect_left(self.runs, -at.timestamp(), key=lambda run: -run.created.timestamp()) :]

    def run(self, id: int, at: datetime) -> Run | None:
        return next((run for run in self.runs if run.id == id and run.created <= at), None)

    def job(self, id: int, at: datetime) -> Job | None:
        """By its id, which is that of its check run, too."""
        own = self.run(id // 1000, at)
        return next((job for run in ([own] if own else self.runs) for _, job in run.jobs(at) if job.id == id), None)

    def merged(self, labels: Collection[str], at: datetime) -> list[Pull]:
        """Pull requests merged by ``at`` that have one of the labels, the last updated first."""
        found = [pull for pull in self.pulls if pull.merged and pull.merged <= at and carries(pull, labels)]
        return sorted(found, key=lambda pull: pull.updated_at(at), reverse=True)

    def open_issues(self, at: datetime) -> list[Issue]:
        return [issue for issue in self.issues if issue.is_open and issue.created <= at]

    def label(self, name: str) -> Json | None:
        """As it is written; the case of ``name`` does not matter."""
        return next(({"name": each} for each in self.labels if each.lower() == name.lower()), None)

    def ref(self, branch: str) -> Json | None:
        return {"name": branch} if branch in self.branches | {self.branch} else None

    # GitHub's JSON: the fields that clients read

    def json(self) -> Json:
        return {"id": self.id, "full_name": self.name, "default_branch": self.branch, "html_url": self.url}

    def workflow_json(self, row: Workflow) -> Json:
        url = f"{self.url}/blob/{self.branch}/{row.path}"
        fields = {"id": row.id, "name": row.name, "path": row.path, "state": row.state, "html_url": url}
        return {**fields, "created_at": stamp(row.created)}

    def run_json(self, run: Run, at: datetime, number: int = 0) -> Json:
        """The run as of ``at``, or its attempt ``number``."""
        attempts = run.seen(at)
        last = attempts[number - 1]
        updated = last.ended or last.started
        if run.touched and run.touched <= at:
            updated = max(updated, run.touched)
        head = None if run.fork == DELETED else {"full_name": run.fork or self.name}
        return {
            "id": run.id,
            "name": next((each.name for each in self.workflows if each.id == run.workflow_id), ""),
            "head_branch": run.branch,
            "head_sha": run.sha or f"{run.id:040x}",
            "display_title": run.title or f"Change {run.id}",
            "event": run.event,
            "status": "completed" if last.conclusion else last.status,
            "conclusion": last.conclusion,
            "workflow_id": run.workflow_id,
            "html_url": f"{self.url}/actions/runs/{run.id}",
            # An attempt's created_at is its own, not the run's.
            "created_at": stamp(last.started if number else run.created),
            "updated_at": stamp(updated),
            "run_attempt": number or len(attempts),
            "run_started_at": stamp(last.started),
            "actor": {"login": run.actor} if run.actor else None,
            "head_commit": self._commit_json(run),
            "repository": self.json(),
            "head_repository": head,
        }

    def _commit_json(self, run: Run) -> Json:
        author = {"name": run.author, "email": f"{run.id}@example.org"} if run.author else None
        message = run.message or run.title or f"Change {run.id}"
        return {"id": run.sha or f"{run.id:040x}", "message": message, "author": author}

    def job_json(self, run: Run, number: int, job: Job, at: datetime) -> Json:
        has_ended = job.ended <= at
        return {
            "id": job.id,
            "run_id": run.id,
            "run_attempt": number,
            "name": job.name,
            "status": "completed" if has_ended else "in_progress",
            "conclusion": job.conclusion if has_ended else None,
            "started_at": stamp(job.started),
            "completed_at": stamp(job.ended) if has_ended else None,
            "html_url": f"{self.url}/actions/runs/{run.id}/job/{job.id}",
        }

    def pull_json(self, pull: Pull, at: datetime) -> Json:
        """For GraphQL; the search is only asked how many there are."""
        times = {"mergedAt": stamp(pull.merged) if pull.merged else None, "updatedAt": stamp(pull.updated_at(at))}
        return {"title": pull.title, "url": f"{self.url}/pull/{pull.number}", **times}

    def issue_json(self, issue: Issue) -> Json:
        url = f"{self.url}/issues/{issue.number}"
        return {"title": issue.title, "url": url, "createdAt": stamp(issue.created)}


def carries(row: Pull | Issue, labels: Collection[str]) -> bool:
    """Whether it has one of the labels; their case does not matter."""
    return not {label.lower() for label in row.labels}.isdisjoint(label.lower() for label in labels)


def stamp(at: datetime) -> str:
    """GitHub's times have whole seconds."""
    return f"{at.astimezone(UTC).isoformat()[:19]}Z"
