"""The numbers against a naive truth over random repositories, and the conditions as they are written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.collectors import ci_evidence, ci_metrics, ci_runs
from service.collectors.ci_metrics import LINES, METRICS, Finding, to_samples
from service.collectors.ci_settings import Thresholds
from tests.github_world import NOW, Asked, random_world, truth

NOT_OF_RUNS = {"ci.jobs.timed_out", "github.bugs.count"}


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([0.2, 3, 20, 80]), st.data())
@settings(max_examples=60, deadline=None)
def test_the_numbers_equal_the_naive_truth(seed: int, workflows: int, rate: float, data: st.DataObject) -> None:
    world = random_world(seed, workflows=workflows, runs_a_day=rate, days=4)
    ids = [each.id for each in world.workflows]
    listed = tuple(data.draw(st.sets(st.sampled_from(ids), max_size=2)))
    asked = Asked(tests=listed, hotfix=(), force_merge=(), reverts=())
    runs = [ci_runs.to_run(world.run_json(run), "main") for run in world.runs]
    latest = ci_runs.latest_conclusive(runs)
    since = world.now - asked.window
    attempts = {
        run.id: {number: attempt.conclusion or "none" for number, attempt in enumerate(run.attempts[:-1], 1)}
        for run in world.runs
    }
    others = [each.id for each in world.workflows if each.state == "active" and each.id not in listed]
    findings = [
        *ci_metrics.of_window(runs, since),
        ci_metrics.passing("ci.workflow.tests_blocking_merge", [latest.get(each) for each in listed]),
        ci_metrics.failing(latest.get(each) for each in others),
        ci_metrics.flaky(
            [
                run
                for run in ci_runs.started_since(runs, since)
                if run.conclusion == "success" and ci_runs.has_failed_attempt(run, attempts[run.id]) is True
            ]
        ),
    ]
    values = {finding.name: finding.value for finding in findings if finding.value is not None}
    expected = truth(world, asked)
    assert values == pytest.approx({name: expected[name] for name in expected if name not in NOT_OF_RUNS})
    for finding in findings:
        ends = [each.at for each in finding.evidence if each.at]
        assert ends == sorted(ends, reverse=True)
        assert len(ends) == min(ci_evidence.MOST, len(ends))
        if finding.name in ("ci.workflow.cancelled", "ci.workflow.other_failing", "ci.workflow.flaky_tests"):
            assert len(ends) == min(ci_evidence.MOST, finding.value or 0)


def test_thresholds_travel_as_written_and_decide_the_status() -> None:
    thresholds = Thresholds(p90_minutes=7, cancelled=3, hotfix=2.5)
    values = [
        Finding("github.hotfix.count", 3),
        Finding("ci.workflow.duration.p90", 7.0),
        Finding("ci.workflow.cancelled", 2),
    ]
    samples, _ = to_samples(values, thresholds, NOW)
    assert [(sample.tags["condition"], sample.tags["status"]) for sample in samples] == [
        ("< 7.0", "fail"),
        ("< 3", "pass"),
        ("< 2.5", "fail"),
    ]


def test_the_default_conditions_are_the_contracts() -> None:
    assert [ci_metrics.condition_of(name, Thresholds()) for name in LINES] == [
        *("> 0", "> 0", "< 2", "=1.0", "=1.0", "< 10", "< 5.0", "< 10", "none", "< 10", "< 5", "< 7", "< 1", "none"),
    ]
    assert ci_metrics.condition_of("github.bugs.count", Thresholds(bugs=30)) == "< 30"


def test_nothing_to_measure_is_no_sample_but_an_unmeasured_check() -> None:
    samples, unmeasured = to_samples([Finding(name, None) for name in LINES], Thresholds(), NOW)
    assert samples == ()
    assert [tags["status"] for tags in unmeasured] == ["unknown"] * len(LINES)


def test_each_check_is_in_the_catalogue_once() -> None:
    checks = {(line.workflow_name, line.task, line.check) for line in LINES.values()}
    assert len(checks) == len(METRICS) == len(LINES)
    assert all(metric.help for metric in METRICS)
