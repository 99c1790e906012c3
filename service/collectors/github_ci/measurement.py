"""The numbers that follow from the runs that are known: one that might be wrong is missing, with a reason. CPU work."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from service.collectors.github_ci import culprits, evidence, run_list
from service.collectors.github_ci.catalogue import SCHEDULE_AGE, SUCCESS_AGE, Finding, format_limit
from service.collectors.github_ci.evidence import count, format_span, format_time, make_evidence, name_some, newest
from service.collectors.github_ci.models import FAILED, STUCK_AFTER, Run, Workflow, WorkflowRuns, quantile
from service.collectors.github_ci.settings import LISTS, GithubCiSettings, WorkflowLists, describe_missing
from service.collectors.github_ci.state import MARGIN, WEEK, State
from service.domain.errors import HealthError, Rejected, Unavailable
from service.domain.samples import Evidence, Status

# What may fail by itself, as it is reported; the lists of workflows and the groups of labels are parts, too.
RUNS, OLDER_RUNS, FLAKY, ENDS, OTHERS = "runs", "older runs", "flaky runs", "durations", "other workflows"
JOBS, BRANCH, EXPECTED = "jobs ended by their time limit", "branch", "expected"


@dataclass
class Measurement:
    """``state``, ``workflows``: what is known. ``unseen``: ids of runs whose state no page tells any more.
    ``attempts``: ended attempts that are new by a delivery, or that a later one replaced before a list showed them.

    ``findings``, ``failures`` by part, ``notes`` for the operator: what comes of it.
    """

    settings: GithubCiSettings
    now: datetime
    state: State
    workflows: WorkflowLists | None = None
    unseen: list[int] = field(default_factory=list)
    attempts: list[Run] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failures: dict[str, HealthError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._branch, self._span = self.state.branch, format_span(self.settings.history_window)
        self._since = self.now - self.settings.history_window

    def measure(self) -> None:
        """All that a poll tells of runs."""
        if self.state.is_cold and not self.state.runs:
            self._note("GitHub lists no runs, so nothing of CI is sent: is Actions enabled there?")
        elif self.state.is_cold:
            reason = "GitHub's list of runs is empty, but workflows show some"
            self.failures.setdefault(RUNS, Unavailable(reason))
        else:
            self._measure_runs(has_branch=BRANCH not in self.failures)
            self._measure_queue()
            self._measure_expected()
            self._measure_jobs()

    def measure_changes(self) -> None:
        """What deliveries tell. Not what waits: they don't say which runs begin. Where no run shows that there is such
        a branch, the poll has asked."""
        self._measure_runs(self.shows_branch, {run.id for run in self.runs_with_unknown_attempts})

    @property
    def window(self) -> list[Run]:
        """The runs whose last attempt started in it."""
        return self.state.started_since(self._since)

    @property
    def shows_branch(self) -> bool:
        return any(run.on_branch for run in self.window)

    @property
    def runs_with_unknown_attempts(self) -> list[Run]:
        return [run for run in self.window if self.state.unknown_attempts(run, self.now)]

    @property
    def runs_without_end(self) -> list[Run]:
        """Runs of which a duration is wanted but not known."""
        return [run for run in self.window if run.lacks_end(self.now)]

    @property
    def is_filled(self) -> bool:
        return run_list.is_filled(self.state, self.now)

    # Runs of the window

    def _measure_runs(self, has_branch: bool, left: Collection[int] = ()) -> None:
        """``left``: runs whose durations wait for another time."""
        for run in self.state.pop_unreported(self.attempts, self.now, left):
            workflow = self.names.get(run.workflow_id) or run.label
            tags = {"workflow": workflow, "kind": run.kind, "conclusion": run.conclusion or ""}
            summary = f"a run of {workflow} took {run.minutes:,.1f} min"
            self._add("ci.workflow.duration", run.minutes, summary, _as_evidence([run]), tags=tags, at=run.updated)
        window = self.window
        # Older runs that are still to be read may have been run again within the window.
        if self._is_known(RUNS, not self.unseen) and self.is_filled:
            if has_branch:
                self._measure_branch([run for run in window if run.on_branch])
            if self._is_known(ENDS, not self.runs_without_end):
                self._measure_p90([run for run in window if run.kind == "pre_merge" and run.is_conclusive])
            if self._is_known(FLAKY, not any(run.is_verdict_open for run in window)):
                self._measure_flaky(window)
        if self.workflows and has_branch:
            self._measure_latest(self.workflows)

    def _measure_branch(self, runs: Sequence[Run]) -> None:
        conclusive = [run for run in runs if run.is_conclusive]
        failed = [run for run in conclusive if run.conclusion != "success"]
        share = (len(conclusive) - len(failed)) / len(conclusive) if conclusive else None
        summary = f"no run on {self._branch} of {self._span} has succeeded or failed"
        if conclusive:
            summary = f"{len(failed):,} of {count(len(conclusive), 'run')} on {self._branch} failed in {self._span}"
            summary += _name_workflows(failed)
        behind = _as_evidence(failed or conclusive)
        self._add("ci.workflow.success", None if share is None else float(not failed), summary, behind)
        self._add("ci.workflow.success_ratio", share, summary, behind)
        cancelled = [run for run in runs if run.conclusion == "cancelled"]
        summary = f"{len(cancelled):,} of {count(len(runs), 'run')} on {self._branch}"
        summary += f" {'was' if len(cancelled) == 1 else 'were'} cancelled in {self._span}{_name_workflows(cancelled)}"
        self._add("ci.workflow.cancelled", len(cancelled), summary, _as_evidence(cancelled))
        self._add_share_of_commits("ci.branch.red_share", conclusive, failed, "failed")

    def _measure_p90(self, runs: Sequence[Run]) -> None:
        if not runs:
            summary = f"no pull-request run of {self._span} has succeeded or failed"
            self._add("ci.workflow.duration.p90", None, summary)
            return
        p90 = quantile([run.minutes for run in runs], 0.9)
        longest = max(runs, key=lambda run: run.minutes)
        summary = (
            f"90 % of {count(len(runs), 'pull-request run')} took at most {p90:,.1f} min in {self._span},"
            f" the longest {longest.minutes:,.1f} min ({longest.label})"
        )
        self._add("ci.workflow.duration.p90", p90, summary, _as_evidence(run for run in runs if run.minutes >= p90))

    def _measure_flaky(self, window: Collection[Run]) -> None:
        flaky = [run for run in window if run.conclusion == "success" and run.has_failed_before]
        what = "failed first and succeeded when run again"
        summary = f"{len(flaky):,} of {count(len(window), 'run')} {what} in {self._span}{_name_workflows(flaky)}"
        self._add("ci.workflow.flaky_tests", len(flaky), summary, _as_evidence(flaky))
        conclusive = [run for run in window if run.on_branch and run.is_conclusive]
        red = {run.head_sha for run in conclusive if run.conclusion != "success"}
        mended = [run for run in flaky if run.on_branch and run.head_sha not in red]
        self._add_share_of_commits("ci.branch.flaky_share", conclusive, mended, what)

    def _add_share_of_commits(self, name: str, conclusive: Iterable[Run], chosen: Collection[Run], what: str) -> None:
        """The share of the commits with a conclusive run that have one of the ``chosen``."""
        commits = {run.head_sha for run in conclusive if run.head_sha}
        found = {run.head_sha for run in chosen if run.head_sha}
        if commits:
            summary = f"{len(found):,} of {count(len(commits), 'commit')} on {self._branch} {what} in {self._span}"
            self._add(name, len(found) / len(commits), summary, _as_evidence(chosen))

    # The latest runs of workflows

    def _measure_latest(self, lists: WorkflowLists) -> None:
        state = self.state
        runs, unknown = state.on_branch(), set(state.unknown_workflows(lists.all))
        self.failures |= {name: Rejected(reason) for name, reason in lists.missing.items()}
        for name in LISTS:
            ids = lists.ids[name]
            if ids and self._is_known(name, unknown.isdisjoint(ids)):
                listed = lists.join(ids, runs)
                self._measure_list(f"ci.workflow.{name}", listed)
                if name == "tests_blocking_merge" and self.is_filled and RUNS not in self.failures:
                    self._measure_red_minutes(listed)
        if self._is_known(OTHERS, unknown.isdisjoint(lists.others)):
            self._measure_others(lists.join(lists.others, runs))
        latest = state.latest()
        red_ones = [each for each in lists.asleep if each.id in latest and latest[each.id].conclusion != "success"]
        for found, what in (
            (lists.disabled, "its last run counts until it is enabled or off its list"),
            (red_ones, "red when GitHub disabled it, and counted no more"),
        ):
            if found:
                self._note(f"{name_some(f'{each.file} is {each.state}' for each in found)}: {what}")

    def _measure_list(self, name: str, workflows: Sequence[WorkflowRuns]) -> None:
        """1 when every workflow's latest conclusive run succeeded; None until each has one."""
        latest = {each.file: [run for run in each.runs if run.is_conclusive][-1:] for each in workflows}
        if unknown := [file for file, runs in latest.items() if not runs]:
            self._add(name, None, f"no run of {name_some(unknown)} on {self._branch} has succeeded or failed yet")
        elif streaks := culprits.find_streaks(workflows):
            number = f"{len(streaks)} of {count(len(workflows), 'workflow')}"
            summary = culprits.describe_streaks(streaks, number, self._branch)
            self._add(name, 0, summary, culprits.as_evidence(streaks))
        else:
            which = workflows[0].file if len(workflows) == 1 else f"each of {len(workflows)} workflows"
            behind = _as_evidence(run for runs in latest.values() for run in runs)
            self._add(name, 1, f"the latest run of {which} on {self._branch} succeeded", behind)

    def _measure_others(self, workflows: Sequence[WorkflowRuns]) -> None:
        """How many workflows' latest conclusive run did not succeed; one that never had any is not failing."""
        streaks = culprits.find_streaks(workflows)
        summary = number = f"{len(streaks)} of {count(len(workflows), 'other active workflow')}"
        summary += f" failed on {self._branch}"
        if streaks:
            summary = culprits.describe_streaks(streaks, number, self._branch)
        self._add("ci.workflow.other_failing", len(streaks), summary, culprits.as_evidence(streaks))

    def _measure_red_minutes(self, workflows: Sequence[WorkflowRuns]) -> None:
        """``workflows``: those that block merges."""
        red = culprits.measure_red_time(workflows, self.state.reach or self.now, self._since, self.now)
        if red.span is None:
            reason = f"when an attempt on {self._branch} of {self._span} ended, or what was before it, is not known"
            if self.settings.thresholds.red_minutes is None:
                self._note(reason)  # nobody is to be woken by what has no verdict
            else:
                self._add("ci.branch.red_minutes", None, reason)
            return
        minutes = red.span / timedelta(minutes=1)
        summary = f"no workflow that blocks merges was red on {self._branch} in {self._span}"
        if red.runs:
            ids = {run.id for run in red.runs}
            by = name_some(each.file for each in workflows if any(run.id in ids for run in each.runs))
            summary = f"{self._branch} was red for {minutes:,.0f} min of {self._span}, by {by}"
        behind = newest(run.as_evidence("" if run.conclusion in FAILED else "failed before") for run in red.runs)
        self._add("ci.branch.red_minutes", minutes, summary, behind)

    # What waits, what a schedule runs, jobs

    def _measure_queue(self) -> None:
        """A re-run waits since it was asked for, another run since it was created."""
        waiting = self.state.waiting()
        if stuck := [run for run in waiting if run.is_stuck(self.now)]:
            number, began, url = count(len(stuck), "run"), stuck[0].started, stuck[0].as_evidence().url
            what = "stuck, waiting for more than a day and not counted as queued"
            self._note(f"{what}: {number}, the oldest since {began:%Y-%m-%d} {url}".rstrip())
        if not self.is_filled or {RUNS, OLDER_RUNS} & self.failures.keys():
            return
        # Of what waits behind the window no page tells when it begins.
        since = self.now - min(STUCK_AFTER, self.settings.history_window + MARGIN)
        queued = [run for run in waiting if run.started >= since]
        states = ", ".join(
            f"{number:,} {state}" for state, number in Counter(run.status for run in queued).most_common()
        )
        summary = f"{count(len(queued), 'run')} {'waits' if len(queued) == 1 else 'wait'} now"
        self._add("ci.queue.runs", len(queued), f"{summary} ({states})" if states else summary, _as_evidence(queued))
        if queued:
            first = queued[0]
            minutes = max(0.0, (self.now - first.started).total_seconds() / 60)
            summary = f"a run of {first.label} is {first.status} since {format_time(first.started)}"
            self._add("ci.queue.oldest_minutes", minutes, summary, _as_evidence([first]))

    def _measure_expected(self) -> None:
        """The workflows that a schedule should run."""
        if not self.workflows or not self.is_filled or RUNS in self.failures:
            return
        last, succeeded = self.state.by_schedule(), self.state.by_schedule(succeeded=True)
        expected: dict[int, tuple[Workflow, timedelta]] = {}
        problems = []
        for entry, limit in self.settings.expected.items():
            found = self.workflows.find(entry)
            expected |= {each.id: (each, limit) for each in found}
            problems += [] if found else [describe_missing(entry)]
        for id, (each, limit) in expected.items():
            self._measure_schedule(each, limit, last.get(id), succeeded.get(id))
            if not each.is_active:
                problems.append(f"{each.file} is {each.state}: enable it, or take it off expected")
            elif id not in last:
                since = "" if self.state.reach == evidence.BEGINNING else f" since {self.state.reach:%Y-%m-%d}"
                problems.append(f"no schedule has run {each.file}{since}, as far as runs are read")
        if problems:
            self.failures[EXPECTED] = Rejected("; ".join(problems))

    def _measure_schedule(self, workflow: Workflow, limit: timedelta, last: Run | None, succeeded: Run | None) -> None:
        """Of the newest run that a schedule began, and of the newest of them that succeeded. A disabled one fails."""
        file, tags = workflow.file, {"workflow_name": workflow.file}
        summary, behind = f"no schedule has run {file}, as far as runs are read", _as_evidence([last] if last else [])
        if last:
            outcome = last.conclusion or "not ended yet"
            summary = f"a schedule last began a run of {file} at {format_time(last.created)} ({outcome})"
        status = None
        if not workflow.is_active:
            status, summary = Status.FAIL, f"{file} is {workflow.state}; {summary}"
            behind = (make_evidence(workflow.name, None, None, workflow.state), *behind)
        age, condition = self._hours_since(last) if last else None, format_limit(limit)
        self._add(SCHEDULE_AGE, age, summary, behind, tags=tags, condition=condition, status=status)
        if succeeded:
            at = format_time(succeeded.created)
            summary = f"the last run of {file} that a schedule began and that succeeded is of {at}"
            self._add(SUCCESS_AGE, self._hours_since(succeeded), summary, _as_evidence([succeeded]), tags=tags)

    def _measure_jobs(self) -> None:
        if not self.is_filled:
            self._note(f"runs before {self.state.reach:%Y-%m-%d} are still to be read; some numbers wait")
        elif JOBS in self.failures:
            return
        elif waiting := self.state.open_suspects(self.now):
            self._note(f"jobs of {len(waiting)} runs are still to be read")
        else:
            jobs = [
                make_evidence(job.name, job.url, job.ended, job.conclusion or "", run.name)
                for run in self.state.suspects(self.now)
                for job in run.jobs
                if job.is_overtime and job.ended and job.ended >= self.now - WEEK
            ]
            summary = f"{count(len(jobs), 'job', 'was')} ended by a time limit in the last 7 days"
            self._add("ci.jobs.timed_out", len(jobs), summary, newest(jobs))

    @property
    def names(self) -> dict[int, str]:
        """The workflows', by id."""
        return self.workflows.names if self.workflows else {}

    def _hours_since(self, run: Run) -> float:
        return max(0.0, (self.now - run.created) / timedelta(hours=1))

    def _add(
        self, name: str, value: float | None, summary: str, evidence: tuple[Evidence, ...] = (), **more: Any
    ) -> None:
        self.findings.append(Finding(name, value, summary, evidence, **more))

    def _is_known(self, part: str, is_whole: bool) -> bool:
        """Whether nothing of the part is missing; what the budget did not allow is reported like any other failure."""
        if not is_whole:
            self.failures.setdefault(part, Unavailable("not all of them could be asked for in this cycle"))
        return part not in self.failures

    def _note(self, text: str) -> None:
        self.notes.append(f"{self.state.repo}: {text}")


def _as_evidence(runs: Iterable[Run]) -> tuple[Evidence, ...]:
    return newest(run.as_evidence() for run in runs)


def _name_workflows(runs: Iterable[Run]) -> str:
    names = name_some(run.label for run in runs)
    return f": {names}" if names else ""
