"""The daemon's own side of a comparison: its values near an instant, and what is known of the runs behind them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from service.adapters.github import Github
from service.adapters.store import SqliteStore
from service.collectors import ci_memory, ci_pulls
from service.collectors.ci_metrics import expected_checks
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import workflows
from service.collectors.github_ci import memory_key
from service.comparison.replaced import KNOWN, Facts
from service.comparison.values import Value
from service.config import SHADOW_PREFIX, Settings
from service.domain import cron
from service.domain.errors import HealthError, Rejected, Unavailable
from service.domain.runs import Run

_PAGE = 5_000
_MOST_RUNS = 200  # of a collector, searched for the one that is nearest


@dataclass(slots=True)
class Ours:
    """``unmeasured``: metrics whose checks had nothing to measure. ``faults``: what runs left out, by collector.

    ``facts``: by repository, "" where there is one only. ``intervals``: between two slots, by collector.
    """

    values: list[Value] = field(default_factory=list)
    unmeasured: set[str] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    intervals: dict[str, timedelta] = field(default_factory=dict)


async def gather(settings: Settings, store: SqliteStore, github: Github | None, at: datetime | None) -> Ours:
    """The values of each collector's run that is nearest to ``at`` (None: of the last one). ``github``: to be asked."""
    ours = Ours()
    for name, each in settings.collectors.items():
        seconds = cron.parse(each.schedule).interval(at or datetime.now(UTC), each.time_zone)
        ours.intervals[name] = timedelta(seconds=seconds)
        run = await _nearest(store, name, at)
        if run is None:
            ours.notes.append(f"{name}: no run that succeeded is stored")
            continue
        ours.notes.append(f"{name}: run {run.id}" + (f", partial: {run.error}" if run.error else ""))
        values = await _values(settings, store, run)
        ours.values += values
        measured = {value.metric for value in values}
        for check in await store.checks(name):
            if check.metric not in measured and check.status.value == "unknown" and check.metric:
                ours.unmeasured.add(check.metric)
        if isinstance(each, GithubCiSettings):
            # A check that never had a value has no metric yet, so what is expected but did not come is looked up.
            # So is what the replaced collector sent without a list of workflows, too.
            left = {metric for metric, _ in expected_checks(each)} | KNOWN
            left -= measured
            if run.error:
                ours.faults |= dict.fromkeys(left, run.error)
            else:
                ours.unmeasured |= left
            for repo in each.all_repositories:
                facts = await _facts(store, github, name, each, repo, run, ours.notes)
                if facts:
                    ours.facts[repo if each.repositories else ""] = facts
    return ours


async def _nearest(store: SqliteStore, job: str, at: datetime | None) -> Run | None:
    runs = [run for run in await store.runs(job, _MOST_RUNS) if run.outcome and run.outcome.succeeded]
    if not runs:
        return None
    return runs[0] if at is None else min(runs, key=lambda run: abs(run.started - at))


async def _values(settings: Settings, store: SqliteStore, run: Run) -> list[Value]:
    prefixes = tuple({settings.shadow_prefix or SHADOW_PREFIX, SHADOW_PREFIX})
    values: list[Value] = []
    total = 1
    while len(values) < total:
        page, total = await store.samples(run.id, len(values), _PAGE)
        if not page:
            break
        for sample in page:
            metric = sample.metric
            for prefix in prefixes:
                metric = metric.removeprefix(prefix)
            values.append(Value(metric, sample.value, sample.tags, sample.at, sample.kind.value, run.job))
    return values


async def _facts(
    store: SqliteStore,
    github: Github | None,
    job: str,
    settings: GithubCiSettings,
    repo: str,
    run: Run,
    notes: list[str],
) -> Facts | None:
    known = ci_memory.load(await store.recall(job, memory_key(settings, repo)), repo, settings.branch)
    if known is None:
        notes.append(f"{job}: of {repo} no runs are remembered, so causes can't be looked for")
        return None
    now = run.started
    facts = Facts(settings, now, list(known.runs.values()), known.attempts, until=run.ended)
    if github is None:
        return facts
    try:
        facts = replace(facts, workflows=await workflows(github, repo))
        return replace(facts, pulls=await _pulls(github, settings, repo, now))
    except HealthError as error:
        notes.append(f"{job}: GitHub could not be asked again for {repo}: {error}")
        return facts


async def _pulls(
    github: Github, settings: GithubCiSettings, repo: str, now: datetime
) -> dict[str, tuple[float, float]]:
    """Each count of the window to the second, and of the one that begins with its day."""
    groups = {
        "hotfix": settings.hotfix_labels,
        "force_merge": settings.force_merge_labels,
        "reverts": settings.revert_labels,
    }
    since = now - settings.weekly_window
    starts = {"exact": since, "days": since.replace(hour=0, minute=0, second=0, microsecond=0)}
    questions = {
        f"{name}_{which}": ci_pulls.merged(repo, labels, start)
        for name, labels in groups.items()
        if labels
        for which, start in starts.items()
    }
    counts = await ci_pulls.count(github, repo, questions, ci_pulls.Style())
    found: dict[str, tuple[float, float]] = {}
    for name in groups:
        pair = [counts.get(f"{name}_{which}") for which in starts]
        exact, days = pair
        if isinstance(exact, ci_pulls.Counted) and isinstance(days, ci_pulls.Counted):
            found[f"github.{name}.count"] = (float(exact.count), float(days.count))
        elif failure := next((each for each in pair if isinstance(each, (Unavailable, Rejected))), None):
            raise failure
    return found
