"""The numbers that the metrics must tell, written down naively from the contract; shares no code with the collector."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from service.collectors.github_ci import GithubCiSettings
from service.demo.github_rows import Attempt, Repository, Run

FAILING = ("failure", "timed_out", "startup_failure")
CONCLUSIVE = ("success", *FAILING)
WAITING = ("queued", "waiting", "pending", "requested")
PRE_MERGE = ("pull_request", "pull_request_target", "merge_group")


@dataclass(frozen=True)
class Seen:
    """A run as of an instant. ``is_ours``: on the branch, and no fork's."""

    run: Run
    attempts: list[Attempt]
    is_ours: bool

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def conclusion(self) -> str:
        return self.last.conclusion or ""

    @property
    def has_verdict(self) -> bool:
        return self.conclusion in CONCLUSIVE

    @property
    def has_failed(self) -> bool:
        return self.conclusion in FAILING

    @property
    def has_ever_failed(self) -> bool:
        return any(attempt.conclusion in FAILING for attempt in self.attempts)

    @property
    def commit(self) -> str:
        return self.run.sha or str(self.run.id)

    @property
    def is_before_merge(self) -> bool:
        return self.run.event in PRE_MERGE


def look_at(repository: Repository, now: datetime, branch: str = "main") -> list[Seen]:
    """The runs that were created by then, the oldest first."""
    runs = sorted((run for run in repository.runs if run.created <= now), key=lambda run: (run.created, run.id))
    return [Seen(run, run.seen(now), run.branch == branch and not run.fork) for run in runs]


def truth(repository: Repository, now: datetime, asked: GithubCiSettings) -> dict[str, float]:
    """Every value by its metric's name (``github.bugs.count:label`` of one bug label,
    ``ci.workflow.schedule_age:w1.yml`` of one workflow); what has nothing to measure is left out."""
    values: dict[str, float] = {}
    runs, since = look_at(repository, now, asked.branch), now - asked.history_window
    recent = [each for each in runs if each.last.started >= since]
    ours = [each for each in recent if each.is_ours]

    latest = {each.run.workflow_id: each for each in runs if each.is_ours and each.has_verdict}
    names = ("tests_blocking_merge", "benchmarks")
    lists = {name: [_id(repository, entry) for entry in getattr(asked, name)] for name in names}
    for name, ids in lists.items():
        if ids and latest.keys() >= set(ids):
            values[f"ci.workflow.{name}"] = float(not any(latest[each].has_failed for each in ids))
    active = {each.id for each in repository.workflows if each.state == "active"}
    others = active.difference(*lists.values()) & latest.keys()
    values["ci.workflow.other_failing"] = sum(latest[each].has_failed for each in others)
    if blocking := lists["tests_blocking_merge"]:
        values["ci.branch.red_minutes"] = red_minutes(repository, blocking, asked.branch, since, now)

    if judged := [each for each in ours if each.has_verdict]:
        succeeded = [each.conclusion == "success" for each in judged]
        values["ci.workflow.success"] = float(all(succeeded))
        values["ci.workflow.success_ratio"] = succeeded.count(True) / len(judged)
        red = {each.commit for each in judged if each.has_failed}
        failed = {each.commit for each in judged if each.has_ever_failed}
        commits = len({each.commit for each in judged})
        values["ci.branch.red_share"] = len(red) / commits
        values["ci.branch.flaky_share"] = len(failed - red) / commits
    values["ci.workflow.flaky_tests"] = sum(each.conclusion == "success" and each.has_ever_failed for each in recent)
    values["ci.workflow.cancelled"] = sum(each.conclusion == "cancelled" for each in ours)
    if minutes := [_minutes(each.last) for each in recent if each.is_before_merge and each.has_verdict]:
        values["ci.workflow.duration.p90"] = _p90(minutes)
    values["ci.jobs.timed_out"] = _timed_out_jobs(runs, now)

    waiting = [each.last.started for each in runs if not each.conclusion and each.last.status in WAITING]
    queued = [each for each in waiting if each >= now - timedelta(hours=24)]
    values["ci.queue.runs"] = len(queued)
    if queued:
        values["ci.queue.oldest_minutes"] = (now - min(queued)).total_seconds() / 60

    for workflow in (each for each in repository.workflows if each.path.rpartition("/")[2] in asked.expected):
        scheduled = [each for each in runs if (each.run.workflow_id, each.run.event) == (workflow.id, "schedule")]
        good = [each for each in scheduled if each.conclusion == "success"]
        for name, found in (("age", scheduled), ("success_age", good)):
            if found:
                hours = (now - found[-1].run.created) / timedelta(hours=1)
                values[f"ci.workflow.schedule_{name}:{workflow.path.rpartition('/')[2]}"] = hours

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


def red_minutes(repository: Repository, ids: list[int], branch: str, since: datetime, now: datetime) -> float:
    """In which the latest conclusive run of one of the workflows, by then, was a failure."""
    blocking = Repository("", runs=[run for run in repository.runs if run.workflow_id in ids])
    attempts = [each for run in blocking.runs for each in run.attempts]
    instants = {at for each in attempts for at in (each.started, each.ended) if at and since < at < now}
    total = timedelta(0)
    for begin, end in pairwise((since, *sorted(instants), now)):
        ours = [each for each in look_at(blocking, begin, branch) if each.is_ours and each.has_verdict]
        if any(each.has_failed for each in {each.run.workflow_id: each for each in ours}.values()):
            total += end - begin
    return total / timedelta(minutes=1)


def culprit(repository: Repository, now: datetime, workflow: int) -> tuple[Run, Run | None] | None:
    """The first of the runs that failed in a row on the branch, and the last green one before it. None where the latest
    conclusive run succeeded, or there is none."""
    red = None
    for each in reversed(look_at(repository, now)):
        if each.run.workflow_id == workflow and each.is_ours and each.has_verdict:
            if each.conclusion == "success":
                return (red, each.run) if red else None
            red = each.run
    return (red, None) if red else None


def durations(repository: Repository, now: datetime) -> list[tuple[datetime, float, str, str]]:
    """End, minutes, kind and conclusion of each attempt that ended within the last 55 minutes; one that waits for
    approval has not."""
    found = []
    for each in look_at(repository, now):
        kind = "pre_merge" if each.is_before_merge else "main" if each.is_ours else ""
        for attempt in each.attempts if kind else ():
            is_over = attempt.conclusion and attempt.conclusion != "action_required"
            if attempt.ended and is_over and attempt.ended >= now - timedelta(minutes=55):
                found.append((attempt.ended, _minutes(attempt), kind, attempt.conclusion or ""))
    return sorted(found)


def week(repository: Repository, now: datetime) -> list[tuple[str, int, int, float | None, int]]:
    """By workflow: name, runs, failures, p90 in minutes, and how many were run again. Of the runs on the branch or
    before a merge whose last attempt began within seven days and was conclusive."""
    found: dict[int, list[Seen]] = {}
    for each in look_at(repository, now):
        if (each.is_ours or each.is_before_merge) and each.has_verdict and each.last.started >= now - timedelta(days=7):
            found.setdefault(each.run.workflow_id, []).append(each)
    names = {each.id: each.name for each in repository.workflows}
    return sorted(
        (
            names[id],
            len(runs),
            sum(each.has_failed for each in runs),
            round(_p90([_minutes(each.last) for each in runs]), 6),
            sum(len(each.attempts) > 1 for each in runs),
        )
        for id, runs in found.items()
    )


def _timed_out_jobs(runs: list[Seen], now: datetime) -> int:
    """The jobs that their time limit ended within seven days, of attempts that have ended; one that a re-run carried
    over is no second."""
    found = set()
    for each in runs:
        for number, job in each.run.jobs(now):
            is_overtime = job.conclusion == "timed_out" or "maximum execution time" in job.annotation
            if is_overtime and each.attempts[number - 1].conclusion and job.ended >= now - timedelta(days=7):
                found.add((each.run.id, job.name, job.ended))
    return len(found)


def _p90(minutes: list[float]) -> float:
    ordered = sorted(minutes)
    place = 0.9 * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _minutes(attempt: Attempt) -> float:
    return (attempt.ended - attempt.started).total_seconds() / 60 if attempt.ended else math.nan


def _id(repository: Repository, entry: str) -> int:
    """The workflow that is listed by its id, name, path or file name."""
    rows = repository.workflows
    return next(row.id for row in rows if entry in (str(row.id), row.name, row.path, row.path.rpartition("/")[2]))
