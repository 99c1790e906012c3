"""One cycle of one repository: read what changes, ask for what that leaves unknown, then measure.

Between two cycles it measures what deliveries bring.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread
from msgspec.structs import replace

from service.collectors.github_ci import details, measurement, pull_requests, run_list, weekly_runs
from service.collectors.github_ci.actions import Actions, explains, list_workflows
from service.collectors.github_ci.catalogue import to_samples
from service.collectors.github_ci.measurement import Measurement
from service.collectors.github_ci.models import Run
from service.collectors.github_ci.settings import LISTS, GithubCiSettings, WorkflowLists
from service.collectors.github_ci.state import begin, encode
from service.domain.errors import Rejected, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.github.client import Github
from service.github.usage import Spent, Usage, count_usage

CYCLE_POINTS = 248  # a bound for the worst cycle: docs/decisions/0006-what-a-cycle-of-ci-may-cost.md
# Of a steady cycle of a usual repository: 300 runs a day, any number of workflows.
_STEADY_REQUESTS, _STEADY_POINTS, _USUAL_PAGES = 10, 8, 4
_BACKLOG = 30  # runs to be looked into; more than these are no steady state
_LATE = timedelta(hours=1)
_LIST_LAG = timedelta(minutes=30)  # behind deliveries; what ended before that and is not listed was deleted
_QUESTIONS_AT_ONCE = 12  # GitHub's secondary limit begins at 100 concurrent requests of all our token's users
_FAILURES = 3  # of one part in a cycle; an error loop once burned a whole quota

_Question = tuple[str, Callable[[], Awaitable[None]]]  # and the part that is missing if it fails


class RepositoryCycle:
    """Collects the metrics of ``repo`` once. ``tags``: more of them on every sample.

    ``shared``: what all repositories together may spend on questions. ``notes``: what the operator should know.
    ``found``: what has ended, as neither an earlier cycle nor a delivery told. ``deleted``: ids of runs that are gone.
    """

    def __init__(
        self,
        repo: str,
        settings: GithubCiSettings,
        github: Github,
        shared: Usage,
        now: datetime,
        tags: Mapping[str, str],
    ) -> None:
        self._repo, self._settings, self._github, self._now, self._tags = repo, settings, github, now, tags
        self._shared = shared
        self._actions = Actions(github, repo, settings.branch)
        self._answer = pull_requests.Answer()
        self.notes: list[str] = []
        self.found: list[Run] = []
        self.deleted: list[int] = []

    async def collect(self, stored: bytes | None, facts: Sequence[Run]) -> CollectResult:
        """``facts``: of deliveries. Raises the worst error when there is nothing to send."""
        ended = await anyio.to_thread.run_sync(self._begin, stored, facts)
        is_cold = self._state.is_cold
        with count_usage() as usage:
            async with anyio.create_task_group() as tasks:
                for read in (self._read_window, self._read_workflows, self._count_pull_requests):
                    tasks.start_soon(read)
            if measurement.RUNS not in self._failures:
                await self._ask_what_is_unknown(usage)
                await self._check_branch()
                await anyio.to_thread.run_sync(self._measurement.measure)
                runs = [] if is_cold else self._state.runs.values()
                self.found = [run for run in runs if run.has_ended and run.attempt > ended.get(run.id, 0)]
        if not self._measurement.findings and self._failures:
            raise max(self._failures.values(), key=explains)
        failures = tuple(PartialFailure(str(error), part) for part, error in self._failures.items())
        return await self._bring(failures)

    async def collect_changes(self, stored: bytes | None, facts: Sequence[Run], usage: Usage) -> CollectResult | None:
        """What follows from ``facts``; None where they tell nothing new, or no poll was before them.

        Asked are the workflows, and as far as the limit of ``usage`` goes the earlier attempts that no delivery told;
        what that leaves unknown is not sent, and no failure: the next poll sends it.
        """
        await anyio.to_thread.run_sync(self._begin, stored, facts)
        if self._state.is_cold or not self._measurement.attempts:
            return None
        await self._read_workflows()
        for run in self._measurement.runs_with_unknown_attempts:
            if usage.left >= run.attempt - 1:
                with self._part(measurement.FLAKY):
                    await self._ask_attempts(run)
        await anyio.to_thread.run_sync(self._measurement.measure_changes)
        return await self._bring(())

    def _begin(self, stored: bytes | None, facts: Sequence[Run]) -> Mapping[int, int]:
        """Takes up the state and ``facts``. Returns what has ended by that: attempts by the runs' ids. CPU work."""
        self._state = state = begin(stored, self._repo, self._settings.branch, self._now)
        self._measurement = Measurement(self._settings, self._now, state, notes=self.notes)
        self._failures = self._measurement.failures
        since = state.read_at - _LIST_LAG if state.read_at else self._now
        copies = [replace(fact, earlier={}, jobs=[]) for fact in facts if fact.updated >= since]
        self._measurement.attempts += state.merge_facts(fact.normalize(state.branch) for fact in copies)
        return {run.id: run.attempt for run in state.runs.values() if run.has_ended}

    async def _bring(self, failures: tuple[PartialFailure, ...]) -> CollectResult:
        make = partial(to_samples, self._measurement.findings, self._settings, self._now, self._tags)
        samples, no_data = await anyio.to_thread.run_sync(make)  # of thousands of runs that ended a duration each
        return CollectResult(samples, failures, no_data, await anyio.to_thread.run_sync(self._encode))

    def _encode(self) -> dict[str, bytes]:
        self._trim()
        encoded = {self._repo: encode(self._state)}
        if measurement.RUNS not in self._failures:
            is_whole = self._measurement.is_filled or not self._state.runs
            until = (self._state.read_at or self._now) if is_whole else None
            week = weekly_runs.summarize(self._state, self._measurement.names, until)
            encoded[weekly_runs.KEY + self._repo] = encode(week)
        return encoded

    def _trim(self) -> None:
        self._state.trim(self._now, self._settings.history_window)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """What GitHub does not answer is missing, and the other parts go on."""
        try:
            yield
        except (Unavailable, Rejected) as error:
            self._failures[name] = error

    # What is read in every cycle

    async def _read_window(self) -> None:
        with self._part(measurement.RUNS):
            span = self._settings.history_window
            self._measurement.unseen += await run_list.read_window(self._actions, self._state, self._now, span)

    async def _read_workflows(self) -> None:
        with self._part("workflows"):
            listed = await list_workflows(self._github, self._repo)
            if not listed and self._state.runs:
                raise Unavailable("GitHub lists no workflows, though it showed runs of some")
            self._measurement.workflows = WorkflowLists({name: getattr(self._settings, name) for name in LISTS}, listed)

    async def _count_pull_requests(self) -> None:
        with self._part("pull requests"):
            self._answer = await pull_requests.measure(self._github, self._measurement)

    async def _check_branch(self) -> None:
        """Where GraphQL tells of no branches, runs of the window are proof of one, too."""
        branch, exists = self._settings.branch, self._answer.has_branch
        with self._part(measurement.BRANCH):
            if exists is None:
                exists = self._measurement.shows_branch or await pull_requests.is_there(
                    self._github, self._repo, "branches", branch
                )
            if not exists:
                raise Rejected(f"{self._repo} has no branch {branch!r}: correct branch")

    # What is asked beside it

    async def _ask_what_is_unknown(self, usage: Usage) -> None:
        """First what decides a number of this cycle, then what can wait; what that brings may decide one, too."""
        state, shared = self._state, self._shared
        shared.limit = min(shared.limit, shared.points.total() + self._github.spare)
        own = Usage(CYCLE_POINTS - usage.points.total())
        deadline = (anyio.current_time() + anyio.current_effective_deadline()) / 2
        with anyio.CancelScope(deadline=deadline) as half, count_usage(shared), count_usage(own):
            if not state.is_cold:
                with self._part(measurement.OLDER_RUNS):
                    await run_list.fill(self._actions, state, self._now, self._trim)
                self._measurement.unseen += run_list.unfinished_behind(state, self._now, self._settings.history_window)
            await self._ask(self._urgent_questions())
            if not state.is_cold:
                with count_usage(Usage(self._limit_steady(usage))):
                    await self._ask(self._optional_questions())
                await self._ask(self._urgent_questions())
        if half.cancelled_caught:
            slow = Unavailable("GitHub answers too slowly to read all in one run")
            self._failures.setdefault(measurement.OLDER_RUNS, slow)

    def _limit_steady(self, usage: Usage) -> float:
        """Points. Once the week is read, what can wait comes a little at a time."""
        waiting = self._state.open_suspects(self._now)
        is_late = any(run.updated < self._now - _LATE for run in waiting)  # one of very many jobs takes many points
        if is_late or len(waiting) > _BACKLOG:
            return math.inf
        points, requests = usage.points.total(), usage.requests
        if self._state.front > _USUAL_PAGES:
            return 3 * self._state.front - points
        return min(_STEADY_POINTS - points, _STEADY_REQUESTS - requests)

    async def _ask(self, questions: Iterator[_Question]) -> None:
        """Asks some at once, until as many points are spent as may be: the rest waits for the next cycle."""
        waiting = iter([each for each in questions if each[0] not in self._failures])
        failed = Counter[str]()

        async def work() -> None:
            for part, ask in waiting:
                if failed[part] >= _FAILURES:
                    continue
                try:
                    await ask()
                except Spent:
                    return
                except (Unavailable, Rejected) as error:
                    failed[part] += 1
                    self._failures.setdefault(part, error)

        async with anyio.create_task_group() as tasks:
            for _ in range(_QUESTIONS_AT_ONCE):
                tasks.start_soon(work)

    def _urgent_questions(self) -> Iterator[_Question]:
        """What decides a number of this cycle, in the order of its worth."""
        for id in self._measurement.unseen:
            yield measurement.RUNS, partial(self._ask_again, id)
        for run in self._measurement.runs_with_unknown_attempts:
            if run.id not in self._measurement.unseen:  # it may be deleted
                yield measurement.FLAKY, partial(self._ask_attempts, run)
        for run in self._measurement.runs_without_end:
            yield measurement.ENDS, partial(details.learn_end, self._actions, run)
        if lists := self._measurement.workflows:
            for id in self._state.unknown_workflows(lists.all):
                look_up = partial(details.ask_latest, is_listed=id in lists.names, now=self._now)
                yield lists.list_of(id) or measurement.OTHERS, partial(look_up, self._actions, self._state, id)

    def _optional_questions(self) -> Iterator[_Question]:
        """What can wait for another cycle, in the order of its worth."""
        state, now = self._state, self._now
        due, is_late = run_list.pages_due(state, now), run_list.is_late(state, now)
        older_runs: list[_Question] = [(measurement.OLDER_RUNS, partial(self._read_older, due))] if due else []
        yield from older_runs if is_late else []
        silent = [run for run in state.suspects(now) if not run.is_open and any(job.is_silent for job in run.jobs)]
        for run in state.open_suspects(now):
            yield measurement.JOBS, partial(details.look_into, self._actions, run, now)
        yield from [] if is_late else older_runs
        for run in silent:
            yield measurement.JOBS, partial(details.look_into, self._actions, run, now)

    async def _ask_again(self, id: int) -> None:
        await run_list.ask_again(self._actions, self._state, id)
        self._measurement.unseen.remove(id)
        if id not in self._state.runs:
            self.deleted.append(id)

    async def _ask_attempts(self, run: Run) -> None:
        self._measurement.attempts += await details.ask_attempts(self._actions, self._state, run, self._now)

    async def _read_older(self, count: int) -> None:
        for _ in range(count):
            self._measurement.unseen += await run_list.read_older_page(self._actions, self._state, self._now)
