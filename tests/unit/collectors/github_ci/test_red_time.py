"""For how long the branch was red, from what is known of attempts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.collectors.github_ci.culprits import measure_red_time
from service.collectors.github_ci.evidence import BEGINNING
from service.collectors.github_ci.models import Attempt, Run, WorkflowRuns

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE, SINCE = timedelta(minutes=1), NOW - timedelta(hours=24)


def run(began: int, took: int, conclusion: str | None, **more: Any) -> Run:
    """Minutes after the window's beginning, and long."""
    at = SINCE + began * MINUTE
    ended = at + took * MINUTE
    return Run(began + 9000, 7, on_branch=True, conclusion=conclusion, created=at, started=at, updated=ended, **more)


def rerun(began: int, again: int, took: int, conclusion: str | None, *earlier: tuple[int, int, str] | None) -> Run:
    """``earlier``: beginning, length and conclusion of each attempt before; None where it is not known."""
    found = run(again, took, conclusion, attempt=len(earlier) + 1)
    found.created = SINCE + began * MINUTE
    for number, each in enumerate(earlier, 1):
        if each:
            at = SINCE + each[0] * MINUTE
            found.earlier[number] = Attempt(each[2], at, at + each[1] * MINUTE if each[1] else None)
    return found


GREEN, RED = run(-100, 10, "success"), run(-100, 10, "failure")


@pytest.mark.parametrize(
    ("runs", "minutes"),
    [
        ([GREEN, run(60, 5, "failure"), run(120, 10, "success")], 65),
        ([RED, run(60, 5, "cancelled"), run(100, 10, None)], 1440),
        # The newest decides, however late an older one ends.
        ([GREEN, run(60, 90, "failure"), run(70, 10, "success")], 0),
        # While it is run again a run has no verdict.
        ([GREEN, rerun(0, 60, 20, "success", (0, 10, "failure"))], 50),
        ([RED, rerun(0, 60, 20, "success", (0, 10, "success"))], 10 + 20),
        # An end, or an attempt, that is not known does not matter where all that is possible comes to the same.
        ([GREEN, run(0, 90, "success", has_known_end=False)], 0),
        ([GREEN, run(0, 90, "failure", has_known_end=False)], None),
        ([RED, run(0, 90, "failure", has_known_end=False)], 1440),
        ([GREEN, rerun(0, 60, 20, "success", None), run(0, 0, "success")], 0),
        ([GREEN, rerun(0, 60, 20, "success", (0, 0, "failure"))], None),
        ([GREEN, rerun(0, 60, 20, "success", (0, 10, "failure"), None)], None),
        # What was before the first run is not known, unless the workflow is as young as that.
        ([run(60, 10, "success")], None),
    ],
)
def test_the_minutes_in_which_the_newest_verdict_was_a_failure(runs: list[Run], minutes: float | None) -> None:
    found = measure_red_time([WorkflowRuns("w.yml", runs)], SINCE, SINCE, NOW)
    assert found.span == (None if minutes is None else minutes * MINUTE)
    assert bool(found.runs) == bool(minutes) or minutes is None


def test_several_workflows_are_counted_once_and_hide_what_is_not_known_of_another() -> None:
    young = WorkflowRuns("young.yml", [run(60, 10, "failure"), run(80, 10, "success")], SINCE)
    other = WorkflowRuns("other.yml", [GREEN, run(75, 10, "failure"), run(100, 10, "success")])
    unknown = WorkflowRuns("unknown.yml", [run(100, 5, "success")], BEGINNING)
    assert measure_red_time([young, other], SINCE, SINCE, NOW).span == 40 * MINUTE
    assert measure_red_time([young, unknown], SINCE, SINCE, NOW).span is None
    always = WorkflowRuns("always.yml", [RED])
    assert measure_red_time([young, unknown, always], SINCE, SINCE, NOW).span == 1440 * MINUTE
