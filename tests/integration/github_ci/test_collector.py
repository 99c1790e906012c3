"""What the numbers mean at the edges: windows, re-runs, deletions, lists, labels, evidence."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.demo.github_rows import Attempt, Issue, Job, Pull
from service.domain.samples import Kind, Rule
from tests.integration.github_ci.stage import (
    DAY,
    HOUR,
    JOBS,
    NAMESPACE,
    small_world,
    staged,
    values_of,
)
from tests.world import NOW, World, durations, faults, generate

OVERTIME = "The job has exceeded the maximum execution time of 6h0m0s"


async def test_the_samples_are_what_the_dashboards_expect() -> None:
    async with staged(small_world(), tests_blocking_merge=("Tests", "w2.yml")) as stage:
        result = await stage.collect()
        tags = ["source", "workflow_category", "workflow_name", "task", "check", "condition", "status"]
        assert [list(sample.tags) for sample in result.samples[:1]] == [tags]
        told = {
            sample.metric.name: (sample.value, sample.tags["condition"], sample.tags["status"])
            for sample in result.samples
            if "check" in sample.tags
        }
        assert told == {
            "metta.infra.cron.ci.workflow.tests_blocking_merge": (1, "> 0", "pass"),
            "metta.infra.cron.ci.workflow.other_failing": (0, "< 2", "pass"),
            "metta.infra.cron.ci.workflow.success": (1, "=1.0", "pass"),
            "metta.infra.cron.ci.workflow.success_ratio": (1, "=1.0", "pass"),
            "metta.infra.cron.ci.workflow.flaky_tests": (1, "< 10", "pass"),
            "metta.infra.cron.ci.branch.red_minutes": (5, "none", "unknown"),
            "metta.infra.cron.ci.workflow.cancelled": (1, "< 10", "pass"),
            "metta.infra.cron.ci.jobs.timed_out": (0, "< 10", "pass"),
            "metta.infra.cron.github.hotfix.count": (1, "< 5", "pass"),
            "metta.infra.cron.github.force_merge.count": (1, "< 7", "pass"),
            "metta.infra.cron.github.reverts.count": (1, "< 1", "fail"),
            "metta.infra.cron.github.bugs.count": (0, "none", "unknown"),
        }
        plain = {sample.metric.name: sample.tags for sample in result.samples if "check" not in sample.tags}
        names = ("ci.branch.red_share", "ci.branch.flaky_share", "ci.queue.runs")
        assert plain == {NAMESPACE + name: {"source": "cron"} for name in names}
        # No pre-merge run, so no duration; no list, so no benchmarks at all.
        assert [each.tags["check"] for each in result.no_data] == ["p90_minutes"]
        assert result.failures == ()


async def test_a_relative_threshold_leaves_the_verdict_to_the_past_of_the_check() -> None:
    world = World.empty(now=NOW.replace(microsecond=0))
    world.repository.pulls.append(Pull(1, world.now - DAY, ("hotfix",)))
    async with staged(world, thresholds={"hotfix": {"condition": "<= 1.5x", "for": 2}}) as stage:
        result = await stage.collect()
    found = {sample.metric.name: sample for sample in result.samples}
    hotfix, reverts = found[f"{NAMESPACE}github.hotfix.count"], found[f"{NAMESPACE}github.reverts.count"]
    assert (hotfix.rule, hotfix.tags["condition"]) == (Rule(apart=7 * DAY, fail_after=2), "<= 1.5x")
    assert (reverts.rule, reverts.tags["status"]) == (None, "pass")


async def test_the_windows_are_exact_to_the_second() -> None:
    world = World.empty(now=NOW.replace(microsecond=0))
    world.add_workflow(1)
    for seconds in (-1, 0, 1):
        world.add_run(1, world.now - DAY + timedelta(seconds=seconds), "cancelled")
        world.repository.pulls.append(Pull(seconds + 2, world.now - 7 * DAY + timedelta(seconds=seconds), ("hotfix",)))
    async with staged(world) as stage:
        values = await stage.values()
        assert (values["ci.workflow.cancelled"], values["github.hotfix.count"]) == (2, 2)
        world.now += timedelta(milliseconds=1)
        values = await stage.values()
        assert (values["ci.workflow.cancelled"], values["github.hotfix.count"]) == (1, 1)


async def test_a_rerun_of_an_old_run_is_found_within_six_hours() -> None:
    world = generate(3, workflows=9, runs_a_day=40)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        old = next(
            run
            for run in world.repository.newest_first(world.now)
            if run.created < NOW - 20 * DAY and run.branch == "main" and not run.fork
        )
        started = world.now.replace(microsecond=0) - timedelta(minutes=8)
        old.attempts = [old.attempts[0], Attempt(started, started + timedelta(minutes=2), "cancelled")]
        for _ in range(36):
            stage.pass_time()
            values = await stage.values()
            if values == stage.truth(values):
                break
        else:
            pytest.fail("the re-run was not found within six hours")


async def test_a_rerun_of_the_oldest_run_that_github_lets_run_again_is_found_by_a_cold_start() -> None:
    world = small_world()
    for hours in range(1, 800):
        world.add_run(2, NOW - hours * HOUR, "success")
    oldest = world.add_run(1, NOW - 30 * DAY - 20 * HOUR, "success")
    oldest.attempts.append(Attempt(NOW - 21 * HOUR, NOW - 20 * HOUR, "cancelled"))
    async with staged(world) as stage:
        assert await stage.values() == stage.truth()


async def test_deleted_runs_are_forgotten() -> None:
    world = generate(5, workflows=9, runs_a_day=60)
    runs = world.repository.runs
    async with staged(world) as stage:
        await stage.collect_until_whole()
        # A third of the day's, and of the busiest workflow all but those far behind the window.
        busiest = max({run.workflow_id for run in runs}, key=[run.workflow_id for run in runs].count)
        gone = [run for run in runs if run.created > NOW - DAY][::3]
        gone += [run for run in runs if run.workflow_id == busiest and run.created > NOW - 2 * DAY]
        world.repository.runs = [run for run in runs if run not in gone]
        stage.pass_time()
        # A deleted run's jobs were ended by their limit all the same.
        assert await stage.values() | {JOBS: 0} == stage.truth() | {JOBS: 0}


async def test_a_run_that_was_deleted_before_its_jobs_were_read_is_given_up_once_its_page_is_read() -> None:
    world = generate(5, workflows=9, runs_a_day=60)
    async with staged(world) as stage:
        outage = stage.github.fail(r"runs/\d+/jobs", faults.bad_gateway)
        await stage.collect()
        runs = world.repository.runs
        lost = next(run for run in runs if run.created > NOW - 4 * DAY and run.attempts[-1].conclusion == "failure")
        runs.remove(lost)
        stage.github.faults.remove(outage)
        for _ in range(36):
            stage.pass_time()
            values = await stage.values()
            assert values == stage.truth(values)
            if JOBS in values:
                return
        pytest.fail("the jobs of the deleted run are still waited for")


async def test_a_workflow_keeps_its_old_result_while_its_latest_run_is_run_again() -> None:
    world = World.empty()
    world.add_workflow(1, "Tests")
    world.add_run(1, NOW - 50 * DAY, "failure")
    latest = world.add_run(1, NOW - timedelta(minutes=50), "success")
    async with staged(world, tests_blocking_merge=["Tests"]) as stage:
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 1
        latest.attempts.append(Attempt(world.now.replace(microsecond=0)))
        stage.pass_time()
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 0
        latest.attempts[-1] = replace(latest.attempts[-1], ended=world.now, conclusion="success")
        stage.pass_time()
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 1


async def test_no_run_is_missed_while_new_ones_come_and_old_ones_go_between_the_requests() -> None:
    rng = random.Random(1)
    world = generate(1, runs_a_day=300, days=3)
    repository = world.repository
    async with staged(world) as stage:

        def disturb(line: str) -> None:
            if "actions/runs?" not in line:
                return
            for _ in range(rng.choice([0, 0, 1, 3])):
                # Skipped runs change no number, but shift all pages.
                world.add_run(rng.choice(repository.workflows).id, NOW.replace(microsecond=0), "skipped")
            if (
                stage.state.kept and rng.random() < 0.3
            ):  # a cold start can't know what a deletion moved out of its sight
                runs = repository.newest_first(world.now)
                repository.runs.remove(next(run for run in runs if run.attempts[-1].conclusion == "skipped"))

        stage.github.app.before = disturb
        stage.github.app.secondary = 10**6
        stage.github.fail(r"actions/runs\?", faults.wrong_total())
        for _ in range(5):
            result = await stage.collect()
            values = values_of(result)
            assert [str(each) for each in result.failures] == []
            assert values == stage.truth(values)
            stage.pass_time(timedelta(seconds=1))


async def test_a_lagging_index_of_filtered_lists_does_not_matter() -> None:
    world = small_world()
    # Only the filtered list knows of this workflow's last run, half a year ago.
    world.add_workflow(3, "Yearly")
    for number in range(30):
        world.add_run(3, NOW - 180 * DAY + number * HOUR, "skipped")
    world.add_run(3, NOW - 190 * DAY, "failure")
    for hours in range(1, 900):
        world.add_run(2, NOW - hours * HOUR, "success")
    async with staged(world) as stage:
        assert (await stage.values())["ci.workflow.other_failing"] == 1
        stage.pass_time()
        world.add_run(3, world.now - timedelta(minutes=6), "success")
        assert (await stage.values())["ci.workflow.other_failing"] == 0


@pytest.mark.parametrize("state", ["disabled_manually", "disabled_inactivity"])
async def test_a_disabled_workflow_counts_only_when_it_is_listed(state: str) -> None:
    """One that was red when GitHub disabled it is named."""
    world = small_world()
    world.repository.workflows[1].state = state
    world.add_run(2, NOW - timedelta(minutes=30), "failure")
    async with staged(world) as stage:
        assert (await stage.values())["ci.workflow.other_failing"] == 0
        told = (
            f"{world.repository.name}: w2.yml is disabled_inactivity: red when GitHub disabled it, and counted no more"
        )
        assert (stage.collector.note == told) is (state == "disabled_inactivity")
    async with staged(world, benchmarks=["Nightly"]) as stage:
        assert (await stage.values())["ci.workflow.benchmarks"] == 0
        assert f"w2.yml is {state}: its last run counts" in (stage.collector.note or "")


async def test_a_name_that_repeats_means_all_workflows_of_that_name() -> None:
    world = small_world()
    world.repository.workflows[1].name = "Tests"
    world.add_run(2, NOW - timedelta(minutes=30), "failure")
    async with staged(world, tests_blocking_merge=["Tests"]) as stage:
        assert (await stage.values())["ci.workflow.tests_blocking_merge"] == 0


async def test_pull_requests_are_counted_beyond_a_page_and_before_the_search_knows_them() -> None:
    world = small_world()
    for number in range(1, 231):
        merged = world.now.replace(microsecond=0) - timedelta(seconds=10 * number)
        world.repository.pulls.append(Pull(10 + number, merged, ("hotfix", "revert")))
    async with staged(world) as stage:
        assert await stage.values() == stage.truth()


async def test_open_bugs_are_counted_with_and_without_their_sub_labels_by_lists_and_by_search() -> None:
    world = generate(3, workflows=2, runs_a_day=1)
    for has_graphql in (True, False):
        async with staged(world, bug_sub_labels=["crash"], thresholds={"bugs": 5}) as stage:
            if not has_graphql:
                stage.github.fail("graphql", faults.not_found)
                world.lag = stage.github.app.lag = timedelta(0)
                await stage.collect_until_counted_by_search()
            result = await stage.collect()
            assert values_of(result).items() >= {k: v for k, v in stage.truth().items() if "bugs" in k}.items()
            bugs = [each for each in result.samples if each.metric.name.endswith("github.bugs.count")]
            assert [each.tags["condition"] for each in bugs] == ["< 5", "< 5"]


async def test_labels_are_quoted_so_that_lists_and_search_mean_them() -> None:
    world = small_world()
    label = 'needs "care", now'
    world.repository.labels.add(label)
    world.repository.pulls.append(Pull(9, NOW - DAY, (label,)))
    async with staged(world, hotfix_labels=["hotfix", label], revert_labels=[]) as stage:
        values = await stage.values()
        assert values["github.hotfix.count"] == 2
        assert "github.reverts.count" not in values


# What happened once


async def test_each_ended_attempt_is_reported_once_with_its_end_across_restarts() -> None:
    world = generate(0, workflows=6, runs_a_day=250, days=3, ahead=2 * HOUR)
    names = {each.name for each in world.repository.workflows}
    async with staged(world) as stage:
        told: list[tuple[Any, ...]] = []
        expected: set[tuple[Any, ...]] = set()
        for number in range(7):
            expected.update(durations(world.repository, world.now))
            for sample in (await stage.collect()).samples:
                if sample.metric.kind is Kind.DISTRIBUTION:
                    assert sample.tags["workflow"] in names
                    told.append((sample.at, sample.value, sample.tags["kind"], sample.tags["conclusion"]))
            stage.pass_time()
            if number % 2:
                stage.restart()
        assert sorted(told) == sorted(expected)
        assert len(told) > 10


async def test_a_job_that_its_limit_ended_is_told_from_other_cancellations() -> None:
    world = small_world()
    start = NOW.replace(microsecond=0)

    def job(at: datetime, conclusion: str, note: str = "") -> Job:
        return Job(conclusion, at, at + timedelta(minutes=5), "test", note)

    run = world.add_run(2, start - 3 * DAY, "cancelled", "failure", "success")
    for attempt, conclusion in zip(run.attempts, ("cancelled", "cancelled", "success"), strict=True):
        attempt.jobs = [job(attempt.started, conclusion, OVERTIME if conclusion == "cancelled" else "")]
    world.add_run(1, start - 2 * DAY, "cancelled").attempts[0].jobs = [job(start - 2 * DAY, "cancelled", "Canceled.")]
    world.add_run(1, start - 8 * DAY, "timed_out")
    world.add_run(1, start - 6 * DAY, "timed_out", branch="topic")
    async with staged(world) as stage:
        result = await stage.collect()
        assert values_of(result)[JOBS] == 3
        sample = next(each for each in result.samples if each.metric.name.endswith(JOBS))
        assert [each.conclusion for each in sample.evidence] == ["cancelled", "cancelled", "timed_out"]
        assert all("/job/" in each.url and each.workflow for each in sample.evidence)


async def test_every_number_has_its_evidence_newest_first() -> None:
    world = generate(8, workflows=12, runs_a_day=60)
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        for sample in (await stage.collect()).samples:
            if sample.metric.kind is Kind.GAUGE and sample.value:
                times = [each.at for each in sample.evidence if each.at]
                assert 0 < len(times) <= 20, sample.metric.name
                assert times == sorted(times, reverse=True) or sample.evidence[0].note == "first red"
                assert all(each.url.startswith("https://github.com/") for each in sample.evidence)


async def test_a_sentence_says_what_is_behind_each_number_or_why_there_is_none() -> None:
    async with staged(
        small_world(),
        tests_blocking_merge=[1],
        benchmarks=["w3.yml"],
        expected={"w1.yml": "1d"},
        force_merge_labels=["force_merge"],
    ) as stage:
        stage.world.add_workflow(3)
        stage.world.repository.issues += [Issue(number, NOW - DAY, ("bug",)) for number in range(1, 1201)]
        result = await stage.collect()
        told = {each.metric.name.removeprefix(NAMESPACE): each.summary for each in result.samples}
        assert told == {
            "ci.workflow.tests_blocking_merge": "the latest run of w1.yml on main succeeded",
            "ci.workflow.other_failing": "0 of 1 other active workflow failed on main",
            "ci.workflow.success": "0 of 2 runs on main failed in the last 24 h",
            "ci.workflow.success_ratio": "0 of 2 runs on main failed in the last 24 h",
            "ci.workflow.flaky_tests": "1 of 3 runs failed first and succeeded when run again in the last 24 h:"
            " Nightly",
            "ci.branch.red_share": "0 of 2 commits on main failed in the last 24 h",
            "ci.branch.flaky_share": "1 of 2 commits on main failed first and succeeded when run again in the last"
            " 24 h",
            "ci.branch.red_minutes": "no workflow that blocks merges was red on main in the last 24 h",
            "ci.workflow.cancelled": "1 of 3 runs on main was cancelled in the last 24 h: Tests",
            "ci.jobs.timed_out": "0 jobs were ended by a time limit in the last 7 days",
            "github.hotfix.count": "1 pull request with the label hotfix was merged in the last 7 days",
            "github.force_merge.count": "1 pull request with the label force_merge was merged in the last 7 days",
            "github.reverts.count": "1 pull request with the label revert was merged in the last 7 days",
            "github.bugs.count": "1,200 open issues have the label bug",
            "ci.queue.runs": "0 runs wait now",
        }
        assert {each.tags["check"]: each.summary for each in result.no_data} == {
            "workflow_passing": "no run of w3.yml on main has succeeded or failed yet",
            "p90_minutes": "no pull-request run of the last 24 h has succeeded or failed",
            "age_hours": "no schedule has run w1.yml, as far as runs are read",
        }
