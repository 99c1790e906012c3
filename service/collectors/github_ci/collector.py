"""``github_ci``: the CI health of one repository or of many, each by itself, within one quota."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import anyio
import msgspec
import structlog

from service.collectors.github_ci.budget import RequestBudget
from service.collectors.github_ci.metrics import CHECK_TAGS, METRICS, QUOTA_LIMIT, QUOTA_REMAINING, expected_checks
from service.collectors.github_ci.names import is_branch, is_label
from service.collectors.github_ci.repository import CYCLE_POINTS, Collected, RepositoryCycle, explains
from service.collectors.github_ci.settings import GithubCiSettings
from service.collectors.github_ci.state import decode, encode
from service.collectors.github_ci.workflows import WorkflowLists, list_workflows
from service.collectors.registry import Context
from service.domain import cron
from service.domain.errors import HealthError, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric, Sample
from service.github.client import Github, Usage, count_usage

log = structlog.get_logger(__name__)

_ROTATION = "rotation"
_AT_ONCE = 10  # each may hold some megabytes of pages while it is asked; at rest it holds nothing
_STRAGGLE = 30.0  # seconds that a repository may be slower than all others before the cycle goes on without it
_LAST_CALL = 0.6  # of the cycle's time; no repository is begun after it
_GUESS = 3  # points of a repository that is not known yet: two pages of runs and its workflows
_POINTS_OF_MANY = 13  # a cycle and repository
_NOTES = 5  # that are shown
_RESERVE = 0.1  # of the quota, for the token's other users
_HOUR = timedelta(hours=1)


class Rotation(msgspec.Struct, tag_field="version", tag=1):
    """By repository: when it was asked last, and the points that a cycle of it can't do without."""

    asked: dict[str, datetime] = {}
    points: dict[str, int] = {}


class GithubCi:
    """Collects the CI metrics of its repositories; see ``metrics`` for their definitions.

    ``note``: what the operator should know of the last cycle, None when there is nothing.
    """

    Settings = GithubCiSettings
    metrics = METRICS
    own_metrics = (QUOTA_REMAINING, QUOTA_LIMIT)
    check_tags = CHECK_TAGS

    def __init__(self, settings: GithubCiSettings, context: Context) -> None:
        self._name = context.name
        self._settings = settings
        self._github = context.github
        self._state = context.state
        self._schedule = cron.parse(settings.schedule)
        self._notes: list[str] = []

    @staticmethod
    def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
        """Metric and condition of each check that these settings ask for."""
        return expected_checks(settings)

    @property
    def note(self) -> str | None:
        more = [f"and {len(self._notes) - _NOTES} more"] if len(self._notes) > _NOTES else []
        return "; ".join(filter(None, (self._github.shortage, *self._notes[:_NOTES], *more))) or None

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        quota = self._github.quota.get("core")
        return {QUOTA_REMAINING: quota.remaining, QUOTA_LIMIT: quota.limit} if quota else {}

    async def collect(self, now: datetime) -> CollectResult:
        """Samples as of ``now``. Raises the worst error when all repositories failed."""
        repositories = self._settings.all_repositories
        rotation = decode(await self._state.read(_ROTATION), Rotation) or Rotation()
        gone = rotation.asked.keys() - set(repositories)
        for repo in gone:
            del rotation.asked[repo]
            rotation.points.pop(repo, None)
        results: dict[str, Collected | HealthError] = {}
        await self._ask_in_turn(rotation, now, results)
        errors = [each for each in results.values() if isinstance(each, HealthError)]
        if errors and len(errors) == len(results):
            raise max(errors, key=explains)
        state: dict[str, bytes | None] = {**dict.fromkeys(gone), _ROTATION: encode(rotation)}
        return self._join(results, state)

    async def _ask_in_turn(
        self, rotation: Rotation, now: datetime, results: dict[str, Collected | HealthError]
    ) -> None:
        """Asks the repositories that waited longest, some at once, as many as the quota allows.

        Whoever is much slower than the others is left out of this cycle.
        """
        start, end = anyio.current_time(), anyio.current_effective_deadline()
        last_call = start + _LAST_CALL * (end - start) if end < math.inf else math.inf
        repositories = self._settings.all_repositories
        never = datetime.fromtimestamp(0, now.tzinfo)
        waiting = sorted(repositories, key=lambda repo: rotation.asked.get(repo, never), reverse=True)
        interval = timedelta(seconds=self._schedule.interval(now, self._settings.time_zone))
        busy: set[str] = set()
        patience = anyio.CancelScope()

        def note_cost(repo: str, points: int) -> None:
            rotation.points[repo] = points
            self._expect(rotation, interval)

        async def work() -> None:
            while waiting and anyio.current_time() < last_call:
                repo = waiting[-1]
                if results and not self._has_quota(rotation, repo, interval, spent):
                    break
                waiting.pop()
                busy.add(repo)
                rotation.asked[repo] = now
                tags = {"repo": repo} if self._settings.repositories else {}
                cycle = RepositoryCycle(repo, self._settings, self._github, budget, now, tags, note_cost)
                try:
                    results[repo] = await cycle.collect(await self._state.read(repo))
                except HealthError as error:
                    results[repo] = error
                except Exception as error:
                    # Whatever an answer of one repository breaks, the others' numbers are right.
                    log.exception("a repository's cycle raised an unexpected error", repo=repo)
                    results[repo] = Unavailable(f"unexpected {type(error).__name__}: {error}")
                busy.discard(repo)
                if not waiting and len(busy) < _AT_ONCE // 2:
                    patience.deadline = min(patience.deadline, anyio.current_time() + _STRAGGLE)

        self._expect(rotation, interval)
        with count_usage() as spent, patience:
            budget = RequestBudget(self._github, spent, max(CYCLE_POINTS, _POINTS_OF_MANY * len(repositories)))
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(repositories))):
                    tasks.start_soon(work)
        for repo in busy:
            results[repo] = Unavailable("GitHub answers for it much more slowly than for the others")
        self._notes = [each.note for each in results.values() if isinstance(each, Collected) and each.note]
        if waiting:
            cycles = math.ceil(len(repositories) / max(1, len(results)))
            self._notes.insert(
                0,
                f"{len(results)} of {len(repositories)} repositories in this cycle: GitHub's quota allows no more; "
                f"a sweep of all takes about {cycles * interval / timedelta(minutes=1):.0f} minutes",
            )

    def _expect(self, rotation: Rotation, interval: timedelta) -> None:
        points = sum(rotation.points.get(repo, _GUESS) for repo in self._settings.all_repositories)
        self._github.expect(self._name, points * (_HOUR / interval))

    def _has_quota(self, rotation: Rotation, repo: str, interval: timedelta, spent: Usage) -> bool:
        """Whether the quota lasts for one more: where all of them are too many for it, for a cycle's share of it."""
        quota = self._github.quota.get("core")
        if quota is None:
            return True
        cost = rotation.points.get(repo, _GUESS)
        total = sum(rotation.points.get(each, _GUESS) for each in self._settings.all_repositories)
        share = quota.limit * (1 - _RESERVE) * (interval / _HOUR)
        is_within_share = total <= share or spent.resources["core"] + cost <= share
        return is_within_share and quota.remaining - cost >= quota.limit * _RESERVE

    def _join(self, results: Mapping[str, Collected | HealthError], state: dict[str, bytes | None]) -> CollectResult:
        samples: list[Sample] = []
        failures: list[PartialFailure] = []
        no_data: list[Mapping[str, str]] = []
        for repo, each in results.items():
            if isinstance(each, HealthError):
                failures.append(PartialFailure(str(each), repo))
                continue
            samples += each.result.samples
            no_data += each.result.no_data
            state |= each.result.state
            prefix = f"{repo}, " if self._settings.repositories else ""
            failures += [PartialFailure(failure.reason, prefix + failure.part) for failure in each.result.failures]
        return CollectResult(tuple(samples), tuple(failures), tuple(no_data), state)


async def check_settings(github: Github, settings: GithubCiSettings) -> tuple[str, list[str]]:
    """A line of what was seen, and what the settings name that is not there. Raises what ``Github.get`` does."""
    seen, problems = [], []
    lists = {"tests_blocking_merge": settings.tests_blocking_merge, "benchmarks": settings.benchmarks}
    groups: dict[str, Sequence[str]] = {
        "hotfix_labels": settings.hotfix_labels,
        "force_merge_labels": settings.force_merge_labels,
        "revert_labels": settings.revert_labels,
        "bug_label": [settings.bug_label] if settings.bug_label else [],
    }
    for repo in settings.all_repositories:
        listed = await list_workflows(github, repo)
        seen.append(f"{repo}: {len(listed)} workflows")
        meant = WorkflowLists(lists, listed)
        problems += [f"{repo}: {absent}" for name in lists if (absent := meant.missing(name))]
        if not await is_branch(github, repo, settings.branch):
            problems.append(f"{repo} has no branch {settings.branch!r}: correct branch")
        for key, labels in groups.items():
            if labels and not [label for label in labels if await is_label(github, repo, label)]:
                problems.append(f"{repo} has no label {' or '.join(map(repr, labels))}: correct {key}, or create it")
    return ", ".join(seen), problems
