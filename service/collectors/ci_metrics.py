"""The catalogue of ``github_ci`` and how its values come from runs. Pure: runs in, samples out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.collectors import ci_evidence, ci_runs
from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings, Thresholds
from service.collectors.ci_time_limits import TimeLimits
from service.domain import conditions
from service.domain.samples import Evidence, Kind, Metric, Sample, Status

_NAMESPACE = "metta.infra.cron."
NO_CONDITION = "none"


@dataclass(frozen=True, slots=True)
class Line:
    """A metric and its check. ``condition``: as written, with the thresholds' names in braces."""

    metric: Metric
    workflow_name: str
    task: str
    check: str
    condition: str


def _line(name: str, where: str, condition: str, explained: str, unit: str = "", kind: Kind = Kind.GAUGE) -> Line:
    workflow_name, task, check = where.split(" / ")
    return Line(Metric(_NAMESPACE + name, kind, unit, explained), workflow_name, task, check, condition)


_MAIN = "latest_state_of_main"
_LINES = (
    _line(
        "ci.workflow.tests_blocking_merge",
        f"{_MAIN} / tests_blocking_merge / workflow_passing",
        "> 0",
        "1 when the latest conclusive run on the branch of every workflow that blocks merges succeeded",
    ),
    _line(
        "ci.workflow.benchmarks",
        f"{_MAIN} / benchmarks / workflow_passing",
        "> 0",
        "1 when the latest conclusive run on the branch of every benchmark workflow succeeded",
    ),
    _line(
        "ci.workflow.other_failing",
        f"{_MAIN} / other_workflows / failing_count",
        "< 2",
        "Other active workflows whose latest conclusive run on the branch did not succeed",
    ),
    _line(
        "ci.workflow.success",
        f"{_MAIN} / tests_blocking_merge / success_ratio",
        "=1.0",
        "1 when all conclusive runs on the branch in the window succeeded",
    ),
    _line(
        "ci.workflow.success_ratio",
        f"{_MAIN} / tests_blocking_merge / success_share",
        "=1.0",
        "Share of the conclusive runs on the branch in the window that succeeded",
        "fraction",
    ),
    _line(
        "ci.workflow.flaky_tests",
        f"{_MAIN} / tests_blocking_merge / flaky_tests",
        "< {flaky_tests}",
        "Runs in the window that succeeded after an earlier attempt had failed",
        "execution",
    ),
    _line(
        "ci.workflow.duration.p90",
        "ci_smoothness / workflow_duration / p90_minutes",
        "< {p90_minutes}",
        "90th percentile of the duration of conclusive pre-merge runs in the window",
        "minute",
    ),
    _line(
        "ci.workflow.cancelled",
        "ci_smoothness / jobs_cancelled / count",
        "< {cancelled}",
        "Cancelled runs on the branch in the window",
        "execution",
    ),
    _line(
        "ci.workflow.duration",
        "ci_smoothness / workflow_duration / minutes",
        NO_CONDITION,
        "Duration of each run on the branch or before a merge, once per attempt, at its end",
        "minute",
        Kind.DISTRIBUTION,
    ),
    _line(
        "ci.jobs.timed_out",
        "ci_smoothness / jobs_timed_out / weekly_count",
        "< {timed_out}",
        "Jobs of the last 7 days, on any branch, that their time limit ended",
        "job",
    ),
    _line(
        "github.hotfix.count",
        "commit_history / hotfix_commits / weekly_count",
        "< {hotfix}",
        "Merged pull requests with a hotfix label in the weekly window",
    ),
    _line(
        "github.force_merge.count",
        "commit_history / force_merges / weekly_count",
        "< {force_merge}",
        "Merged pull requests with a force-merge label in the weekly window",
    ),
    _line(
        "github.reverts.count",
        "commit_history / reverts / weekly_count",
        "< {revert}",
        "Merged pull requests with a revert label in the weekly window",
    ),
    _line(
        "github.bugs.count",
        "bug_queue / open_bugs / count",
        "< {bugs}",
        "Open issues with the bug label; with tag label: those that carry that label, too",
    ),
)
LINES: Mapping[str, Line] = {line.metric.name.removeprefix(_NAMESPACE): line for line in _LINES}
METRICS = tuple(line.metric for line in _LINES)


@dataclass(frozen=True, slots=True)
class Finding:
    """A value by the metric's name within the namespace. ``value`` is None where there was nothing to measure.

    ``tags``: more of them than the check has. ``at``: the instant of the value, where that is not the cycle's.
    """

    name: str
    value: float | None
    evidence: tuple[Evidence, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None


def of_window(runs: Iterable[Run], since: datetime) -> list[Finding]:
    """What the runs whose last attempt started at ``since`` or later say, all but the flaky ones."""
    window = ci_runs.started_since(runs, since)
    on_branch = [run for run in window if run.on_branch]
    conclusive = [run for run in on_branch if run.is_conclusive]
    failed = [run for run in conclusive if run.conclusion != "success"]
    share = (len(conclusive) - len(failed)) / len(conclusive) if conclusive else None
    behind = ci_evidence.of_runs(failed or conclusive)
    cancelled = [run for run in on_branch if run.conclusion == "cancelled"]
    pre_merge = [run for run in window if run.is_pre_merge and run.is_conclusive]
    p90 = ci_runs.quantile([run.minutes for run in pre_merge], 0.9) if pre_merge else None
    slow = [run for run in pre_merge if p90 is not None and run.minutes >= p90]
    return [
        Finding("ci.workflow.success", None if share is None else float(not failed), behind),
        Finding("ci.workflow.success_ratio", share, behind),
        Finding("ci.workflow.duration.p90", p90, ci_evidence.of_runs(slow)),
        Finding("ci.workflow.cancelled", len(cancelled), ci_evidence.of_runs(cancelled)),
    ]


def passing(name: str, latest: Iterable[Run | None]) -> Finding:
    """1 when every workflow's latest conclusive run succeeded; None until each has one."""
    runs = list(latest)
    known = [run for run in runs if run is not None]
    failed = [run for run in known if run.conclusion != "success"]
    value = float(not failed) if runs and len(known) == len(runs) else None
    return Finding(name, value, ci_evidence.of_runs(failed or known))


def failing(latest: Iterable[Run | None]) -> Finding:
    """How many workflows' latest conclusive run did not succeed; one that never had any is not failing."""
    failed = [run for run in latest if run is not None and run.conclusion != "success"]
    return Finding("ci.workflow.other_failing", len(failed), ci_evidence.of_runs(failed))


def flaky(runs: Sequence[Run]) -> Finding:
    return Finding("ci.workflow.flaky_tests", len(runs), ci_evidence.of_runs(runs))


def timed_out(limits: TimeLimits) -> Finding:
    jobs = [job for _, job in limits.found.values()]
    return Finding("ci.jobs.timed_out", len(jobs), ci_evidence.newest(jobs))


def durations(ended: Iterable[Run], names: Mapping[int, str]) -> list[Finding]:
    """A value of the distribution for each of the attempts ``ended``. ``names``: the workflows', by id."""
    return [
        Finding(
            "ci.workflow.duration",
            run.minutes,
            ci_evidence.of_runs([run]),
            tags={
                "workflow": names.get(run.workflow_id) or run.name or str(run.workflow_id),
                "kind": run.kind,
                "conclusion": run.conclusion or "",
            },
            at=run.updated,
        )
        for run in ended
        if run.kind
    ]


def to_samples(
    findings: Iterable[Finding], thresholds: Thresholds, now: datetime, tags: Mapping[str, str] | None = None
) -> tuple[tuple[Sample, ...], tuple[dict[str, str], ...]]:
    """The samples at ``now``, in the catalogue's order, and the tags of the checks that had nothing to measure.

    ``tags``: more of them for each sample.
    """
    samples, unmeasured = [], []
    order = {name: place for place, name in enumerate(LINES)}
    for finding in sorted(findings, key=lambda finding: order[finding.name]):
        line, value = LINES[finding.name], finding.value
        condition = condition_of(finding.name, thresholds)
        parsed = conditions.parse(condition)
        status = parsed.status(value) if parsed and value is not None else Status.UNKNOWN
        full = {
            "source": "cron",
            "workflow_category": "ci",
            "workflow_name": line.workflow_name,
            "task": line.task,
            "check": line.check,
            "condition": condition,
            "status": status.value,
            **(tags or {}),
            **finding.tags,
        }
        if value is None:
            unmeasured.append(full)
        else:
            at = finding.at or now
            samples.append(Sample(line.metric, float(value), at, full, evidence=finding.evidence))
    return tuple(samples), tuple(unmeasured)


def expected_checks(settings: GithubCiSettings) -> list[tuple[str, str]]:
    """Metric and condition of the checks that the settings ask for: no list or no labels, no check."""
    asked = _asked(settings)
    each = [
        (line.metric.name, condition_of(name, settings.thresholds))
        for name, line in LINES.items()
        for _ in range(asked.get(name, 1))
    ]
    return each * len(settings.all_repositories)


def expected_lines(settings: GithubCiSettings) -> list[Line]:
    """The checks that the settings ask for, each once, with their conditions as they are sent."""
    asked = _asked(settings)
    return [
        replace(line, condition=condition_of(name, settings.thresholds))
        for name, line in LINES.items()
        if asked.get(name, 1)
    ]


def _asked(settings: GithubCiSettings) -> dict[str, int]:
    """How many checks of a line a repository has, where that is not one."""
    return {
        "ci.workflow.tests_blocking_merge": len(settings.tests_blocking_merge) > 0,
        "ci.workflow.benchmarks": len(settings.benchmarks) > 0,
        "ci.workflow.duration": 0,  # events, no check
        "github.hotfix.count": len(settings.hotfix_labels) > 0,
        "github.force_merge.count": len(settings.force_merge_labels) > 0,
        "github.reverts.count": len(settings.revert_labels) > 0,
        "github.bugs.count": 1 + len(settings.bug_sub_labels) if settings.bug_label else 0,
    }


def condition_of(name: str, thresholds: Thresholds) -> str:
    """The condition as it is written; ``none`` for a check without one."""
    texts = threshold_texts(thresholds)
    if name == "github.bugs.count" and not texts["bugs"]:
        return NO_CONDITION
    return LINES[name].condition.format(**texts)


def threshold_texts(thresholds: Thresholds) -> dict[str, str]:
    """Each threshold as the conditions write it: counts as whole numbers, minutes with their fraction (``5.0``)."""
    texts = {}
    for name in type(thresholds).model_fields:
        value = getattr(thresholds, name)
        is_whole = value is not None and name != "p90_minutes" and float(value).is_integer()
        texts[name] = "" if value is None else str(int(value)) if is_whole else str(float(value))
    return texts
