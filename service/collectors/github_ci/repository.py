"""One cycle of one repository: read what changes, ask for what that leaves unknown, then measure."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import anyio
import anyio.to_thread

from service.collectors.github_ci import backfill, metrics, pull_requests, window
from service.collectors.github_ci.budget import Question, RequestBudget, Worth, ask
from service.collectors.github_ci.metrics import Finding
from service.collectors.github_ci.models import Run
from service.collectors.github_ci.names import Names
from service.collectors.github_ci.pull_requests import Counted, Group
from service.collectors.github_ci.settings import GithubCiSettings
from service.collectors.github_ci.state import WEEK, begin, encode
from service.collectors.github_ci.timed_out_jobs import TimedOutJobs, suspects_to_look_into
from service.collectors.github_ci.workflows import WorkflowLists, ask_latest, list_workflows
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import MAX_POINT_AGE
from service.github.client import Github, count_usage

CYCLE_POINTS = 248  # 250 with what questions under way may take beyond it
# Of a steady cycle of a usual repository: 300 runs a day, any number of workflows.
_STEADY_REQUESTS, _STEADY_POINTS, _USUAL_PAGES = 10, 8, 4
_BACKLOG = 30  # runs to be looked into; more than these are no steady state
_LISTS = ("tests_blocking_merge", "benchmarks")
_LABELS = {"hotfix": "hotfix_labels", "force_merge": "force_merge_labels", "reverts": "revert_labels"}
_PATIENCE = 3
_JOBS, _OTHERS = "jobs ended by their time limit", "other workflows"


@dataclass(frozen=True, slots=True)
class Collected:
    """``note``: what the operator should know, None when there is nothing."""

    result: CollectResult
    note: str | None


class RepositoryCycle:
    """Collects the metrics of ``repo`` once. ``tags``: more of them on every sample.

    ``on_cost`` is told the points of what is read in every cycle, before anything is asked that can wait.
    """

    def __init__(
        self,
        repo: str,
        settings: GithubCiSettings,
        github: Github,
        parent: RequestBudget,
        now: datetime,
        tags: Mapping[str, str],
        on_cost: Callable[[str, int], None],
    ) -> None:
        self._repo, self._settings, self._github, self._now, self._tags = repo, settings, github, now, tags
        self._parent = parent
        self._on_cost = on_cost
        self._since = now - settings.history_window
        self._runs = window.RunList(github, repo, settings.branch)
        self._jobs = TimedOutJobs(github, repo)
        self._findings: list[Finding] = []
        self._failures: dict[str, HealthError] = {}
        self._notes: list[str] = []
        self._unseen: list[int] = []  # known runs that the list does not show any more
        self._ended: list[Run] = []  # earlier attempts that no list showed
        self._workflows: WorkflowLists | None = None
        self._default_branch: str | None = None
        self._is_cut_off = True

    async def collect(self, stored: bytes | None) -> Collected:
        """Raises the worst error when there is nothing to send."""
        self._state = await anyio.to_thread.run_sync(begin, stored, self._repo, self._settings.branch, self._now)
        self._names = Names(self._github, self._state, self._now)
        with count_usage() as usage:
            self._budget = RequestBudget(self._github, usage, CYCLE_POINTS, self._parent)
            async with anyio.create_task_group() as tasks:
                for read in (self._read_window, self._read_workflows, self._count_pull_requests):
                    tasks.start_soon(read)
            self._on_cost(self._repo, usage.resources["core"])
            if "runs" not in self._failures:
                await self._ask_what_is_unknown()
                await self._check_branch()
                await anyio.to_thread.run_sync(self._measure)
        if not self._findings and self._failures:
            raise max(self._failures.values(), key=explains)
        samples, no_data = metrics.to_samples(self._findings, self._settings.thresholds, self._now, self._tags)
        failures = tuple(PartialFailure(str(error), part) for part, error in self._failures.items())
        encoded = await anyio.to_thread.run_sync(self._encode)
        return Collected(
            CollectResult(samples, failures, no_data, {self._repo: encoded}), "; ".join(self._notes) or None
        )

    def _encode(self) -> bytes:
        self._state.trim(self._now, self._settings.history_window)
        return encode(self._state)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """What GitHub does not answer is missing, and the other parts go on."""
        try:
            yield
        except (Unavailable, Rejected) as error:
            self._failures[name] = error

    # What is read in every cycle

    async def _read_window(self) -> None:
        with self._part("runs"):
            self._unseen = await window.read_window(self._runs, self._state, self._now, self._settings.history_window)

    async def _read_workflows(self) -> None:
        with self._part("workflows"):
            listed = await list_workflows(self._github, self._repo)
            if not listed and self._state.runs:
                raise Unavailable("GitHub lists no workflows, though it showed runs of some")
            self._workflows = WorkflowLists({name: getattr(self._settings, name) for name in _LISTS}, listed)

    async def _count_pull_requests(self) -> None:
        settings, since = self._settings, self._now - self._settings.weekly_window
        groups = {name: Group(getattr(settings, key), since) for name, key in _LABELS.items()}
        if settings.bug_label:
            bugs = [(settings.bug_label,), *((settings.bug_label, label) for label in settings.bug_sub_labels)]
            groups |= {f"bugs_{place}": Group(labels) for place, labels in enumerate(bugs)}
        groups = {name: group for name, group in groups.items() if group.labels}
        with self._part("pull requests"):
            answer = await pull_requests.count(self._github, self._state, groups, self._now)
            self._names.note(answer.names)
            self._default_branch = answer.default_branch
            if groups and len(answer.errors) == len(groups):
                raise max(answer.errors.values(), key=explains)
            for name, error in answer.errors.items():
                self._failures[f"pull requests, {name}"] = error
            for name, counted in answer.counts.items():
                with self._part(f"pull requests, {name}"):
                    await self._take_count(name, groups[name].labels, counted)

    async def _take_count(self, name: str, labels: tuple[str, ...], counted: Counted) -> None:
        """Labels that are not there count nothing: one of a group is enough, of a bug's both are needed."""
        is_bugs, is_sub = name.startswith("bugs"), len(labels) > 1 and name.startswith("bugs")
        tags = {"label": labels[-1]} if is_sub else {}
        metric = f"github.{'bugs' if is_bugs else name}.count"
        absent = [] if counted.count else [label for label in labels if not await self._names.has(label)]
        if not absent or (not is_bugs and len(absent) < len(labels)):
            self._findings.append(Finding(metric, counted.count, metrics.newest(counted.evidence), tags))
            return
        key = _LABELS.get(name, "bug_sub_labels" if is_sub else "bug_label")
        told = f"{self._repo} has no label {' or '.join(map(repr, absent))}: correct {key}, or create it"
        if key in self._settings.model_fields_set:
            raise Rejected(told)
        self._notes.append(told)  # a default that means nothing here
        self._findings.append(Finding(metric, None, (), tags))

    async def _check_branch(self) -> None:
        """Runs of the window are proof of a branch, too, but against GraphQL's word."""
        branch = self._settings.branch
        with self._part("branch"):
            is_shown = any(run.on_branch for run in self._state.started_since(self._since))
            if not (is_shown and self._default_branch is None) and not await self._names.has(f"refs/heads/{branch}"):
                default = f" (its default branch is {self._default_branch!r})" if self._default_branch else ""
                raise Rejected(f"{self._repo} has no branch {branch!r}{default}: correct branch")

    # What is asked beside it

    async def _ask_what_is_unknown(self) -> None:
        """First what decides a number of this cycle, then what can wait; what that brings may decide one, too."""
        state, budget, now = self._state, self._budget, self._now
        deadline = (anyio.current_time() + anyio.current_effective_deadline()) / 2
        with anyio.CancelScope(deadline=deadline) as half:
            with self._part("older runs"):
                await backfill.fill(self._runs, state, now, self._settings.history_window, budget)
                self._is_cut_off = False
                state.believe("older runs")
            await self._ask(Worth.WORKFLOWS)
            if state.was_whole and len(state.open_suspects) <= _BACKLOG:
                is_usual = state.front <= _USUAL_PAGES
                budget.limit(*(_STEADY_POINTS, _STEADY_REQUESTS) if is_usual else (3 * state.front,))
            await self._ask(Worth.STALE_WORKFLOWS)
            budget.limit(CYCLE_POINTS)
            await self._ask(Worth.WORKFLOWS)
        # The first look at older runs broke off, and some of them may have been run again within the window. If that
        # lasts, less than all is better than nothing.
        self._is_cut_off = self._is_cut_off and state.doubt("older runs", now) <= _PATIENCE
        if half.cancelled_caught:
            self._failures.setdefault("older runs", Unavailable("GitHub answers too slowly to read all in one run"))

    async def _ask(self, least: Worth) -> None:
        questions = [each for each in self._questions(least) if each.worth <= least and each.part not in self._failures]
        self._failures |= await ask(self._budget, questions)

    def _questions(self, least: Worth) -> Iterator[Question]:
        state, now, runs, span = self._state, self._now, self._runs, self._settings.history_window
        for id in self._unseen:
            yield Question(Worth.UNSEEN, "runs", partial(self._ask_unseen, id))
        for run in backfill.unfinished_behind(state, now, span):
            yield Question(Worth.UNFINISHED, "older runs", partial(self._ask_again, run))
        for run in self._with_unknown_attempts():
            yield Question(
                Worth.ATTEMPTS, "flaky runs", partial(window.ask_attempts, runs, state, run, now, self._ended)
            )
        for run in self._without_end():
            yield Question(Worth.ENDS, "durations", partial(self._jobs.learn_end, run))
        if self._workflows:
            unknown = state.unknown_workflows(self._workflows.all)
            stale = [] if unknown else state.stale_workflows(self._workflows.all, now)[:1]
            for worth, ids in ((Worth.WORKFLOWS, unknown), (Worth.STALE_WORKFLOWS, stale)):
                for id in (id for id in ids if state.is_due(f"workflow {id}", now)):
                    is_listed = id in self._workflows.names
                    look = partial(ask_latest, runs, state, id, is_listed=is_listed, now=now)
                    yield Question(worth, self._workflows.list_of(id) or _OTHERS, look)
        if least < Worth.JOBS:
            return
        for id in suspects_to_look_into(state, CYCLE_POINTS):
            yield Question(Worth.JOBS, _JOBS, partial(self._jobs.look_into, state, id, now, self._budget))
        if due := backfill.pages_due(state, now):
            worth = Worth.OVERDUE_RUNS if backfill.is_late(state, now) else Worth.OLDER_RUNS
            yield Question(worth, "older runs", partial(self._read_older, due))

    async def _ask_unseen(self, id: int) -> None:
        await window.ask_unseen(self._runs, self._state, id, self._now)
        self._unseen.remove(id)

    async def _ask_again(self, run: Run) -> None:
        self._state.take([await self._runs.run(run.id, "unfinished runs")], self._now)

    async def _read_older(self, count: int) -> None:
        for place in range(count):
            if place and not self._budget.has_more:
                return
            self._unseen += await backfill.read_older_page(self._runs, self._state, self._now)

    def _with_unknown_attempts(self) -> list[Run]:
        return window.runs_with_unknown_attempts(self._state.started_since(self._since), self._now)

    def _without_end(self) -> list[Run]:
        """Runs of which a duration is wanted but not known."""
        return [
            run
            for run in self._state.started_since(self._since)
            if run.conclusion
            and not run.has_known_end
            and run.kind
            and (run.kind == "pre_merge" or run.updated >= self._now - MAX_POINT_AGE)
        ]

    # What it means. CPU work

    def _measure(self) -> None:
        state, found = self._state, self._findings
        runs, latest = state.started_since(self._since), state.latest()
        found += metrics.measure_durations(
            state.take_ended(self._ended, self._now), self._workflows.names if self._workflows else {}
        )
        has_branch = "branch" not in self._failures
        if state.is_empty:
            if state.runs:
                self._failures.setdefault(
                    "runs", Unavailable("GitHub's list of runs is empty, but workflows show some")
                )
            state.restart()
            return
        if self._is_known("runs", not self._unseen) and not self._is_cut_off:
            found += metrics.measure_branch(runs) if has_branch else []
            if self._is_known("durations", not self._without_end()):
                found.append(metrics.measure_p90(runs))
            if self._is_known("flaky runs", not any(run.is_verdict_open for run in runs)):
                found.append(metrics.measure_flaky(runs))
        if self._workflows and has_branch:
            unknown = set(state.unknown_workflows(self._workflows.all))
            for name in _LISTS:
                if absent := self._workflows.missing(name):
                    self._failures[name] = Rejected(absent)
                ids = self._workflows.ids(name)
                if ids and self._is_known(name, unknown.isdisjoint(ids)):
                    found.append(metrics.measure_list(f"ci.workflow.{name}", [latest.get(id) for id in ids]))
            if self._is_known(_OTHERS, unknown.isdisjoint(self._workflows.others)):
                found.append(metrics.measure_others(latest.get(id) for id in self._workflows.others))
        if _JOBS in self._failures:
            state.was_whole = False  # what was missed is asked for at once
        elif state.is_week_known(self._now) and not state.open_suspects:
            state.was_whole = True
            found.append(metrics.measure_timed_out(state.suspects.values(), self._now - WEEK))
        else:
            self._notes.append(f"{self._repo}: jobs of {len(state.open_suspects)} runs are still to be read")

    def _is_known(self, part: str, is_whole: bool) -> bool:
        """Whether nothing of the part is missing; what the budget did not allow is told like any other failure."""
        if not is_whole:
            self._failures.setdefault(part, Unavailable("not all of them could be asked for in this cycle"))
        return part not in self._failures


def explains(error: HealthError) -> int:
    """Which of several errors to raise: refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
