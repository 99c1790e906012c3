"""What deliveries tell between the polls: the numbers, what they cost, and that the polls put right what is missing."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.collectors.github_ci.weekly_runs import KEY
from service.demo.github_rows import DELETED, Attempt
from service.demo.github_rows import Run as Row
from service.domain.errors import Rejected, Unavailable
from service.domain.runs import CollectResult
from service.domain.samples import Kind
from service.github.client import NotFound
from tests.integration.github_ci.stage import CYCLE, DAY, HOUR, JOBS, PULLS, QUEUE, small_world, staged, values_of
from tests.world import NOW, World, durations, faults, generate

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
WORKFLOWS = "/actions/workflows?"
FLAKY = "ci.workflow.flaky_tests"


def ends(world: World, since: datetime, until: datetime) -> Iterator[tuple[Row, Attempt]]:
    """The attempts that end then, in GitHub's order."""
    found = [(run, each) for run in world.repository.runs for each in run.attempts if each.ended]
    chosen = [(run, each) for run, each in found if each.ended and since < each.ended <= until]
    yield from sorted(chosen, key=lambda pair: (pair[1].ended, pair[0].id))


def durations_of(result: CollectResult) -> list[tuple[Any, ...]]:
    return [
        (sample.at, sample.value, sample.tags["kind"], sample.tags["conclusion"])
        for sample in result.samples
        if sample.metric.kind is Kind.DISTRIBUTION
    ]


@pytest.mark.parametrize("seed", [0, 3, 5])
async def test_shuffled_doubled_late_and_lost_deliveries_change_no_number_of_any_poll(seed: int) -> None:
    """A random day: each poll tells the truth, as it does where nothing is delivered, and each duration comes once."""
    rng = random.Random(seed)
    world = generate(seed, workflows=rng.choice([1, 5]), runs_a_day=rng.choice([20, 90]), days=2, ahead=DAY)
    lost, doubled, late = rng.random() * 0.4, rng.random() * 0.4, rng.random() * 0.4
    async with staged(world) as stage:
        told, expected = list[tuple[Any, ...]](), set[tuple[Any, ...]]()
        waiting: list[tuple[Row, Attempt]] = []
        for _ in range(30):
            expected.update(durations(world.repository, world.now))
            result = await stage.collect()
            values = values_of(result)
            assert [str(each) for each in result.failures] == []
            assert values == stage.truth(values)
            told += durations_of(result)
            before, span = world.now, timedelta(minutes=rng.randint(5, 35))
            for _ in range(rng.randint(1, 3)):
                since = world.now
                world.now = min(before + span, world.now + timedelta(minutes=rng.randint(1, 20)))
                waiting += ends(world, since, world.now)
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
            world.now = before + span
        told += durations_of(await stage.collect())
        expected.update(durations(world.repository, world.now))
        assert sorted(told) == sorted(expected)


async def test_a_run_by_webhook_tells_the_truth_and_asks_for_the_workflows_alone() -> None:
    world = generate(3, workflows=6, runs_a_day=60, days=35, ahead=DAY)
    for run in world.repository.runs:
        del run.attempts[1:]
    async with staged(world, tests_blocking_merge=["1"]) as stage:
        await stage.collect_until_whole()
        for _ in range(20):
            since, world.now = world.now, world.now + 20 * MINUTE
            for each in ends(world, since, world.now):
                stage.deliver(*each)
            if not (result := await stage.collect_changes()):
                continue  # nothing has ended
            assert values_of(result) == {
                name: value for name, value in stage.truth().items() if name not in PULLS | QUEUE | {JOBS}
            }
            assert result.failures == ()
            assert [WORKFLOWS in asked.line for asked in stage.github.app.asked] == [True]
            assert stage.cost == (1, 0)
            assert await stage.collect_changes() is None


async def test_however_many_reruns_come_a_run_by_webhook_costs_four_points() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        again = [world.add_run(1, NOW - 30 * MINUTE, "failure", "success") for _ in range(60)]
        world.now += 5 * MINUTE
        for run in again:
            stage.deliver(run, run.attempts[1])
        result = await stage.collect_changes()
        assert result
        values = values_of(result)
        assert stage.cost[1] == 4
        # What is not known is not sent: neither a number nor a failure nor the durations of runs that have more.
        assert FLAKY not in values
        assert values["ci.workflow.success"] == 1
        assert len(durations_of(result)) == 2 * 4
        result = await stage.collect()
        assert values_of(result)[FLAKY] == 61
        assert len(durations_of(result)) == 2 * 56


async def test_attempts_that_were_told_in_any_order_are_not_asked_for() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        run = world.add_run(1, NOW - 15 * MINUTE, "failure", "cancelled", "success")
        world.now += 15 * MINUTE
        for place in (2, 0, 1):
            stage.deliver(run, run.attempts[place])
        result = await stage.collect_changes()
        assert result
        assert values_of(result)[FLAKY] == 2
        assert sorted(kind for *_, kind in durations_of(result)) == ["cancelled", "failure", "success"]
        assert stage.cost == (1, 0)
        # An attempt that is told after the one that followed it, and was asked for meanwhile, comes once.
        run = world.add_run(2, world.now - 15 * MINUTE, "failure", "success")
        stage.deliver(run, run.attempts[1])
        assert len(durations_of(await stage.collect_changes() or CollectResult())) == 2
        stage.deliver(run, run.attempts[0])
        assert await stage.collect_changes() is None
        assert durations_of(await stage.collect()) == []


async def test_whose_run_it_is_decides_what_it_counts_for() -> None:
    world = small_world()
    async with staged(world) as stage:
        before = await stage.values()
        other = World.empty("someone/else")
        run = other.add_run(1, NOW, "failure")
        assert not stage.deliver(run, run.attempts[0], other.repository)
        for fork in ("someone/metta", DELETED):
            run = world.add_run(1, NOW, "failure", fork=fork)
            assert stage.deliver(run, run.attempts[0])
        unfinished = world.add_run(1, NOW, None)
        assert not stage.deliver(unfinished, unfinished.attempts[0])
        waits = world.add_run(1, NOW, "action_required")
        assert not stage.deliver(waits, waits.attempts[0])
        world.now += CYCLE
        assert values_of(await stage.collect_changes() or CollectResult()).items() <= before.items()
        ours = world.add_run(1, NOW, "failure")
        assert stage.deliver(ours, ours.attempts[0])
        assert values_of(await stage.collect_changes() or CollectResult())["ci.workflow.success"] == 0


async def test_a_delivery_that_comes_again_days_later_takes_nothing_back() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        old = world.repository.runs[1]
        stage.deliver(old, old.attempts[0])
        assert await stage.collect_changes() is None
        values = await stage.values()
        assert values == stage.truth(values)


async def test_facts_wait_for_the_first_poll() -> None:
    world = small_world()
    async with staged(world) as stage:
        run = world.repository.runs[0]
        stage.deliver(run, run.attempts[0])
        assert await stage.collect_changes() is None
        values = await stage.values()
        assert values == stage.truth(values)
        assert stage.deliveries.summary().waiting == 0
        world.now += 4 * HOUR  # too long for what was read to be whole
        run = world.add_run(1, world.now - 10 * MINUTE, "failure")
        stage.deliver(run, run.attempts[0])
        assert await stage.collect_changes() is None


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_run_whose_state_was_not_stored_loses_no_fact(is_kept: bool) -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        run = world.add_run(1, NOW - 8 * MINUTE, "failure")
        world.now += MINUTE
        stage.deliver(run, run.attempts[0])
        kept = dict(stage.state.kept)
        assert await stage.collect_changes()
        stage.state.kept = kept
        if is_kept:
            later = world.add_run(2, NOW - 7 * MINUTE, "success")
            stage.deliver(later, later.attempts[0])
            result = await stage.collect_changes()
            assert result
            assert values_of(result)["ci.workflow.success"] == 0
            assert await stage.collect_changes() is None
        else:  # killed between the answer and the run
            stage.restart()
        world.now += CYCLE
        values = await stage.values()
        assert values == stage.truth(values)


async def test_what_github_does_not_answer_is_left_to_the_poll() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        for fault in (faults.bad_gateway, faults.not_found):
            run = world.add_run(1, world.now - 8 * MINUTE, "failure")
            stage.deliver(run, run.attempts[0])
            planned = stage.github.fail(WORKFLOWS.replace("?", r"\?"), fault)
            result = await stage.collect_changes()
            stage.github.faults.remove(planned)
            assert result
            assert result.failures == ()
            assert values_of(result)["ci.workflow.success"] == 0
            assert "ci.workflow.other_failing" not in values_of(result)
            assert stage.cost[1] <= 4
            world.now += CYCLE
        values = await stage.values()
        assert values == stage.truth(values)


async def test_a_run_that_lasted_for_days_is_reported_once() -> None:
    world = small_world()
    long = world.add_run(1, NOW - 3 * DAY, None, branch="topic", event="pull_request")
    async with staged(world) as stage:
        await stage.collect()
        long.attempts[0].ended, long.attempts[0].conclusion = NOW.replace(microsecond=0), "success"
        world.now += MINUTE
        stage.deliver(long, long.attempts[0])
        told = durations_of(await stage.collect_changes() or CollectResult())
        for _ in range(4):
            run = world.add_run(1, world.now - 8 * MINUTE, "skipped", branch="topic")
            stage.deliver(run, run.attempts[0])
            told += durations_of(await stage.collect_changes() or CollectResult())
            world.now += CYCLE
            told += durations_of(await stage.collect())
        assert [minutes for _, minutes, _, _ in told] == [pytest.approx(3 * 24 * 60, abs=0.1)]


async def test_a_poll_counts_what_no_delivery_told_in_time() -> None:
    world = small_world()
    async with staged(world) as stage:

        async def missed() -> int:
            await stage.collect()
            return stage.deliveries.summary().missed

        await stage.collect()
        world.add_run(1, world.now - 4 * MINUTE, "failure")
        world.now += CYCLE
        assert await missed() == 0  # nothing was ever delivered
        run = world.add_run(1, world.now - 6 * MINUTE, "failure")
        stage.deliver(run, run.attempts[0])
        world.add_run(1, world.now - 4 * MINUTE, "success")  # ends in a minute
        broken = world.add_run(1, world.now, "startup_failure")  # GitHub tells of none
        broken.attempts[0].ended = broken.created
        world.now += CYCLE
        assert await missed() == 1
        world.add_run(1, world.now - 6 * MINUTE, "success")  # it may still be told
        assert await missed() == 1
        run = world.add_run(1, world.now - 5 * MINUTE, "success")
        world.now += CYCLE
        stage.deliver(run, run.attempts[0])
        assert await missed() == 1
        stage.state.kept.clear()  # nothing is known: all would look as if it had been missed
        assert await missed() == 1


async def test_of_many_repositories_those_that_changed_are_measured() -> None:
    worlds = [generate(seed, name=f"Metta-AI/r{seed}", workflows=2, runs_a_day=9, days=2) for seed in range(7)]
    world = worlds[0]
    world.others = [each.repository for each in worlds[1:]]
    names = [each.repository.name for each in worlds]
    async with staged(world, repositories=names) as stage:
        await stage.collect()
        stage.client = stage.github.client(stage.http)
        stage.restart()
        for each in worlds[1:]:
            run = each.add_run(1, NOW - 5 * MINUTE, "failure", "success")
            run.attempts[1].started, run.attempts[1].ended = NOW, NOW + SECOND
            stage.deliver(run, run.attempts[1], repository=each.repository)
        world.now += MINUTE
        result = await stage.collect_changes()
        assert result
        assert {sample.tags["repo"] for sample in result.samples} == set(names[1:])
        assert {key.removeprefix(KEY) for key in result.state} == set(names[1:])
        assert stage.cost[1] == 4


async def test_a_quota_that_will_not_last_is_not_spent_on_changes() -> None:
    world = small_world()
    async with staged(world) as stage:
        await stage.collect()
        stage.github.app.used["core"] = 4500
        world.now += MINUTE
        await stage.collect()
        run = world.add_run(1, world.now - 5 * MINUTE, "failure")
        stage.deliver(run, run.attempts[0])
        result = await stage.collect_changes()
        assert result
        values = values_of(result)
        assert (values["ci.workflow.success"], "ci.workflow.other_failing" in values) == (0, False)
        assert stage.cost == (0, 0)


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
            ended = [run for run, _ in ends(world, since, world.now)]
            result = await stage.collect_changes()
            if result and all(len(run.attempts) == 1 for run in ended):
                values = values_of(result)
                assert values["ci.workflow.cancelled"] == stage.truth()["ci.workflow.cancelled"]
                assert stage.cost[1] <= 4
        values = await stage.values()
        assert values == stage.truth(values)
        assert stage.deliveries.summary().missed == 0


async def test_nobody_watches_on_a_quota_that_others_need() -> None:
    world = small_world()
    async with staged(world, token=None, watch="20s") as stage:
        with pytest.raises(Rejected, match="token"):
            await stage.collector.look()
    async with staged(world, watch="20s") as stage:
        await stage.collect()
        stage.github.app.used["core"] = 4500
        world.now += MINUTE
        await stage.collect()
        with pytest.raises(Unavailable, match="quota"):
            await stage.collector.look()


async def test_a_repository_that_can_not_be_watched_holds_up_no_other() -> None:
    world = small_world()
    async with staged(world, repositories=["a/gone", world.repository.name], watch="20s") as stage:
        await stage.collect()
        world.add_run(1, world.now - 5 * MINUTE, "failure")
        with pytest.raises(NotFound):
            await stage.collector.look()
        result = await stage.collect_changes()
        assert result
        assert values_of(result)["ci.workflow.success"] == 0
