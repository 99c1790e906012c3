"""The numbers that the metrics must tell, written down naively from the contract; shares no code with the collector."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from service.demo.github_rows import Attempt, Repository, Run

if TYPE_CHECKING:
    from service.collectors.github_ci.settings import GithubCiSettings

FAILING = ("failure", "timed_out", "startup_failure")
CONCLUSIVE = ("success", *FAILING)
WAITING = ("queued", "waiting", "pending", "requested")
PRE_MERGE = ("pull_request", "pull_request_target", "merge_group")


@dataclass(frozen=True)
class Questions:
    """What the truth depends on: the collector's settings have the same names, and these defaults."""

    branch: str = "main"
    history_window: timedelta = timedelta(hours=24)
    weekly_window: timedelta = timedelta(days=7)
    tests_blocking_merge: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    hotfix_labels: tuple[str, ...] = ("hotfix",)
    force_merge_labels: tuple[str, ...] = ("force-merge", "force_merge")
    revert_labels: tuple[str, ...] = ("revert",)
    bug_label: str = "bug"
    bug_sub_labels: tuple[str, ...] = ()


def truth(repository: Repository, now: datetime, asked: "Questions | GithubCiSettings") -> dict[str, float]:
    """Every value by its metric's name (a count of one bug label: ``github.bugs.count:label``); what has nothing to
    measure is left out."""
    values: dict[str, float] = {}
    runs = [(run, run.seen(now)) for run in repository.runs if run.created <= now]
    ours = [(run, attempts) for run, attempts in runs if run.branch == asked.branch and not run.fork]
    since = now - asked.history_window
    recent = [(run, attempts) for run, attempts in runs if attempts[-1].started >= since]
    latest: dict[int | None, str] = {
        run.workflow_id: last for run, last in sorted(_conclusive(ours), key=lambda each: (each[0].created, each[0].id))
    }
    lists = {
        "tests_blocking_merge": [_id(repository, each) for each in asked.tests_blocking_merge],
        "benchmarks": [_id(repository, each) for each in asked.benchmarks],
    }
    for name, ids in lists.items():
        found = [latest.get(each) for each in ids]
        if found and None not in found:
            values[f"ci.workflow.{name}"] = float(all(each == "success" for each in found))
    active = {each.id for each in repository.workflows if each.state == "active"}
    others = active - {id for ids in lists.values() for id in ids}
    values["ci.workflow.other_failing"] = sum(latest.get(each) in FAILING for each in others)

    verdicts = [last for run, last in _conclusive(recent) if run.branch == asked.branch and not run.fork]
    if verdicts:
        values["ci.workflow.success"] = float(set(verdicts) == {"success"})
        values["ci.workflow.success_ratio"] = verdicts.count("success") / len(verdicts)
    commits: dict[str, list[list[Attempt]]] = {}
    for run, attempts in recent:
        if run.branch == asked.branch and not run.fork and attempts[-1].conclusion in CONCLUSIVE:
            commits.setdefault(run.sha or str(run.id), []).append(attempts)
    if commits:
        red = {sha for sha, found in commits.items() if any(each[-1].conclusion in FAILING for each in found)}
        failed = {
            sha
            for sha, found in commits.items()
            if any(each.conclusion in FAILING for tries in found for each in tries)
        }
        values["ci.branch.red_share"] = len(red) / len(commits)
        values["ci.branch.flaky_share"] = len(failed - red) / len(commits)
    ids = lists["tests_blocking_merge"]
    if ids and None not in ids:
        blocking = [[run for run, _ in ours if run.workflow_id == id] for id in ids]
        values["ci.branch.red_minutes"] = red_minutes(blocking, since, now)
    values["ci.workflow.flaky_tests"] = sum(
        attempts[-1].conclusion == "success" and any(each.conclusion in FAILING for each in attempts[:-1])
        for _, attempts in recent
    )
    values["ci.workflow.cancelled"] = sum(
        attempts[-1].conclusion == "cancelled"
        for run, attempts in recent
        if run.branch == asked.branch and not run.fork
    )
    minutes = [
        _minutes(attempts[-1])
        for run, attempts in recent
        if run.event in PRE_MERGE and attempts[-1].conclusion in CONCLUSIVE
    ]
    if minutes:
        values["ci.workflow.duration.p90"] = _p90(minutes)
    values["ci.jobs.timed_out"] = len(timed_out_jobs(repository, now))

    waiting = [
        attempts[-1].started
        for _, attempts in runs
        if attempts[-1].conclusion is None and attempts[-1].status in WAITING
    ]
    queued = [each for each in waiting if each >= now - timedelta(hours=24)]
    values["ci.queue.runs"] = len(queued)
    if queued:
        values["ci.queue.oldest_minutes"] = (now - min(queued)).total_seconds() / 60

    week = now - asked.weekly_window
    groups = {"hotfix": asked.hotfix_labels, "force_merge": asked.force_merge_labels, "reverts": asked.revert_labels}
    for name, labels in groups.items():
        if labels:
            merged = [each.merged for each in repository.merged(set(labels), now)]
            values[f"github.{name}.count"] = sum(each is not None and each >= week for each in merged)
    if asked.bug_label:
        bugs = [each for each in repository.open_issues(now) if asked.bug_label in each.labels]
        values["github.bugs.count"] = len(bugs)
        for label in asked.bug_sub_labels:
            values[f"github.bugs.count:{label}"] = sum(label in each.labels for each in bugs)
    return values


def red_minutes(workflows: list[list[Run]], since: datetime, now: datetime) -> float:
    """In which the latest conclusive run of one of the workflows, by then, was a failure."""
    attempts = [each for runs in workflows for run in runs for each in run.attempts]
    instants = {at for each in attempts for at in (each.started, each.ended) if at and since < at < now}
    total = timedelta(0)
    for begin, end in pairwise((since, *sorted(instants), now)):
        latest = []
        for runs in workflows:
            newest = sorted((run for run in runs if run.created <= begin), key=lambda run: (run.created, run.id))
            verdicts = (run.seen(begin)[-1].conclusion for run in reversed(newest))
            latest.append(next((each for each in verdicts if each in CONCLUSIVE), None))
        if set(latest) & set(FAILING):
            total += end - begin
    return total / timedelta(minutes=1)


@dataclass(frozen=True)
class Culprit:
    """Why a workflow is red on the branch: the first of the runs that failed in a row, the last green one before it."""

    first: Run
    since: datetime
    length: int
    green: Run | None
    has_gap: bool


def culprit(repository: Repository, now: datetime, workflow: int, branch: str = "main") -> Culprit | None:
    """None where the workflow's latest conclusive run on the branch succeeded, or there is none."""
    ours = [run for run in repository.runs if (run.workflow_id, run.branch, run.fork) == (workflow, branch, "")]
    red: list[Run] = []
    green, has_gap = None, False
    for run in sorted((run for run in ours if run.created <= now), key=lambda run: (run.created, run.id), reverse=True):
        verdict = run.seen(now)[-1].conclusion
        if verdict == "success":
            green = run
            break
        if verdict in FAILING:
            red.append(run)
        has_gap = verdict not in FAILING
    if not red:
        return None
    since = now
    for attempt in reversed(red[-1].seen(now)):
        if attempt.conclusion not in FAILING:
            break
        since = attempt.started
    return Culprit(red[-1], since, len(red), green, has_gap and green is not None)


def schedule_ages(repository: Repository, now: datetime, workflow: str) -> tuple[float | None, float | None]:
    """Hours since a schedule last began a run of the workflow, and one that succeeded."""
    id = _id(repository, workflow)
    runs = [run for run in repository.runs if (run.workflow_id, run.event) == (id, "schedule") and run.created <= now]
    good = [run for run in runs if run.seen(now)[-1].conclusion == "success"]
    last, success = (max((run.created for run in each), default=None) for each in (runs, good))
    return (
        (now - last).total_seconds() / 3600 if last else None,
        (now - success).total_seconds() / 3600 if success else None,
    )


def timed_out_jobs(repository: Repository, now: datetime) -> list[int]:
    """Ids of the jobs that their time limit ended within seven days, of attempts that have ended."""
    found = []
    for run in repository.runs:
        attempts = run.seen(now)
        for number, job in run.jobs(now):
            is_overtime = job.conclusion == "timed_out" or "maximum execution time" in job.annotation
            if is_overtime and attempts[number - 1].conclusion and job.ended >= now - timedelta(days=7):
                found.append(job.id)
    return found


def durations(repository: Repository, now: datetime, branch: str = "main") -> list[tuple[datetime, float, str, str]]:
    """End, minutes, kind and conclusion of each attempt that ended within the last 55 minutes."""
    found = []
    for run in repository.runs:
        kind = "pre_merge" if run.event in PRE_MERGE else "main" if run.branch == branch and not run.fork else ""
        for attempt in run.seen(now) if kind else ():
            if attempt.ended and attempt.conclusion and attempt.ended >= now - timedelta(minutes=55):
                found.append((attempt.ended, _minutes(attempt), kind, attempt.conclusion))
    return sorted(found)


def week(repository: Repository, now: datetime, branch: str = "main") -> list[tuple[str, int, int, float, int]]:
    """By workflow: name, runs, failures, p90 in minutes, and how many were run again. Of the runs on the branch or
    before a merge whose last attempt began within seven days and was conclusive."""
    found: dict[int, list[tuple[str, float, bool]]] = {}
    for run in repository.runs:
        last = run.seen(now)[-1]
        is_ours = run.event in PRE_MERGE or (run.branch == branch and not run.fork)
        if run.created <= now and is_ours and last.conclusion in CONCLUSIVE and last.started >= now - timedelta(days=7):
            again = len(run.seen(now)) > 1
            found.setdefault(run.workflow_id, []).append((last.conclusion or "", _minutes(last), again))
    names = {each.id: each.name for each in repository.workflows}
    return sorted(
        (
            names[id],
            len(runs),
            sum(conclusion in FAILING for conclusion, _, _ in runs),
            round(_p90([minutes for _, minutes, _ in runs]), 6),
            sum(again for _, _, again in runs),
        )
        for id, runs in found.items()
    )


def _p90(minutes: list[float]) -> float:
    ordered = sorted(minutes)
    place = 0.9 * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _conclusive(runs: list[tuple[Run, list[Attempt]]]) -> list[tuple[Run, str]]:
    found = [(run, attempts[-1].conclusion) for run, attempts in runs]
    return [(run, last) for run, last in found if last in CONCLUSIVE]


def _minutes(attempt: Attempt) -> float:
    return (attempt.ended - attempt.started).total_seconds() / 60 if attempt.ended else math.nan


def _id(repository: Repository, entry: str) -> int | None:
    """The workflow that is listed by its id, name, path or file name."""
    for row in repository.workflows:
        if entry in (str(row.id), row.name, row.path, row.path.rpartition("/")[2]):
            return row.id
    return None
