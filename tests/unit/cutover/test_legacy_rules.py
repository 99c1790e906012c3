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


def run(number: int, hours: float, conclusion: str | None = "success", **more: Any) -> Run:
    """A run of workflow 1 on the branch that began so many hours ago and took ten minutes."""
    created = NOW - hours * HOUR
    plain = Run(number, 1, 1, "push", True, "completed", conclusion, created, created, created + HOUR / 6)
    return msgspec.structs.replace(plain, **more)


def facts(*runs: Run, **more: Any) -> Facts:
    return replace(Facts(SETTINGS, NOW, NOW, runs), **more)


MANY = [run(number, 1 + number / 10, "failure" if number == 120 else "success") for number in range(1, 151)]
SLOW = [run(20 + number, number, updated=NOW - (number - 0.5) * HOUR) for number in range(1, 11)]
FLAKY = run(3, 1, attempt=2, earlier={1: Attempt("cancelled", NOW)})
FORTY = [run(number, 2, "failure" if number > 25 else "success", workflow_id=number) for number in range(1, 41)]
LISTED = [Workflow(number, "active", f"w{number}") for number in range(1, 41)]
PULLS = facts(pulls={"github.hotfix.count": (4.0, 6.0)})
EARLIER = facts(run(1, 5, "cancelled"), run(2, 0.5, "cancelled"), baseline_at=NOW - HOUR)
LATER = facts(run(1, 5, "cancelled"), run(2, -0.1, "cancelled"), baseline_at=NOW + HOUR / 3)


@pytest.mark.parametrize(
    ("metric", "baseline", "known", "causes"),
    [
        ("success", 0, facts(run(1, 1), run(2, 2, "cancelled")), [Cause.CANCELLED]),
        ("success", 0, facts(run(1, 1), run(2, 2, None)), [Cause.UNFINISHED]),
        ("success", 1, facts(*MANY), [Cause.CUT]),
        ("duration.p90", 30, facts(run(1, 1, event="pull_request", on_branch=False), *SLOW), [Cause.ALL_RUNS]),
        ("success", 1, facts(run(1, 30, "failure", started=NOW - HOUR), run(2, 2)), [Cause.CREATION]),
        ("success", 0.5, facts(run(1, 1), run(2, 2, "failure")), [Cause.SHARE]),
        ("flaky_tests", 1, facts(FLAKY), [Cause.RERUNS]),
        ("success", 0.99, facts(*MANY, run(200, 0.5, "cancelled")), [Cause.SHARE, Cause.CANCELLED, Cause.CUT]),
        ("success", 0.123, facts(run(1, 1), run(2, 2, "cancelled")), []),
        ("other_failing", 5, facts(*FORTY, workflows=LISTED), [Cause.FIRST_PAGE]),
        ("other_failing", 5, facts(*FORTY), []),  # GitHub was not asked again
        ("hotfix.count", 6, PULLS, [Cause.WHOLE_DAYS]),
        ("hotfix.count", 4, PULLS, []),  # our own rules give it: then ours was wrong
        ("hotfix.count", 4, replace(PULLS, baseline_at=NOW + HOUR / 15), [Cause.MOMENT]),
        ("cancelled", 1, EARLIER, [Cause.MOMENT]),
        ("cancelled", 2, LATER, [Cause.MOMENT]),
        ("cancelled", 2, replace(LATER, baseline_at=None), []),  # a later run of ours knew it
        # Of a moment whose runs are not kept any more nothing can be said, least of all that there were none.
        ("cancelled", 0, replace(EARLIER, baseline_at=NOW - timedelta(days=9)), []),
    ],
)
def test_the_smallest_set_of_rules_that_gives_the_number(
    metric: str, baseline: float, known: Facts, causes: list[Cause]
) -> None:
    group = "github" if metric == "hotfix.count" else "ci.workflow"
    assert find_causes(f"metta.infra.cron.{group}.{metric}", baseline, known) == causes


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
    for wrong, reason in [("[", "truncated"), ('[{"metric": "m", "value": "1"}]', r"\$\[0\].value")]:
        with pytest.raises(ConfigError, match=f"ci.json: is no list of samples.*{reason}"):
            read_baseline(wrong.encode(), "ci.json")
