"""``github_ci``: the CI health of one repository or of many, each by itself, within one quota.

It polls on its schedule; between two polls it measures what deliveries bring.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

import anyio
import msgspec
import structlog

from service.collectors.github_ci import catalogue, weekly_runs
from service.collectors.github_ci.actions import Actions, explains, list_workflows
from service.collectors.github_ci.catalogue import QUOTA_LIMIT, QUOTA_REMAINING
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.github_ci.pull_requests import is_there
from service.collectors.github_ci.repository import CYCLE_POINTS, RepositoryCycle
from service.collectors.github_ci.settings import LABELS, LISTS, GithubCiSettings, WorkflowLists, describe_missing
from service.collectors.github_ci.state import decode, encode
from service.collectors.registry import Context
from service.domain import cron
from service.domain.checks import Check
from service.domain.errors import HealthError, Rejected, Unavailable
from service.domain.runs import CollectResult, PartialFailure
from service.domain.samples import Metric
from service.github.client import Github
from service.github.rate_limit import RESERVE
from service.github.usage import Usage, count_usage

log = structlog.get_logger(__name__)

_ROTATION = "rotation"
_AT_ONCE = 10  # each may hold some megabytes of pages while it is asked; at rest it holds nothing
_SHARE_OF_TIME = 0.8  # of the run's; the cycle goes on without the repositories that are slower
_STEADY_POINTS = 3  # of what a repository's cycle can't do without: pages of runs and its workflows
_POINTS_OF_MANY = 13  # a cycle and repository
_CHANGE_POINTS = 4  # a run by webhook, whatever came
_NOTES = 5  # that are shown
_HOUR = timedelta(hours=1)


class Rotation(msgspec.Struct, tag_field="version", tag=3):
    """When each repository was polled last."""

    polled_at: dict[str, datetime] = {}


class GithubCi:
    """Collects the CI metrics of its repositories; see ``metrics`` for their definitions.

    ``note``: what the operator should know of the last cycle, None when there is nothing.
    """

    Settings = GithubCiSettings
    metrics, check_tags = catalogue.METRICS, catalogue.CHECK_TAGS
    own_metrics = (QUOTA_REMAINING, QUOTA_LIMIT)
    expected_checks = staticmethod(catalogue.expected_checks)
    expected_metrics = staticmethod(catalogue.expected_metrics)

    def __init__(self, settings: GithubCiSettings, context: Context) -> None:
        self._name = context.name
        self._settings = settings
        self._github = context.github
        self._state = context.state
        self._deliveries: Deliveries = context.deliveries
        self._schedule = cron.parse(settings.schedule)
        self._check_metrics = {metric for metric, _ in catalogue.expected_checks(settings)}
        self.repositories, self.watch = settings.all_repositories, settings.watch_interval
        self._notes: list[str] = []

    def asks_for(self, check: Check) -> bool:
        """Whether the settings still ask for a check that was measured before."""
        tags, settings = check.tags, self._settings
        is_of_repository = not settings.repositories or tags.get("repo") in settings.all_repositories
        labels = (None, settings.tags.get("label"), *settings.bug_sub_labels)
        return check.metric in self._check_metrics and is_of_repository and tags.get("label") in labels

    @property
    def note(self) -> str | None:
        more = [f"and {len(self._notes) - _NOTES} more"] if len(self._notes) > _NOTES else []
        return "; ".join(filter(None, (self._github.shortage, *self._notes[:_NOTES], *more))) or None

    def own_values(self, now: datetime) -> Mapping[Metric, float]:
        quota = self._github.quota.get("core")
        return {QUOTA_REMAINING: quota.remaining, QUOTA_LIMIT: quota.limit} if quota else {}

    async def collect(self, now: datetime) -> CollectResult:
        """Samples as of ``now``. Raises the worst error when all repositories failed."""
        rotation = decode(await self._state.read(_ROTATION), Rotation) or Rotation()
        gone = rotation.polled_at.keys() - set(self.repositories)
        rotation.polled_at = {repo: at for repo, at in rotation.polled_at.items() if repo not in gone}
        results = await self._ask_in_turn(rotation, now)
        errors = [each for each in results.values() if isinstance(each, HealthError)]
        if errors and len(errors) == len(results):
            raise max(errors, key=explains)
        forgotten = dict.fromkeys((*gone, *(weekly_runs.KEY + repo for repo in gone)))
        return self._join(results, {**forgotten, _ROTATION: encode(rotation)})

    async def look(self) -> None:
        """Looks for runs that ended on the newest page of each repository: free where nothing changed.

        Raises the last error of a repository once all were looked at.
        """
        if not await self._github.has_token():
            raise Rejected("watch needs a token: without one each look costs a point")
        failure: HealthError | None = None
        for repo in self.repositories:
            if self._github.spare < 1:
                raise Unavailable(self._github.shortage or "the polls need what GitHub allows in this minute")
            try:
                ended = await Actions(self._github, repo, self._settings.branch).newest_ended()
            except HealthError as error:
                failure = error
                continue
            self._deliveries.add_watched(self._name, repo, ended)
        if failure:
            raise failure

    async def has_changes(self, now: datetime) -> bool:
        return self._deliveries.has_news(self._name)

    async def collect_changes(self, now: datetime) -> CollectResult:
        """Samples as of ``now`` from deliveries, for few points; the next poll measures the rest."""
        results: dict[str, CollectResult | HealthError] = {}
        with count_usage(Usage(min(_CHANGE_POINTS, self._github.spare))) as usage:
            for repo in self.repositories:
                if self._deliveries.has_news(self._name, repo):
                    cycle, facts = self._cycle(repo, Usage(0), now), self._deliveries.facts(self._name, repo)
                    if result := await cycle.collect_changes(await self._state.read(repo), facts, usage):
                        results[repo] = result
        return self._join(results, {})

    async def _ask_in_turn(self, rotation: Rotation, now: datetime) -> dict[str, CollectResult | HealthError]:
        """Asks the repositories that waited longest, some at once, as many as the quota and the time allow."""
        start, end = anyio.current_time(), anyio.current_effective_deadline()
        repositories, results = self.repositories, dict[str, CollectResult | HealthError]()
        never = datetime.fromtimestamp(0, now.tzinfo)
        waiting = sorted(repositories, key=lambda repo: rotation.polled_at.get(repo, never), reverse=True)
        interval = timedelta(seconds=self._schedule.interval(now, self._settings.time_zone))
        self._github.expect(self._name, _STEADY_POINTS * len(repositories) * (_HOUR / interval))
        shared = Usage(max(CYCLE_POINTS, _POINTS_OF_MANY * len(repositories)))
        busy: set[str] = set()
        self._notes = []

        async def work() -> None:
            while waiting and (not (results or busy) or self._has_quota(spent, len(busy), interval)):
                repo = waiting.pop()
                busy.add(repo)
                rotation.polled_at[repo] = now
                cycle = self._cycle(repo, shared, now)
                try:
                    results[repo] = await self._poll(repo, cycle)
                except HealthError as error:
                    results[repo] = error
                except Exception as error:
                    # Whatever an answer of one repository breaks, the others' numbers are right.
                    log.exception("a repository's cycle raised an unexpected error", repo=repo)
                    results[repo] = Unavailable(f"unexpected {type(error).__name__}: {error}")
                self._notes += cycle.notes
                busy.discard(repo)

        with count_usage() as spent, anyio.CancelScope(deadline=start + _SHARE_OF_TIME * (end - start)):
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(repositories))):
                    tasks.start_soon(work)
        for repo in busy:
            results[repo] = Unavailable("GitHub answers for it too slowly")
        if waiting:
            minutes = math.ceil(len(repositories) / max(1, len(results))) * interval / timedelta(minutes=1)
            note = f"{len(results)} of {len(repositories)} repositories in this cycle: GitHub's quota allows no more"
            self._notes.insert(0, f"{note}; a sweep of all takes about {minutes:.0f} minutes")
        return results

    def _cycle(self, repo: str, shared: Usage, now: datetime) -> RepositoryCycle:
        tags = {"repo": repo} if self._settings.repositories else {}
        return RepositoryCycle(repo, self._settings, self._github, shared, now, tags)

    async def _poll(self, repo: str, cycle: RepositoryCycle) -> CollectResult:
        stored, facts = await self._state.read(repo), self._deliveries.facts(self._name, repo)
        result = await cycle.collect(stored, facts)
        self._deliveries.report_missed(repo, cycle.found)
        self._deliveries.forget(self._name, repo, cycle.deleted)
        return result

    def _has_quota(self, spent: Usage, busy: int, interval: timedelta) -> bool:
        """Whether a cycle's share of the quota lasts for one more repository, beside those that are ``busy``."""
        quota = self._github.quota.get("core")
        if quota is None:
            return True
        share = quota.limit * (1 - RESERVE) * (interval / _HOUR)
        needed = _STEADY_POINTS * (busy + 1)
        return spent.points["core"] + needed <= share and quota.remaining - needed >= quota.limit * RESERVE

    def _join(
        self, results: Mapping[str, CollectResult | HealthError], state: Mapping[str, bytes | None]
    ) -> CollectResult:
        found = [each for each in results.values() if isinstance(each, CollectResult)]
        failures: list[PartialFailure] = []
        for repo, each in results.items():
            if isinstance(each, HealthError):
                failures.append(PartialFailure(str(each), repo))
                continue
            prefix = f"{repo}, " if self._settings.repositories else ""
            failures += [PartialFailure(failure.reason, prefix + failure.part) for failure in each.failures]
        return CollectResult(
            tuple(sample for each in found for sample in each.samples),
            tuple(failures),
            tuple(check for each in found for check in each.no_data),
            {key: value for each in (state, *(one.state for one in found)) for key, value in each.items()},
        )


async def check_settings(github: Github, settings: GithubCiSettings) -> tuple[str, list[str]]:
    """A line of what was seen, and what the settings name that is not there. Raises what ``Github.get`` does."""
    seen, problems = [], []
    for repo in settings.all_repositories:
        listed = await list_workflows(github, repo)
        seen.append(f"{repo}: {len(listed)} workflows")
        lists = WorkflowLists({name: getattr(settings, name) for name in LISTS}, listed)
        absent = [describe_missing(each) for each in settings.expected if not lists.find(each)]
        problems += [f"{repo}: {each}" for each in (*lists.missing.values(), *absent)]
        if not await is_there(github, repo, "branches", settings.branch):
            problems.append(f"{repo} has no branch {settings.branch!r}: correct branch")
        for key in (*LABELS.values(), "bug_label"):
            value = getattr(settings, key)
            labels = (value,) if isinstance(value, str) else value
            if any(labels) and not [label for label in labels if await is_there(github, repo, "labels", label)]:
                problems.append(f"{repo} has no label {' or '.join(map(repr, labels))}: correct {key}, or create it")
    return ", ".join(seen), problems
