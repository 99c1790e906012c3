"""CI health of one repository from GitHub: asks for runs, workflows and pull requests at once, and tells what they say.

The numbers are made in ``ci_metrics``; which questions are needed is decided in ``ci_memory`` and ``ci_sweep``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import anyio

from service.adapters.github import Github, Refused
from service.adapters.github_budget import Tally, tally
from service.collectors import ci_memory, ci_metrics, ci_pulls, ci_runs, ci_sweep, ci_workflows
from service.collectors.ci_jobs import JobsReader
from service.collectors.ci_memory import TELL_WITHIN, Remembered
from service.collectors.ci_metrics import Finding
from service.collectors.ci_reader import Failure, RunsReader, gathered
from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow, meant, workflows
from service.collectors.registry import Memory
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import Collected, Fault

_CALM = 8  # questions: a cycle with no more than these has room for one that could wait
_MOST_REQUESTS, _MOST_POINTS = 10, 8  # of a steady cycle of a usual repository
_USUAL = 6  # pages of its window
_BACKLOG = 20  # jobs to be looked into; more than these are no steady state
_BROKEN_SWEEPS = 3
_KEPT = 100  # requests of a minute, for the numbers of other cycles
_REMEDY = "infra-health list-workflows prints what there is"
_BUGS = "github.bugs.count"
_JOBS = "jobs ended by their time limit"


@dataclass(frozen=True, slots=True)
class Filling:
    """What a cycle may do beyond its numbers.

    ``sweep``: seconds of the first sweep. For the week of jobs: ``cold`` requests in all at a cold start, where none is
    begun ``seconds`` after the cycle's start, and ``later`` requests in the cycles after it, until the week is whole.
    """

    sweep: float = math.inf
    cold: int = 850
    later: int = 600
    seconds: float = 3.5


@dataclass(slots=True)
class _Cycle:
    """One collect. ``known`` is this cycle's copy of the memory; ``is_read``: the window's runs are in it.

    ``is_cold``: it began without all runs that matter. ``is_thin``: the least urgent questions must wait.
    """

    now: datetime
    known: Remembered
    filling: Filling
    is_thin: bool
    spent: Tally
    is_cold: bool = False
    is_read: bool = False
    are_pulls_told: bool = False
    started: float = field(default_factory=anyio.current_time)
    listed: list[Workflow] | None = None
    findings: list[Finding] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: list[HealthError] = field(default_factory=list)

    def miss(self, part: str, error: Failure) -> None:
        self.errors.append(error)
        self.faults.append(Fault(str(error), part))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What GitHub does not answer is missing, and the other parts go on."""
        try:
            yield
        except (Unavailable, Rejected) as error:
            self.miss(name, error)


@dataclass(frozen=True, slots=True)
class Told:
    """What one repository's cycle brought, and what it cost. ``is_steady``: it began from a whole memory."""

    collected: Collected
    spent: Tally
    is_steady: bool


class RepositoryCi:
    """Collects the metrics of contract 6's table for one repository; see ``ci_metrics`` for their definitions.

    ``key``: where its memory is kept. ``tags``: more of them on every sample.
    """

    def __init__(
        self,
        repo: str,
        settings: GithubCiSettings,
        github: Github,
        memory: Memory,
        *,
        key: str,
        tags: Mapping[str, str],
    ) -> None:
        self.repo = repo
        self.key = key
        self._settings = settings
        self._github = github
        self._memory = memory
        self._tags = tags

    async def collect(self, now: datetime, filling: Filling) -> Told:
        """Samples as of ``now``, faults for the parts that are missing. Raises the worst error when all are missing."""
        with tally() as spent:
            cycle = _Cycle(now, await self._recall(now), filling, self._github.budget.is_thin(), spent)
            cycle.is_cold = cycle.known.sweep.is_first
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ci, cycle)
                tasks.start_soon(self._pull_requests, cycle)
        if not cycle.findings and cycle.errors:
            raise max(cycle.errors, key=_weight)
        samples, unmeasured = ci_metrics.to_samples(cycle.findings, self._settings.thresholds, now, self._tags)
        remember = {self.key: await anyio.to_thread.run_sync(cycle.known.dump)} if cycle.is_read else {}
        return Told(Collected(samples, tuple(cycle.faults), unmeasured, remember), spent, not cycle.is_cold)

    async def _recall(self, now: datetime) -> Remembered:
        stored = await self._memory.read(self.key)
        branch = self._settings.branch
        known = await anyio.to_thread.run_sync(ci_memory.load, stored, self.repo, branch)
        return known or ci_memory.cold(self.repo, branch, now)

    # Runs and workflows

    async def _ci(self, cycle: _Cycle) -> None:
        reader = RunsReader(self._github, self.repo, self._settings.branch, self._settings.history_window)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._runs, cycle, reader)
            tasks.start_soon(self._workflows, cycle)
        if not cycle.is_read:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._latest, cycle, reader)
            tasks.start_soon(self._window, cycle, reader)
            tasks.start_soon(self._time_limits, cycle, reader)

    async def _runs(self, cycle: _Cycle, reader: RunsReader) -> None:
        with cycle.part("runs"):
            besides = 2 if await ci_workflows.is_free(self._github, self.repo) else 3
            trouble = await reader.read(cycle.known, cycle.now, besides, cycle.filling.sweep)
            cycle.is_read = True
            if trouble:
                cycle.miss("older runs", trouble)

    async def _workflows(self, cycle: _Cycle) -> None:
        with cycle.part("workflows"):
            cycle.listed = await workflows(self._github, self.repo)

    async def _window(self, cycle: _Cycle, reader: RunsReader) -> None:
        known = cycle.known
        since = cycle.now - self._settings.history_window
        lately = cycle.now - TELL_WITHIN
        runs = list(known.runs.values())
        rerun = [
            run
            for run in runs
            if run.attempt > 1
            and ((run.conclusion == "success" and run.started >= since) or (run.kind and run.started >= lately))
        ]
        ended: list[Run] = []
        verdicts = await gathered([partial(reader.learn_attempts, run, known, lately, ended) for run in rerun])
        failures = [verdict for verdict in verdicts if isinstance(verdict, (Unavailable, Rejected))]
        if cycle.listed is not None:
            names = {each.id: each.name for each in cycle.listed}
            cycle.findings += ci_metrics.durations(known.take_ended(ended, cycle.now), names)
        if 0 < known.broken <= _BROKEN_SWEEPS:
            # The first look at the older runs broke off: some of them may have been run again within the window.
            # The next cycle looks again; only if that does not help for long, less than all is better than nothing.
            return
        cycle.findings += ci_metrics.of_window(runs, since)
        if failures:
            cycle.miss("flaky runs", failures[0])
        else:
            flaky = [
                run
                for run, verdict in zip(rerun, verdicts, strict=True)
                if verdict is True and run.conclusion == "success" and run.started >= since
            ]
            cycle.findings.append(ci_metrics.flaky(flaky))

    async def _latest(self, cycle: _Cycle, reader: RunsReader) -> None:
        """The latest conclusive runs of the listed and of the other active workflows."""
        if cycle.listed is None:
            return
        lists = {
            "tests_blocking_merge": meant(self._settings.tests_blocking_merge, cycle.listed),
            "benchmarks": meant(self._settings.benchmarks, cycle.listed),
        }
        ids: dict[str, set[int]] = {}
        for name, entries in lists.items():
            ids[name] = {each.id for found in entries.values() for each in found}
            # An id that GitHub does not list may still have runs.
            ids[name] |= {int(entry) for entry, found in entries.items() if not found and _is_id(entry)}
        listed = ids["tests_blocking_merge"] | ids["benchmarks"]
        others = {each.id for each in cycle.listed if each.is_active} - listed
        missing = await self._look_up(cycle, reader, sorted(listed), sorted(others))
        latest = ci_runs.latest_conclusive(cycle.known.runs.values())
        for name, entries in lists.items():
            with cycle.part(name):
                for entry, found in entries.items():
                    if not found and (not _is_id(entry) or _is_gone(missing.get(int(entry)))):
                        raise Rejected(f'no workflow has the name, file name, path or id "{entry}": {_REMEDY}')
                if entries:
                    _raise_first(missing, ids[name])
                    found_runs = [latest.get(each) for each in ids[name]]
                    cycle.findings.append(ci_metrics.passing(f"ci.workflow.{name}", found_runs))
        with cycle.part("other workflows"):
            _raise_first(missing, others)
            cycle.findings.append(ci_metrics.failing(latest.get(each) for each in others))

    async def _look_up(
        self, cycle: _Cycle, reader: RunsReader, listed: Sequence[int], others: Sequence[int]
    ) -> dict[int, Failure]:
        """Asks for what is not known of the latest runs. The workflows that stay unknown, with the reason.

        ``listed`` come first, and of those that GitHub does not list not even the existence is known.
        """
        known, wanted = cycle.known, [*listed, *others]
        there = {each.id for each in cycle.listed or ()}
        latest = ci_runs.latest_conclusive(known.runs.values())
        foreign = [each for each in wanted if not (each in there or each in latest or each in known.asked)]
        unknown = list(dict.fromkeys([*foreign, *known.unknown(wanted)]))
        allowed = ci_sweep.allowance(self._github.quota.get("core"))
        if cycle.is_thin:
            allowed = min(allowed, len(set(unknown) & set(listed)))
        asked, left = unknown[:allowed], unknown[allowed:]
        # What is known but old is checked now and then, one at a time, when there is little else to ask.
        if not unknown and not cycle.is_thin and reader.questions + 2 <= _CALM and not known.limits.suspects:
            asked = known.stale(wanted, cycle.now)[:1]
        answers = await gathered([partial(reader.find_latest, each) for each in asked])
        missing: dict[int, Failure] = {
            each: Unavailable("GitHub's quota does not allow to ask for the latest runs of all workflows now")
            for each in left
        }
        for workflow_id, answer in zip(asked, answers, strict=True):
            if isinstance(answer, list):
                known.take_older(workflow_id, answer, cycle.now)
            elif workflow_id in unknown:
                missing[workflow_id] = answer
        return missing

    # Jobs

    async def _time_limits(self, cycle: _Cycle, reader: RunsReader) -> None:
        """The week's jobs that their time limit ended: told once all of the week is known, which may take cycles."""
        limits = cycle.known.limits
        with cycle.part(_JOBS):
            trouble = await self._learn_limits(cycle, reader)
            if trouble:
                raise trouble
            if limits.is_whole:
                cycle.findings.append(ci_metrics.timed_out(limits))

    async def _learn_limits(self, cycle: _Cycle, reader: RunsReader) -> Failure | None:
        """Asks for what is unknown of them, in half of the time that the caller has; what went wrong."""
        limits, now = cycle.known.limits, anyio.current_time()
        allowed = 0 if cycle.is_thin else self._allowed(cycle, reader)
        until = cycle.started + cycle.filling.seconds if cycle.is_cold else math.inf
        if allowed <= 0 or now >= until:
            return None
        with anyio.CancelScope(deadline=(now + anyio.current_effective_deadline()) / 2) as half:
            if limits.deep is not None:
                trouble = await reader.read_deep(cycle.known, cycle.now, max(1, allowed // 4))
                if trouble:
                    return trouble
            return await JobsReader(self._github, self.repo).look_into(limits, cycle.now, allowed, until)
        if half.cancelled_caught and not cycle.is_cold:
            return Unavailable("GitHub answers too slowly to read them in one run")
        return None

    def _allowed(self, cycle: _Cycle, reader: RunsReader) -> int:
        """Requests for what may wait for a later cycle."""
        # A request for an annotation or two may follow each.
        spare = min(ci_sweep.allowance(self._github.quota.get("core")), self._github.room - _KEPT)
        if cycle.is_cold:
            return min(spare, cycle.filling.cold - cycle.spent.requests.total())
        limits = cycle.known.limits
        pulls = 0 if cycle.are_pulls_told else 1
        calm = min(
            _MOST_REQUESTS - cycle.spent.requests.total() - pulls, _MOST_POINTS - cycle.spent.points.total() - pulls
        )
        if len(limits.suspects) > _BACKLOG or limits.deep is not None:
            return min(spare, max(calm, cycle.filling.later))
        return min(spare, calm if reader.front <= _USUAL else max(calm, 2 * reader.front))

    # Pull requests and issues

    async def _pull_requests(self, cycle: _Cycle) -> None:
        settings = self._settings
        groups = {
            "hotfix": settings.hotfix_labels,
            "force_merge": settings.force_merge_labels,
            "reverts": settings.revert_labels,
        }
        since = cycle.now - settings.weekly_window
        questions = {name: ci_pulls.merged(self.repo, labels, since) for name, labels in groups.items() if labels}
        asked = {name: (name.replace("_", " "), f"github.{name}.count", "") for name in questions}
        if settings.bug_label:
            questions["bugs"] = ci_pulls.open_issues(self.repo, [settings.bug_label])
            asked["bugs"] = ("bugs", _BUGS, "")
            for place, label in enumerate(settings.bug_sub_labels):
                questions[f"bugs_{place}"] = ci_pulls.open_issues(self.repo, [settings.bug_label, label])
                asked[f"bugs_{place}"] = (f"bugs {label}", _BUGS, label)
        with cycle.part("pull requests"):
            counts = await ci_pulls.count(self._github, self.repo, questions, cycle.known.style)
            failures = {name: each for name, each in counts.items() if isinstance(each, (Unavailable, Rejected))}
            for name, each in counts.items():
                if not isinstance(each, (Unavailable, Rejected)):
                    _, metric, label = asked[name]
                    tags = {"label": label} if label else {}
                    cycle.findings.append(Finding(metric, each.count, each.evidence, tags))
            if len({str(failure) for failure in failures.values()}) == 1 and len(failures) == len(counts):
                raise next(iter(failures.values()))
            for name, failure in failures.items():
                cycle.miss(f"pull requests, {asked[name][0]}", failure)
        cycle.are_pulls_told = True


def _is_id(entry: str) -> bool:
    return entry.isascii() and entry.isdigit() and len(entry) < 19


def _is_gone(failure: Failure | None) -> bool:
    return isinstance(failure, Refused) and failure.status in (404, 410)


def _raise_first(missing: dict[int, Failure], wanted: set[int]) -> None:
    for workflow_id in sorted(wanted):
        if workflow_id in missing:
            raise missing[workflow_id]


def _weight(error: HealthError) -> int:
    """Refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
