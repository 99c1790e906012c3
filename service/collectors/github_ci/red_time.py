"""For how long the branch was red: at each instant by the newest run of a workflow that had a verdict then. Pure.

A run has none before its first attempt ends, nor while it is run again, just as the checks see it. Where it is not
known when an attempt ended, or how, each verdict that is possible is followed: they mostly come to the same.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter

from service.collectors.github_ci.models import FAILED, Run, WorkflowRuns

_Verdicts = Set[bool | None]  # the possible ones: red, not red, none
_NONE: _Verdicts = frozenset({None})
_ANY: _Verdicts = frozenset({True, False, None})
_when = itemgetter(0)
_Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class RedTime:
    """``span``: how long one of the workflows was red, None where that can't be known. ``runs``: what made it so."""

    span: timedelta | None
    runs: Collection[Run]


def measure_red_time(workflows: Iterable[WorkflowRuns], reach: datetime, since: datetime, now: datetime) -> RedTime:
    """Between ``since`` and ``now``. ``reach``: what was created since then is known whole."""
    red: list[_Span] = []
    possible: list[_Span] = []
    culprits: dict[int, Run] = {}
    for workflow in workflows:
        before: _Verdicts = {False} if workflow.created >= reach else {False, True}
        for span, verdicts, run in _read_timeline(workflow.runs, before, since, now):
            if True in verdicts:
                possible.append(span)
            if verdicts == {True} and run:
                red.append(span)
                culprits[run.id] = run
    length = _sum_up(red)
    return RedTime(length if length == _sum_up(possible) else None, list(culprits.values()))


def _read_timeline(
    runs: Sequence[Run], before: _Verdicts, since: datetime, now: datetime
) -> Iterator[tuple[_Span, _Verdicts, Run | None]]:
    """From ``since`` to ``now``: what a workflow may have been, and the run that decided. ``before``: what it may have
    been before the ``runs``."""
    steps = [sorted(_list_steps(run), key=_when) for run in runs]
    created = [run.created for run in runs]
    changes = {at for each in steps for at, _ in each if since < at < now}
    for begin, end in pairwise((since, *sorted(changes), now)):
        found: set[bool | None] = set()
        decisive = None
        for place in reversed(range(bisect_right(created, begin))):
            verdicts = steps[place][bisect_right(steps[place], begin, key=_when) - 1][1]
            found |= verdicts
            if None not in verdicts:
                decisive = runs[place]
                break
        yield (begin, end), found - _NONE if decisive else found - _NONE | before, decisive


def _list_steps(run: Run) -> Iterator[tuple[datetime, _Verdicts]]:
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


def _sum_up(spans: Iterable[_Span]) -> timedelta:
    """The time that they cover; what several cover counts once."""
    total, covered = timedelta(0), None
    for begin, end in sorted(spans):
        if covered is None or end > covered:
            total += end - (begin if covered is None else max(begin, covered))
            covered = end
    return total
