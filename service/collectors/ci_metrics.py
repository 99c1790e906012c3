"""The catalogue of ``github_ci`` and how its values come from runs. Pure: runs in, samples out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from service.collectors import ci_runs
from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings, Thresholds
from service.domain import conditions
from service.domain.samples import Metric, Sample, Status

_NAMESPACE = "metta.infra.cron."


@dataclass(frozen=True, slots=True)
class Line:
    """A metric and its check. ``condition``: as written, with the thresholds' names in braces."""

    metric: Metric
    workflow_name: str
    task: str
    check: str
    condition: str


def _line(name: str, where: str, condition: str, explained: str, unit: str = "") -> Line:
    workflow_name, task, check = where.split(" / ")
    return Line(Metric(_NAMESPACE + name, unit=unit, help=explained), workflow_name, task, check, condition)


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
)
LINES: Mapping[str, Line] = {line.metric.name.removeprefix(_NAMESPACE): line for line in _LINES}
METRICS = tuple(line.metric for line in _LINES)

# A value by the metric's name within the namespace; None: there was nothing to measure. Missing: it is not known.
Values = Mapping[str, float | None]


def of_window(runs: Iterable[Run], since: datetime) -> dict[str, float | None]:
    """What the runs whose last attempt started at ``since`` or later say, all but the flaky ones."""
    window = ci_runs.started_since(runs, since)
    on_branch = [run for run in window if run.on_branch]
    succeeded = [run.conclusion == "success" for run in on_branch if run.is_conclusive]
    minutes = [
        max(0.0, (run.updated - run.started).total_seconds() / 60)
        for run in window
        if run.is_pre_merge and run.is_conclusive
    ]
    return {
        "ci.workflow.success": float(all(succeeded)) if succeeded else None,
        "ci.workflow.success_ratio": sum(succeeded) / len(succeeded) if succeeded else None,
        "ci.workflow.duration.p90": ci_runs.quantile(minutes, 0.9) if minutes else None,
        "ci.workflow.cancelled": sum(run.conclusion == "cancelled" for run in on_branch),
    }


def passing(latest: Iterable[Run | None]) -> float | None:
    """1 when every workflow's latest conclusive run succeeded; None until each has one."""
    runs = list(latest)
    if not runs or None in runs:
        return None
    return float(all(run is not None and run.conclusion == "success" for run in runs))


def failing(latest: Iterable[Run | None]) -> float:
    """How many workflows' latest conclusive run did not succeed; one that never had any is not failing."""
    return sum(run is not None and run.conclusion != "success" for run in latest)


def to_samples(
    values: Values, thresholds: Thresholds, now: datetime
) -> tuple[tuple[Sample, ...], tuple[dict[str, str], ...]]:
    """The samples at ``now``, in the catalogue's order, and the tags of the checks that had nothing to measure."""
    samples, unmeasured = [], []
    texts = threshold_texts(thresholds)
    for name, line in LINES.items():
        if name not in values:
            continue
        value, condition = values[name], line.condition.format(**texts)
        parsed = conditions.parse(condition)
        status = parsed.status(value) if parsed and value is not None else Status.UNKNOWN
        tags = {
            "source": "cron",
            "workflow_category": "ci",
            "workflow_name": line.workflow_name,
            "task": line.task,
            "check": line.check,
            "condition": condition,
            "status": status.value,
        }
        if value is None:
            unmeasured.append(tags)
        else:
            samples.append(Sample(line.metric, float(value), now, tags))
    return tuple(samples), tuple(unmeasured)


def expected_lines(settings: GithubCiSettings) -> list[Line]:
    """The checks that the settings ask for, with their conditions as sent: no list or no labels, no check."""
    asked = {
        "ci.workflow.tests_blocking_merge": settings.tests_blocking_merge,
        "ci.workflow.benchmarks": settings.benchmarks,
        "github.hotfix.count": settings.hotfix_labels,
        "github.force_merge.count": settings.force_merge_labels,
        "github.reverts.count": settings.revert_labels,
    }
    texts = threshold_texts(settings.thresholds)
    return [
        replace(line, condition=line.condition.format(**texts)) for name, line in LINES.items() if asked.get(name, True)
    ]


def threshold_texts(thresholds: Thresholds) -> dict[str, str]:
    """Each threshold as the conditions write it: counts as whole numbers, minutes with their fraction (``5.0``)."""
    return {
        name: str(value) if name == "p90_minutes" or not value.is_integer() else str(int(value))
        for name, value in ((name, float(getattr(thresholds, name))) for name in type(thresholds).model_fields)
    }
