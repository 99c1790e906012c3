"""The thresholds that settings give to checks, in place of what a snapshot or a program says."""

from pathlib import Path
from typing import Any

import pytest

from service.collectors.exec import ExecSettings
from service.collectors.registry import settings_of
from service.collectors.snapshot import SnapshotSettings
from service.config.loader import load
from service.config.settings import describe, differences
from service.domain.errors import ConfigError
from service.domain.samples import Rule

KEYS = {"type": "snapshot", "schedule": "@daily", "category": "training"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{a: low}", ': must be a condition such as "> 0.5", "in [1, 2]" or ">= 0.85x", not "low"'),
        (
            "{a: {condition: '> 1', baseline: {}}}",
            ': baseline is for a condition such as ">= 0.85x", and this one is "> 1"',
        ),
        ("{a: {condition: '> 1x', baseline: {last: 4}}}", 'baseline.last: must be greater than or equal to 5, not "4"'),
        ("{a: {condition: '> 1x', baseline: {of: mean}}}", "baseline.of: must be 'median', not \"mean\""),
        ("{a: {condition: '> 1', four: 2}}", "four: is no setting; did you mean for?"),
        ("{a: {condition: '> 1', for: 0}}", 'for: must be greater than or equal to 1, not "0"'),
        ("{a: {for: 2}}", "condition: is missing"),
    ],
)
@pytest.mark.parametrize("type", ["snapshot, category: training", "exec, command: [cat]"])
def test_a_mistake_is_told_with_its_place(type: str, text: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f'collectors:\n  x: {{type: {type}, schedule: "@daily",\n    thresholds: {text}}}\n')
    with pytest.raises(ConfigError) as raised:
        load(file, {}, settings_of)
    (line,) = str(raised.value).splitlines()
    assert "config.yaml:3:" in line
    assert ": collectors.x.thresholds.a" in line
    assert line.endswith(error), line


def test_a_condition_stands_alone_or_with_its_baseline_and_for() -> None:
    whole: dict[str, Any] = {"condition": "<= 1.2x", "baseline": {"last": 30, "skip": 1}, "for": 2}
    given = {"a/*": ">= 0.85x", "b": whole, "c": "> 5", "d": {"condition": "> 5", "for": 3}}
    settings = SnapshotSettings.model_validate({**KEYS, "thresholds": given})
    rules = [each.make_rule() for each in settings.thresholds.values()]
    assert rules == [Rule(), Rule(30, 1, fail_after=2), None, Rule(fail_after=3)]
    assert describe(settings)["thresholds"]["b"] == {**whole, "baseline": {"of": "median", **whole["baseline"]}}
    other = SnapshotSettings.model_validate({**KEYS, "thresholds": {**given, "b": {**whole, "for": 3}}})
    assert differences(settings, other) == {"thresholds.b.for": "2 -> 3"}
    text = ExecSettings.model_validate(
        {"type": "exec", "schedule": "@daily", "command": "cat", "thresholds": '{"a": {"condition": "> 1x", "for": 2}}'}
    )
    assert text.thresholds["a"].make_rule() == Rule(fail_after=2)
