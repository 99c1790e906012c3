"""GitHub's JSON as far as it decides a number, and a run as it is kept.

https://docs.github.com/rest/actions/workflow-runs, workflow-jobs and workflows
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec

from service.collectors.github_ci.evidence import BEGINNING, make_evidence, shorten
from service.domain.samples import MAX_POINT_AGE, Evidence

FAILED = frozenset({"failure", "timed_out", "startup_failure"})
CONCLUSIVE = FAILED | {"success"}
# Runs among whose jobs one may have met its time limit.
SUSPECT = frozenset({"failure", "cancelled", "timed_out"})
WAITING = frozenset({"queued", "waiting", "pending", "requested"})
PRE_MERGE = frozenset({"pull_request", "pull_request_target", "merge_group"})
STUCK_AFTER = timedelta(hours=24)  # GitHub leaves some runs queued for weeks

Time = Annotated[datetime, msgspec.Meta(tz=True)]
# Answers are JSON of a foreign program: some fields are null where one expects text.
Text = str | None

_JOB_KEYS = {"ended": "completed_at", "attempt": "run_attempt", "started": "started_at", "url": "html_url"}
_RUN_KEYS = {"attempt": "run_attempt", "created": "created_at", "started": "run_started_at", "updated": "updated_at"}
_RUN_KEYS |= {"title": "display_title", "url": "html_url"}


class Named(msgspec.Struct):
    """A repository, an account, a branch or a label."""

    full_name: Text = None
    login: Text = None
    name: Text = None

    @property
    def slug(self) -> str:
        """The repository's name as it is compared: GitHub's names have no case."""
        return (self.full_name or "").lower()


class Commit(msgspec.Struct):
    message: Text = None
    author: Named | None = None


class Workflow(msgspec.Struct, frozen=True, rename={"created": "created_at"}):
    """``state``: active, deleted, disabled_fork, disabled_inactivity or disabled_manually."""

    id: int
    state: str
    name: str = ""
    path: str = ""
    created: Time = BEGINNING

    def is_meant_by(self, entry: str) -> bool:
        """By id, name, path or file name. The name of a broken file is its path."""
        return entry in (str(self.id), self.name, self.path, self.path.rpartition("/")[2])

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    @property
    def file(self) -> str:
        """The name of its file, which tells it from others."""
        return self.path.rpartition("/")[2] or self.name or str(self.id)


class WorkflowPage(msgspec.Struct, rename={"rows": "workflows"}):
    rows: list[Workflow]
    total_count: int = 0


class Job(msgspec.Struct, omit_defaults=True, rename=_JOB_KEYS.get):
    """``is_overtime``: its time limit ended it. ``is_silent``: its annotations were asked for, and there were none."""

    id: int
    ended: Time | None = None
    conclusion: Text = None
    attempt: int = 1
    name: Text = None
    started: Time | None = None
    url: Text = None
    is_overtime: bool = False
    is_silent: bool = False


class JobPage(msgspec.Struct, rename={"rows": "jobs"}):
    rows: list[Job]
    total_count: int = 0


class Annotation(msgspec.Struct):
    message: Text = None


class Attempt(msgspec.Struct, array_like=True):
    """An attempt that a later one took the place of. ``ended``: None where that is not known."""

    conclusion: str
    started: Time
    ended: Time | None = None


class Run(msgspec.Struct, omit_defaults=True, rename=_RUN_KEYS.get):
    """A run as of its last attempt: as GitHub tells it, and as it is kept after ``normalize``.

    A re-run keeps ``id``, ``created`` and its place in the list; the rest moves.

    ``conclusion`` is None while it is unfinished. ``updated``: the attempt's end as it was first seen, for GitHub moves
    updated_at long after (an annotation).
    ``has_known_end``: whether ``updated`` can be believed; else its jobs say when it ended.
    ``author``: who made the commit, as Git has the name, else whose account began the run. ``title``: of a run on the
    branch the first line of the commit's message.
    ``earlier``: earlier attempts by number, as far as they are known. ``looked_into``: the jobs of the attempts up to
    this one were read; ``jobs``: those that their limit ended, or may have. ``refusals``: times in a row that GitHub
    did not show them.
    """

    id: int
    workflow_id: int
    attempt: int = 1
    event: str = ""
    on_branch: bool = False
    status: Text = None
    conclusion: Text = None
    created: Time = BEGINNING
    started: Time = BEGINNING
    updated: Time = BEGINNING
    title: Text = None
    name: Text = None
    url: Text = None
    head_sha: Text = None
    head_branch: Text = None
    author: str = ""
    actor: Named | None = None
    head_commit: Commit | None = None
    repository: Named | None = None
    head_repository: Named | msgspec.UnsetType | None = msgspec.UNSET
    has_known_end: bool = True
    earlier: dict[int, Attempt] = {}
    looked_into: int = 0
    jobs: list[Job] = []
    refusals: int = 0

    def normalize(self, branch: str) -> "Run":
        """This run, with what GitHub may leave out. A fork's branch of the same name is another; a fork that is gone
        leaves null."""
        here, head = self.repository, self.head_repository
        is_fork = head is None or bool(here and head and here.slug != head.slug)
        self.on_branch = self.head_branch == branch and not is_fork
        if self.status not in (None, "completed"):
            self.conclusion = None
        self.started, self.updated = max(self.started, self.created), max(self.updated, self.created)
        commit = self.head_commit
        names = commit and commit.author and commit.author.name, self.actor and self.actor.login
        self.author = shorten(next((name for name in names if name and "@" not in name), ""))
        if self.on_branch and commit and commit.message:
            self.title = commit.message.partition("\n")[0].strip()
        self.title = shorten(self.title)
        self.repository, self.head_repository, self.actor, self.head_commit = None, msgspec.UNSET, None, None
        return self

    @property
    def has_ended(self) -> bool:
        """A run that waits for approval goes on with the same attempt."""
        return self.conclusion not in (None, "action_required") and self.status in (None, "completed")

    @property
    def is_waiting(self) -> bool:
        return self.status in WAITING

    def is_stuck(self, now: datetime) -> bool:
        """Whether its attempt waits for so long that nobody should wait for it."""
        return self.is_waiting and self.started < now - STUCK_AFTER

    @property
    def is_conclusive(self) -> bool:
        return self.conclusion in CONCLUSIVE

    @property
    def is_suspect(self) -> bool:
        """Whether a job may have met its time limit, also one of an earlier attempt."""
        return self.conclusion in SUSPECT or self.attempt > 1

    @property
    def is_open(self) -> bool:
        """Whether jobs of a suspect are still to be read."""
        is_read = self.looked_into >= self.attempts_over
        return self.is_suspect and not (is_read and all(job.is_overtime or job.is_silent for job in self.jobs))

    @property
    def attempts_over(self) -> int:
        """While it is run again, the attempts before are over."""
        return self.attempt if self.conclusion else self.attempt - 1

    @property
    def kind(self) -> str:
        """pre_merge, main (on the branch), or empty for a run that is neither."""
        return "pre_merge" if self.event in PRE_MERGE else "main" if self.on_branch else ""

    @property
    def label(self) -> str:
        """Its workflow's name."""
        return self.name or str(self.workflow_id)

    @property
    def minutes(self) -> float:
        """How long the last attempt took, as GitHub's own gh tells it."""
        return max(0.0, (self.updated - self.started).total_seconds() / 60)

    @property
    def age_key(self) -> tuple[datetime, int]:
        """By this the newest run is the latest: a re-run keeps its place."""
        return self.created, self.id

    @property
    def unknown_attempts(self) -> list[int]:
        """The last first."""
        return [number for number in range(self.attempt - 1, 0, -1) if number not in self.earlier]

    @property
    def is_verdict_open(self) -> bool:
        """Whether it takes an earlier attempt to know if the run is flaky."""
        return self.conclusion == "success" and not self.has_failed_before and bool(self.unknown_attempts)

    @property
    def has_failed_before(self) -> bool:
        """Whether an attempt before the last one is known to have failed."""
        return any(attempt.conclusion in FAILED for attempt in self.earlier.values())

    @property
    def red_since(self) -> datetime | None:
        """Of a run that failed: when the first of the attempts began that failed in a row. None where one before the
        last is not known, so that it may have succeeded."""
        began = self.started
        for number in range(self.attempt - 1, 0, -1):
            attempt = self.earlier.get(number)
            if attempt is None:
                return None
            if attempt.conclusion not in FAILED:
                break
            began = attempt.started
        return began

    def lacks_end(self, now: datetime) -> bool:
        """Whether a duration is wanted that is not known."""
        is_wanted = self.kind == "pre_merge" or (self.kind and self.updated >= now - MAX_POINT_AGE)
        return bool(self.conclusion and not self.has_known_end and is_wanted)

    def as_attempt(self) -> Attempt:
        """Its last attempt, once another one takes its place."""
        return Attempt(self.conclusion or "none", self.started, self.updated if self.has_known_end else None)

    def as_evidence(self, note: str = "") -> Evidence:
        shown = make_evidence(self.title, self.url, self.updated, self.conclusion or "", self.name)
        return replace(shown, commit=self.head_sha or "", author=self.author, note=note)


class WorkflowRuns(NamedTuple):
    """A workflow's runs on the branch, the oldest first. ``created``: when the workflow was, as far as is known."""

    file: str
    runs: Sequence[Run]
    created: datetime = BEGINNING


class RunPage(msgspec.Struct):
    """``total_count`` differs by a few from answer to answer: good to doubt an empty page, never to count with."""

    workflow_runs: list[Run]
    total_count: int = 0


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the closest ranks; never beyond the largest. ``values`` are not empty."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (rank - lower)
