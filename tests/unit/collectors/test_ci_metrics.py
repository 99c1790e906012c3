"""The numbers against a naive truth over random repositories, and the conditions as they are written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.collectors import ci_metrics, ci_runs
from service.collectors.ci_metrics import LINES, METRICS, to_samples
from service.collectors.ci_settings import Thresholds
from tests.github_world import NOW, Asked, random_world, truth


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
    values = ci_metrics.of_window(runs, since) | {
        "ci.workflow.tests_blocking_merge": ci_metrics.passing(latest.get(each) for each in listed),
        "ci.workflow.other_failing": ci_metrics.failing(latest.get(each) for each in others),
        "ci.workflow.flaky_tests": sum(
            run.conclusion == "success" and ci_runs.has_failed_attempt(run, attempts[run.id]) is True
            for run in ci_runs.started_since(runs, since)
        ),
    }
    assert {name: value for name, value in values.items() if value is not None} == pytest.approx(truth(world, asked))


def test_thresholds_travel_as_written_and_decide_the_status() -> None:
    thresholds = Thresholds(p90_minutes=7, cancelled=3, hotfix=2.5)
    values = {"ci.workflow.duration.p90": 7.0, "ci.workflow.cancelled": 2, "github.hotfix.count": 3}
    samples, _ = to_samples(values, thresholds, NOW)
    assert [(sample.tags["condition"], sample.tags["status"]) for sample in samples] == [
        ("< 7.0", "fail"),
        ("< 3", "pass"),
        ("< 2.5", "fail"),
    ]


def test_the_default_conditions_are_the_contracts() -> None:
    texts = ci_metrics.threshold_texts(Thresholds())
    assert [line.condition.format(**texts) for line in LINES.values()] == [
        *("> 0", "> 0", "< 2", "=1.0", "=1.0", "< 10", "< 5.0", "< 10", "< 5", "< 7", "< 1"),
    ]


def test_nothing_to_measure_is_no_sample_but_an_unmeasured_check() -> None:
    samples, unmeasured = to_samples(dict.fromkeys(LINES, None), Thresholds(), NOW)
    assert samples == ()
    assert [tags["status"] for tags in unmeasured] == ["unknown"] * len(LINES)


def test_each_check_is_in_the_catalogue_once() -> None:
    checks = {(line.workflow_name, line.task, line.check) for line in LINES.values()}
    assert len(checks) == len(METRICS) == len(LINES)
    assert all(metric.help for metric in METRICS)
