"""The rules of the replaced collector: which of them, applied to the runs that we know, give its number? Pure.

So a difference is not guessed at: its causes are the smallest set of the replaced system's rules (docs/decisions/0004)
that turns our value into the CronJob's on the same runs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import chain, combinations
from math import isclose
from operator import attrgetter
from statistics import fmean

import msgspec

from service.collectors.github_ci.models import Run, Workflow, quantile
from service.collectors.github_ci.settings import GithubCiSettings, WorkflowLists

_NAMESPACE = "metta.infra.cron."
_FIRST_PAGE = 30  # workflows
_CUT = 100  # runs


class Cause(StrEnum):
    """Why a number of the CronJobs differs from ours; the value is what a person reads."""

    FIRST_PAGE = "workflows beyond the first page"
    CUT = "window cut at 100 runs"
    WHOLE_DAYS = "whole-day window of pull requests"
    CANCELLED = "cancelled runs counted"
    UNFINISHED = "unfinished runs counted"
    ALL_RUNS = "all runs instead of pre-merge ones"
    CREATION = "runs taken and timed from their creation, not from their last attempt"
    SHARE = "the share of good runs, not whether all are good"
    RERUNS = "whatever succeeded at a later attempt called flaky"
    MOMENT = "measured at another moment"
    MADE_UP = "nothing to measure: the CronJob sent a number all the same"
    NEW = "new: the CronJobs did not send it"
    NOT_SENT = "the CronJob sent none"
    LEFT_OUT = "left out of our run"


# The rules of each metric that may make a difference.
_JUDGED, _TAKEN = (Cause.CANCELLED, Cause.UNFINISHED), (Cause.CUT, Cause.CREATION)
_CAUSES: Mapping[str, tuple[Cause, ...]] = {
    "ci.workflow.tests_blocking_merge": (*_JUDGED, Cause.FIRST_PAGE),
    "ci.workflow.benchmarks": (*_JUDGED, Cause.FIRST_PAGE),
    "ci.workflow.other_failing": (Cause.FIRST_PAGE, *_JUDGED),
    "ci.workflow.success": (Cause.SHARE, *_JUDGED, *_TAKEN),
    "ci.workflow.flaky_tests": (Cause.RERUNS, *_TAKEN),
    "ci.workflow.duration.p90": (Cause.ALL_RUNS, *_JUDGED, *_TAKEN),
    "ci.workflow.cancelled": (*_TAKEN, Cause.ALL_RUNS),
    "github.hotfix.count": (Cause.WHOLE_DAYS,),
    "github.force_merge.count": (Cause.WHOLE_DAYS,),
    "github.reverts.count": (Cause.WHOLE_DAYS,),
}
# What the CronJobs sent of a repository.
METRICS = frozenset(_NAMESPACE + name for name in _CAUSES)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a repository at ``now``, when our run began; ``until``: when it had read the runs.

    ``runs`` may be newer, for later runs of ours change what is kept. ``workflows``: in GitHub's order, None where
    GitHub was not asked. ``pulls``: counts by metric, of the window to the second and of the one in whole days.
    ``baseline_at``: when the CronJob measured, None where its file does not say.
    """

    settings: GithubCiSettings
    now: datetime
    until: datetime
    runs: Sequence[Run]
    workflows: Sequence[Workflow] | None = None
    pulls: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    baseline_at: datetime | None = None


def is_alike(one: float, other: float) -> bool:
    """Equal but for what a sum in another order makes of a number."""
    return isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def find_causes(metric: str, baseline: float, facts: Facts) -> list[Cause]:
    """The smallest set of causes that gives ``baseline``, which is not our value; empty where none does."""
    name, at = metric.removeprefix(_NAMESPACE), facts.baseline_at
    possible = [*_CAUSES.get(name, ())]
    if possible and at and abs(at - facts.now) <= facts.settings.history_window:
        possible.append(Cause.MOMENT)  # of a moment whose runs are not kept any more each count would be a true 0
    for rules in chain.from_iterable(combinations(possible, size) for size in range(len(possible) + 1)):
        value = _measure(name, facts, rules) if possible else None
        if value is not None and is_alike(value, baseline):
            # Our own rules give it from what is known now. Pull requests were asked for just now, so a younger number
            # may be right as well; anything else means that ours was wrong.
            is_younger = name in facts.pulls and at is not None and at > facts.now
            return list(rules) or ([Cause.MOMENT] if is_younger else [])
    return []


def _measure(name: str, facts: Facts, rules: Collection[Cause]) -> float | None:
    """What the replaced collector would have sent if these ``rules`` were all that differs from ours; else None."""
    moment = facts.baseline_at if Cause.MOMENT in rules else None
    since, until = (moment or facts.now) - facts.settings.history_window, moment or facts.until
    # As of that moment: a run that has changed since was not over then.
    runs = [
        run if run.updated <= until else msgspec.structs.replace(run, conclusion=None)
        for run in facts.runs
        if run.created <= until
    ]
    runs.sort(key=lambda run: run.age_key, reverse=True)
    begin = attrgetter("created" if Cause.CREATION in rules else "started")
    anywhere, limit = Cause.ALL_RUNS in rules, _CUT if Cause.CUT in rules else None
    window = [run for run in runs if begin(run) >= since]
    others = {True: Cause.CANCELLED in rules, False: Cause.UNFINISHED in rules}

    def judge(runs: Iterable[Run]) -> list[Run]:
        """Those that count as a success or a failure: conclusive ones; perhaps cancelled and skipped, or unfinished."""
        return [run for run in runs if run.is_conclusive or others[bool(run.conclusion)]]

    match name.rpartition("workflow.")[2]:
        case "success":
            good = [run.conclusion == "success" for run in judge([run for run in window if run.on_branch][:limit])]
            return (fmean(good) if Cause.SHARE in rules else float(all(good))) if good else None
        case "cancelled":
            taken = [run for run in window if run.on_branch or anywhere][:limit]
            return len([run for run in taken if run.conclusion == "cancelled"])
        case "flaky_tests":
            again = [run for run in window[:limit] if run.attempt > 1 and run.conclusion == "success"]
            return len([run for run in again if Cause.RERUNS in rules or run.has_failed_before])
        case "duration.p90":
            taken = judge([run for run in window if run.kind == "pre_merge" or anywhere][:limit])
            minutes = [max(0.0, (run.updated - begin(run)).total_seconds() / 60) for run in taken]
            return quantile(minutes, 0.9) if minutes else None
        case "tests_blocking_merge" | "benchmarks" | "other_failing" as which:
            latest: dict[int, bool] = {}
            for run in judge(run for run in runs if run.on_branch):
                latest.setdefault(run.workflow_id, run.conclusion == "success")
            return _judge_workflows(which, latest, facts, Cause.FIRST_PAGE in rules)
    return facts.pulls[name][Cause.WHOLE_DAYS in rules] if name in facts.pulls else None


def _judge_workflows(which: str, latest: Mapping[int, bool], facts: Facts, is_first_page: bool) -> float | None:
    """``latest``: whether the latest run of each workflow succeeded."""
    listed = facts.workflows or ()
    lists = {"tests_blocking_merge": facts.settings.tests_blocking_merge, "benchmarks": facts.settings.benchmarks}
    meant = WorkflowLists(lists, listed)
    wanted = meant.ids[which] if which in lists else meant.others
    if is_first_page and listed:
        wanted = wanted & {each.id for each in listed[:_FIRST_PAGE]}
    if which == "other_failing":
        return len([id for id in wanted if not latest.get(id, True)]) if listed else None
    return float(all(latest.get(id, False) for id in wanted)) if wanted else None
