"""Each rule of the replaced collector, on a busy repository, is found as the cause of the difference that it makes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.collectors.ci_runs import Run
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow
from service.comparison.replaced import Cause, Facts, causes
from service.comparison.values import Pair, Value, line_up
from service.comparison.verdicts import judge, markdown, summary

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
SETTINGS = GithubCiSettings.model_validate(
    {"type": "github_ci", "schedule": "*/10 * * * *", "tests_blocking_merge": ["1"], "benchmarks": ["2"]}
)
CI = "metta.infra.cron.ci.workflow."
PULLS = "metta.infra.cron.github."


def run(number: int, hours: float, conclusion: str | None = "success", **values: object) -> Run:
    created = NOW - timedelta(hours=hours)
    plain = Run(number, 1, 1, "push", True, conclusion, created, created, created + timedelta(minutes=10))
    return replace(plain, **values)  # type: ignore[arg-type]


def facts(*runs: Run, **values: object) -> Facts:
    return replace(Facts(SETTINGS, NOW, runs), **values)  # type: ignore[arg-type]


def test_cancelled_runs_counted() -> None:
    known = facts(run(1, 1), run(2, 2, "cancelled"))
    assert causes(CI + "success", 0, known) == [Cause.CANCELLED]
    assert causes(CI + "tests_blocking_merge", 0, facts(run(1, 2), run(2, 1, "cancelled"))) == [Cause.CANCELLED]


def test_a_window_cut_at_100_runs() -> None:
    many = [run(number, 1 + number / 10) for number in range(1, 151)]
    many[120] = replace(many[120], conclusion="failure")
    assert causes(CI + "success", 1, facts(*many)) == [Cause.CUT]
    cancelled = [replace(each, conclusion="cancelled") for each in many]
    assert causes(CI + "cancelled", 100, facts(*cancelled)) == [Cause.CUT]


def test_all_runs_instead_of_pre_merge_ones() -> None:
    pulls = [run(number, number, event="pull_request", on_branch=False) for number in range(1, 11)]
    slow = [run(20 + number, number, updated=NOW - timedelta(hours=number - 0.5)) for number in range(1, 11)]
    assert causes(CI + "duration.p90", 30, facts(*pulls, *slow)) == [Cause.ALL_RUNS]


def test_a_rerun_timed_from_its_creation() -> None:
    again = run(1, 30, event="pull_request", started=NOW - timedelta(hours=1), updated=NOW - timedelta(minutes=20))
    other = run(2, 3, event="pull_request")
    known = facts(again, other)
    assert causes(CI + "duration.p90", 10, known) == [Cause.CREATION]
    assert causes(CI + "success", 1, facts(run(1, 30, "failure", started=NOW - timedelta(hours=1)), run(2, 2))) == [
        Cause.CREATION
    ]


def test_workflows_beyond_the_first_page() -> None:
    listed = [Workflow(number, f"w{number}", "", "active") for number in range(1, 41)]
    runs = [run(number, 2, "failure" if number > 25 else "success", workflow_id=number) for number in range(1, 41)]
    known = facts(*runs, workflows=listed)
    assert causes(CI + "other_failing", 5, known) == [Cause.FIRST_PAGE]
    assert causes(CI + "other_failing", 5, replace(known, workflows=None)) == []


def test_whole_days_of_pull_requests_and_their_first_page() -> None:
    known = facts(pulls={"github.hotfix.count": (4.0, 6.0), "github.reverts.count": (33.0, 44.0)})
    assert causes(PULLS + "hotfix.count", 6, known) == [Cause.WHOLE_DAYS]
    assert causes(PULLS + "reverts.count", 30, known) == [Cause.FIRST_PULLS]
    assert causes(PULLS + "hotfix.count", 7, known) == []


def test_several_rules_at_once_and_the_smallest_set_wins() -> None:
    runs = [run(number, 1 + number / 10) for number in range(1, 120)]
    runs[110] = replace(runs[110], conclusion="failure")
    runs[5] = replace(runs[5], conclusion="cancelled")
    assert causes(CI + "success", 99 / 100, facts(*runs)) == [Cause.SHARE, Cause.CANCELLED, Cause.CUT]


def test_what_is_read_otherwise_is_called_so() -> None:
    half = facts(run(1, 1), run(2, 2, "failure"))
    assert causes(CI + "success", 0.5, half) == [Cause.SHARE]
    again = run(3, 1, attempt=2)
    assert causes(CI + "flaky_tests", 1, facts(again, attempts={3: {1: "cancelled"}})) == [Cause.RERUNS]
    slow = [
        run(n, 1 + n, event="pull_request", updated=NOW - timedelta(hours=1 + n) + timedelta(minutes=n * n))
        for n in range(1, 13)
    ]
    assert causes(CI + "duration.p90", 137.1, facts(*slow)) == [Cause.PERCENTILE]
    assert causes(
        CI + "duration.p90",
        118.9,
        facts(*[*slow[:9], replace(slow[9], updated=slow[9].updated + timedelta(seconds=1)), *slow[10:]]),
    ) == [Cause.ROUNDED]


def test_unfinished_runs_counted() -> None:
    known = facts(run(1, 1), run(2, 2, None))
    assert causes(CI + "success", 0, known) == [Cause.UNFINISHED]
    assert causes(CI + "tests_blocking_merge", 0, facts(run(1, 2), run(2, 1, None))) == [Cause.UNFINISHED]


def test_another_moment() -> None:
    earlier = replace(facts(run(1, 5, "cancelled"), run(2, 0.5, "cancelled")), their_now=NOW - timedelta(hours=1))
    assert causes(CI + "cancelled", 1, earlier) == [Cause.MOMENT]
    later = replace(facts(run(1, 5, "cancelled"), run(2, -0.1, "cancelled")), their_now=NOW + timedelta(minutes=20))
    assert causes(CI + "cancelled", 2, later) == [Cause.MOMENT]
    assert causes(CI + "cancelled", 2, facts(*later.runs)) == [], "a later run of ours knew it, this one not"
    assert causes(CI + "cancelled", 1, later) == [], "our own rules give it: then ours was wrong"
    pulls = facts(pulls={"github.hotfix.count": (4.0, 6.0)})
    assert causes(PULLS + "hotfix.count", 4, pulls) == []
    assert causes(PULLS + "hotfix.count", 4, replace(pulls, their_now=NOW + timedelta(minutes=4))) == [Cause.MOMENT]
    # Of a moment whose runs are not known any more nothing can be said, least of all that there were none.
    assert causes(CI + "cancelled", 0, replace(earlier, their_now=NOW - timedelta(days=9))) == []


def test_a_number_that_no_rule_gives_stays_open() -> None:
    known = facts(run(1, 1), run(2, 2, "cancelled"))
    assert causes(CI + "success", 0.123, known) == []
    assert causes("metta.infra.stablesuite.hearts", 1, known) == []


# Lining up and judging


def value(metric: str, number: float, at: datetime | None = NOW, kind: str = "gauge", **tags: str) -> Value:
    return Value(metric, number, tags, at, kind, "ci")


def verdict_of(theirs: Value | None, ours: Value | None, known: Facts | None = None, *, is_summed: bool = False) -> str:
    (verdict,) = judge(
        [Pair(theirs, ours)],
        {"": known} if known else {},
        {CI + "benchmarks"},
        {PULLS + "reverts.count": "pull requests: no answer"},
        {"ci": timedelta(minutes=10)},
        is_summed=is_summed,
    )
    assert verdict.is_open is (not verdict.causes and not verdict.pair.is_same)
    return verdict.text


def test_verdicts_of_values_that_one_side_lacks() -> None:
    assert verdict_of(value(CI + "benchmarks", 0), None) == Cause.MADE_UP
    assert verdict_of(value(PULLS + "reverts.count", 0), None) == f"{Cause.LEFT_OUT} (pull requests: no answer)"
    assert verdict_of(value(CI + "nobody", 0), None).startswith("UNEXPLAINED")
    assert verdict_of(None, value(CI + "success_ratio", 1)) == Cause.NEW
    assert verdict_of(None, value(CI + "success", 1)) == Cause.NOT_THEIRS


def test_verdicts_of_values_that_both_sides_have() -> None:
    ours = value(CI + "cancelled", 2)
    assert verdict_of(value(CI + "cancelled", 2.0000001), ours) == "same"
    assert verdict_of(value(CI + "cancelled", 288), ours, is_summed=True) == f"{Cause.SUMMED} (144 times ours)"
    assert verdict_of(value(CI + "cancelled", 3), ours).startswith("UNEXPLAINED")
    assert "UNEXPLAINED (measured 2.0 h apart" in verdict_of(value("x", 3, NOW - timedelta(hours=2)), value("x", 2))


def test_values_of_one_check_are_lined_up_though_status_and_condition_differ() -> None:
    theirs = [
        value("m", 1, NOW - timedelta(minutes=20), workflow_name="a", status="fail"),
        value("m", 2, NOW, workflow_name="a", status="pass"),
        value("m", 3, None, workflow_name="b"),
        value("gone", 1),
    ]
    ours = [
        value("m", 7, NOW - timedelta(minutes=9), workflow_name="a", condition="> 0"),
        value("m", 8, NOW + timedelta(minutes=1), workflow_name="a"),
        value("m", 9, NOW, workflow_name="b"),
        value("new", 1),
        replace(value("elsewhere", 1), collector="training"),
    ]
    found = [
        (pair.metric, pair.theirs and pair.theirs.value, pair.ours and pair.ours.value)
        for pair in line_up(theirs, ours)
    ]
    assert found == [("m", 2, 8), ("m", 3, 9), ("gone", 1, None), ("new", None, 1)]


def test_markdown_holds_whatever_a_name_holds() -> None:
    pairs = [Pair(value("m|<b>", 1, workflow_name="a|b\n"), None)]
    verdicts = judge(pairs, {}, set(), {}, {}, is_summed=False)
    text = markdown(verdicts, ["a note"])
    assert "m\\|&lt;b>" in text
    assert summary(verdicts) == {"same": 0, "explained": 0, "unexplained": 1}
    assert all(line.count("|") - line.count("\\|") == 6 for line in text.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("number", [0.0, -1.0, 1e300])
def test_no_value_breaks_the_judgement(number: float) -> None:
    assert verdict_of(value(CI + "cancelled", number), value(CI + "cancelled", 0.5), facts(), is_summed=True)
