"""Who broke the branch: of each workflow that is red there the first run that failed, and the last one that succeeded
before. Pure.

A run has its place by its creation, however late it was run again. The commit of the first red run is to blame unless
runs without a verdict (cancelled, skipped, unfinished) lie between it and the last green one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile, zip_longest

from service.collectors.github_ci.evidence import MAX_EVIDENCE, format_time, make_evidence, name_some
from service.collectors.github_ci.models import Run, WorkflowRuns
from service.domain.samples import Evidence

_COUNTED = 50  # runs in a row; of longer streaks only that they are longer is kept
_GAP_KEPT = 5  # one would do as long as it is not run again
_TITLE, _DESCRIBED = 60, 2


@dataclass(frozen=True, slots=True)
class Streak:
    """The conclusive runs of a workflow on the branch that failed in a row, up to the latest.

    ``file``: the workflow's. ``green``: the last one before that succeeded, None where none is known. ``has_gap``: runs
    without a verdict lie between it and the first red one.
    """

    file: str
    first: Run
    latest: Run
    length: int
    green: Run | None
    has_gap: bool

    def describe(self) -> str:
        """``since 2025-01-14 09:12 UTC, 3 runs in a row, since a1b2c3d 'Title' by login``."""
        since, first = self.first.red_since, _describe_commit(self.first)
        parts = [f"since {format_time(since)}" if since else f"since its run of {format_time(self.first.created)}"]
        if self.length > 1:
            parts.append(f"{f'more than {_COUNTED}' if self.length > _COUNTED else self.length} runs in a row")
        if self.green is None:
            parts.append(f"first known at {first}; no green run is known")
        elif self.first.head_sha and self.first.head_sha == self.green.head_sha:
            parts.append(f"though {first} was green before")
        elif self.has_gap:
            parts.append(f"between {_describe_commit(self.green)} and {first}")
        else:
            parts.append(f"since {first}")
        return ", ".join(parts)

    def as_evidence(self) -> list[Evidence]:
        """The first red run, the change since the last green one, that, and the latest; by their worth."""
        found = [self.first.as_evidence("first red")]
        if self.green:
            if url := _compare(self.green, self.first):
                title = f"Changes from {_shorten(self.green)} to {_shorten(self.first)}"
                shown = make_evidence(title, url, self.first.updated, "", self.first.name)
                found.append(replace(shown, note="compare"))
            found.append(self.green.as_evidence("last green"))
        if self.length > 1:
            found.append(self.latest.as_evidence("latest red"))
        return found


def find_streak(file: str, runs: Sequence[Run]) -> Streak | None:
    """``runs``: the workflow's on the branch, the oldest first. None where the latest conclusive one succeeded."""
    conclusive = [run for run in runs if run.is_conclusive]
    red = list(takewhile(lambda run: run.conclusion != "success", reversed(conclusive)))
    if not red:
        return None
    green, first = conclusive[-len(red) - 1] if len(red) < len(conclusive) else None, red[-1]
    has_gap = green is not None and any(green.age_key < run.age_key < first.age_key for run in runs)
    return Streak(file, first, red[0], len(red), green, has_gap)


def find_streaks(workflows: Iterable[WorkflowRuns]) -> list[Streak]:
    """Of those that are red, the last one that became so first."""
    found = (find_streak(each.file, each.runs) for each in workflows)
    return sorted((each for each in found if each), key=lambda each: each.first.age_key, reverse=True)


def describe_streaks(streaks: Sequence[Streak], number: str, branch: str) -> str:
    """``number``: how many of how many workflows they are."""
    if len(streaks) == 1:
        return f"{streaks[0].file} is red {streaks[0].describe()}"
    described = [f"{each.file} {each.describe()}" for each in streaks[:_DESCRIBED]]
    others = [name_some(each.file for each in streaks[_DESCRIBED:])] if len(streaks) > _DESCRIBED else []
    return f"{number} are red on {branch}: {'; '.join(described + others)}"


def as_evidence(streaks: Iterable[Streak]) -> tuple[Evidence, ...]:
    """First how each began: where little is shown, that is it."""
    groups = zip_longest(*(each.as_evidence() for each in streaks))
    return tuple(filter(None, chain.from_iterable(groups)))[:MAX_EVIDENCE]


def select_runs(runs: Sequence[Run]) -> Iterable[Run]:
    """Of a workflow's on the branch, the oldest first, what tells its streak: also when the next run fails, when the
    latest is run again, or when older ones are still to be read."""
    conclusive = [run for run in runs if run.is_conclusive]
    green = next((run for run in reversed(conclusive[:-1]) if run.conclusion == "success"), None)
    later = [run for run in runs if run.conclusion and (green is None or run.age_key >= green.age_key)]
    first = next((place for place, run in enumerate(later) if run.is_conclusive and run is not green), 0)
    counted = [run for run in later if run.is_conclusive][-_COUNTED:]
    return [*later[:1], *later[max(0, first - _GAP_KEPT) : first + 1], *counted, *later[-_GAP_KEPT:]]


def _describe_commit(run: Run) -> str:
    title = run.title or ""
    title = f"{title[: _TITLE - 1]}…" if len(title) > _TITLE else title
    parts = _shorten(run), f"'{title}'" if title else "", f"by {run.author}" if run.author else ""
    return " ".join(filter(None, parts)) or f"run {run.id}"


def _shorten(run: Run) -> str:
    return (run.head_sha or "")[:7]


def _compare(green: Run, red: Run) -> str:
    """GitHub's page of what changed between them, on the host of the runs; empty where there is none."""
    repository = re.match(r"https?://[^/?#]+/[^/?#]+/[^/?#]+(?=/actions/runs/)", red.url or "")
    span = f"{green.head_sha}...{red.head_sha}"
    is_change = green.head_sha != red.head_sha and re.fullmatch(r"[0-9a-f]{40,64}\.\.\.[0-9a-f]{40,64}", span)
    return f"{repository[0]}/compare/{span}" if repository and is_change else ""
