"""What a snapshot or an output is expected to bring, and what is said where it does not."""

from pathlib import Path
from typing import Any

import pytest

from service.collectors.expectation import Seen, find_missing
from service.collectors.records import Origin
from service.collectors.registry import settings_of
from service.collectors.snapshot import SnapshotSettings
from service.config.loader import load
from service.domain.checks import CheckKey, path_of
from service.domain.errors import ConfigError

ORIGIN = Origin("training", "metta", "stable_suite")


def key(name: str, **more: str) -> CheckKey:
    workflow, task, check = name.split("/")
    names = {"workflow_category": "training", "workflow_name": workflow, "task": task, "check": check}
    return tuple({"source": "stable_suite", **names, **more}.items())


SPS, NIGHT = key("arena/speed/sps"), key("nightly/eval/reward")


def judge(
    expected: list[str], brought: list[CheckKey], seen: Seen | None = None, **more: Any
) -> tuple[list[str], list[str], Seen]:
    """Names and summaries of the checks that are missing, the failures, and what is known afterwards."""
    by_name: dict[str, set[CheckKey]] = {}
    for each in brought:
        by_name.setdefault(path_of(each), set()).add(each)
    no_data, failures, known = find_missing(expected, by_name, seen or {}, ORIGIN, "snapshot", **more)
    told = [f"{path_of(tuple(each.tags.items()))}: {each.summary}" for each in no_data]
    return told, [str(each) for each in failures], known


def test_a_name_that_is_not_brought_is_a_check_without_data_and_a_pattern_without_a_match_a_failure() -> None:
    expected = ["arena/speed/sps", "nightly/*", "*/eval/?eward"]
    assert judge(expected, [SPS, NIGHT]) == ([], [], {"arena/speed/sps": (SPS,), "nightly/*": (), "*/eval/?eward": ()})
    missing, failures, known = judge(expected, [key("arena/speed/other")])
    assert missing == ["arena/speed/sps: no snapshot so far has had a check of this name"]
    assert failures == [
        'expect "nightly/*": the snapshot has no check of such a name',
        'expect "*/eval/?eward": the snapshot has no check of such a name',
    ]
    assert known == {}


def test_what_was_brought_once_is_missing_under_the_tags_that_it_had() -> None:
    two = [key("arena/speed/sps", repo="a/b"), key("arena/speed/sps", repo="a/c")]
    *_, seen = judge(["arena/speed/sps"], two)
    assert judge(["arena/speed/sps"], [NIGHT], seen)[::2] == (
        ["arena/speed/sps: the last snapshot has no check of this name"] * 2,
        seen,
    )
    assert judge([], [NIGHT], seen)[2] == {}, "what is not expected any more is forgotten"


def test_a_push_of_one_pipeline_says_nothing_of_the_others_once_they_have_come() -> None:
    expected = ["arena/speed/sps", "nightly/*", "nightly/eval/reward"]
    *_, seen = judge(expected, [SPS, NIGHT])
    assert judge(expected, [SPS], seen, is_whole=False) == ([], [], seen)
    missing, failures, _ = judge(expected, [key("nightly/eval/other")], seen, is_whole=False)
    assert (len(missing), failures) == (1, [])
    assert judge(expected, [SPS], {}, is_whole=False)[:2] == (
        ["nightly/eval/reward: no snapshot so far has had a check of this name"],
        ['expect "nightly/*": the snapshot has no check of such a name'],
    )


def test_a_name_with_a_slash_within_is_met_by_a_pattern() -> None:
    brought = {"a/b/c/d": {key("x/y/z")}}
    assert find_missing(["a/b?c/d", "a/*"], brought, {}, ORIGIN, "snapshot")[:2] == ([], [])


@pytest.mark.parametrize("type", ["snapshot, category: training", "exec, command: [cat]"])
@pytest.mark.parametrize("entry", ["a/b", "a/b/c/d", "a//c", "''"])
def test_another_shape_is_told_with_its_place(type: str, entry: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f'collectors:\n  x: {{type: {type}, schedule: "@daily",\n    expect: [a/b/c, {entry}]}}\n')
    with pytest.raises(ConfigError) as raised:
        load(file, {}, settings_of)
    (error,) = str(raised.value).splitlines()
    assert "config.yaml:3:21: collectors.x.expect" in error
    assert 'must be workflow_name/task/check, or a pattern such as "nightly/*"' in error


def test_a_variable_of_the_environment_may_list_them() -> None:
    keys = {"type": "snapshot", "schedule": "@daily", "category": "training", "expect": "a/b/c, nightly/*"}
    assert SnapshotSettings.model_validate(keys).expect == ("a/b/c", "nightly/*")
