"""How the values of ``github_ci`` come from runs, each with a sentence on what is behind it. Pure: runs in, samples
out.

Sentences begin with a small letter and have no full stop: they stand alone, or after what they explain.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.collectors.github_ci import culprits
from service.collectors.github_ci.catalogue import (
    CATALOGUE,
    SCHEDULE_AGE,
    SUCCESS_AGE,
    find_rule,
    format_condition,
    format_limit,
)
from service.collectors.github_ci.models import (
    FAILED,
    Run,
    Workflow,
    WorkflowRuns,
    format_time,
    make_evidence,
    name_some,
    newest,
)
from service.collectors.github_ci.red_time import measure_red_time
from service.collectors.github_ci.settings import GithubCiSettings
from service.domain import conditions
from service.domain.runs import NoData
from service.domain.samples import Evidence, Sample, Status


@dataclass(frozen=True, slots=True)
class Finding:
    """A value by the metric's name within the namespace. ``value`` is None where there was nothing to measure.

    ``summary``: the numbers behind it, or why there is none. ``tags``: more of them than the check has, or in place of
    its own. ``at``: the instant of the value, where that is not the cycle's. ``condition``, ``status``: in place of the
    check's condition, and of what that says.
    """

    name: str
    value: float | None
    summary: str
    evidence: tuple[Evidence, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None
    condition: str = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What the sentences name: the branch, and the window as ``the last 24 h``."""

    branch: str
    window: str


def measure_branch(window: Iterable[Run], scope: Scope) -> list[Finding]:
    """``window``: the runs whose last attempt started in it."""
    ours = [run for run in window if run.on_branch]
    conclusive = [run for run in ours if run.is_conclusive]
    failed = [run for run in conclusive if run.conclusion != "success"]
    share = (len(conclusive) - len(failed)) / len(conclusive) if conclusive else None
    summary = f"no run on {scope.branch} of {scope.window} has succeeded or failed"
    if conclusive:
        summary = f"{len(failed):,} of {count(len(conclusive), 'run')} on {scope.branch} failed in {scope.window}"
        summary += _name_workflows(failed)
    behind = _as_evidence(failed or conclusive)
    cancelled = [run for run in ours if run.conclusion == "cancelled"]
    told = f"{len(cancelled):,} of {count(len(ours), 'run')} on {scope.branch} {_were(len(cancelled))}"
    told += f" cancelled in {scope.window}{_name_workflows(cancelled)}"
    return [
        Finding("ci.workflow.success", None if share is None else float(not failed), summary, behind),
        Finding("ci.workflow.success_ratio", share, summary, behind),
        Finding("ci.workflow.cancelled", len(cancelled), told, _as_evidence(cancelled)),
        *_measure_commits("ci.branch.red_share", conclusive, failed, f"failed in {scope.window}", scope.branch),
    ]


def _measure_commits(
    name: str, conclusive: Iterable[Run], chosen: Collection[Run], what: str, branch: str
) -> list[Finding]:
    """The share of the commits with a conclusive run that have one of the ``chosen``."""
    commits = {run.head_sha for run in conclusive if run.head_sha}
    found = {run.head_sha for run in chosen if run.head_sha}
    summary = f"{len(found):,} of {count(len(commits), 'commit')} on {branch} {what}"
    return [Finding(name, len(found) / len(commits), summary, _as_evidence(chosen))] if commits else []


def measure_p90(window: Iterable[Run], scope: Scope) -> Finding:
    pre_merge = [run for run in window if run.kind == "pre_merge" and run.is_conclusive]
    if not pre_merge:
        summary = f"no pull-request run of {scope.window} has succeeded or failed"
        return Finding("ci.workflow.duration.p90", None, summary)
    p90 = quantile([run.minutes for run in pre_merge], 0.9)
    longest = max(pre_merge, key=lambda run: run.minutes)
    summary = (
        f"90 % of {count(len(pre_merge), 'pull-request run')} took at most {p90:,.1f} min in {scope.window},"
        f" the longest {longest.minutes:,.1f} min ({longest.name or longest.workflow_id})"
    )
    slow = [run for run in pre_merge if run.minutes >= p90]
    return Finding("ci.workflow.duration.p90", p90, summary, _as_evidence(slow))


def measure_flaky(window: Collection[Run], scope: Scope) -> list[Finding]:
    flaky = [run for run in window if run.conclusion == "success" and run.has_failed_before]
    what = f"failed first and succeeded when run again in {scope.window}"
    summary = f"{len(flaky):,} of {count(len(window), 'run')} {what}{_name_workflows(flaky)}"
    found = [Finding("ci.workflow.flaky_tests", len(flaky), summary, _as_evidence(flaky))]
    conclusive = [run for run in window if run.on_branch and run.is_conclusive]
    red = {run.head_sha for run in conclusive if run.conclusion != "success"}
    mended = [run for run in flaky if run.on_branch and run.head_sha not in red]
    return found + _measure_commits("ci.branch.flaky_share", conclusive, mended, what, scope.branch)


def measure_list(name: str, workflows: Sequence[WorkflowRuns], branch: str) -> Finding:
    """1 when every workflow's latest conclusive run succeeded; None until each has one."""
    latest = {each.file: [run for run in each.runs if run.is_conclusive][-1:] for each in workflows}
    if unknown := [file for file, run in latest.items() if not run]:
        summary = f"no run of {name_some(unknown)} on {branch} has succeeded or failed yet"
        return Finding(f"ci.workflow.{name}", None, summary)
    if streaks := culprits.find_streaks(workflows):
        number = f"{len(streaks)} of {count(len(workflows), 'workflow')}"
        told, behind = culprits.describe_streaks(streaks, number, branch), culprits.as_evidence(streaks)
        return Finding(f"ci.workflow.{name}", 0, told, behind)
    which = workflows[0].file if len(workflows) == 1 else f"each of {len(workflows)} workflows"
    behind = _as_evidence(run for runs in latest.values() for run in runs)
    return Finding(f"ci.workflow.{name}", 1, f"the latest run of {which} on {branch} succeeded", behind)


def measure_others(workflows: Sequence[WorkflowRuns], branch: str) -> Finding:
    """How many workflows' latest conclusive run did not succeed; one that never had any is not failing."""
    streaks = culprits.find_streaks(workflows)
    number = f"{len(streaks)} of {count(len(workflows), 'other active workflow')}"
    told = culprits.describe_streaks(streaks, number, branch) if streaks else f"{number} failed on {branch}"
    return Finding("ci.workflow.other_failing", len(streaks), told, culprits.as_evidence(streaks))


def measure_red_minutes(
    workflows: Sequence[WorkflowRuns], reach: datetime, since: datetime, now: datetime, scope: Scope
) -> Finding:
    """``workflows``: those that block merges. ``reach``: since when all runs were read."""
    red = measure_red_time(workflows, reach, since, now)
    if red.span is None:
        summary = f"when an attempt on {scope.branch} of {scope.window} ended, or what was before it, is not known"
        return Finding("ci.branch.red_minutes", None, summary)
    minutes = red.span / timedelta(minutes=1)
    summary = f"no workflow that blocks merges was red on {scope.branch} in {scope.window}"
    if red.runs:
        ids = {run.id for run in red.runs}
        by = name_some(each.file for each in workflows if any(run.id in ids for run in each.runs))
        summary = f"{scope.branch} was red for {minutes:,.0f} min of {scope.window}, by {by}"
    behind = newest(run.as_evidence("" if run.conclusion in FAILED else "failed before") for run in red.runs)
    return Finding("ci.branch.red_minutes", minutes, summary, behind)


def measure_queue(waiting: Sequence[Run], now: datetime) -> list[Finding]:
    """``waiting``: the longest first. A re-run waits since it was asked for, another run since it was created."""
    states = Counter(run.status or "" for run in waiting).most_common()
    summary = f"{count(len(waiting), 'run')} {'waits' if len(waiting) == 1 else 'wait'} now"
    summary += f" ({', '.join(f'{number:,} {state}' for state, number in states)})" if waiting else ""
    found = [Finding("ci.queue.runs", len(waiting), summary, _as_evidence(waiting))]
    if waiting:
        first = waiting[0]
        minutes = max(0.0, (now - first.started).total_seconds() / 60)
        summary = f"a run of {first.name or first.workflow_id} is {first.status} since {format_time(first.started)}"
        found.append(Finding("ci.queue.oldest_minutes", minutes, summary, _as_evidence(waiting[:1])))
    return found


def measure_schedule(
    workflow: Workflow, limit: timedelta, last: Run | None, succeeded: Run | None, now: datetime
) -> list[Finding]:
    """Of the newest run that a schedule began, and of the newest of them that succeeded. A disabled workflow fails."""
    file, tags = workflow.file, {"workflow_name": workflow.file}
    age, behind, status = None, _as_evidence([last] if last else []), None
    summary = f"no schedule has run {file}, as far as runs are read"
    if last:
        age, outcome = _hours_since(last, now), last.conclusion or "not ended yet"
        summary = f"a schedule last began a run of {file} at {format_time(last.created)} ({outcome})"
    if not workflow.is_active:
        behind, status = (make_evidence(workflow.name, None, None, workflow.state), *behind), Status.FAIL
        summary = f"{file} is {workflow.state}; {summary}"
    condition = format_limit(limit)
    found = [Finding(SCHEDULE_AGE, age, summary, behind, tags, condition=condition, status=status)]
    if succeeded:
        told = f"the last run of {file} that a schedule began and that succeeded is of {format_time(succeeded.created)}"
        found.append(Finding(SUCCESS_AGE, _hours_since(succeeded, now), told, _as_evidence([succeeded]), tags))
    return found


def _hours_since(run: Run, now: datetime) -> float:
    return max(0.0, (now - run.created) / timedelta(hours=1))


def measure_timed_out(suspects: Iterable[Run], since: datetime) -> Finding:
    jobs = [
        make_evidence(job.name, job.url, job.ended, job.conclusion or "", run.name)
        for run in suspects
        for job in run.jobs
        if job.is_overtime and job.ended and job.ended >= since
    ]
    summary = f"{count(len(jobs), 'job')} {_were(len(jobs))} ended by a time limit in the last 7 days"
    return Finding("ci.jobs.timed_out", len(jobs), summary, newest(jobs))


def measure_durations(ended: Iterable[Run], names: Mapping[int, str]) -> list[Finding]:
    """A value of the distribution for each of the attempts ``ended``. ``names``: the workflows', by id."""
    found = []
    for run in ended:
        workflow, conclusion = names.get(run.workflow_id) or run.name or str(run.workflow_id), run.conclusion or ""
        tags = {"workflow": workflow, "kind": run.kind, "conclusion": conclusion}
        summary = f"a run of {workflow} took {run.minutes:,.1f} min"
        found.append(Finding("ci.workflow.duration", run.minutes, summary, _as_evidence([run]), tags, run.updated))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the closest ranks; never beyond the largest. ``values`` are not empty."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (rank - lower)


def _as_evidence(runs: Iterable[Run]) -> tuple[Evidence, ...]:
    return newest(run.as_evidence() for run in runs)


# What the sentences are made of


def count(number: int, noun: str) -> str:
    """``41,000 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_span(span: timedelta) -> str:
    """``the last 24 h``, ``the last 7 days``."""
    hours = span / timedelta(hours=1)
    if hours > 24 and hours % 24 == 0:
        return f"the last {hours / 24:.0f} days"
    return f"the last {hours:.4g} h" if hours >= 1 else f"the last {60 * hours:.3g} min"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _name_workflows(runs: Iterable[Run]) -> str:
    names = name_some(run.name or str(run.workflow_id) for run in runs)
    return f": {names}" if names else ""


def to_samples(
    findings: Iterable[Finding], settings: GithubCiSettings, now: datetime, tags: Mapping[str, str]
) -> tuple[tuple[Sample, ...], tuple[NoData, ...]]:
    """The samples at ``now``, in the catalogue's order, and the checks that had nothing to measure.

    ``tags``: more of them for each sample.
    """
    samples, no_data = [], []
    order = {name: place for place, name in enumerate(CATALOGUE)}
    for finding in sorted(findings, key=lambda finding: order[finding.name]):
        value, checked = finding.value, CATALOGUE[finding.name]
        verdict = {}
        if checked.is_check:
            condition = finding.condition or format_condition(finding.name, settings.thresholds)
            parsed = conditions.parse(condition)
            status = parsed.status(value) if parsed and value is not None else Status.UNKNOWN
            verdict = {"condition": condition, "status": (finding.status or status).value}
        full = {"source": "cron", **checked.tags, **verdict, **tags, **finding.tags}
        if value is None:
            no_data.append(NoData(full, finding.summary))
        else:
            at, behind, rule = finding.at or now, finding.evidence, find_rule(finding.name, settings)
            samples.append(Sample(checked.metric, float(value), at, full, None, None, behind, finding.summary, rule))
    return tuple(samples), tuple(no_data)
