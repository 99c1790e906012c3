"""Names and tags as Datadog takes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.naming import encode_tags, metric_name, tag


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("metta.infra.cron.ci.workflow.success", "metta.infra.cron.ci.workflow.success"),
        ("hearts per-minute", "hearts_per_minute"),
        ("héarts", "h_arts"),
        ("a" * 300, "a" * 200),
        ("9lives", None),
        ("_private", None),
        ("élan", None),
        ("", None),
    ],
)
def test_a_metric_is_named_as_datadog_would_name_it(name: str, valid: str | None) -> None:
    assert metric_name(name) == valid


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("condition", "< 5.0", "condition:< 5.0"),
        ("condition", "=1.0", "condition:=1.0"),
        ("Task", "Upper", "Task:Upper"),
        ("url", "http://a:80/b", "url:http://a:80/b"),
        ("task", "a\nb\x00c", "task:a_b_c"),
        ("task", "half \ud83d", "task:half _"),
        ("task", "🙂", "task:🙂"),
        ("task", "ends:", "task:ends"),
        ("task", "x" * 300, "task:" + "x" * 195),
        ("task", "x" * 194 + ":y", "task:" + "x" * 194),
        ("task", "", None),
        ("task", " ", None),
        ("task", ":", None),
        ("1st", "x", None),
        ("", "x", None),
        ("n" * 200, "x", None),
    ],
)
def test_a_tag_travels_as_written_but_for_what_datadog_refuses(name: str, value: str, valid: str | None) -> None:
    assert tag(name, value) == valid


def test_the_same_tags_give_the_same_text_required_ones_first() -> None:
    tags = {"zone": "a", "env": "test", "commit": "b", "source": "cron", "task": "t"}
    text = encode_tags(tags)

    assert json.loads(text) == ["source:cron", "task:t", "env:test", "commit:b", "zone:a"]
    assert encode_tags(dict(reversed(tags.items()))) == text


def test_a_tag_that_datadog_could_not_take_is_left_out() -> None:
    assert json.loads(encode_tags({"env": "test", "task": "", "2nd": "x"})) == ["env:test"]


@given(st.dictionaries(st.text(), st.text()))
def test_whatever_the_tags_are_the_text_is_json_that_an_intake_takes(tags: dict[str, str]) -> None:
    for text in json.loads(encode_tags(tags).encode()):
        assert text[0].isalpha()
        assert len(text) <= 200
        assert not text.endswith(":")
        assert ":" in text
