"""Names and tags as Datadog takes them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.samples import Metric, Sample, format_tag, normalize_metric_name, normalize_tag


def test_a_metric_is_named_as_datadog_would_name_it() -> None:
    plain, long = "metta.infra.cron.ci.workflow.success", "a" * 300
    names = {plain: plain, "hearts per-minute": "hearts_per_minute", "héarts": "h_arts", long: "a" * 200}
    assert {name: normalize_metric_name(name) for name in names} == names
    assert not any(map(normalize_metric_name, ("9lives", "_private", "élan", "")))


def test_a_tag_travels_as_written_but_for_what_datadog_refuses() -> None:
    """And is asked for in a query as Datadog stores it."""
    for name, value, valid in (
        ("condition", "< 5.0", "condition:< 5.0"),
        ("url", "http://a:80/b", "url:http://a:80/b"),
        ("task", "a\nb\x00c", "task:a_b_c"),
        ("task", "half \ud83d", "task:half _"),
        ("task", "ends:", "task:ends"),
        ("task", "x" * 194 + ":y", "task:" + "x" * 194),
        ("task", " ", None),
        ("1st", "x", None),
        ("n" * 200, "x", None),
    ):
        assert format_tag(name, value) == valid
    filters = [("condition", "< 5.0"), ("Task", "Upper  case!"), ("label", "P1/urgent")]
    assert [normalize_tag(*each) for each in filters] == ["condition:_5.0", "task:upper_case", "label:p1/urgent"]


@settings(max_examples=30)
@given(st.text(), st.text())
def test_whatever_a_tag_is_it_is_one_that_an_intake_takes_or_none(name: str, value: str) -> None:
    text = format_tag(name, value)
    if text is not None:
        assert text[0].isalpha()
        assert len(text) <= 200
        assert not text.endswith(":")
        assert text.encode()


def test_a_sample_is_written_as_dry_run_shows_it_and_needs_a_zone() -> None:
    at = datetime(2025, 1, 14, 15, tzinfo=UTC)
    shown = {"metric": "m", "value": 1.5, "tags": {"a": "b"}, "kind": "gauge", "timestamp": at.isoformat()}
    assert Sample(Metric("m"), 1.5, at, {"a": "b"}).as_json() == shown
    with pytest.raises(ValueError, match="has no zone"):
        Sample(Metric("m"), 1.5, at.replace(tzinfo=None))
