"""The metrics of ``github_ci``, with the check and the condition of each, and how a finding becomes its sample."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.collectors.github_ci.settings import GithubCiSettings, Thresholds
from service.collectors.thresholds import Threshold
from service.domain import conditions
from service.domain.runs import NoData
from service.domain.samples import Evidence, Kind, Metric, Rule, Sample, Status

_NAMESPACE = "metta.infra.cron."
_NO_CONDITION = "none"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A metric and its check, ``where``: workflow_name / task / check; empty for a metric without one.

    ``condition``: as written, with the threshold's name in braces.
    """

    name: str
    where: str = ""
    condition: str = _NO_CONDITION
    unit: str = ""
    kind: Kind = Kind.GAUGE

    @property
    def is_check(self) -> bool:
        return bool(self.where)

    @property
    def threshold(self) -> str:
        """The name in ``condition``, empty where there is none."""
        return self.condition.partition("{")[2].partition("}")[0]

    @property
    def metric(self) -> Metric:
        return Metric(_NAMESPACE + self.name, self.kind, self.unit, _HELP[self.name])

    @property
    def tags(self) -> dict[str, str]:
        names = dict(zip(("workflow_name", "task", "check"), self.where.split(" / "), strict=False))
        return {"workflow_category": "ci", **names} if self.is_check else {}


SCHEDULE_AGE, SUCCESS_AGE = "ci.workflow.schedule_age", "ci.workflow.schedule_success_age"
_BLOCKING = "latest_state_of_main / tests_blocking_merge"
_DURATION = "ci_smoothness / workflow_duration"
_ENTRIES = (
    CatalogueEntry("ci.workflow.tests_blocking_merge", f"{_BLOCKING} / workflow_passing", "> 0"),
    CatalogueEntry("ci.workflow.benchmarks", "latest_state_of_main / benchmarks / workflow_passing", "> 0"),
    CatalogueEntry("ci.workflow.other_failing", "latest_state_of_main / other_workflows / failing_count", "< 2"),
    CatalogueEntry("ci.workflow.success", f"{_BLOCKING} / success_ratio", "=1.0"),
    CatalogueEntry("ci.workflow.success_ratio", f"{_BLOCKING} / success_share", "=1.0", "fraction"),
    CatalogueEntry("ci.workflow.flaky_tests", f"{_BLOCKING} / flaky_tests", "< {flaky_tests}", "execution"),
    CatalogueEntry("ci.branch.red_minutes", f"{_BLOCKING} / red_minutes", "< {red_minutes}", "minute"),
    CatalogueEntry("ci.workflow.duration.p90", f"{_DURATION} / p90_minutes", "< {p90_minutes}", "minute"),
    CatalogueEntry("ci.workflow.cancelled", "ci_smoothness / jobs_cancelled / count", "< {cancelled}", "execution"),
    CatalogueEntry("ci.workflow.duration", f"{_DURATION} / minutes", unit="minute", kind=Kind.DISTRIBUTION),
    CatalogueEntry("ci.jobs.timed_out", "ci_smoothness / jobs_timed_out / weekly_count", "< {timed_out}", "job"),
    CatalogueEntry("github.hotfix.count", "commit_history / hotfix_commits / weekly_count", "< {hotfix}"),
    CatalogueEntry("github.force_merge.count", "commit_history / force_merges / weekly_count", "< {force_merge}"),
    CatalogueEntry("github.reverts.count", "commit_history / reverts / weekly_count", "< {revert}"),
    CatalogueEntry("github.bugs.count", "bug_queue / open_bugs / count", "< {bugs}"),
    # The check of each workflow in ``expected``, whose file takes the place of workflow_name.
    CatalogueEntry(SCHEDULE_AGE, "scheduled_workflow / scheduled_runs / age_hours", unit="hour"),
    CatalogueEntry("ci.branch.red_share", unit="fraction"),
    CatalogueEntry("ci.branch.flaky_share", unit="fraction"),
    CatalogueEntry("ci.queue.runs", unit="execution"),
    CatalogueEntry("ci.queue.oldest_minutes", unit="minute"),
    CatalogueEntry(SUCCESS_AGE, unit="hour"),
)
_HELP = {
    "ci.workflow.tests_blocking_merge": "1 when the latest conclusive run on the branch of every workflow that blocks"
    " merges succeeded",
    "ci.workflow.benchmarks": "1 when the latest conclusive run on the branch of every benchmark workflow succeeded",
    "ci.workflow.other_failing": "Other active workflows whose latest conclusive run on the branch did not succeed",
    "ci.workflow.success": "1 when all conclusive runs on the branch in the window succeeded",
    "ci.workflow.success_ratio": "Share of the conclusive runs on the branch in the window that succeeded",
    "ci.workflow.flaky_tests": "Runs in the window that succeeded after an earlier attempt had failed",
    "ci.branch.red_minutes": "How long in the window one of the workflows that block merges was red on the branch",
    "ci.workflow.duration.p90": "90th percentile of the duration of conclusive pre-merge runs in the window",
    "ci.workflow.cancelled": "Cancelled runs on the branch in the window",
    "ci.workflow.duration": "Duration of each run on the branch or before a merge, once per attempt, at its end",
    "ci.jobs.timed_out": "Jobs of the last 7 days, on any branch, that their time limit ended",
    "github.hotfix.count": "Merged pull requests with a hotfix label in the weekly window",
    "github.force_merge.count": "Merged pull requests with a force-merge label in the weekly window",
    "github.reverts.count": "Merged pull requests with a revert label in the weekly window",
    "github.bugs.count": "Open issues with the bug label; with tag label: those that carry that label, too",
    SCHEDULE_AGE: "Hours since a schedule last began a run of the workflow",
    "ci.branch.red_share": "Share of the branch's commits in the window of which a run failed",
    "ci.branch.flaky_share": "Share of them whose runs that failed succeeded when run again",
    "ci.queue.runs": "Runs that wait (queued, waiting, pending, requested) for less than a day",
    "ci.queue.oldest_minutes": "How long the one of these runs waits that waits longest",
    SUCCESS_AGE: "Hours since a schedule last began a run of the workflow that succeeded",
}
CATALOGUE: Mapping[str, CatalogueEntry] = {each.name: each for each in _ENTRIES}
METRICS = tuple(each.metric for each in _ENTRIES)
_CHECKS = [each for each in _ENTRIES if each.is_check and each.kind is Kind.GAUGE]
CHECK_TAGS = {each.metric.name: each.tags for each in _CHECKS if each.name != SCHEDULE_AGE}
QUOTA_REMAINING = Metric("metta.infra.collector.quota_remaining", help="Requests left of GitHub's hourly limit")
QUOTA_LIMIT = Metric("metta.infra.collector.quota_limit", help="GitHub's hourly limit of requests")


def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
    """Metric name and condition of each check that the settings ask for: no list or no labels, no check."""
    counts = {
        "ci.workflow.tests_blocking_merge": bool(settings.tests_blocking_merge),
        "ci.workflow.benchmarks": bool(settings.benchmarks),
        "ci.branch.red_minutes": bool(settings.tests_blocking_merge),
        SCHEDULE_AGE: 0,
        "github.hotfix.count": bool(settings.hotfix_labels),
        "github.force_merge.count": bool(settings.force_merge_labels),
        "github.reverts.count": bool(settings.revert_labels),
        "github.bugs.count": 1 + len(settings.bug_sub_labels) if settings.bug_label else 0,
    }
    each = [
        (checked.metric.name, format_condition(checked.name, settings.thresholds))
        for checked in _CHECKS
        for _ in range(counts.get(checked.name, 1))
    ]
    each += [(CATALOGUE[SCHEDULE_AGE].metric.name, format_limit(limit)) for limit in settings.expected.values()]
    return each * len(settings.all_repositories)


def expected_metrics(settings: GithubCiSettings) -> list[str]:
    """The names of the metrics without a check, once for each of their series."""
    counts = {SUCCESS_AGE: len(settings.expected)}
    plain = [each for each in _ENTRIES if not each.is_check]
    names = [each.metric.name for each in plain for _ in range(counts.get(each.name, 1))]
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
    window = settings.weekly_window if checked.where.endswith("weekly_count") else settings.history_window
    return value.make_rule(apart=window) if isinstance(value, Threshold) else None


def format_limit(limit: timedelta) -> str:
    """As a condition in hours: ``< 26``."""
    return f"< {limit / timedelta(hours=1):.10g}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A value by the metric's name within the namespace. ``value`` is None where there was nothing to measure.

    ``summary``: the numbers behind it, or why there is none; without a full stop, for it stands alone or after what it
    explains. ``tags``: more of them than the check has, or in place of its own. ``at``: the instant of the value, where
    that is not the cycle's. ``condition``, ``status``: in place of the check's condition, and of what that says.
    """

    name: str
    value: float | None
    summary: str
    evidence: tuple[Evidence, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None
    condition: str = ""
    status: Status | None = None


def to_samples(
    findings: Iterable[Finding], settings: GithubCiSettings, now: datetime, tags: Mapping[str, str]
) -> tuple[tuple[Sample, ...], tuple[NoData, ...]]:
    """The samples at ``now``, in the catalogue's order, and the checks that had nothing to measure.

    ``tags``: more of them for each sample.
    """
    samples, no_data = [], []
    order = list(CATALOGUE)
    for finding in sorted(findings, key=lambda finding: order.index(finding.name)):
        value, checked = finding.value, CATALOGUE[finding.name]
        verdict = {}
        if checked.is_check:
            condition = finding.condition or format_condition(finding.name, settings.thresholds)
            parsed = conditions.parse(condition)
            status = parsed.status(value) if parsed and value is not None else Status.UNKNOWN
            verdict = {"condition": condition, "status": (finding.status or status).value}
        full = {"source": "cron", **checked.tags, **verdict, **tags, **finding.tags}
        if value is None:
            no_data.append(NoData(full, finding.summary))
        else:
            at, behind, rule = finding.at or now, finding.evidence, find_rule(finding.name, settings)
            samples.append(Sample(checked.metric, float(value), at, full, None, None, behind, finding.summary, rule))
    return tuple(samples), tuple(no_data)
