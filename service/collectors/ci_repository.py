"""CI health of one repository from GitHub: asks for runs, workflows and pull requests at once, and tells what they say.

The numbers are made in ``ci_metrics``; which questions are needed is decided in ``ci_memory`` and ``ci_sweep``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import anyio

from service.adapters.github import Github
from service.adapters.github_budget import Tally, tally
from service.collectors import ci_latest, ci_memory, ci_metrics, ci_pulls, ci_runs, ci_share, ci_sweep
from service.collectors.ci_ask import gathered
from service.collectors.ci_cycle import Cycle, Filling
from service.collectors.ci_jobs import JobsReader
from service.collectors.ci_latest import LatestRuns
from service.collectors.ci_lookup import RunLookup
from service.collectors.ci_memory import TELL_WITHIN, Remembered
from service.collectors.ci_metrics import Finding
from service.collectors.ci_reader import RunsReader
from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_share import MOST_POINTS, MOST_REQUESTS, Share, Wanted
from service.collectors.ci_workflows import workflows
from service.collectors.registry import Memory
from service.domain.errors import HealthError, Rejected, Unauthorized, Unavailable
from service.domain.runs import Collected

_BROKEN_SWEEPS = 3
_BACKLOG = 30  # runs and jobs to be looked into; more than these are no steady state
_KEPT = 100  # requests of a minute, for the numbers of other cycles
_BUGS = "github.bugs.count"
_JOBS = "jobs ended by their time limit"


@dataclass(frozen=True, slots=True)
class Told:
    """What one repository's cycle brought, and what it cost. ``is_steady``: it began from a whole memory."""

    collected: Collected
    spent: Tally
    is_steady: bool


class RepositoryCi:
    """Collects the CI metrics of one repository; see ``ci_metrics`` for their definitions.

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
            cycle = Cycle(now, await self._recall(now), filling, self._github.budget.is_thin(), spent)
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

    async def _ci(self, cycle: Cycle) -> None:
        reader = RunsReader(self._github, self.repo, self._settings.branch, self._settings.history_window)
        lookup = RunLookup(self._github, self.repo, self._settings.branch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._runs, cycle, reader)
            tasks.start_soon(self._workflows, cycle)
        if not cycle.is_read:
            return
        share = Share()
        if cycle.is_cold:
            await self._older_runs(cycle, reader, share)
        else:
            share = self._share(cycle, reader)
        async with anyio.create_task_group() as tasks:
            if not cycle.is_cold:
                tasks.start_soon(self._older_runs, cycle, reader, share)
            tasks.start_soon(self._look_up, cycle, lookup, share.stale)
            tasks.start_soon(self._attempts, cycle, lookup)
            tasks.start_soon(self._learn_limits, cycle, reader, share.jobs)
        # What the older runs brought may need another question.
        await self._attempts(cycle, lookup)
        await self._look_up(cycle, lookup, 0)
        self._window(cycle)
        self._latest(cycle)
        cycle.known.limits.trim(cycle.now)  # old workflows have runs of any age
        with cycle.part(_JOBS):
            if cycle.limits_trouble:
                raise cycle.limits_trouble
            if cycle.known.limits.is_whole:
                cycle.known.limits.was_whole = True
                cycle.findings.append(ci_metrics.timed_out(cycle.known.limits))

    def _share(self, cycle: Cycle, reader: RunsReader) -> Share:
        """What this cycle may ask for beyond the window's runs, which were read."""
        known, spent = cycle.known, cycle.spent
        pulls = 0 if cycle.are_pulls_told else 1
        rerun = self._rerun(cycle)
        wanted = Wanted(
            requests=MOST_REQUESTS - spent.requests.total() - pulls,
            points=MOST_POINTS - spent.points.total() - pulls,
            front=reader.front,
            due=reader.due(known, cycle.now),
            attempts=sum(ci_runs.has_failed_attempt(run, known.attempts.get(run.id, {})) is None for run in rerun),
            suspects=0 if cycle.is_thin else known.limits.waiting,
            stale=not cycle.is_thin and cycle.latest is not None and cycle.latest.is_any_stale,
        )
        quota = self._github.quota.get("core")
        # Whoever asks every few seconds comes to what is due by time alone.
        is_plenty = quota is None or quota.remaining > quota.limit / 2
        return ci_share.shared(wanted, cycle.filling.is_eager and is_plenty and not cycle.is_thin)

    async def _runs(self, cycle: Cycle, reader: RunsReader) -> None:
        with cycle.part("runs"):
            await reader.read(cycle.known, cycle.now)
            cycle.is_read = True
            cycle.is_cold = cycle.known.sweep.is_first  # after a long silence, too

    async def _older_runs(self, cycle: Cycle, reader: RunsReader, share: Share) -> None:
        with cycle.part("older runs"):
            trouble = await reader.read_behind(
                cycle.known, cycle.now, share.pages, share.unfinished, cycle.filling.sweep
            )
            if trouble:
                raise trouble

    async def _workflows(self, cycle: Cycle) -> None:
        with cycle.part("workflows"):
            cycle.listed = await workflows(self._github, self.repo)
            cycle.latest = LatestRuns(self._settings, cycle.known, cycle.listed, cycle.now)

    def _rerun(self, cycle: Cycle) -> list[Run]:
        """The runs whose earlier attempts matter: to the flaky runs, and to the durations of what ended of late."""
        since, lately = cycle.now - self._settings.history_window, cycle.now - TELL_WITHIN
        return [
            run
            for run in cycle.known.runs.values()
            if run.attempt > 1
            and ((run.conclusion == "success" and run.started >= since) or (run.kind and run.started >= lately))
        ]

    async def _attempts(self, cycle: Cycle, lookup: RunLookup) -> None:
        """Asks for the attempts that matter and are not known."""
        known, lately = cycle.known, cycle.now - TELL_WITHIN
        rerun = [run for run in self._rerun(cycle) if run.id not in cycle.verdicts]
        calls = [partial(lookup.learn_attempts, run, known, lately, cycle.ended) for run in rerun]
        for run, verdict in zip(rerun, await gathered(calls), strict=True):
            cycle.verdicts[run.id] = verdict

    def _window(self, cycle: Cycle) -> None:
        known, since = cycle.known, cycle.now - self._settings.history_window
        runs = list(known.runs.values())
        if cycle.listed is not None:
            names = {each.id: each.name for each in cycle.listed}
            cycle.findings += ci_metrics.durations(known.take_ended(cycle.ended, cycle.now), names)
        if 0 < known.broken <= _BROKEN_SWEEPS:
            # The first look at the older runs broke off: some of them may have been run again within the window.
            # The next cycle looks again; only if that does not help for long, less than all is better than nothing.
            return
        cycle.findings += ci_metrics.of_window(runs, since)
        verdicts = [(run, cycle.verdicts[run.id]) for run in self._rerun(cycle)]
        failure = next((each for _, each in verdicts if isinstance(each, (Unavailable, Rejected))), None)
        if failure:
            cycle.miss("flaky runs", failure)
        else:
            flaky = [
                run
                for run, verdict in verdicts
                if verdict is True and run.conclusion == "success" and run.started >= since
            ]
            cycle.findings.append(ci_metrics.flaky(flaky))

    async def _look_up(self, cycle: Cycle, lookup: RunLookup, stale: int) -> None:
        """Asks for what is not known of the latest runs, and for ``stale`` old ones."""
        if cycle.latest is None:
            return
        allowed = ci_sweep.allowance(self._github.quota.get("core"))
        await cycle.latest.look_up(lookup, allowed, stale, is_thin=cycle.is_thin)

    def _latest(self, cycle: Cycle) -> None:
        if cycle.latest is None:
            return
        for name in ci_latest.LISTS:
            with cycle.part(name):
                cycle.findings += cycle.latest.listed_findings(name)
        with cycle.part("other workflows"):
            cycle.findings.append(cycle.latest.other_finding())

    # Jobs

    async def _learn_limits(self, cycle: Cycle, reader: RunsReader, share: int) -> None:
        """Asks for what is unknown of the week's jobs that their time limit ended, in half of the time that is left.

        They are told once all of the week is known, which may take cycles.
        """
        limits, now = cycle.known.limits, anyio.current_time()
        allowed = 0 if cycle.is_thin else self._allowed(cycle, share)
        until = cycle.started + cycle.filling.seconds if cycle.is_cold else math.inf
        if allowed <= 0 or now >= until:
            return
        with anyio.CancelScope(deadline=(now + anyio.current_effective_deadline()) / 2) as half:
            if limits.deep is not None:
                cycle.limits_trouble = await reader.read_deep(cycle.known, cycle.now, max(1, allowed // 4))
                if cycle.limits_trouble:
                    return
            jobs = JobsReader(self._github, self.repo)
            cycle.limits_trouble = await jobs.look_into(limits, cycle.now, allowed, until)
        if half.cancelled_caught and not cycle.is_cold:
            cycle.limits_trouble = Unavailable("GitHub answers too slowly to read them in one run")

    def _allowed(self, cycle: Cycle, share: int) -> int:
        """Requests for the jobs: the cycle's ``share``, more where the week is not whole yet."""
        # A request for an annotation or two may follow each.
        spare = min(ci_sweep.allowance(self._github.quota.get("core")), self._github.room - _KEPT)
        if cycle.is_cold:
            return min(spare, cycle.filling.cold - cycle.spent.requests.total())
        limits = cycle.known.limits
        is_filling = limits.waiting > _BACKLOG or limits.deep is not None or not limits.was_whole
        return min(spare, max(share, cycle.filling.later) if is_filling else share)

    # Pull requests and issues

    async def _pull_requests(self, cycle: Cycle) -> None:
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


def _weight(error: HealthError) -> int:
    """Refused credentials explain more than a refusal, that more than an outage."""
    return 2 if isinstance(error, Unauthorized) else 1 if isinstance(error, Rejected) else 0
