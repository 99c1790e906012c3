"""The rules of the replaced collector, one by one: which of them, applied to what we know, gives its number? Pure.

So a difference is not guessed at: its cause is the smallest set of the replaced system's rules (docs/decisions/0004)
that turns our value into theirs on the same runs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import combinations
from math import ceil
from statistics import quantiles

from service.collectors import ci_runs
from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow, meant
from service.comparison.values import alike

NAMESPACE = "metta.infra.cron."
_FIRST_PAGE = 30  # of workflows, and of pull requests
_CUT = 100  # runs


class Cause(StrEnum):
    """Why a number of the CronJobs differs from ours; the value is what a person reads."""

    FIRST_PAGE = "workflows beyond the first page"
    CUT = "window cut at 100 runs"
    WHOLE_DAYS = "whole-day window of pull requests"
    FIRST_PULLS = "pull requests beyond the first 30"
    CANCELLED = "cancelled runs counted"
    UNFINISHED = "unfinished runs counted"
    ALL_RUNS = "all runs instead of pre-merge ones"
    ROUNDED = "rounded"
    PERCENTILE = "another reading of a percentile"
    SHARE = "the share of good runs, not whether all are good"
    RERUNS = "whatever succeeded at a later attempt called flaky"
    CREATION = "runs taken and timed from their creation, not from their last attempt"
    MOMENT = "measured at another moment"
    MADE_UP = "nothing to measure: the CronJob sent a number all the same"
    SUMMED = "sent as a count, which Datadog adds up"
    NEW = "new: the CronJobs did not send it"
    NOT_THEIRS = "the CronJob sent none"
    LEFT_OUT = "left out of our run"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a repository at ``now``, the instant of our run. ``their_now``: that of theirs.

    ``until``: when our run had read them; ``runs`` may be newer, for later runs of ours change what is remembered.
    ``attempts``: conclusions of earlier attempts by run. ``workflows``: in GitHub's order, None where GitHub could not
    be asked. ``pulls``: counts by the metric's name, of the window to the second and of the one in whole days.
    """

    settings: GithubCiSettings
    now: datetime
    runs: Sequence[Run]
    attempts: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    workflows: Sequence[Workflow] | None = None
    pulls: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    their_now: datetime | None = None
    until: datetime | None = None


def causes(metric: str, theirs: float, facts: Facts) -> list[Cause]:
    """The smallest set of causes that gives ``theirs``, which is not ours; empty where none does."""
    name = metric.removeprefix(NAMESPACE)
    rule = _RULES.get(name)
    if rule is None:
        return []
    if any(alike(theirs, value) for value in rule.values(name, frozenset(), facts)):
        # Our own rules give it from what is known now. Pull requests were asked for just now, so a younger number may
        # be right as well; anything else means that ours was wrong.
        is_younger = facts.their_now is not None and facts.their_now > facts.now
        return [Cause.MOMENT] if rule.values is _pulls and is_younger else []
    relevant = [*rule.causes, *((Cause.MOMENT,) if _is_known(facts) else ())]
    for size in range(1, len(relevant) + 1):
        for chosen in combinations(relevant, size):
            if any(alike(theirs, value) for value in rule.values(name, frozenset(chosen), facts)):
                return list(chosen)
    return []


def _is_known(facts: Facts) -> bool:
    """Whether their moment is near enough for its runs to be known: without any, each count would be a true 0."""
    return facts.their_now is not None and abs(facts.their_now - facts.now) <= facts.settings.history_window


def possible(metric: str) -> list[Cause]:
    """The causes that could be behind a difference of this metric."""
    rule = _RULES.get(metric.removeprefix(NAMESPACE))
    return list(rule.causes) if rule else []


Chosen = frozenset[Cause]
Values = Callable[[str, Chosen, Facts], Iterable[float]]


@dataclass(frozen=True, slots=True)
class _Rule:
    """``values``: what the replaced collector could have sent, if these causes were all that differs."""

    causes: tuple[Cause, ...]
    values: Values


def _moment(chosen: Chosen, facts: Facts) -> datetime:
    return facts.their_now if Cause.MOMENT in chosen and facts.their_now else facts.now


def _known(chosen: Chosen, facts: Facts) -> Iterator[Run]:
    """The runs as of the moment: one that has changed since was not over then."""
    moment = facts.their_now if Cause.MOMENT in chosen else facts.until or facts.now
    for run in facts.runs:
        if moment is None or run.updated <= moment:
            yield run
        elif run.created <= moment:
            yield replace(run, conclusion=None)


def _window(chosen: Chosen, facts: Facts, wanted: Callable[[Run], bool]) -> list[Run]:
    since = _moment(chosen, facts) - facts.settings.history_window
    by_creation = Cause.CREATION in chosen
    runs = [run for run in _known(chosen, facts) if (run.created if by_creation else run.started) >= since]
    runs = sorted(filter(wanted, runs), key=lambda run: run.age_key, reverse=True)
    return runs[:_CUT] if Cause.CUT in chosen else runs


def _judged(chosen: Chosen, runs: Iterable[Run]) -> list[Run]:
    """Conclusive runs, or also cancelled and skipped ones, or unfinished ones, which counted as failures."""
    return [
        run for run in runs if run.is_conclusive or (Cause.CANCELLED if run.conclusion else Cause.UNFINISHED) in chosen
    ]


def _success(_: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    runs = _judged(chosen, _window(chosen, facts, lambda run: run.on_branch))
    if runs:
        good = sum(run.conclusion == "success" for run in runs)
        yield good / len(runs) if Cause.SHARE in chosen else float(good == len(runs))


def _cancelled(_: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    everywhere = Cause.ALL_RUNS in chosen
    runs = _window(chosen, facts, lambda run: run.on_branch or everywhere)
    yield float(sum(run.conclusion == "cancelled" for run in runs))


def _flaky(_: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    runs = [run for run in _window(chosen, facts, lambda run: True) if run.attempt > 1 and run.conclusion == "success"]
    if Cause.RERUNS in chosen:
        yield float(len(runs))
    else:
        yield float(sum(ci_runs.has_failed_attempt(run, facts.attempts.get(run.id, {})) is True for run in runs))


def _p90(_: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    everything = Cause.ALL_RUNS in chosen
    runs = _judged(chosen, _window(chosen, facts, lambda run: everything or run.is_pre_merge))
    by_creation = Cause.CREATION in chosen
    minutes = sorted(
        max(0.0, (run.updated - (run.created if by_creation else run.started)).total_seconds() / 60) for run in runs
    )
    if not minutes:
        return
    found = [ci_runs.quantile(minutes, 0.9)]
    if Cause.PERCENTILE in chosen:
        # By rank (up and down), and as statistics.quantiles reads it.
        found = [minutes[ceil(0.9 * len(minutes)) - 1], minutes[min(len(minutes) - 1, int(0.9 * len(minutes)))]]
        found += [quantiles(minutes, n=10)[8]] if len(minutes) > 1 else []
    yield from (round(each, digits) for each in found for digits in (1, 2)) if Cause.ROUNDED in chosen else found


def _latest(chosen: Chosen, facts: Facts) -> dict[int, Run]:
    latest: dict[int, Run] = {}
    for run in _judged(chosen, _known(chosen, facts)):
        known = latest.get(run.workflow_id)
        if run.on_branch and (known is None or run.age_key > known.age_key):
            latest[run.workflow_id] = run
    return latest


def _listed(entries: Sequence[str], facts: Facts) -> set[int]:
    found = meant(entries, facts.workflows or ())
    return {each.id for all_of in found.values() for each in all_of} | {
        int(entry) for entry, all_of in found.items() if not all_of and entry.isascii() and entry.isdigit()
    }


def _passing(name: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    entries = facts.settings.benchmarks if name.endswith("benchmarks") else facts.settings.tests_blocking_merge
    latest, wanted = _latest(chosen, facts), _listed(entries, facts)
    if Cause.FIRST_PAGE in chosen and facts.workflows is not None:
        wanted &= {each.id for each in facts.workflows[:_FIRST_PAGE]}
    known = [latest[each] for each in wanted if each in latest]
    if wanted:
        yield float(len(known) == len(wanted) and all(run.conclusion == "success" for run in known))


def _failing(_: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    if facts.workflows is None:
        return
    settings = facts.settings
    listed = _listed(settings.tests_blocking_merge, facts) | _listed(settings.benchmarks, facts)
    seen = facts.workflows[:_FIRST_PAGE] if Cause.FIRST_PAGE in chosen else facts.workflows
    latest = _latest(chosen, facts)
    others = [each for each in seen if each.id not in listed and each.is_active]
    yield float(sum(latest[each.id].conclusion != "success" for each in others if each.id in latest))


def _pulls(name: str, chosen: Chosen, facts: Facts) -> Iterator[float]:
    if name in facts.pulls:
        count = facts.pulls[name][Cause.WHOLE_DAYS in chosen]
        yield min(count, float(_FIRST_PAGE)) if Cause.FIRST_PULLS in chosen else count


_JUDGED = (Cause.CANCELLED, Cause.UNFINISHED)
_TAKEN = (Cause.CUT, Cause.CREATION)
_RULES: Mapping[str, _Rule] = {
    "ci.workflow.tests_blocking_merge": _Rule((*_JUDGED, Cause.FIRST_PAGE), _passing),
    "ci.workflow.benchmarks": _Rule((*_JUDGED, Cause.FIRST_PAGE), _passing),
    "ci.workflow.other_failing": _Rule((Cause.FIRST_PAGE, *_JUDGED), _failing),
    "ci.workflow.success": _Rule((Cause.SHARE, *_JUDGED, *_TAKEN), _success),
    "ci.workflow.flaky_tests": _Rule((Cause.RERUNS, *_TAKEN), _flaky),
    "ci.workflow.duration.p90": _Rule((Cause.ROUNDED, Cause.PERCENTILE, Cause.ALL_RUNS, *_JUDGED, *_TAKEN), _p90),
    "ci.workflow.cancelled": _Rule((*_TAKEN, Cause.ALL_RUNS), _cancelled),
    "github.hotfix.count": _Rule((Cause.WHOLE_DAYS, Cause.FIRST_PULLS), _pulls),
    "github.force_merge.count": _Rule((Cause.WHOLE_DAYS, Cause.FIRST_PULLS), _pulls),
    "github.reverts.count": _Rule((Cause.WHOLE_DAYS, Cause.FIRST_PULLS), _pulls),
}
KNOWN = frozenset(NAMESPACE + name for name in _RULES)
