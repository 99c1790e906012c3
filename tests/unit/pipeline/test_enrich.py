"""What a run's samples become before they are stored."""

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from service.domain.checks import CHECK_AGE, CHECK_STATE, CHECK_THRESHOLD, CHECK_VALUE, Check
from service.domain.runs import CollectResult, NoData
from service.domain.samples import Evidence, Kind, Metric, Sample, Status
from service.pipeline.enrich import enrich, own_samples, prepare_samples
from service.pipeline.job import UP
from tests.unit.pipeline.stage import CHECK, METRIC, START, Scripted, make_job

STABLE = {name: value for name, value in CHECK.items() if name not in ("condition", "status")}


def prepare(own: dict[str, str], value: float = 1, **job: Any) -> dict[str, str]:
    (sample,), errors = prepare_samples(make_job(**job), [Sample(METRIC, value, START, own)], START)
    assert not errors
    return dict(sample.tags)


def test_a_check_is_sent_with_the_required_tags_then_the_configured_then_its_own() -> None:
    tags = prepare({"commit": "abc", **CHECK, "Env": "spoofed"}, tags={"team": "infra", "commit": "none"})
    assert list(tags.items()) == [
        *CHECK.items(),
        ("env", "production"),
        ("service", "infra-health-dashboard"),
        ("version", "1.2.3"),
        ("team", "infra"),
        ("commit", "abc"),
    ]


@pytest.mark.parametrize("missing", ["workflow_name", "task", "check"])
def test_a_sample_that_lacks_a_tag_of_checks_is_a_plain_metric(missing: str) -> None:
    own = {name: value for name, value in CHECK.items() if name != missing} | {"service": "mine", "team": "own"}
    tags = prepare(own, tags={"team": "infra", "zone": "a"})
    ours = {"env": "production", "service": "infra-health-dashboard", "version": "1.2.3", "zone": "a"}
    assert tags == {**own, **ours}
    assert enrich(make_job(), CollectResult((Sample(METRIC, 1, START, own),)), [], START).checks == []


@pytest.mark.parametrize(
    ("own", "value", "status"),
    [
        ({"condition": "in [1, 2]"}, 3, "fail"),
        ({"condition": "< 5", "status": "degraded"}, 6, "fail"),
        ({"condition": "stable for a week"}, 1, "unknown"),
        ({"condition": "< 5", "status": "fail"}, 4, "fail"),
        ({}, 1, "unknown"),
    ],
)
def test_a_check_without_a_status_gets_the_verdict_of_its_condition_and_says_none_for_other_tags(
    own: dict[str, str], value: float, status: str
) -> None:
    tags = prepare({"workflow_name": "w", "task": "t", "check": "c", **own}, value)
    assert (tags["status"], tags["condition"]) == (status, own.get("condition", "none"))
    assert (tags["source"], tags["workflow_category"]) == ("none", "none")


def test_a_count_gets_the_schedules_interval() -> None:
    count = Metric("test.count", Kind.COUNT)
    samples = [Sample(count, 5, START), Sample(count, 5, START, interval=60), Sample(METRIC, 1, START)]
    prepared, _ = prepare_samples(make_job(schedule="0 * * * *"), samples, START)
    assert [each.interval for each in prepared] == [3600, 60, None]


@pytest.mark.parametrize(
    ("metric", "change", "fault"),
    [
        ("1st näme", {}, "the metric's name does not begin with a letter"),
        ("test.other", {"value": math.nan}, "the value is no finite number"),
        ("test.other", {"value": 10**400}, "the value is no finite number"),
        ("test.other", {"value": None}, "the value is no finite number"),
        ("test.other", {"at": START + timedelta(seconds=601)}, "the time is more than 10 minutes in the future"),
        ("test.other", {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))}, "the time is before 1970"),
        ("test.other", {"measured_at": datetime(1969, 1, 1, tzinfo=START.tzinfo)}, "the time is before 1970"),
        ("test.other", {"interval": 10**30}, "an interval of 1e+30 seconds"),
        ("test.other", {"interval": -5}, "an interval of -5 seconds"),
    ],
)
def test_samples_that_can_t_be_sent_are_left_out_and_reported(metric: str, change: dict[str, Any], fault: str) -> None:
    bad = replace(Sample(Metric(metric), 1, START), **change)
    good, errors = prepare_samples(make_job(), [bad, bad, Sample(METRIC, 2, START)], START)
    assert [each.metric for each in good] == [METRIC]
    assert [str(error) for error in errors] == [f"metric {metric!r}: {fault} (2 samples)"]


def test_a_check_has_stable_series_whose_tags_do_not_flip() -> None:
    evidence = (Evidence("run 1"),)
    sample = Sample(METRIC, 0.9, START, CHECK | {"label": "bug"}, START - timedelta(minutes=50), None, evidence)
    enriched = enrich(make_job(), CollectResult((sample,)), [], START)
    assert {each.metric: each.value for each in enriched.series} == {
        CHECK_STATE: 0,
        CHECK_THRESHOLD: 0.5,
        CHECK_VALUE: 0.9,
        CHECK_AGE: 3000,
    }
    own = STABLE | {"label": "bug", "env": "production", "service": "infra-health-dashboard"}
    assert all(each.tags == own for each in enriched.series)
    (check,) = enriched.checks
    assert (check.status, check.since, check.evidence) == (Status.PASS, START, evidence)


def test_a_check_with_nothing_to_measure_is_unknown_under_the_same_key() -> None:
    names = {"workflow_name": "w", "task": "t", "check": "c"}
    job = make_job(tags={"repo": "a/b"})
    measured = enrich(job, CollectResult((Sample(METRIC, 1, START, names),)), [], START)
    after = enrich(job, CollectResult(no_data=(NoData(names),)), measured.checks, START)
    assert [check.status for check in after.checks] == [Status.UNKNOWN]


def test_what_the_collectors_settings_ask_for_no_more_is_forgotten() -> None:
    class Settled(Scripted):
        def asks_for(self, check: Check) -> bool:
            return check.tags["task"] != "gone"

    asked, gone = Sample(METRIC, 1, START, CHECK), Sample(METRIC, 1, START, CHECK | {"task": "gone"})
    both = enrich(make_job(), CollectResult((asked, gone)), [], START).checks
    left = enrich(make_job(Settled()), CollectResult(), both, START)
    assert [check.tags["task"] for check in left.checks] == [CHECK["task"]]
    assert {sample.tags["task"] for sample in left.series} == {CHECK["task"]}


def test_a_collectors_health_carries_the_replaced_cronjobs_service_and_what_it_says_itself() -> None:
    quota = Metric("metta.infra.collector.quota_remaining")

    class Reporting(Scripted):
        def own_values(self, now: datetime) -> dict[Metric, float]:
            return {quota: 17, METRIC: math.nan}

    samples = own_samples(make_job(Reporting()), {UP: 1}, START)
    assert {each.metric: each.value for each in samples} == {UP: 1, quota: 17}
    tags = {"collector": "ci", "env": "production", "service": "dashboard-collector", "version": "1.2.3"}
    assert samples[0].tags == tags
