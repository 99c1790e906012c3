"""One cycle of one repository: read what changes, ask for what that leaves unknown, then measure.

Between the cycles what deliveries told is measured.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import anyio
import anyio.to_thread
from msgspec.structs import replace

from service.collectors.github_ci import backfill, metrics, pull_requests, timed_out_jobs, weekly_runs, window
from service.collectors.github_ci.backfill import Budget, Question
from service.collectors.github_ci.metrics import Finding, Scope
from service.collectors.github_ci.models import STUCK_AFTER, Run, WorkflowLists, WorkflowRuns
from service.collectors.github_ci.pull_requests import Answer, Counted, Group, is_branch, is_label
from service.collectors.github_ci.settings import LABELS, LISTS, GithubCiSettings
from service.collectors.github_ci.state import MARGIN, WEEK, begin, encode
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import MAX_POINT_AGE
from service.github.client import Github, Usage, count_usage

CYCLE_POINTS = 248
# Of a steady cycle of a usual repository: 300 runs a day, any number of workflows.
_STEADY_REQUESTS, _STEADY_POINTS, _USUAL_PAGES = 10, 8, 4
_BACKLOG = 30  # runs to be looked into; more than these are no steady state
_MISSED_AFTER = timedelta(minutes=2)
_NAMED = 5  # workflows of a note
_JOBS, _OTHERS = "jobs ended by their time limit", "other workflows"


class Stored(NamedTuple):
    """What an earlier cycle left."""

    state: bytes | None = None
    week: bytes | None = None


class RepositoryCycle:
    """Collects the metrics of ``repo`` once. ``tags``: more of them on every sample.

    ``budget``: what all repositories together may spend on questions. ``notes``: what the operator should know.
    ``told``: the facts that were in the stored state. ``missed``: id and attempt of what no delivery told in time.
    """

    def __init__(
        self,
        repo: str,
        settings: GithubCiSettings,
        github: Github,
        budget: Budget,
        now: datetime,
        tags: Mapping[str, str],
    ) -> None:
        self._repo, self._settings, self._github, self._now, self._tags = repo, settings, github, now, tags
        self.notes: list[str] = []
        self._shared_budget = budget
        self._since = now - settings.history_window
        self._scope = Scope(settings.branch, metrics.format_span(settings.history_window))
        self._actions = window.Actions(github, repo, settings.branch)
        self._findings: list[Finding] = []
        self._failures: dict[str, HealthError] = {}
        self._unseen: list[int] = []  # known runs that the list does not show any more
        self._hidden: list[Run] = []  # attempts that no list showed
        self._workflows: WorkflowLists | None = None
        self._names = Answer()
        self._is_empty = False  # the list of all runs shows none
        self.told: list[Run] = []
        self.missed: list[tuple[int, int]] = []

    async def collect(
        self, stored: Stored, facts: Sequence[Run] = (), told_since: datetime | None = None
    ) -> CollectResult:
        """``facts``: what deliveries told. ``told_since``: since when they come, None where they don't.

        Raises the worst error when there is nothing to send.
        """
        ended = await anyio.to_thread.run_sync(self._begin, stored, facts)
        is_cold = self._state.is_cold
        with count_usage() as usage:
            async with anyio.create_task_group() as tasks:
                for read in (self._read_window, self._read_workflows, self._count_pull_requests):
                    tasks.start_soon(read)
            if "runs" not in self._failures:
                await self._ask_what_is_unknown(usage)
                await self._check_branch()
                await anyio.to_thread.run_sync(self._measure)
                if told_since and not is_cold:
                    self.missed = self._find_missed(ended, told_since)
        if not self._findings and self._failures:
            raise max(self._failures.values(), key=explains)
        failures = tuple(PartialFailure(str(error), part) for part, error in self._failures.items())
        return await self._bring(failures)

    async def collect_changes(self, stored: Stored, facts: Sequence[Run], usage: Usage) -> CollectResult | None:
        """What follows from ``facts``; None where they tell nothing new, or no poll was before them.

        Asked are the workflows, and as far as the limit of ``usage`` goes the earlier attempts that no delivery told;
        what that leaves unknown is not sent, and no failure: the next poll sends it.
        """
        await anyio.to_thread.run_sync(self._begin, stored, facts)
        if self._state.is_cold or len(self.told) == len(facts):
            return None
        await self._read_workflows()
        for run in self._runs_with_unknown_attempts():
            if usage.left >= run.attempt - 1:
                with self._part("flaky runs"):
                    await self._ask_attempts(run)
        await anyio.to_thread.run_sync(self._measure_changes)
        return await self._bring(())

    def _begin(self, stored: Stored, facts: Sequence[Run]) -> Mapping[int, int]:
        """Takes up the state and ``facts``. Returns what has ended by that: attempts by the runs' ids. CPU work."""
        self._state = state = begin(stored.state, self._repo, self._settings.branch, self._now)
        self._week = weekly_runs.begin(stored.week, state, self._now, self._since)
        self.told = [fact for fact in facts if state.tells(fact, self._now)]
        copies = [replace(fact, earlier={}, cancelled=[], silent=[], overtime=[]) for fact in facts]
        self._hidden += state.take_told(fact.normalize(state.branch) for fact in copies)
        return {run.id: run.attempt for run in state.runs.values() if run.has_ended}

    async def _bring(self, failures: tuple[PartialFailure, ...]) -> CollectResult:
        samples, no_data = metrics.to_samples(self._findings, self._settings, self._now, self._tags)
        return CollectResult(samples, failures, no_data, await anyio.to_thread.run_sync(self._encode))

    def _encode(self) -> dict[str, bytes]:
        self._trim()
        return {self._repo: encode(self._state), weekly_runs.KEY + self._repo: encode(self._week)}

    def _trim(self) -> None:
        """Forgets runs that no metric needs any more; of the week's the table keeps what it needs. CPU work."""
        self._week.take(self._state.runs.values())
        self._state.trim(self._now, self._settings.history_window)

    def _find_missed(self, ended: Mapping[int, int], since: datetime) -> list[tuple[int, int]]:
        """What this poll was the first to tell, though a delivery should have: GitHub sends none where no job began."""
        return [
            (run.id, run.attempt)
            for run in self._state.runs.values()
            if run.has_ended and run.attempt > ended.get(run.id, 0) and run.conclusion != "startup_failure"
            if since <= run.updated < self._now - _MISSED_AFTER
        ]

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
            span = self._settings.history_window
            self._unseen = await window.read_window(self._actions, self._state, self._now, span)
            self._is_empty = self._state.reach is None

    async def _read_workflows(self) -> None:
        with self._part("workflows"):
            listed = await window.list_workflows(self._github, self._repo)
            if not listed and self._state.runs:
                raise Unavailable("GitHub lists no workflows, though it showed runs of some")
            self._workflows = WorkflowLists({name: getattr(self._settings, name) for name in LISTS}, listed)

    async def _count_pull_requests(self) -> None:
        settings, since = self._settings, self._now - self._settings.weekly_window
        groups = {name: Group(getattr(settings, key), since) for name, key in LABELS.items()}
        if settings.bug_label:
            bugs = [(settings.bug_label,), *((settings.bug_label, label) for label in settings.bug_sub_labels)]
            groups |= {f"bugs_{place}": Group(labels) for place, labels in enumerate(bugs)}
        groups = {name: group for name, group in groups.items() if group.labels}
        with self._part("pull requests"):
            self._names = answer = await pull_requests.count(self._github, self._state, groups)
            if groups and len(answer.errors) == len(groups):
                raise max(answer.errors.values(), key=explains)
            for name, error in answer.errors.items():
                self._failures[f"pull requests, {name}"] = error
            for name, counted in answer.counts.items():
                with self._part(f"pull requests, {name}"):
                    await self._take_count(name, groups[name].labels, counted)

    async def _take_count(self, name: str, labels: tuple[str, ...], counted: Counted) -> None:
        """Labels that are not there count nothing: one of a group is enough, of a bug's both are needed."""
        is_bugs, is_sub = name.startswith("bugs"), name.startswith("bugs") and len(labels) > 1
        metric = f"github.{'bugs' if is_bugs else name}.count"
        since = None if is_bugs else self._settings.weekly_window
        absent = [] if counted.count else [label for label in labels if not await self._has_label(label)]
        if not absent or (not is_bugs and len(absent) < len(labels)):
            self._findings.append(metrics.measure_labelled(metric, counted.count, labels, counted.evidence, since))
            return
        key = LABELS.get(name, "bug_sub_labels" if is_sub else "bug_label")
        told = f"{self._repo} has no label {' or '.join(map(repr, absent))}: correct {key}, or create it"
        if key in self._settings.model_fields_set:
            raise Rejected(told)
        self.notes.append(told)  # a default that means nothing here
        self._findings.append(Finding(metric, None, told, tags={"label": labels[-1]} if is_sub else {}))

    async def _has_label(self, label: str) -> bool:
        told = self._names.labels.get(label)
        return await is_label(self._github, self._repo, label) if told is None else told

    async def _check_branch(self) -> None:
        """Where GraphQL tells of no branches, runs of the window are proof of one, too."""
        branch, is_there = self._settings.branch, self._names.has_branch
        with self._part("branch"):
            if is_there is None:
                is_shown = any(run.on_branch for run in self._state.started_since(self._since))
                is_there = is_shown or await is_branch(self._github, self._repo, branch)
            if not is_there:
                default = self._names.default_branch
                hint = f" (its default branch is {default!r})" if default else ""
                raise Rejected(f"{self._repo} has no branch {branch!r}{hint}: correct branch")

    # What is asked beside it

    async def _ask_what_is_unknown(self, usage: Usage) -> None:
        """First what decides a number of this cycle, then what can wait; what that brings may decide one, too."""
        state = self._state
        self._shared_budget.left = min(self._shared_budget.left, self._github.spare)
        budget = Budget(CYCLE_POINTS - usage.points.total(), self._shared_budget)
        deadline = (anyio.current_time() + anyio.current_effective_deadline()) / 2
        with anyio.CancelScope(deadline=deadline) as half:
            if not self._is_empty:
                with self._part("older runs"):
                    await backfill.fill(self._actions, state, self._now, self._trim, budget)
            await self._ask(budget, self._urgent_questions())
            if not self._is_empty:
                limited = self._limit_steady(budget, usage)
                await self._ask(limited, self._optional_questions(limited))
                await self._ask(budget, self._urgent_questions())
        if half.cancelled_caught:
            self._failures.setdefault("older runs", Unavailable("GitHub answers too slowly to read all in one run"))

    def _limit_steady(self, budget: Budget, usage: Usage) -> Budget:
        """Once the week is read, what can wait comes a little at a time."""
        state = self._state
        if not state.was_whole or len(state.open_suspects(self._now)) > _BACKLOG:
            return budget
        points, requests = usage.points.total(), usage.requests
        if state.front > _USUAL_PAGES:
            return Budget(3 * state.front - points, budget)
        return Budget(min(_STEADY_POINTS - points, _STEADY_REQUESTS - requests), budget)

    async def _ask(self, budget: Budget, questions: Iterator[Question]) -> None:
        open_ones = [each for each in questions if each.part not in self._failures]
        self._failures |= await backfill.ask_in_order(budget, open_ones)

    def _urgent_questions(self) -> Iterator[Question]:
        """What decides a number of this cycle, in the order of its worth."""
        actions, state, now = self._actions, self._state, self._now
        for id in self._unseen:
            yield Question("runs", partial(self._ask_unseen, id))
        for run in backfill.unfinished_behind(state, now, self._settings.history_window):
            yield Question("older runs", partial(self._ask_again, run))
        for run in self._runs_with_unknown_attempts():
            yield Question("flaky runs", partial(self._ask_attempts, run))
        for run in self._runs_without_end():
            yield Question("durations", partial(timed_out_jobs.learn_end, actions, run))
        if self._workflows:
            for id in state.unknown_workflows(self._workflows.all):
                yield self._question_about_workflow(self._workflows, id)

    def _optional_questions(self, budget: Budget) -> Iterator[Question]:
        """What can wait for another cycle, in the order of its worth."""
        state, now = self._state, self._now
        due, is_late = backfill.pages_due(state, now), backfill.is_late(state, now)
        older_runs = [Question("older runs", partial(self._read_older, due, budget))] if due else []
        yield from older_runs if is_late else []
        for run in state.open_suspects(now):
            yield Question(_JOBS, partial(timed_out_jobs.look_into, self._actions, run, now, budget))
        yield from [] if is_late else older_runs
        for run in state.suspects(now):
            if run.silent:
                yield Question(_JOBS, partial(timed_out_jobs.look_again, self._actions, run))
        if self._workflows and not state.unknown_workflows(self._workflows.all):
            for id in state.stale_workflows(self._workflows.all, now)[:1]:
                yield self._question_about_workflow(self._workflows, id)

    def _question_about_workflow(self, workflows: WorkflowLists, id: int) -> Question:
        is_listed = id in workflows.names
        look = partial(window.ask_latest, self._actions, self._state, id, is_listed=is_listed, now=self._now)
        return Question(workflows.list_of(id) or _OTHERS, look)

    async def _ask_unseen(self, id: int) -> None:
        await window.ask_unseen(self._actions, self._state, id)
        self._unseen.remove(id)

    async def _ask_again(self, run: Run) -> None:
        self._state.take([await self._actions.run(run.id)])

    async def _ask_attempts(self, run: Run) -> None:
        self._hidden += await window.ask_attempts(self._actions, run, self._now)

    async def _read_older(self, count: int, budget: Budget) -> None:
        for place in range(count):
            if place and not budget.take():
                return
            self._unseen += await backfill.read_older_page(self._actions, self._state, self._now)

    def _runs_with_unknown_attempts(self) -> list[Run]:
        return window.runs_with_unknown_attempts(self._state.started_since(self._since), self._now)

    def _runs_without_end(self) -> list[Run]:
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
        state = self._state
        is_filled = backfill.is_filled(state, self._now) or (self._is_empty and not state.runs)
        self._week.close(self._now, self._workflows.names if self._workflows else {}, is_whole=is_filled)
        if self._is_empty:
            if state.runs:
                reason = "GitHub's list of runs is empty, but workflows show some"
                self._failures.setdefault("runs", Unavailable(reason))
            else:
                self.notes.append(
                    f"{self._repo}: GitHub lists no runs, so nothing of CI is sent: is Actions enabled there?"
                )
            return
        self._measure_ended()
        has_branch = "branch" not in self._failures
        self._measure_window(has_branch)
        self._measure_latest(has_branch)
        self._measure_queue()
        self._measure_expected()
        waiting = state.open_suspects(self._now)
        if not backfill.is_filled(state, self._now):
            self.notes.append(
                f"{self._repo}: runs before {state.reach:%Y-%m-%d} are still to be read; some numbers wait"
            )
        elif _JOBS in self._failures:
            state.was_whole = False  # what was missed is asked for at once
        elif not waiting:
            state.was_whole = True
            self._findings.append(metrics.measure_timed_out(state.suspects(self._now), self._now - WEEK))
        else:
            self.notes.append(f"{self._repo}: jobs of {len(waiting)} runs are still to be read")

    def _measure_changes(self) -> None:
        unknown = {run.id for run in self._runs_with_unknown_attempts()}
        self._measure_ended(unknown)
        # Where no run shows that there is such a branch, the poll has asked.
        has_branch = any(run.on_branch for run in self._state.started_since(self._since))
        self._measure_window(has_branch)
        self._measure_latest(has_branch)

    def _measure_ended(self, left: Collection[int] = ()) -> None:
        ended = self._state.take_ended(self._hidden, self._now, left)
        self._findings += metrics.measure_durations(ended, self._workflows.names if self._workflows else {})

    def _measure_window(self, has_branch: bool) -> None:
        runs, found = self._state.started_since(self._since), self._findings
        # Older runs that are still to be read may have been run again within the window.
        if self._is_known("runs", not self._unseen) and backfill.is_filled(self._state, self._now):
            found += metrics.measure_branch(runs, self._state.on_branch().values(), self._scope) if has_branch else []
            if self._is_known("durations", not self._runs_without_end()):
                found.append(metrics.measure_p90(runs, self._scope))
            if self._is_known("flaky runs", not any(run.is_verdict_open for run in runs)):
                found += metrics.measure_flaky(runs, self._scope)

    def _measure_queue(self) -> None:
        """Not from what deliveries tell: they don't say which runs begin."""
        state, now = self._state, self._now
        stuck = [run for run in state.waiting() if run.is_stuck(now)]
        if stuck:
            first = stuck[0].as_evidence()
            since = f"{stuck[0].started:%Y-%m-%d}"
            self.notes.append(
                f"{self._repo}: stuck, waiting for more than a day and not counted as queued:"
                f" {metrics.count(len(stuck), 'run')}, the oldest since {since} {first.url}".rstrip()
            )
        # Of what waits behind the window no page tells when it begins.
        since_when = now - min(STUCK_AFTER, self._settings.history_window + MARGIN)
        if not {"runs", "older runs"} & self._failures.keys() and backfill.is_filled(state, now):
            waiting = [run for run in state.waiting() if run.started >= since_when]
            self._findings += metrics.measure_queue(waiting, now)

    def _measure_expected(self) -> None:
        state = self._state
        if not self._settings.expected or not self._workflows:
            return
        expected, told = self._workflows.find_expected(self._settings.expected)
        if "runs" not in self._failures and backfill.is_filled(state, self._now):
            last, succeeded = state.by_schedule(), state.by_schedule(succeeded=True)
            for each in expected:
                runs = last.get(each.workflow.id), succeeded.get(each.workflow.id)
                self._findings += metrics.measure_schedule(each, *runs, self._now)
                if each.is_disabled:
                    told.append(f"{each.workflow.file} is {each.workflow.state}: enable it, or take it off expected")
                elif runs[0] is None:
                    since = f"{state.reach:%Y-%m-%d}, as far as runs are read"
                    told.append(f"no schedule has run {each.workflow.file} since {since}")
        if told:
            self._failures["expected"] = Rejected("; ".join(told))

    def _measure_latest(self, has_branch: bool) -> None:
        state, found = self._state, self._findings
        if self._workflows and has_branch:
            latest, runs = state.latest(), state.on_branch()
            unknown = set(state.unknown_workflows(self._workflows.all))
            for name in LISTS:
                if name in self._workflows.missing:
                    self._failures[name] = Rejected(self._workflows.missing[name])
                ids = self._workflows.ids[name]
                if ids and self._is_known(name, unknown.isdisjoint(ids)):
                    workflows = self._workflows.join(ids, runs)
                    found.append(metrics.measure_list(name, workflows, state.branch))
                    if name == "tests_blocking_merge":
                        self._measure_red_minutes(workflows)
            if self._is_known(_OTHERS, unknown.isdisjoint(self._workflows.others)):
                others = self._workflows.join(self._workflows.others, runs)
                found.append(metrics.measure_others(others, state.branch))
            self.notes += [
                f"{self._repo}: {each.file} is {each.state}: its last run counts until it is enabled or off its list"
                for each in self._workflows.disabled
            ]
            red = [id for id in self._workflows.asleep if id in latest and latest[id].conclusion != "success"]
            if red:
                names = sorted(self._workflows.names[id] for id in red)
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                self.notes.append(
                    f"{self._repo}: red when GitHub disabled them for inactivity, and counted no more:"
                    f" {', '.join(names[:_NAMED])}{more}"
                )

    def _measure_red_minutes(self, workflows: Sequence[WorkflowRuns]) -> None:
        reach, scope = self._state.reach, self._scope
        if reach and "runs" not in self._failures and backfill.is_filled(self._state, self._now):
            found = metrics.measure_red_minutes(workflows, reach, self._since, self._now, scope)
            if found.value is None and self._settings.thresholds.red_minutes is None:
                self.notes.append(f"{self._repo}: {found.summary}")  # nobody is to be woken by what has no verdict
            else:
                self._findings.append(found)

    def _is_known(self, part: str, is_whole: bool) -> bool:
        """Whether nothing of the part is missing; what the budget did not allow is told like any other failure."""
        if not is_whole:
            self._failures.setdefault(part, Unavailable("not all of them could be asked for in this cycle"))
        return part not in self._failures


def explains(error: HealthError) -> int:
    """Which of several errors to raise: refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
