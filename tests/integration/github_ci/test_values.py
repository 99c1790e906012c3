"""What the numbers mean at the edges, what is told beside them, and what the settings make of them."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from service.collectors.github_ci import GithubCi, GithubCiSettings
from service.demo.github_rows import Attempt, Issue, Job, Pull
from service.domain.checks import update_checks
from service.domain.samples import Kind, Rule
from tests.integration.github_ci.stage import (
    BRANCH,
    JOBS,
    NAMESPACE,
    PULLS,
    RED_MINUTES,
    Stage,
    durations_of,
    parts_of,
    sample_of,
    small_world,
    staged,
    values_of,
)
from tests.world import DAY, HOUR, MINUTE, NOW, World, faults, generate

START = NOW.replace(microsecond=0)
AGE = "ci.workflow.schedule_age"
P90 = "ci.workflow.duration.p90"
TOLD = """
ci.workflow.tests_blocking_merge 1 [> 0, pass] the latest run of w2.yml on main succeeded
ci.workflow.other_failing 0 [< 2, pass] 0 of 1 other active workflow failed on main
ci.workflow.success 1 [=1.0, pass] 0 of 2 runs on main failed in the last 24 h
ci.workflow.success_ratio 1 [=1.0, pass] 0 of 2 runs on main failed in the last 24 h
ci.workflow.flaky_tests 1 [< 10, pass] 1 of 3 runs failed first and succeeded when run again in the last 24 h: Nightly
ci.branch.red_share 0 0 of 2 commits on main failed in the last 24 h
ci.branch.flaky_share 0.5 1 of 2 commits on main failed first and succeeded when run again in the last 24 h
ci.branch.red_minutes 5 [none, unknown] main was red for 5 min of the last 24 h, by w2.yml
ci.workflow.cancelled 1 [< 10, pass] 1 of 3 runs on main was cancelled in the last 24 h: Tests
ci.jobs.timed_out 0 [< 10, pass] 0 jobs were ended by a time limit in the last 7 days
github.hotfix.count 1 [< 5, pass] 1 pull request with the label hotfix was merged in the last 7 days
github.force_merge.count 1 [< 7, pass] 1 pull request with the label force_merge was merged in the last 7 days
github.reverts.count 1 [< 1, fail] 1 pull request with the label revert was merged in the last 7 days
github.bugs.count 1200 [none, unknown] 1,200 open issues have the label bug
ci.queue.runs 0 0 runs wait now
workflow_passing is missing: no run of w3.yml on main has succeeded or failed yet
p90_minutes is missing: no pull-request run of the last 24 h has succeeded or failed
age_hours is missing: no schedule has run w1.yml, as far as runs are read
"""


async def test_each_sample_has_its_verdict_and_a_sentence_and_what_is_missing_says_why() -> None:
    world = small_world()
    world.add_workflow(3)
    world.repository.issues += [Issue(number, NOW - DAY, ("bug",)) for number in range(1, 1201)]
    lists: dict[str, Any] = {"tests_blocking_merge": ["w2.yml"], "benchmarks": ["w3.yml"], "expected": {"w1.yml": "1d"}}
    async with staged(world, **lists, force_merge_labels=["force_merge"]) as stage:
        result = await stage.collect()
    told = [f"{each.tags['check']} is missing: {each.summary}" for each in result.no_data]
    for each in result.samples:
        verdict = f"[{each.tags['condition']}, {each.tags['status']}] " if "check" in each.tags else ""
        told.append(f"{each.metric.name.removeprefix(NAMESPACE)} {each.value:g} {verdict}{each.summary}")
    assert sorted(told) == sorted(TOLD.strip().splitlines())


async def test_every_number_has_its_evidence_newest_first() -> None:
    world = generate(8, workflows=12, runs_a_day=60)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        result = await stage.collect()
        for sample in result.samples:
            if sample.metric.kind is Kind.GAUGE and sample.value:
                times = [each.at for each in sample.evidence if each.at]
                assert 0 < len(times) <= 20, sample.metric.name
                assert times == sorted(times, reverse=True) or sample.evidence[0].note == "first red"
                assert all(each.url.startswith("https://github.com/") for each in sample.evidence)
        jobs = sample_of(result, JOBS).evidence
        assert {each.conclusion for each in jobs} == {"cancelled", "timed_out"}
        assert all("/job/" in each.url and each.workflow for each in jobs)


async def test_a_threshold_is_a_number_or_a_condition() -> None:
    thresholds = {
        "hotfix": {"condition": "in [0x, 2x]", "baseline": {"last": 5}},  # a value a window is compared with the past
        "p90_minutes": '{"condition": "< 6", "for": "2"}',
        "force_merge": "7.5",
        "revert": "<= 1.5x",
        "bugs": "<= 40",
    }
    expected = {
        "github.hotfix.count": ("in [0x, 2x]", Rule(5, apart=7 * DAY)),
        P90: ("< 6", Rule(apart=36 * HOUR, fail_after=2)),
        "github.force_merge.count": ("< 7.5", None),
        "github.reverts.count": ("<= 1.5x", Rule(apart=7 * DAY)),
        "github.bugs.count": ("<= 40", None),
    }
    world = small_world()
    world.add_run(1, NOW - HOUR, "success", event="pull_request")
    async with staged(world, thresholds=thresholds, history_window="36h") as stage:
        result = await stage.collect()
        for name, (condition, rule) in expected.items():
            sample = sample_of(result, name)
            assert (name, sample.tags["condition"], sample.rule) == (name, condition, rule)
            assert (NAMESPACE + name, condition) in GithubCi.expected_checks(stage.asked)


async def test_red_minutes_have_a_verdict_by_a_threshold_and_are_missing_where_nobody_saw_them() -> None:
    world = World.empty()
    world.add_workflow(1)
    world.add_run(1, START - 2 * DAY, "success")
    world.add_run(1, START - 3 * HOUR, "failure", sha="b")
    world.add_run(1, START - 3 * HOUR + 25 * MINUTE, "success")
    world.add_run(1, START - HOUR, "failure", "success", sha="d")
    world.add_run(1, START - HOUR, "failure", branch="topic")
    async with staged(world, tests_blocking_merge=[1], thresholds={"red_minutes": 30}) as stage:
        found = sample_of(await stage.collect(), RED_MINUTES)
        assert (found.value, found.tags["condition"], found.tags["status"]) == (30, "< 30", "fail")
        assert [each.commit for each in found.evidence] == ["d", "b"]
        unknown = world.add_run(1, START - 2 * HOUR, "failure", "failure", "success")
        for _ in range(2):
            stage.state.kept.clear()
            result = await stage.collect()
            assert RED_MINUTES not in values_of(result)
            told = [each.summary for each in result.no_data if each.tags["check"] == "red_minutes"]
            assert told == ["when an attempt on main of the last 24 h ended, or what was before it, is not known"]
            # An end that GitHub moved, and no job tells the true one.
            unknown.attempts = [Attempt(unknown.created, unknown.created + 5 * MINUTE, "failure")]
            unknown.touched = START
            stage.github.fail("/jobs", faults.bad_gateway)
        # What it was before the window, too long ago to be read.
        ages = [(60 * DAY, "failure"), *[(45 * DAY, "skipped")] * 200, (HOUR, "success")]
        world.repository.runs.clear()
        for age, conclusion in ages:
            world.add_run(1, START - age, conclusion)
        stage.state.kept.clear()
        assert RED_MINUTES not in await stage.values()


# Workflows


@pytest.mark.parametrize("state", ["disabled_manually", "disabled_inactivity"])
async def test_a_disabled_workflow_counts_only_when_it_is_listed(state: str) -> None:
    world = small_world()
    world.repository.workflows[1].state = state
    world.add_run(2, NOW - 30 * MINUTE, "failure")
    async with staged(world) as stage:
        assert (await stage.values())["ci.workflow.other_failing"] == 0
        told = "Metta-AI/metta: w2.yml is disabled_inactivity: red when GitHub disabled it, and counted no more"
        assert stage.note == (told if state == "disabled_inactivity" else "")
    world.repository.workflows[0].name = "Nightly"  # a name that repeats means all of that name
    async with staged(world, benchmarks=["Nightly"]) as stage:
        assert (await stage.values())["ci.workflow.benchmarks"] == 0
        assert f"w2.yml is {state}: its last run counts" in stage.note
    world.add_run(2, NOW - HOUR, "success", event="schedule")
    async with staged(world, expected={"w2.yml": "26h"}) as stage:
        result = await stage.collect()
        age = sample_of(result, AGE)
        assert (age.tags["status"], [each.conclusion for each in age.evidence]) == ("fail", [state, "success"])
        told = f"expected: w2.yml is {state}: enable it, or take it off expected"
        assert [str(each) for each in result.failures] == [told]


async def test_a_nightly_that_stopped_fails_and_stays_known() -> None:
    world = small_world()
    for age in (25, 49):
        world.add_run(2, NOW - age * HOUR, "success", event="schedule")
    async with staged(world, expected={"w2.yml": "26h"}) as stage:
        for number in range(20):
            result = await stage.collect()
            tags = sample_of(result, AGE).tags
            assert (tags["condition"], tags["status"]) == ("< 26", "fail" if number else "pass")
            stage.pass_time(2 * DAY)
        stage.pass_time(-2 * DAY)
        assert values_of(result) == stage.truth()
        assert {(NAMESPACE + AGE, "< 26")} <= set(GithubCi.expected_checks(stage.asked))
        assert NAMESPACE + "ci.workflow.schedule_success_age" in GithubCi.expected_metrics(stage.asked)


@pytest.mark.parametrize("key", ["tests_blocking_merge", "benchmarks", "expected"])
async def test_an_entry_that_means_no_workflow_is_a_failure_with_a_remedy(key: str) -> None:
    for entry in ("Tets", "999"):
        entries: Any = {"Tests": "1d", entry: "1d"} if key == "expected" else ["Tests", entry]
        async with staged(small_world(), **{key: entries}) as stage:
            result = await stage.collect()
            assert f"ci.workflow.{key}" not in values_of(result)
            (failure,) = result.failures
            assert failure.part == key
            assert f'"{entry}": `infra-health list-workflows` shows them all' in failure.reason
            assert ("no schedule has run w1.yml, as far as runs are read" in failure.reason) == (key == "expected")


async def test_a_check_that_the_settings_ask_for_no_more_is_no_check_of_the_collector() -> None:
    given: dict[str, Any] = {"expected": {"w2.yml": "26h"}, "tests_blocking_merge": ["1"]}
    world = small_world()
    world.add_run(2, NOW - 25 * HOUR, "success", event="schedule")
    async with staged(world, **given) as stage:
        checks = update_checks([], (await stage.collect()).samples, [], NOW)
        assert all(map(stage.collector.asks_for, checks))
        blocking = {"ci.workflow.tests_blocking_merge", RED_MINUTES}
        for kept, names in (("tests_blocking_merge", {AGE}), ("expected", blocking)):
            stage.settings = {kept: given[kept]}
            stage.restart()
            gone = {check.metric for check in checks if not stage.collector.asks_for(check)}
            assert gone == {NAMESPACE + name for name in names}


# Branches and labels


async def test_a_branch_that_is_not_there_gives_no_made_up_zero() -> None:
    for pattern in ("nothing", "graphql"):
        async with staged(small_world(), branch="master") as stage:
            stage.github.fail(pattern, faults.not_found)
            result = await stage.collect()
            assert "correct branch" in str(result.failures)
            assert not BRANCH & values_of(result).keys()
    world = small_world()
    async with staged(world) as stage:
        await stage.collect_truth()
        world.repository.branch, world.repository.branches = "trunk", {"trunk"}  # renamed
        stage.pass_time()
        result = await stage.collect()
        assert (parts_of(result), BRANCH & values_of(result).keys()) == (["branch"], set())
        stage.settings["branch"] = "trunk"
        stage.restart()
        await stage.collect_truth()  # nothing ran there
    async with staged(World.empty()) as stage:
        assert not BRANCH & (await stage.values()).keys()
        assert "is Actions enabled there?" in stage.note


async def count_by_search(stage: Stage) -> None:
    """After two cycles in which pull requests are missing rather than counted by an index that lags."""
    stage.github.fail("graphql", faults.not_found)
    stage.github.app.lag = timedelta(0)
    for _ in range(2):
        await stage.collect()


@pytest.mark.parametrize("has_graphql", [True, False])
async def test_labels_that_are_not_there_count_nothing_and_one_of_a_group_is_enough(has_graphql: bool) -> None:
    world = World.empty()
    world.add_workflow(1, "Tests")
    world.add_run(1, NOW - HOUR, "success")
    world.repository.labels = {"force_merge", "bug"}
    async with staged(world, hotfix_labels=["fix", "urgent"], bug_sub_labels=["crash"]) as stage:
        if not has_graphql:
            await count_by_search(stage)
        result = await stage.collect()
        told = values_of(result).keys() & (PULLS | {"github.bugs.count:crash"})
        assert told == {"github.force_merge.count", "github.bugs.count"}
        assert {"pull requests, hotfix", "pull requests, bugs_1"} == set(parts_of(result))
        assert "'fix' or 'urgent': correct hotfix_labels" in str(result.failures)
        # A default that this repository does not use is said, but is no failure.
        assert "'revert'" in stage.note
        world.repository.labels.add("urgent")
        stage.pass_time(HOUR)
        assert (await stage.values())["github.hotfix.count"] == 0


@pytest.mark.parametrize("has_graphql", [True, False])
async def test_pull_requests_and_bugs_are_counted_by_lists_and_by_search(has_graphql: bool) -> None:
    """Whatever a label is called, beyond a page, and before the search knows them."""
    world = generate(3, workflows=2, runs_a_day=1)
    label = 'needs "care", now'
    world.repository.labels.add(label)
    world.repository.pulls += [Pull(900 + n, START - (n + 1) * MINUTE, (label, "revert")) for n in range(230)]
    lists: dict[str, Any] = {"hotfix_labels": ["hotfix", label], "force_merge_labels": [], "bug_sub_labels": ["crash"]}
    async with staged(world, **lists, thresholds={"bugs": 5}) as stage:
        if not has_graphql:
            await count_by_search(stage)
        await stage.collect_truth()
        bugs = [each for each in (await stage.collect()).samples if each.metric.name.endswith("github.bugs.count")]
        assert [each.tags["condition"] for each in bugs] == ["< 5", "< 5"]


# Times that GitHub moves


async def test_a_run_is_as_long_as_it_was_whatever_github_moves_and_is_told_once() -> None:
    """Runs that GitHub touches long after their end, that last for hours, that are approved, that are gone and come
    back, for a copy that lags knows them neither in the list nor by their id."""
    world = small_world()
    pull: dict[str, Any] = {"event": "pull_request", "branch": "f"}
    old = [world.add_run(1, NOW - hours * HOUR, "success", **pull) for hours in (3, 5, 8, 20)]
    old[0].touched = old[1].touched = START
    long = world.add_run(1, START - 5 * HOUR, None, **pull)
    unseen = world.add_run(2, START - 2 * DAY, "success")
    unseen.attempts[0].ended = unseen.created + 2 * HOUR
    approved = world.add_run(1, START - 30 * MINUTE, "action_required", **pull)
    async with staged(world) as stage:
        result = await stage.collect()
        assert (values_of(result)[P90], durations_of(result)) == (5, [])
        stage.pass_time()
        for run in old:
            run.touched = world.now.replace(microsecond=0)
        long.attempts[0] = Attempt(long.created, START + 7 * MINUTE, "success")
        approved.attempts[0] = Attempt(approved.created, START + 8 * MINUTE, "success")
        result = await stage.collect()
        assert values_of(result) == stage.truth()
        assert [minutes for _, minutes, *_ in durations_of(result)] == [307, 38]
        world.repository.runs.remove(approved)
        stage.pass_time()
        await stage.collect_truth()
        world.repository.runs.append(approved)
        stage.pass_time()
        assert durations_of(await stage.collect()) == []
        # No p90 while an end is not known.
        assert stage.week()[1] == [("Nightly", 2, 0, None, 1), ("Tests", 7, 0, 145.6, 0)]


async def test_a_job_without_an_end_leaves_out_what_it_decides_until_it_ended() -> None:
    world = small_world()
    run = world.add_run(1, START - 3 * HOUR, "failure", event="pull_request", branch="f")
    run.attempts[0].ended = START - HOUR
    ends = (run.created + HOUR, START + 65 * MINUTE)
    run.attempts[0].jobs = [Job("success", run.created, ends[0]), Job("timed_out", run.created, ends[1])]
    async with staged(world) as stage:
        result = await stage.collect()
        assert not {P90, JOBS} & values_of(result).keys()
        assert parts_of(result) == ["durations", "jobs ended by their time limit"]
        for _ in range(5):  # one that never ends is no timed-out job in the end, but no duration either
            stage.pass_time()
            values = await stage.values()
        assert (P90 in values, values[JOBS]) == (False, 0)
        stage.pass_time(HOUR)
        assert (await stage.values())[P90] == 245


async def test_no_table_of_the_week_while_older_runs_are_to_be_read_and_none_anew_while_github_is_away() -> None:
    world = generate(8, workflows=4, runs_a_day=20, days=40, ahead=DAY)
    async with staged(world) as stage:
        outage = stage.github.fail("page=[3-9]", faults.bad_gateway)
        await stage.collect()
        assert stage.week() == (None, [])
        stage.github.faults.remove(outage)
        await stage.collect()
        before = stage.week()
        assert before[1]
        stage.pass_time()
        stage.github.fail("actions/runs", faults.bad_gateway)
        assert "runs" in parts_of(await stage.collect())
        assert stage.week() == before


# Settings


def settings(**values: Any) -> GithubCiSettings:
    return GithubCiSettings.model_validate({"type": "github_ci", "schedule": "*/10 * * * *"} | values)


def test_the_replaced_systems_windows_are_plain_hours_and_days_or_durations() -> None:
    windows = {"CI_HISTORY_WINDOW_HOURS": "36", "CI_WEEKLY_WINDOW_DAYS": "3.5"}
    found = settings(**GithubCiSettings.legacy_environment({}, windows))
    assert (found.history_window, found.weekly_window) == (36 * HOUR, 3.5 * DAY)
    found = settings(**GithubCiSettings.legacy_environment({}, {"CI_HISTORY_WINDOW_HOURS": "90m"}))
    assert found.history_window == 90 * MINUTE


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
