"""The catalogue of ``github_ci``: each metric with its check, its condition and what it means."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from service.collectors.github_ci.settings import GithubCiSettings, Thresholds
from service.collectors.thresholds import Threshold
from service.domain.checks import Check
from service.domain.samples import Kind, Metric, Rule

_NAMESPACE = "metta.infra.cron."
_NO_CONDITION = "none"


@dataclass(frozen=True, slots=True)
class CheckedMetric:
    """A metric and its check, ``where``: workflow_name / task / check.

    ``condition``: as written, with the threshold's name in braces.
    """

    name: str
    where: str
    condition: str
    help: str
    unit: str = ""
    kind: Kind = Kind.GAUGE

    @property
    def threshold(self) -> str:
        """The name in ``condition``, empty where there is none."""
        return self.condition.partition("{")[2].partition("}")[0]

    @property
    def metric(self) -> Metric:
        return Metric(_NAMESPACE + self.name, self.kind, self.unit, self.help)

    @property
    def tags(self) -> dict[str, str]:
        names = ("workflow_name", "task", "check")
        return {"workflow_category": "ci", **dict(zip(names, self.where.split(" / "), strict=True))}


SUCCESS_AGE = "ci.workflow.schedule_success_age"
_MAIN = "latest_state_of_main"
# The check of each workflow in ``expected``, whose file takes the place of workflow_name.
_SCHEDULE = CheckedMetric(
    "ci.workflow.schedule_age",
    "scheduled_workflow / scheduled_runs / age_hours",
    _NO_CONDITION,
    "Hours since a schedule last began a run of the workflow",
    "hour",
)
_CHECKS = (
    CheckedMetric(
        "ci.workflow.tests_blocking_merge",
        f"{_MAIN} / tests_blocking_merge / workflow_passing",
        "> 0",
        "1 when the latest conclusive run on the branch of every workflow that blocks merges succeeded",
    ),
    CheckedMetric(
        "ci.workflow.benchmarks",
        f"{_MAIN} / benchmarks / workflow_passing",
        "> 0",
        "1 when the latest conclusive run on the branch of every benchmark workflow succeeded",
    ),
    CheckedMetric(
        "ci.workflow.other_failing",
        f"{_MAIN} / other_workflows / failing_count",
        "< 2",
        "Other active workflows whose latest conclusive run on the branch did not succeed",
    ),
    CheckedMetric(
        "ci.workflow.success",
        f"{_MAIN} / tests_blocking_merge / success_ratio",
        "=1.0",
        "1 when all conclusive runs on the branch in the window succeeded",
    ),
    CheckedMetric(
        "ci.workflow.success_ratio",
        f"{_MAIN} / tests_blocking_merge / success_share",
        "=1.0",
        "Share of the conclusive runs on the branch in the window that succeeded",
        "fraction",
    ),
    CheckedMetric(
        "ci.workflow.flaky_tests",
        f"{_MAIN} / tests_blocking_merge / flaky_tests",
        "< {flaky_tests}",
        "Runs in the window that succeeded after an earlier attempt had failed",
        "execution",
    ),
    CheckedMetric(
        "ci.branch.red_minutes",
        f"{_MAIN} / tests_blocking_merge / red_minutes",
        "< {red_minutes}",
        "How long in the window one of the workflows that block merges was red on the branch",
        "minute",
    ),
    CheckedMetric(
        "ci.workflow.duration.p90",
        "ci_smoothness / workflow_duration / p90_minutes",
        "< {p90_minutes}",
        "90th percentile of the duration of conclusive pre-merge runs in the window",
        "minute",
    ),
    CheckedMetric(
        "ci.workflow.cancelled",
        "ci_smoothness / jobs_cancelled / count",
        "< {cancelled}",
        "Cancelled runs on the branch in the window",
        "execution",
    ),
    CheckedMetric(
        "ci.workflow.duration",
        "ci_smoothness / workflow_duration / minutes",
        _NO_CONDITION,
        "Duration of each run on the branch or before a merge, once per attempt, at its end",
        "minute",
        Kind.DISTRIBUTION,
    ),
    CheckedMetric(
        "ci.jobs.timed_out",
        "ci_smoothness / jobs_timed_out / weekly_count",
        "< {timed_out}",
        "Jobs of the last 7 days, on any branch, that their time limit ended",
        "job",
    ),
    CheckedMetric(
        "github.hotfix.count",
        "commit_history / hotfix_commits / weekly_count",
        "< {hotfix}",
        "Merged pull requests with a hotfix label in the weekly window",
    ),
    CheckedMetric(
        "github.force_merge.count",
        "commit_history / force_merges / weekly_count",
        "< {force_merge}",
        "Merged pull requests with a force-merge label in the weekly window",
    ),
    CheckedMetric(
        "github.reverts.count",
        "commit_history / reverts / weekly_count",
        "< {revert}",
        "Merged pull requests with a revert label in the weekly window",
    ),
    CheckedMetric(
        "github.bugs.count",
        "bug_queue / open_bugs / count",
        "< {bugs}",
        "Open issues with the bug label; with tag label: those that carry that label, too",
    ),
)
CATALOGUE: Mapping[str, CheckedMetric] = {each.name: each for each in (*_CHECKS, _SCHEDULE)}
# Without a check: nothing fails by them.
PLAIN: Mapping[str, Metric] = {
    name: Metric(_NAMESPACE + name, unit=unit, help=help)
    for name, unit, help in (
        ("ci.branch.red_share", "fraction", "Share of the branch's commits in the window of which a run failed"),
        ("ci.branch.flaky_share", "fraction", "Share of them whose runs that failed succeeded when run again"),
        ("ci.queue.runs", "execution", "Runs that wait (queued, waiting, pending, requested) for less than 24 hours"),
        ("ci.queue.oldest_minutes", "minute", "How long the one of these runs waits that waits longest"),
        (SUCCESS_AGE, "hour", "Hours since a schedule last began a run of the workflow that succeeded"),
    )
}
METRICS = (*(each.metric for each in CATALOGUE.values()), *PLAIN.values())
CHECK_TAGS = {each.metric.name: each.tags for each in _CHECKS if each.kind is Kind.GAUGE}
QUOTA_REMAINING = Metric("metta.infra.collector.quota_remaining", help="Requests left of GitHub's hourly limit")
QUOTA_LIMIT = Metric("metta.infra.collector.quota_limit", help="GitHub's hourly limit of requests")


def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
    """Metric name and condition of each check that the settings ask for: no list or no labels, no check."""
    counts = {
        "ci.workflow.tests_blocking_merge": int(bool(settings.tests_blocking_merge)),
        "ci.workflow.benchmarks": int(bool(settings.benchmarks)),
        "ci.branch.red_minutes": int(bool(settings.tests_blocking_merge)),
        "ci.workflow.duration": 0,  # events, no check
        _SCHEDULE.name: 0,
        "github.hotfix.count": int(bool(settings.hotfix_labels)),
        "github.force_merge.count": int(bool(settings.force_merge_labels)),
        "github.reverts.count": int(bool(settings.revert_labels)),
        "github.bugs.count": 1 + len(settings.bug_sub_labels) if settings.bug_label else 0,
    }
    each = [
        (checked.metric.name, format_condition(name, settings.thresholds))
        for name, checked in CATALOGUE.items()
        for _ in range(counts.get(name, 1))
    ]
    each += [(_SCHEDULE.metric.name, format_limit(limit)) for limit in settings.expected.values()]
    return each * len(settings.all_repositories)


def asks_for(settings: GithubCiSettings, metrics: Collection[str], check: Check) -> bool:
    """Whether the settings still ask for a check that was measured before. ``metrics``: of ``expected_checks``.

    A workflow that is ``expected`` by another name than its file's may be any.
    """
    tags = check.tags
    is_of_repository = not settings.repositories or tags.get("repo") in settings.all_repositories
    if not is_of_repository or check.metric not in metrics:
        return False
    if check.metric == _SCHEDULE.metric.name:
        files = {entry.rpartition("/")[2] for entry in settings.expected}
        return tags["workflow_name"] in files or not all(file.endswith((".yml", ".yaml")) for file in files)
    return tags.get("label") in (None, settings.tags.get("label"), *settings.bug_sub_labels)


def expected_metrics(settings: GithubCiSettings) -> list[str]:
    """The names of the metrics without a check, once for each of their series."""
    counts = {SUCCESS_AGE: len(settings.expected)}
    names = [metric.name for name, metric in PLAIN.items() for _ in range(counts.get(name, 1))]
    return names * len(settings.all_repositories)


def format_condition(name: str, thresholds: Thresholds) -> str:
    """The condition as it is written: counts as whole numbers, minutes with their fraction (``5.0``)."""
    checked = CATALOGUE[name]
    if not (key := checked.threshold):
        return checked.condition
    value = getattr(thresholds, key)
    if value is None:
        return _NO_CONDITION
    if isinstance(value, Threshold):
        return value.condition
    is_whole = key != "p90_minutes" and float(value).is_integer()
    return checked.condition.format(**{key: str(int(value) if is_whole else float(value))})


def find_rule(name: str, settings: GithubCiSettings) -> Rule | None:
    """By which the past of a check has a say; None where the condition alone has the verdict."""
    checked = CATALOGUE[name]
    value = getattr(settings.thresholds, checked.threshold, None)
    window = settings.weekly_window if checked.tags["check"] == "weekly_count" else settings.history_window
    return value.make_rule(apart=window) if isinstance(value, Threshold) else None


def format_limit(limit: timedelta) -> str:
    """As a condition in hours: ``< 26``."""
    return f"< {limit / timedelta(hours=1):.10g}"
