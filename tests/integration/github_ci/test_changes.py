"""What deliveries tell between the polls: the numbers, what they cost, and that the polls put right what is missing."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.demo.github_rows import DELETED, Attempt, Run
from service.domain.errors import Unavailable
from tests.integration.github_ci.stage import JOBS, PULLS, QUEUE, durations_of, small_world, staged, values_of
from tests.world import DAY, HOUR, MINUTE, NOW, World, faults, generate
from tests.world.truth import durations

WORKFLOWS = "/actions/workflows?"
FLAKY, SUCCESS, OTHERS = "ci.workflow.flaky_tests", "ci.workflow.success", "ci.workflow.other_failing"


def ends(world: World, since: datetime) -> Iterator[tuple[Run, Attempt]]:
    """The attempts that ended since then, in GitHub's order."""
    found = [(each.ended, run, each) for run in world.repository.runs for each in run.attempts if each.ended]
    for ended, run, attempt in sorted(found, key=lambda each: (each[0], each[1].id)):
        if since < ended <= world.now:
            yield run, attempt


@pytest.mark.parametrize("seed", [0, 3, 5])
async def test_shuffled_doubled_late_and_lost_deliveries_change_no_number_of_any_poll(seed: int) -> None:
    """A random day: each poll tells the truth, as it does where nothing is delivered, and each duration comes once."""
    rng = random.Random(seed)
    world = generate(seed, workflows=rng.choice([1, 5]), runs_a_day=rng.choice([20, 90]), days=2, ahead=DAY)
    lost, doubled, late = (rng.random() * 0.4 for _ in range(3))
    async with staged(world) as stage:
        told, ended = list[tuple[Any, ...]](), set[tuple[Any, ...]]()
        waiting: list[tuple[Run, Attempt]] = []
        for _ in range(30):
            ended.update(durations(world.repository, world.now))
            result = await stage.collect()
            values = values_of(result)
            assert ([str(each) for each in result.failures], values) == ([], stage.truth(values))
            told += durations_of(result)
            for _ in range(rng.randint(1, 3)):
                since, world.now = world.now, world.now + timedelta(minutes=rng.randint(1, 12))
                waiting += ends(world, since)
                rng.shuffle(waiting)
                due, waiting = waiting, []
                for each in due:
                    if rng.random() < late:
                        waiting.append(each)
                    elif rng.random() >= lost:
                        for _ in range(1 + (rng.random() < doubled)):
                            stage.deliver(*each)
                if changes := await stage.collect_changes():
                    assert changes.failures == ()
                    assert stage.cost[1] <= 4
                    told += durations_of(changes)
                if rng.random() < 0.1:
                    stage.restart()  # what waits is lost
        told += durations_of(await stage.collect())
        ended.update(durations(world.repository, world.now))
        assert sorted(told) == sorted(ended)


async def test_a_run_by_webhook_tells_the_truth_and_asks_for_the_workflows_alone() -> None:
    world = generate(3, workflows=6, runs_a_day=60, days=35, ahead=DAY)
    for run in world.repository.runs:
        del run.attempts[1:]
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        for _ in range(8):
            since, world.now = world.now, world.now + 20 * MINUTE
            if not [stage.deliver(*each) for each in ends(world, since)]:
                continue
            unasked = PULLS | QUEUE | {JOBS}
            expected = {name: value for name, value in stage.truth().items() if name not in unasked}
            assert await stage.changed_values() == expected
            assert (stage.cost, stage.was_asked(WORKFLOWS)) == ((1, 0), 1)
            assert await stage.collect_changes() is None


async def test_however_many_reruns_come_a_run_by_webhook_costs_four_points() -> None:
    async with staged(small_world()) as stage:
        await stage.collect()
        stage.pass_time()
        for _ in range(60):
            stage.end_run("failure", "success")
        result = await stage.changes()
        values = values_of(result)
        assert stage.cost[1] == 4
        # What is not known is not sent: neither a number nor a failure nor the durations of runs that have more.
        assert (FLAKY in values, values[SUCCESS]) == (False, 1)
        assert len(durations_of(result)) == 2 * 4
        result = await stage.collect()
        assert values_of(result)[FLAKY] == 61
        assert len(durations_of(result)) == 2 * 56


async def test_attempts_that_were_told_in_any_order_are_not_asked_for() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        run = world.add_run(1, NOW - 15 * MINUTE, "failure", "cancelled", "success")
        stage.pass_time(15 * MINUTE)
        for place in (2, 0, 1):
            stage.deliver(run, run.attempts[place])
        result = await stage.changes()
        assert values_of(result)[FLAKY] == 2
        assert sorted(kind for *_, kind in durations_of(result)) == ["cancelled", "failure", "success"]
        assert stage.cost == (1, 0)
        # An attempt that is told after the one that followed it, and was asked for meanwhile, comes once.
        run = stage.end_run("failure", "success", workflow=2)
        result = await stage.changes()
        assert len(durations_of(result)) == 2
        stage.deliver(run, run.attempts[0])
        assert await stage.collect_changes() is None
        assert durations_of(await stage.collect()) == []


async def test_whose_run_it_is_decides_what_it_counts_for() -> None:
    async with staged(small_world()) as stage:
        before = await stage.values()
        stage.pass_time()
        run = stage.world.add_run(1, NOW, "failure")
        assert not stage.deliver(run, repository=World.empty("someone/else").repository)
        for fork in ("someone/metta", DELETED):
            stage.end_run("failure", fork=fork)
        for conclusion in (None, "action_required"):
            assert not stage.deliver(stage.world.add_run(1, NOW, conclusion))
        assert (await stage.changed_values()).items() <= before.items()
        stage.end_run("failure")
        assert (await stage.changed_values())[SUCCESS] == 0


async def test_facts_wait_for_the_first_poll() -> None:
    async with staged(small_world()) as stage:
        stage.deliver(stage.world.repository.runs[0])
        assert await stage.collect_changes() is None
        await stage.collect_truth()
        assert stage.deliveries.summary().waiting == 0
        old = stage.world.repository.runs[1]
        stage.deliver(old, old.attempts[0])  # told again, long after
        assert await stage.collect_changes() is None
        await stage.collect_truth()
        stage.pass_time(4 * HOUR)  # too long for what was read to be whole
        stage.end_run("failure")
        assert await stage.collect_changes() is None


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_run_whose_state_was_not_stored_loses_no_fact(is_killed: bool) -> None:
    async with staged(small_world()) as stage:
        await stage.collect()
        stage.pass_time()
        stage.end_run("failure")
        kept = stage.state.kept
        await stage.changed_values()
        stage.state.kept = kept
        if is_killed:  # between the answer and the run
            stage.restart()
        else:
            stage.end_run("success", workflow=2)
            assert (await stage.changed_values())[SUCCESS] == 0
            assert await stage.collect_changes() is None
        stage.pass_time()
        await stage.collect_truth()


async def test_what_github_does_not_answer_or_its_quota_does_not_allow_is_left_to_the_poll() -> None:
    async with staged(small_world(), watch="20s") as stage:
        await stage.collect()
        stage.pass_time()
        stage.end_run("failure")
        outage = stage.github.fail(r"/actions/workflows\?", faults.bad_gateway)
        values = await stage.changed_values()
        assert (values[SUCCESS], OTHERS in values) == (0, False)
        assert stage.cost[1] <= 4
        stage.github.faults.remove(outage)
        stage.github.app.used["core"] = 4500
        stage.pass_time()
        await stage.collect_truth()
        stage.end_run("failure")
        values = await stage.changed_values()
        assert (values[SUCCESS], OTHERS in values, stage.cost) == (0, False, (0, 0))
        with pytest.raises(Unavailable, match="quota"):
            await stage.collector.look()


async def test_a_poll_counts_what_no_delivery_told_in_time() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        world.add_run(1, world.now - 4 * MINUTE, "failure")
        stage.pass_time()
        await stage.collect()
        assert stage.deliveries.summary().missed == 0  # nothing was ever delivered
        stage.end_run("failure")
        world.add_run(1, world.now - 4 * MINUTE, "success")  # ends in a minute, and nobody tells
        broken = world.add_run(1, world.now, "startup_failure")  # GitHub tells of none
        broken.attempts[0].ended = broken.created
        stage.pass_time()
        world.add_run(1, world.now - 6 * MINUTE, "success")  # it may still be told
        told = world.add_run(1, world.now - 5 * MINUTE, "success")
        await stage.collect()
        stage.deliver(told)
        for _ in range(2):
            await stage.collect()
            assert stage.deliveries.summary().missed == 1
            stage.state.kept.clear()  # nothing is known: all would look as if it had been missed


async def test_of_many_repositories_those_that_changed_are_measured() -> None:
    worlds = [generate(seed, name=f"Metta-AI/r{seed}", workflows=2, runs_a_day=9, days=2) for seed in range(7)]
    world, names = worlds[0], [each.repository.name for each in worlds]
    world.others = [each.repository for each in worlds[1:]]
    async with staged(world, repositories=names) as stage:
        await stage.collect()
        stage.client = stage.github.client(stage.http)
        stage.restart()
        stage.pass_time()
        for each in worlds[1:]:
            run = each.add_run(1, NOW - 5 * MINUTE, "failure", "success")
            stage.deliver(run, repository=each.repository)
        result = await stage.changes()
        assert {sample.tags["repo"] for sample in result.samples} == set(names[1:])
        assert not any(names[0] in key for key in result.state)
        assert stage.cost[1] == 4


# Where no webhook can come


async def test_a_watched_page_is_free_while_nothing_changes_and_tells_what_ended() -> None:
    world = generate(5, workflows=3, runs_a_day=40, days=35, ahead=3 * HOUR)
    async with staged(world, watch="20s") as stage:
        await stage.collector.look()
        assert await stage.collect_changes() is None  # no poll yet
        await stage.collect_until_whole()
        for _ in range(12):
            since, world.now = world.now, world.now + 5 * MINUTE
            stage.github.app.asked.clear()
            await stage.collector.look()
            spent = stage.cost[1]
            await stage.collector.look()
            assert stage.cost == (2, spent)
            result = await stage.collect_changes()
            if result and all(len(run.attempts) == 1 for run, _ in ends(world, since)):
                assert values_of(result)["ci.workflow.cancelled"] == stage.truth()["ci.workflow.cancelled"]
                assert stage.cost[1] <= 4
        await stage.collect_truth()
        assert stage.deliveries.summary().missed == 0


async def test_a_run_that_a_poll_found_deleted_is_counted_by_no_later_run() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect_until_whole()
        deleted = stage.end_run("failure", "success")
        await stage.changed_values()
        stage.pass_time(MINUTE)
        world.add_run(2, world.now, "skipped")  # which keeps the deleted run's id from being given anew
        world.repository.runs.remove(deleted)
        stage.restart()
        stage.deliver(deleted)  # its first attempt is known to nobody
        await stage.collect_truth()
        stage.pass_time(2 * MINUTE)
        stage.end_run("success")
        values = await stage.changed_values()
        assert values[FLAKY] == stage.truth()[FLAKY]
        assert values["ci.workflow.success_ratio"] == stage.truth()["ci.workflow.success_ratio"]
