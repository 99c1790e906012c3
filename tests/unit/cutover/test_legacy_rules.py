"""Each rule of the replaced collector is found as the cause of the difference that it makes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from service.collectors.github_ci.models import Attempt, Run, Workflow
from service.collectors.github_ci.settings import GithubCiSettings
from service.cutover.compare import Difference, read_baseline
from service.cutover.legacy_rules import Cause, Facts, find_causes
from service.domain.errors import ConfigError

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = GithubCiSettings.model_validate(
    {"type": "github_ci", "schedule": "*/10 * * * *", "tests_blocking_merge": ["1"], "benchmarks": ["2"]}
)
CI = "metta.infra.cron.ci.workflow."
PULLS = "metta.infra.cron.github."


def run(number: int, hours: float, conclusion: str | None = "success", **more: Any) -> Run:
    """A run of workflow 1 on the branch that began so many hours ago and took ten minutes."""
    created = NOW - hours * HOUR
    plain = Run(number, 1, 1, "push", True, "completed", conclusion, created, created, created + HOUR / 6)
    return msgspec.structs.replace(plain, **more)


def facts(*runs: Run, **more: Any) -> Facts:
    return replace(Facts(SETTINGS, NOW, NOW, runs), **more)


MANY = [run(number, 1 + number / 10, "failure" if number == 120 else "success") for number in range(1, 151)]
CANCELLED = [msgspec.structs.replace(each, conclusion="cancelled") for each in MANY]
PULL_RUNS = [run(number, number, event="pull_request", on_branch=False) for number in range(1, 11)]
SLOW = [run(20 + number, number, updated=NOW - (number - 0.5) * HOUR) for number in range(1, 11)]
RERUN = run(1, 30, event="pull_request", started=NOW - HOUR, updated=NOW - HOUR / 3)
FLAKY = run(3, 1, attempt=2, earlier={1: Attempt("cancelled", NOW)})


@pytest.mark.parametrize(
    ("metric", "baseline", "runs", "causes"),
    [
        ("success", 0, [run(1, 1), run(2, 2, "cancelled")], [Cause.CANCELLED]),
        ("tests_blocking_merge", 0, [run(1, 2), run(2, 1, "cancelled")], [Cause.CANCELLED]),
        ("success", 0, [run(1, 1), run(2, 2, None)], [Cause.UNFINISHED]),
        ("success", 1, MANY, [Cause.CUT]),
        ("cancelled", 100, CANCELLED, [Cause.CUT]),
        ("duration.p90", 30, [*PULL_RUNS, *SLOW], [Cause.ALL_RUNS]),
        ("duration.p90", 10, [RERUN, run(2, 3, event="pull_request")], [Cause.CREATION]),
        ("success", 1, [run(1, 30, "failure", started=NOW - HOUR), run(2, 2)], [Cause.CREATION]),
        ("success", 0.5, [run(1, 1), run(2, 2, "failure")], [Cause.SHARE]),
        ("flaky_tests", 1, [FLAKY], [Cause.RERUNS]),
        ("success", 99 / 100, [*MANY, run(200, 0.5, "cancelled")], [Cause.SHARE, Cause.CANCELLED, Cause.CUT]),
        ("success", 0.123, [run(1, 1), run(2, 2, "cancelled")], []),
    ],
)
def test_the_smallest_set_of_rules_that_gives_the_number(
    metric: str, baseline: float, runs: list[Run], causes: list[Cause]
) -> None:
    assert find_causes(CI + metric, baseline, facts(*runs)) == causes


def test_workflows_beyond_the_first_page() -> None:
    listed = [Workflow(number, "active", f"w{number}") for number in range(1, 41)]
    runs = [run(number, 2, "failure" if number > 25 else "success", workflow_id=number) for number in range(1, 41)]
    known = facts(*runs, workflows=listed)
    assert find_causes(CI + "other_failing", 5, known) == [Cause.FIRST_PAGE]
    assert find_causes(CI + "other_failing", 5, replace(known, workflows=None)) == [], "GitHub was not asked again"


def test_whole_days_of_pull_requests() -> None:
    known = facts(pulls={"github.hotfix.count": (4.0, 6.0)})
    assert find_causes(PULLS + "hotfix.count", 6, known) == [Cause.WHOLE_DAYS]
    assert find_causes(PULLS + "hotfix.count", 7, known) == []
    assert find_causes(PULLS + "hotfix.count", 4, known) == [], "our own rules give it: then ours was wrong"
    younger = replace(known, baseline_at=NOW + HOUR / 15)
    assert find_causes(PULLS + "hotfix.count", 4, younger) == [Cause.MOMENT]


def test_another_moment() -> None:
    earlier = facts(run(1, 5, "cancelled"), run(2, 0.5, "cancelled"), baseline_at=NOW - HOUR)
    assert find_causes(CI + "cancelled", 1, earlier) == [Cause.MOMENT]
    later = facts(run(1, 5, "cancelled"), run(2, -0.1, "cancelled"), baseline_at=NOW + HOUR / 3)
    assert find_causes(CI + "cancelled", 2, later) == [Cause.MOMENT]
    assert find_causes(CI + "cancelled", 2, replace(later, baseline_at=None)) == [], "a later run of ours knew it"
    assert find_causes(CI + "cancelled", 1, later) == [], "our own rules give it: then ours was wrong"
    # Of a moment whose runs are not kept any more nothing can be said, least of all that there were none.
    assert find_causes(CI + "cancelled", 0, replace(earlier, baseline_at=NOW - timedelta(days=9))) == []


def test_a_file_of_the_replaced_tool() -> None:
    content = b"""[
        {"metric": "m", "value": 1, "tags": {"workflow_name": "a", "task": "b", "check": "c", "status": "pass"},
         "kind": "gauge", "timestamp": "2026-03-04T15:30:00+00:00"},
        {"metric": "m", "value": 2.5, "timestamp": "2026-03-04T15:30:00"},
        {"metric": "m", "value": 3, "timestamp": 1772638200}
    ]"""
    values = read_baseline(content, "ci.json")
    assert [value.value for value in values] == [1, 2.5, 3]
    assert values[0].check == "a / b / c"
    assert {value.at for value in values} == {NOW}
    unexplained = Difference(values[0], msgspec.structs.replace(values[0], value=2), hint="measured 20 min apart")
    assert unexplained.as_row() == ("m", "a / b / c", "1", "2", "UNEXPLAINED (measured 20 min apart)")
    for wrong, reason in [("[", "truncated"), ("{}", "array"), ('[{"metric": "m", "value": "1"}]', r"\$\[0\].value")]:
        with pytest.raises(ConfigError, match=f"ci.json: is no list of samples.*{reason}"):
            read_baseline(wrong.encode(), "ci.json")
