"""Who broke the branch, and for how long it was red. Pure.

A run has its place by its creation, however late it was run again. To blame is the commit of the first run of a
workflow that failed after the last one that succeeded, unless runs without a verdict (cancelled, skipped, unfinished)
lie between the two.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, pairwise, takewhile, zip_longest
from operator import itemgetter

from service.collectors.github_ci.evidence import MAX_EVIDENCE, format_time, make_evidence, name_some
from service.collectors.github_ci.models import FAILED, Run, WorkflowRuns
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


# For how long the branch was red: at each instant by the newest run of a workflow that had a verdict then. A run has
# none before its first attempt ends, nor while it is run again, just as the checks see it. Where it is not known when
# an attempt ended, or how, each verdict that is possible is followed: they mostly come to the same.

_Verdicts = Set[bool | None]  # the possible ones: red, not red, none
_NONE: _Verdicts = frozenset({None})
_ANY: _Verdicts = frozenset({True, False, None})
_Step = tuple[datetime, _Verdicts]
_when = itemgetter(0)


@dataclass(frozen=True, slots=True)
class RedTime:
    """``span``: how long one of the workflows was red, None where that can't be known. ``runs``: what made it so."""

    span: timedelta | None
    runs: Collection[Run]


def measure_red_time(workflows: Sequence[WorkflowRuns], reach: datetime, since: datetime, now: datetime) -> RedTime:
    """Between ``since`` and ``now``. ``reach``: what was created since then is known whole."""
    timelines = [[sorted(_list_steps(run), key=_when) for run in each.runs] for each in workflows]
    changes = {at for timeline in timelines for steps in timeline for at, _ in steps if since < at < now}
    span, is_known, culprits = timedelta(0), True, dict[int, Run]()
    for begin, end in pairwise((since, *sorted(changes), now)):
        found = [_judge_at(begin, *each, reach) for each in zip(workflows, timelines, strict=True)]
        if red := [run for verdicts, run in found if verdicts == {True} and run]:
            span += end - begin
            culprits |= {run.id: run for run in red}
        elif any(True in verdicts for verdicts, _ in found):
            is_known = False
    return RedTime(span if is_known else None, list(culprits.values()))


def _judge_at(
    at: datetime, workflow: WorkflowRuns, timeline: Sequence[Sequence[_Step]], reach: datetime
) -> tuple[_Verdicts, Run | None]:
    """What the workflow may have been then, and the run that decided."""
    found: _Verdicts = frozenset()
    for place in reversed(range(bisect_right(workflow.runs, at, key=lambda run: run.created))):
        verdicts = timeline[place][bisect_right(timeline[place], at, key=_when) - 1][1]
        found |= verdicts - _NONE
        if None not in verdicts:
            return found, workflow.runs[place]
    return found | ({False} if workflow.created >= reach else {False, True}), None


def _list_steps(run: Run) -> Iterator[_Step]:
    """The verdicts of a run and since when, in the order of time."""
    yield run.created, _NONE
    begin = run.created
    for number in range(1, run.attempt):
        attempt = run.earlier.get(number)
        if attempt is None:
            yield begin, _ANY
            continue
        yield attempt.started, _NONE
        begin = attempt.ended or attempt.started
        yield begin, {_judge(attempt.conclusion)} | (_NONE if attempt.ended is None else set())
    yield run.started, _NONE
    if run.conclusion:
        verdicts = {_judge(run.conclusion)}
        if not run.has_known_end:
            yield run.started, verdicts | _NONE
        yield run.updated, verdicts


def _judge(conclusion: str) -> bool | None:
    return True if conclusion in FAILED else False if conclusion == "success" else None
