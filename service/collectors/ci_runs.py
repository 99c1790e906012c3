"""Workflow runs as GitHub lists them, and what a run says about health. Pure.

https://docs.github.com/rest/actions/workflow-runs
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

FAILED = frozenset({"failure", "timed_out", "startup_failure"})
CONCLUSIVE = FAILED | {"success"}
PRE_MERGE = frozenset({"pull_request", "pull_request_target", "merge_group"})
PER_PAGE = 100  # GitHub's most
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class Run:
    """One run as of its last attempt. ``conclusion`` is None while it is unfinished.

    A re-run keeps ``id``, ``created`` and its place in the list; ``attempt``, ``started`` and ``updated`` move.
    ``title``: what was run (a commit's or pull request's first line). ``name``: the workflow's. ``url``: its page.
    """

    id: int
    workflow_id: int
    attempt: int
    event: str
    on_branch: bool
    conclusion: str | None
    created: datetime
    started: datetime
    updated: datetime
    title: str = ""
    name: str = ""
    url: str = ""

    @property
    def is_conclusive(self) -> bool:
        return self.conclusion in CONCLUSIVE

    @property
    def is_pre_merge(self) -> bool:
        return self.event in PRE_MERGE

    @property
    def minutes(self) -> float:
        """How long the last attempt took, as GitHub's own gh tells it."""
        return max(0.0, (self.updated - self.started).total_seconds() / 60)

    @property
    def kind(self) -> str:
        """pre_merge, main (on the branch), or empty for a run that is neither."""
        return "pre_merge" if self.is_pre_merge else "main" if self.on_branch else ""

    @property
    def age_key(self) -> tuple[datetime, int]:
        """By this the newest run is the latest: a re-run keeps its place."""
        return self.created, self.id


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the unfiltered list, newest first.

    ``total``: how many runs there were when it was read. ``newest``, ``oldest``: created_at of its first and last run.
    """

    number: int
    total: int
    runs: tuple[Run, ...]
    newest: datetime | None = None
    oldest: datetime | None = None

    @property
    def above(self) -> int:
        """Runs of this page and of all older ones."""
        return max(0, self.total - PER_PAGE * (self.number - 1))

    @property
    def below(self) -> int:
        """Runs older than this page."""
        return max(0, self.total - PER_PAGE * self.number)


def to_run(row: Mapping[str, Any], branch: str) -> Run:
    """A run from GitHub's JSON. Raises KeyError, TypeError or ValueError when it is none."""
    created = to_time(row["created_at"])
    is_complete = row.get("status") in (None, "completed")
    return Run(
        id=int(row["id"]),
        workflow_id=int(row["workflow_id"]),
        attempt=int(row.get("run_attempt") or 1),
        event=row.get("event") or "",
        on_branch=row.get("head_branch") == branch and not _is_of_fork(row),
        conclusion=(row.get("conclusion") or None) if is_complete else None,
        created=created,
        started=to_time(row.get("run_started_at") or row["created_at"]),
        updated=to_time(row.get("updated_at") or row["created_at"]),
        title=to_text(row.get("display_title")),
        name=to_text(row.get("name")),
        url=to_url(row.get("html_url")),
    )


def to_page(number: int, payload: Mapping[str, Any], branch: str) -> Page:
    """A page from GitHub's JSON. Raises KeyError, TypeError or ValueError when it is none."""
    runs = to_runs(payload, branch)
    if not runs:
        return Page(number, int(payload["total_count"]), ())
    return Page(number, int(payload["total_count"]), runs, runs[0].created, runs[-1].created)


def to_runs(payload: Mapping[str, Any], branch: str) -> tuple[Run, ...]:
    return tuple(to_run(row, branch) for row in payload["workflow_runs"])


def to_time(text: str) -> datetime:
    """GitHub writes ISO 8601 in UTC, but for some fields with fractions or offsets."""
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def from_epoch(seconds: float) -> datetime:
    """A time as the memory keeps it. Raises ValueError or OverflowError when it is none."""
    return datetime.fromtimestamp(seconds, UTC)


def to_text(value: object) -> str:
    """A name or title to show, at most ``_LONGEST`` characters of it."""
    return value[:_LONGEST] if isinstance(value, str) else ""


def to_url(value: object) -> str:
    """An address to show as a link; whatever is no plain web address is none."""
    return value if isinstance(value, str) and re.fullmatch(r"https?://[!-~]{1,500}", value) else ""


def later(known: Run | None, read: Run) -> Run:
    """Of two answers about one run the one that knows more: lists may come from a copy that lags."""
    if known and (known.attempt, known.updated) > (read.attempt, read.updated):
        return known
    return read


def started_since(runs: Iterable[Run], since: datetime) -> list[Run]:
    """The runs in the window that begins at ``since``: by the start of their last attempt."""
    return [run for run in runs if run.started >= since]


def latest_conclusive(runs: Iterable[Run]) -> dict[int, Run]:
    """By workflow id, the newest conclusive run on the branch."""
    latest: dict[int, Run] = {}
    for run in runs:
        if run.on_branch and run.is_conclusive:
            best = latest.get(run.workflow_id)
            if best is None or run.age_key > best.age_key:
                latest[run.workflow_id] = run
    return latest


def has_failed_attempt(run: Run, attempts: Mapping[int, str]) -> bool | None:
    """Whether an attempt before the last one failed, None while that is not known of all."""
    if any(attempts.get(number) in FAILED for number in range(1, run.attempt)):
        return True
    return False if all(number in attempts for number in range(1, run.attempt)) else None


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the closest ranks; never beyond the largest. ``values`` are not empty."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (rank - lower)


def _is_of_fork(row: Mapping[str, Any]) -> bool:
    """A fork's branch has the same name as ours; a fork that is gone leaves null."""
    here, head = row.get("repository") or {}, row.get("head_repository", {})
    if head is None:
        return bool(here)
    for name in ("id", "full_name"):
        if here.get(name) is not None and head.get(name) is not None:
            return bool(here[name] != head[name])
    return False
