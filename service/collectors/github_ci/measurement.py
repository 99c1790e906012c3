"""Which numbers follow from what a cycle knows: one that might be wrong is missing, with a reason. CPU work."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.collectors.github_ci import attempts, metrics, run_list
from service.collectors.github_ci.metrics import Finding, Scope
from service.collectors.github_ci.models import STUCK_AFTER, Run, Workflow, name_some
from service.collectors.github_ci.settings import LISTS, GithubCiSettings
from service.collectors.github_ci.state import MARGIN, WEEK, State
from service.collectors.github_ci.weekly_runs import WeeklyRuns
from service.collectors.github_ci.workflows import WorkflowLists, describe_missing
from service.domain.errors import HealthError, Rejected, Unavailable

# What may fail by itself, as it is told; the lists of workflows and the groups of labels are parts, too.
RUNS, OLDER_RUNS, FLAKY, ENDS, OTHERS = "runs", "older runs", "flaky runs", "durations", "other workflows"
JOBS, BRANCH, EXPECTED = "jobs ended by their time limit", "branch", "expected"


@dataclass
class Measurement:
    """``state``, ``week``, ``workflows``: what is known. ``unseen``: ids of known runs that the list does not show any
    more. ``unlisted_attempts``: ended attempts that a later one replaced before a list showed them.

    ``findings``, ``failures`` by part, ``notes`` for the operator: what comes of it.
    """

    settings: GithubCiSettings
    now: datetime
    state: State
    week: WeeklyRuns
    workflows: WorkflowLists | None = None
    unseen: list[int] = field(default_factory=list)
    unlisted_attempts: list[Run] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failures: dict[str, HealthError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self) -> None:
        """All that a poll tells of runs."""
        is_empty = self.state.is_cold and not self.state.runs
        self.week.close(self.now, self._names, is_whole=self.is_filled or is_empty)
        if is_empty:
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

    def _measure_runs(self, has_branch: bool, left: Collection[int] = ()) -> None:
        """``left``: runs whose durations wait for another time."""
        self.findings += metrics.measure_durations(
            self.state.take_ended(self.unlisted_attempts, self.now, left), self._names
        )
        self._measure_window(has_branch)
        if self.workflows and has_branch:
            self._measure_latest(self.workflows)

    def _measure_window(self, has_branch: bool) -> None:
        runs, found = self.window, self.findings
        # Older runs that are still to be read may have been run again within the window.
        if self._is_known(RUNS, not self.unseen) and self.is_filled:
            found += metrics.measure_branch(runs, self._scope) if has_branch else []
            if self._is_known(ENDS, not self.runs_without_end):
                found.append(metrics.measure_p90(runs, self._scope))
            if self._is_known(FLAKY, not any(run.is_verdict_open for run in runs)):
                found += metrics.measure_flaky(runs, self._scope)

    def _measure_latest(self, lists: WorkflowLists) -> None:
        state, found = self.state, self.findings
        runs, unknown = state.on_branch(), set(state.unknown_workflows(lists.all))
        self.failures |= {name: Rejected(told) for name, told in lists.missing.items()}
        for name in LISTS:
            ids = lists.ids[name]
            if ids and self._is_known(name, unknown.isdisjoint(ids)):
                listed = lists.join(ids, runs)
                found.append(metrics.measure_list(name, listed, state.branch))
                if name == "tests_blocking_merge" and state.reach and self.is_filled and RUNS not in self.failures:
                    red = metrics.measure_red_minutes(listed, state.reach, self._since, self.now, self._scope)
                    if red.value is None and self.settings.thresholds.red_minutes is None:
                        self._note(red.summary)  # nobody is to be woken by what has no verdict
                    else:
                        found.append(red)
        if self._is_known(OTHERS, unknown.isdisjoint(lists.others)):
            found.append(metrics.measure_others(lists.join(lists.others, runs), state.branch))
        latest = state.latest()
        red_ones = [each for each in lists.asleep if each.id in latest and latest[each.id].conclusion != "success"]
        self._note_disabled(lists.disabled, "its last run counts until it is enabled or off its list")
        self._note_disabled(red_ones, "red when GitHub disabled it, and counted no more")

    def _measure_queue(self) -> None:
        waiting = self.state.waiting()
        if stuck := [run for run in waiting if run.is_stuck(self.now)]:
            number, began, url = metrics.count(len(stuck), "run"), stuck[0].started, stuck[0].as_evidence().url
            what = "stuck, waiting for more than a day and not counted as queued"
            self._note(f"{what}: {number}, the oldest since {began:%Y-%m-%d} {url}".rstrip())
        # Of what waits behind the window no page tells when it begins.
        since = self.now - min(STUCK_AFTER, self.settings.history_window + MARGIN)
        if self.is_filled and not {RUNS, OLDER_RUNS} & self.failures.keys():
            self.findings += metrics.measure_queue([run for run in waiting if run.started >= since], self.now)

    def _measure_expected(self) -> None:
        """The workflows that a schedule should run."""
        if not self.workflows or not self.is_filled or RUNS in self.failures:
            return
        last, succeeded = self.state.by_schedule(), self.state.by_schedule(succeeded=True)
        expected: dict[int, tuple[Workflow, timedelta]] = {}
        told = []
        for entry, limit in self.settings.expected.items():
            found = self.workflows.find(entry)
            expected |= {each.id: (each, limit) for each in found}
            told += [] if found else [describe_missing(entry)]
        for id, (each, limit) in expected.items():
            self.findings += metrics.measure_schedule(each, limit, last.get(id), succeeded.get(id), self.now)
            if not each.is_active:
                told.append(f"{each.file} is {each.state}: enable it, or take it off expected")
            elif id not in last:
                told.append(
                    f"no schedule has run {each.file} since {self.state.reach:%Y-%m-%d}, as far as runs are read"
                )
        if told:
            self.failures[EXPECTED] = Rejected("; ".join(told))

    def _measure_jobs(self) -> None:
        state, waiting = self.state, self.state.open_suspects(self.now)
        if not self.is_filled:
            self._note(f"runs before {state.reach:%Y-%m-%d} are still to be read; some numbers wait")
        elif JOBS in self.failures:
            return
        elif waiting:
            self._note(f"jobs of {len(waiting)} runs are still to be read")
        else:
            self.findings.append(metrics.measure_timed_out(state.suspects(self.now), self.now - WEEK))

    @property
    def window(self) -> list[Run]:
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
        return [run for run in self.window if attempts.lacks_end(run, self.now)]

    @property
    def is_filled(self) -> bool:
        return run_list.is_filled(self.state, self.now)

    @property
    def _since(self) -> datetime:
        return self.now - self.settings.history_window

    @property
    def _scope(self) -> Scope:
        return Scope(self.state.branch, metrics.format_span(self.settings.history_window))

    @property
    def _names(self) -> dict[int, str]:
        return self.workflows.names if self.workflows else {}

    def _is_known(self, part: str, is_whole: bool) -> bool:
        """Whether nothing of the part is missing; what the budget did not allow is told like any other failure."""
        if not is_whole:
            self.failures.setdefault(part, Unavailable("not all of them could be asked for in this cycle"))
        return part not in self.failures

    def _note(self, text: str) -> None:
        self.notes.append(f"{self.state.repo}: {text}")

    def _note_disabled(self, found: Sequence[Workflow], what: str) -> None:
        if found:
            self._note(f"{name_some(f'{each.file} is {each.state}' for each in found)}: {what}")
