"""CI health of one repository from GitHub: asks for runs, workflows and pull requests at once, and tells what they say.

The numbers are made in ``ci_metrics``; which questions are needed is decided in ``ci_memory`` and ``ci_sweep``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import anyio

from service.adapters.github import Refused
from service.collectors import ci_memory, ci_metrics, ci_pulls, ci_runs, ci_sweep
from service.collectors.ci_memory import Remembered
from service.collectors.ci_reader import Failure, RunsReader, gathered
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow, meant, workflows
from service.collectors.registry import Context
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import Collected, Fault

__all__ = ["GithubCi", "Workflow", "workflows"]

_MEMORY = "ci"
_CALM = 8  # questions: a cycle with no more than these has room for one that could wait
_BROKEN_SWEEPS = 3
_REMEDY = "infra-health list-workflows prints what there is"


@dataclass(slots=True)
class _Cycle:
    """One collect. ``known`` is this cycle's copy of the memory; ``is_read``: the window's runs are in it."""

    now: datetime
    known: Remembered
    is_read: bool = False
    listed: list[Workflow] | None = None
    values: dict[str, float | None] = field(default_factory=dict)
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


class GithubCi:
    """Collects the metrics of contract 6's table for ``ci``; see ``ci_metrics`` for their definitions."""

    Settings = GithubCiSettings
    metrics = ci_metrics.METRICS

    def __init__(self, settings: GithubCiSettings, context: Context) -> None:
        self._settings = settings
        self._github = context.github
        self._memory = context.memory
        self._reader = RunsReader(context.github, settings.repo, settings.branch, settings.history_window)
        self._known: Remembered | None = None

    @staticmethod
    def expected_checks(settings: GithubCiSettings) -> list[str]:
        """The conditions of the checks that these settings ask for."""
        return [line.condition for line in ci_metrics.expected_lines(settings)]

    async def collect(self, now: datetime) -> Collected:
        """Samples as of ``now``, faults for the parts that are missing. Raises the worst error when all are missing."""
        cycle = _Cycle(now, await self._recall(now))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ci, cycle)
            tasks.start_soon(self._pull_requests, cycle)
        if not cycle.values and cycle.errors:
            raise max(cycle.errors, key=_weight)
        samples, unmeasured = ci_metrics.to_samples(cycle.values, self._settings.thresholds, now)
        remember = {_MEMORY: await anyio.to_thread.run_sync(cycle.known.dump)} if cycle.is_read else {}
        return Collected(samples, tuple(cycle.faults), unmeasured, remember)

    async def _recall(self, now: datetime) -> Remembered:
        if self._known is None:
            stored = await self._memory.read(_MEMORY)
            self._known = ci_memory.load(stored, self._settings.repo, self._settings.branch)
        known = self._known or ci_memory.cold(self._settings.repo, self._settings.branch, now)
        return known.copy()

    # Runs and workflows

    async def _ci(self, cycle: _Cycle) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._runs, cycle)
            tasks.start_soon(self._workflows, cycle)
        if not cycle.is_read:
            return
        self._known = cycle.known
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._latest, cycle)
            tasks.start_soon(self._window, cycle)

    async def _runs(self, cycle: _Cycle) -> None:
        with cycle.part("runs"):
            trouble = await self._reader.read(cycle.known, cycle.now, besides=2)
            cycle.is_read = True
            if trouble:
                cycle.miss("older runs", trouble)

    async def _workflows(self, cycle: _Cycle) -> None:
        with cycle.part("workflows"):
            cycle.listed = await workflows(self._github, self._settings.repo)

    async def _window(self, cycle: _Cycle) -> None:
        known = cycle.known
        if 0 < known.broken <= _BROKEN_SWEEPS:
            # The first look at the older runs broke off: some of them may have been run again within the window.
            # The next cycle looks again; only if that does not help for long, less than all is better than nothing.
            return
        since = cycle.now - self._settings.history_window
        runs = list(known.runs.values())
        cycle.values |= ci_metrics.of_window(runs, since)
        rerun = [run for run in ci_runs.started_since(runs, since) if run.attempt > 1 and run.conclusion == "success"]
        verdicts = await gathered([partial(self._reader.learn_attempts, run, known) for run in rerun])
        failure = next((verdict for verdict in verdicts if isinstance(verdict, (Unavailable, Rejected))), None)
        if failure:
            cycle.miss("flaky runs", failure)
        else:
            cycle.values["ci.workflow.flaky_tests"] = sum(verdict is True for verdict in verdicts)

    async def _latest(self, cycle: _Cycle) -> None:
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
        missing = await self._look_up(cycle, [*sorted(listed), *sorted(others)], {each.id for each in cycle.listed})
        latest = ci_runs.latest_conclusive(cycle.known.runs.values())
        for name, entries in lists.items():
            with cycle.part(name):
                for entry, found in entries.items():
                    if not found and (not _is_id(entry) or _is_gone(missing.get(int(entry)))):
                        raise Rejected(f'no workflow has the name, file name, path or id "{entry}": {_REMEDY}')
                if entries:
                    _raise_first(missing, ids[name])
                    cycle.values[f"ci.workflow.{name}"] = ci_metrics.passing(latest.get(each) for each in ids[name])
        with cycle.part("other workflows"):
            _raise_first(missing, others)
            cycle.values["ci.workflow.other_failing"] = ci_metrics.failing(latest.get(each) for each in others)

    async def _look_up(self, cycle: _Cycle, wanted: Sequence[int], there: set[int]) -> dict[int, Failure]:
        """Asks for what is not known of the latest runs. The workflows that stay unknown, with the reason.

        ``there``: the workflows that GitHub lists; of others not even this is known.
        """
        known = cycle.known
        latest = ci_runs.latest_conclusive(known.runs.values())
        foreign = [each for each in wanted if not (each in there or each in latest or each in known.asked)]
        unknown = list(dict.fromkeys([*foreign, *known.unknown(wanted)]))
        allowed = ci_sweep.allowance(self._github.quota.get("core"))
        asked, left = unknown[:allowed], unknown[allowed:]
        # What is known but old is checked now and then, one at a time, when there is little else to ask.
        if not unknown and self._reader.questions + 2 <= _CALM:
            asked = known.stale(wanted, cycle.now)[:1]
        answers = await gathered([partial(self._reader.find_latest, each) for each in asked])
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

    # Pull requests

    async def _pull_requests(self, cycle: _Cycle) -> None:
        settings = self._settings
        groups = {
            "hotfix": settings.hotfix_labels,
            "force_merge": settings.force_merge_labels,
            "reverts": settings.revert_labels,
        }
        since = cycle.now - settings.weekly_window
        with cycle.part("pull requests"):
            counts = await ci_pulls.count_merged(self._github, settings.repo, groups, since)
            failures = {name: count for name, count in counts.items() if isinstance(count, (Unavailable, Rejected))}
            for name, count in counts.items():
                if not isinstance(count, (Unavailable, Rejected)):
                    cycle.values[f"github.{name}.count"] = count
            if len({str(failure) for failure in failures.values()}) == 1 and len(failures) == len(counts):
                raise next(iter(failures.values()))
            for name, failure in failures.items():
                cycle.miss(f"pull requests, {name.replace('_', ' ')}", failure)


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
