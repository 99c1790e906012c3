"""A catalogue as a configuration with CI and a snapshot makes it, and ways to look into what is built of it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from service.boards.catalogue import Catalogue, CheckPanel, CollectorPanel
from service.boards.sync import build
from service.domain.checks import CHECK_METRICS
from service.domain.samples import CHECK_TAGS, Kind, Metric
from service.pipeline.job import COLLECTOR_METRICS

TEN, HOUR = timedelta(minutes=10), timedelta(hours=1)
DURATION = Metric("metta.infra.cron.ci.workflow.duration", Kind.DISTRIBUTION, "minute", "Duration of each run")
QUOTA = (
    Metric("metta.infra.collector.quota_remaining", help="Requests that are left"),
    Metric("metta.infra.collector.quota_limit", help="Requests an hour"),
)
_CI = (
    ("ci.workflow.tests_blocking_merge", "latest_state_of_main", "tests_blocking_merge", "workflow_passing", "> 0", ""),
    ("ci.workflow.other_failing", "latest_state_of_main", "other_workflows", "failing_count", "< 2", ""),
    ("ci.workflow.success", "latest_state_of_main", "tests_blocking_merge", "success_ratio", "=1.0", ""),
    ("ci.workflow.flaky_tests", "latest_state_of_main", "tests_blocking_merge", "flaky_tests", "< 10", "execution"),
    ("ci.workflow.duration.p90", "ci_smoothness", "workflow_duration", "p90_minutes", "< 5.0", "minute"),
    ("github.bugs.count", "bug_queue", "open_bugs", "count", "none", ""),
)


def ci_checks(**conditions: str) -> list[CheckPanel]:
    """``conditions``: by check, in place of the usual ones."""
    return [
        CheckPanel(
            f"{task} / {check}",
            Metric(f"metta.infra.cron.{name}", unit=unit, help=f"What {name} means"),
            dict(zip(CHECK_TAGS, ("ci", workflow, task, check), strict=True)),
            conditions.get(check, condition),
            TEN,
            groups={"repo"},
        )
        for name, workflow, task, check, condition, unit in _CI
    ]


def snapshot_check(metric: str = "hearts", condition: str = "> 0.5", workflow: str = "arena") -> CheckPanel:
    tags = dict(zip(CHECK_TAGS, ("training", workflow, "runs_successfully", "reward_threshold"), strict=True))
    name = f"metta.infra.stablesuite.{metric}"
    return CheckPanel(f"{metric} ({workflow})", Metric(name), tags, condition, HOUR)


def snapshot_checks() -> list[CheckPanel]:
    return [snapshot_check(), snapshot_check("sps", "stable for a week")]


def catalogue(*checks: CheckPanel, **changes: Any) -> Catalogue:
    shown = checks or (*ci_checks(), *snapshot_checks())
    sent = (*(each.metric for each in shown), DURATION, *QUOTA, *CHECK_METRICS, *COLLECTOR_METRICS)
    facts: dict[str, Any] = {
        "env": "production",
        "heartbeat": timedelta(minutes=5),
        "collectors": [CollectorPanel("ci", TEN, QUOTA), CollectorPanel("training", HOUR)],
        "checks": list(shown),
        "distributions": {DURATION: "ci"},
        "metrics": {each.name: each for each in sent},
    }
    return Catalogue(**facts | changes)


def board(key: str, shown: Catalogue | None = None) -> dict[str, Any]:
    return next(each.content for each in build(shown or catalogue()) if each.key == key)


def definitions(holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every widget's definition, those in groups included."""
    for widget in holder["widgets"]:
        yield widget["definition"]
        if widget["definition"]["type"] == "group":
            yield from definitions(widget["definition"])


def texts(value: Any, key: str = "query") -> Iterator[str]:
    """All texts under ``key``, at any depth."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == key and isinstance(part, str):
                yield part
            yield from texts(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, key)
