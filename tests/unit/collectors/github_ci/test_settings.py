"""The settings of ``github_ci`` and the replaced system's environment."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from service.collectors.github_ci import GithubCi, GithubCiSettings

ENVIRON = {
    "METTA_GITHUB_HOTFIX_LABELS": "hotfix, hot fix",
    "CI_HISTORY_WINDOW_HOURS": "36",
    "CI_WEEKLY_WINDOW_DAYS": "3.5",
    "CI_P90_DURATION_MINUTES": "7",
}


def settings(**values: Any) -> GithubCiSettings:
    return GithubCiSettings.model_validate({"type": "github_ci", "schedule": "*/10 * * * *"} | values)


def test_the_replaced_systems_environment_fills_the_same_settings() -> None:
    """Its windows are plain hours and days, or durations."""
    values = GithubCiSettings.legacy_environment({}, ENVIRON)
    found = settings(**values | {"thresholds": {"p90_minutes": values.pop("thresholds.p90_minutes")}})
    assert (found.hotfix_labels, found.thresholds.p90_minutes) == (("hotfix", "hot fix"), 7)
    assert (found.history_window, found.weekly_window) == (timedelta(hours=36), timedelta(days=3.5))
    found = settings(**GithubCiSettings.legacy_environment({}, {"CI_HISTORY_WINDOW_HOURS": "90m"}))
    assert found.history_window == timedelta(minutes=90)


@pytest.mark.parametrize(
    "values",
    [
        {"repo": "a/.."},
        {"repo": "a/b.git"},
        {"repositories": ["a/b", "A/B"]},
        {"branch": ""},
        {"history_window": "31d"},
        {"thresholds": {"p90_minutes": "< five"}},
        {"thresholds": {"p91": 1}},
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**values)


def test_the_checks_that_the_settings_ask_for_are_told() -> None:
    asked = settings(repositories=["a/b", "a/c"], benchmarks=[1], revert_labels=[], bug_sub_labels=["crash"])
    names = [name.removeprefix("metta.infra.cron.") for name, _ in GithubCi.expected_checks(asked)]
    assert (len(names), names.count("github.bugs.count")) == (2 * 12, 4)
    assert {"ci.workflow.tests_blocking_merge", "github.reverts.count", "ci.workflow.duration"}.isdisjoint(names)
