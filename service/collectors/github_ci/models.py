"""GitHub's JSON as far as it decides a number, and a run as it is kept.

https://docs.github.com/rest/actions/workflow-runs, workflow-jobs and workflows
"""

import re
from datetime import datetime
from typing import Annotated

import msgspec

from service.domain.samples import Evidence

FAILED = frozenset({"failure", "timed_out", "startup_failure"})
CONCLUSIVE = FAILED | {"success"}
# Runs among whose jobs one may have met its time limit; a run that was run again may hide one in an earlier attempt.
SUSPECT = frozenset({"failure", "cancelled", "timed_out"})
PRE_MERGE = frozenset({"pull_request", "pull_request_target", "merge_group"})
PER_PAGE = 100  # GitHub's most
_LONGEST_TEXT = 160

Time = Annotated[datetime, msgspec.Meta(tz=True)]
# Answers are JSON of a foreign program: some fields are null where one expects text.
Text = str | None


class Named(msgspec.Struct):
    """A repository, an account, a branch or a label."""

    full_name: Text = None
    login: Text = None
    name: Text = None


class RunRow(msgspec.Struct):
    """A row of the list of runs. A re-run keeps ``id``, ``created_at`` and its place; the rest moves."""

    id: int
    workflow_id: int
    created_at: Time
    status: Text = None
    conclusion: Text = None
    run_attempt: int | None = None
    event: Text = None
    head_branch: Text = None
    head_sha: Text = None
    run_started_at: Time | None = None
    updated_at: Time | None = None
    display_title: Text = None
    name: Text = None
    html_url: Text = None
    actor: Named | None = None
    repository: Named | None = None
    head_repository: Named | msgspec.UnsetType | None = msgspec.UNSET


class RunPage(msgspec.Struct):
    """``total_count`` differs by a few from answer to answer: good to doubt an empty page, never to count with."""

    workflow_runs: list[RunRow]
    total_count: int = 0


class Workflow(msgspec.Struct, frozen=True):
    """``state``: active, deleted, disabled_fork, disabled_inactivity or disabled_manually."""

    id: int
    state: str
    name: str = ""
    path: str = ""

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    def is_meant_by(self, entry: str) -> bool:
        """By id, name, path or file name. The name of a broken file is its path."""
        return entry in (str(self.id), self.name, self.path, self.path.rpartition("/")[2])


class WorkflowPage(msgspec.Struct):
    workflows: list[Workflow]
    total_count: int = 0


class JobRow(msgspec.Struct):
    id: int
    conclusion: Text = None
    run_attempt: int | None = None
    name: Text = None
    started_at: Time | None = None
    completed_at: Time | None = None
    html_url: Text = None


class JobPage(msgspec.Struct):
    jobs: list[JobRow]
    total_count: int = 0


class Annotation(msgspec.Struct):
    message: Text = None


class Run(msgspec.Struct, array_like=True):
    """A run as of its last attempt, as it is kept. ``conclusion`` is None while it is unfinished.

    ``updated``: the attempt's end as it was first seen, for GitHub moves updated_at long after (an annotation).
    ``has_known_end``: whether ``updated`` can be believed; else its jobs say when it ended.
    ``earlier``: conclusions of earlier attempts by number. ``reported``: the attempts up to this one were sent as
    durations, or were too old for that.
    """

    id: int
    workflow_id: int
    attempt: int
    event: str
    on_branch: bool
    status: str
    conclusion: str | None
    created: datetime
    started: datetime
    updated: datetime
    title: str = ""
    name: str = ""
    url: str = ""
    sha: str = ""
    author: str = ""
    has_known_end: bool = True
    reported: int = 0
    earlier: dict[int, str] = {}

    @property
    def has_ended(self) -> bool:
        """A run that waits for approval goes on with the same attempt."""
        return self.conclusion not in (None, "action_required")

    @property
    def is_conclusive(self) -> bool:
        return self.conclusion in CONCLUSIVE

    @property
    def kind(self) -> str:
        """pre_merge, main (on the branch), or empty for a run that is neither."""
        return "pre_merge" if self.event in PRE_MERGE else "main" if self.on_branch else ""

    @property
    def minutes(self) -> float:
        """How long the last attempt took, as GitHub's own gh tells it."""
        return max(0.0, (self.updated - self.started).total_seconds() / 60)

    @property
    def age_key(self) -> tuple[datetime, int]:
        """By this the newest run is the latest: a re-run keeps its place."""
        return self.created, self.id

    @property
    def is_verdict_open(self) -> bool:
        """Whether it takes an earlier attempt to know if the run is flaky."""
        return self.conclusion == "success" and self.has_failed_before is None

    @property
    def has_failed_before(self) -> bool | None:
        """Whether an attempt before the last one failed, None while that is not known of all."""
        if any(conclusion in FAILED for conclusion in self.earlier.values()):
            return True
        return False if all(number in self.earlier for number in range(1, self.attempt)) else None

    def as_evidence(self) -> Evidence:
        return Evidence(self.title, self.url, self.updated, self.conclusion or "", self.name)


def to_run(row: RunRow, branch: str) -> Run:
    """A fork's branch of the same name is not ours; a fork that is gone leaves null."""
    here, head = row.repository, row.head_repository
    is_ours = head is not None
    if here and head:
        is_ours = (head.full_name or "").lower() == (here.full_name or "").lower()
    is_completed = row.status in (None, "completed")
    return Run(
        row.id,
        row.workflow_id,
        row.run_attempt or 1,
        row.event or "",
        row.head_branch == branch and is_ours,
        row.status or "",
        (row.conclusion or None) if is_completed else None,
        row.created_at,
        row.run_started_at or row.created_at,
        row.updated_at or row.created_at,
        shorten(row.display_title),
        shorten(row.name),
        check_url(row.html_url),
        row.head_sha or "",
        (row.actor.login if row.actor else None) or "",
    )


def shorten(text: Text) -> str:
    """A name or title to show."""
    return (text or "")[:_LONGEST_TEXT]


def check_url(text: Text) -> str:
    """An address to show as a link; whatever is no plain web address is none."""
    return text if text and re.fullmatch(r"https?://[!-~]{1,500}", text) else ""
