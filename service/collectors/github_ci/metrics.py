"""The catalogue of ``github_ci``, and how its values come from runs. Pure: runs in, samples out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from service.collectors.github_ci.models import Expected, Run, make_evidence
from service.collectors.github_ci.settings import GithubCiSettings, Thresholds
from service.domain import conditions
from service.domain.runs import NoData
from service.domain.samples import Evidence, Kind, Metric, Sample, Status

_NAMESPACE = "metta.infra.cron."
_NO_CONDITION = "none"
_MAX_EVIDENCE = 20
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CheckedMetric:
    """A metric and its check, ``where``: workflow_name / task / check.

    ``condition``: as written, with the thresholds' names in braces.
    """

    name: str
    where: str
    condition: str
    help: str
    unit: str = ""
    kind: Kind = Kind.GAUGE

    @property
    def metric(self) -> Metric:
        return Metric(_NAMESPACE + self.name, self.kind, self.unit, self.help)

    @property
    def tags(self) -> dict[str, str]:
        names = ("workflow_name", "task", "check")
        return {"workflow_category": "ci", **dict(zip(names, self.where.split(" / "), strict=True))}


_SUCCESS_AGE = "ci.workflow.schedule_success_age"
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
        ("ci.queue.runs", "execution", "Runs that wait (queued, waiting, pending, requested) for less than 24 hours"),
        ("ci.queue.oldest_minutes", "minute", "How long the one of these runs waits that waits longest"),
        (_SUCCESS_AGE, "hour", "Hours since a schedule last began a run of the workflow that succeeded"),
    )
}
METRICS = (*(each.metric for each in CATALOGUE.values()), *PLAIN.values())
CHECK_TAGS = {each.metric.name: each.tags for each in _CHECKS if each.kind is Kind.GAUGE}
QUOTA_REMAINING = Metric("metta.infra.collector.quota_remaining", help="Requests left of GitHub's hourly limit")
QUOTA_LIMIT = Metric("metta.infra.collector.quota_limit", help="GitHub's hourly limit of requests")


@dataclass(frozen=True, slots=True)
class Finding:
    """A value by the metric's name within the namespace. ``value`` is None where there was nothing to measure.

    ``tags``: more of them than the check has, or in place of its own. ``at``: the instant of the value, where that is
    not the cycle's. ``condition``, ``status``: in place of the check's condition, and of what that says.
    """

    name: str
    value: float | None
    evidence: tuple[Evidence, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None
    condition: str = ""
    status: Status | None = None


def measure_branch(window: Iterable[Run]) -> list[Finding]:
    """``window``: the runs whose last attempt started in it."""
    on_branch = [run for run in window if run.on_branch]
    conclusive = [run for run in on_branch if run.is_conclusive]
    failed = [run for run in conclusive if run.conclusion != "success"]
    share = (len(conclusive) - len(failed)) / len(conclusive) if conclusive else None
    behind = _runs_as_evidence(failed or conclusive)
    cancelled = [run for run in on_branch if run.conclusion == "cancelled"]
    return [
        Finding("ci.workflow.success", None if share is None else float(not failed), behind),
        Finding("ci.workflow.success_ratio", share, behind),
        Finding("ci.workflow.cancelled", len(cancelled), _runs_as_evidence(cancelled)),
    ]


def measure_p90(window: Iterable[Run]) -> Finding:
    pre_merge = [run for run in window if run.kind == "pre_merge" and run.is_conclusive]
    p90 = quantile([run.minutes for run in pre_merge], 0.9) if pre_merge else None
    slow = [run for run in pre_merge if p90 is not None and run.minutes >= p90]
    return Finding("ci.workflow.duration.p90", p90, _runs_as_evidence(slow))


def measure_flaky(window: Iterable[Run]) -> Finding:
    flaky = [run for run in window if run.conclusion == "success" and run.has_failed_before]
    return Finding("ci.workflow.flaky_tests", len(flaky), _runs_as_evidence(flaky))


def measure_list(name: str, latest: Sequence[Run | None]) -> Finding:
    """1 when every workflow's latest conclusive run succeeded; None until each has one."""
    known = [run for run in latest if run is not None]
    failed = [run for run in known if run.conclusion != "success"]
    value = float(not failed) if latest and len(known) == len(latest) else None
    return Finding(name, value, _runs_as_evidence(failed or known))


def measure_others(latest: Iterable[Run | None]) -> Finding:
    """How many workflows' latest conclusive run did not succeed; one that never had any is not failing."""
    failed = [run for run in latest if run is not None and run.conclusion != "success"]
    return Finding("ci.workflow.other_failing", len(failed), _runs_as_evidence(failed))


def measure_queue(waiting: Sequence[Run], now: datetime) -> list[Finding]:
    """``waiting``: the longest first. A re-run waits since it was asked for, another run since it was created."""
    found = [Finding("ci.queue.runs", len(waiting), _runs_as_evidence(waiting))]
    if waiting:
        minutes = max(0.0, (now - waiting[0].started).total_seconds() / 60)
        found.append(Finding("ci.queue.oldest_minutes", minutes, _runs_as_evidence(waiting[:1])))
    return found


def measure_schedule(expected: Expected, last: Run | None, succeeded: Run | None, now: datetime) -> list[Finding]:
    """Of the newest run that a schedule began, and of the newest of them that succeeded. A disabled workflow fails."""
    tags = {"workflow_name": expected.file}
    behind = _runs_as_evidence([last] if last else [])
    if expected.is_disabled:
        behind = (make_evidence(expected.workflow.name, None, None, expected.workflow.state), *behind)
    found = [
        Finding(
            "ci.workflow.schedule_age",
            _hours_since(last, now) if last else None,
            behind,
            tags,
            condition=format_limit(expected.limit),
            status=Status.FAIL if expected.is_disabled else None,
        )
    ]
    if succeeded:
        found.append(Finding(_SUCCESS_AGE, _hours_since(succeeded, now), _runs_as_evidence([succeeded]), tags))
    return found


def format_limit(limit: timedelta) -> str:
    """As a condition in hours: ``< 26``."""
    return f"< {limit / timedelta(hours=1):.10g}"


def _hours_since(run: Run, now: datetime) -> float:
    return max(0.0, (now - run.created) / timedelta(hours=1))


def measure_timed_out(suspects: Iterable[Run], since: datetime) -> Finding:
    jobs = [
        make_evidence(job.name, job.url, job.ended, job.conclusion or "", run.name)
        for run in suspects
        for job in run.overtime
        if job.ended and job.ended >= since
    ]
    return Finding("ci.jobs.timed_out", len(jobs), newest(jobs))


def measure_durations(ended: Iterable[Run], names: Mapping[int, str]) -> list[Finding]:
    """A value of the distribution for each of the attempts ``ended``. ``names``: the workflows', by id."""
    return [
        Finding(
            "ci.workflow.duration",
            run.minutes,
            _runs_as_evidence([run]),
            tags={
                "workflow": names.get(run.workflow_id) or run.name or str(run.workflow_id),
                "kind": run.kind,
                "conclusion": run.conclusion or "",
            },
            at=run.updated,
        )
        for run in ended
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the closest ranks; never beyond the largest. ``values`` are not empty."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (rank - lower)


def newest(found: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """The few that are shown to who asks why."""
    return tuple(sorted(found, key=lambda each: each.at or _NEVER, reverse=True)[:_MAX_EVIDENCE])


def _runs_as_evidence(runs: Iterable[Run]) -> tuple[Evidence, ...]:
    return newest(run.as_evidence() for run in runs)


def to_samples(
    findings: Iterable[Finding], thresholds: Thresholds, now: datetime, tags: Mapping[str, str]
) -> tuple[tuple[Sample, ...], tuple[NoData, ...]]:
    """The samples at ``now``, in the catalogue's order, and the checks that had nothing to measure.

    ``tags``: more of them for each sample.
    """
    samples, no_data = [], []
    order = {name: place for place, name in enumerate((*CATALOGUE, *PLAIN))}
    for finding in sorted(findings, key=lambda finding: order[finding.name]):
        if (plain := PLAIN.get(finding.name)) and finding.value is not None:
            full = {"source": "cron", **tags, **finding.tags}
            samples.append(Sample(plain, float(finding.value), now, full, evidence=finding.evidence))
            continue
        checked, value = CATALOGUE[finding.name], finding.value
        condition = finding.condition or format_condition(finding.name, thresholds)
        parsed = conditions.parse(condition)
        verdict = parsed.status(value) if parsed and value is not None else Status.UNKNOWN
        status = finding.status or verdict
        full = {
            "source": "cron",
            **checked.tags,
            "condition": condition,
            "status": status.value,
            **tags,
            **finding.tags,
        }
        if value is None:
            no_data.append(NoData(full))
        else:
            samples.append(Sample(checked.metric, float(value), finding.at or now, full, evidence=finding.evidence))
    return tuple(samples), tuple(no_data)


def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
    """Metric name and condition of each check that the settings ask for: no list or no labels, no check."""
    counts = {
        "ci.workflow.tests_blocking_merge": int(bool(settings.tests_blocking_merge)),
        "ci.workflow.benchmarks": int(bool(settings.benchmarks)),
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


def expected_metrics(settings: GithubCiSettings) -> list[str]:
    """The names of the metrics without a check, once for each of their series."""
    counts = {_SUCCESS_AGE: len(settings.expected)}
    names = [metric.name for name, metric in PLAIN.items() for _ in range(counts.get(name, 1))]
    return names * len(settings.all_repositories)


def format_condition(name: str, thresholds: Thresholds) -> str:
    """The condition as it is written: counts as whole numbers, minutes with their fraction (``5.0``)."""
    if name == "github.bugs.count" and thresholds.bugs is None:
        return _NO_CONDITION
    texts = {}
    for key, value in thresholds.model_dump().items():
        is_whole = value is not None and key != "p90_minutes" and float(value).is_integer()
        texts[key] = str(int(value)) if is_whole else str(float(value or 0))
    return CATALOGUE[name].condition.format(**texts)
