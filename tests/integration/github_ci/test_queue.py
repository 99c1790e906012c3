"""What waits now: counted while it may still begin, told apart once it is stuck."""

from datetime import timedelta

from service.demo.github_rows import Attempt
from tests.integration.github_ci.stage import CYCLE, DAY, HOUR, small_world, staged
from tests.world import NOW, generate


def waiting(started: timedelta, status: str = "queued") -> list[Attempt]:
    return [Attempt(NOW.replace(microsecond=0) - started, status=status)]


async def test_what_waits_is_counted_until_it_is_stuck() -> None:
    world = small_world()
    for number, status in enumerate(("queued", "waiting", "pending", "requested", "in_progress"), 1):
        world.add_run(1, NOW - number * HOUR, None).attempts = waiting(number * HOUR, status)
    stuck = world.add_run(1, NOW - 20 * DAY, None)
    stuck.attempts = waiting(20 * DAY)
    async with staged(world) as stage:
        values = await stage.values()
        assert (values["ci.queue.runs"], round(values["ci.queue.oldest_minutes"])) == (4, 240)
        assert (
            f"stuck, waiting for more than a day and not counted as queued: 1 run, the oldest since 2026-02-12"
            f" https://github.com/Metta-AI/metta/actions/runs/{stuck.id}" in (stage.collector.note or "")
        )
        stage.pass_time(22 * HOUR)
        values = await stage.values()
        assert values["ci.queue.runs"] == stage.truth()["ci.queue.runs"] == 1
        assert "4 runs" in (stage.collector.note or "")


async def test_a_rerun_waits_since_it_was_asked_for() -> None:
    world = small_world()
    run = world.add_run(1, NOW - 5 * DAY, "failure")
    run.attempts += waiting(HOUR)
    async with staged(world) as stage:
        values = await stage.values()
        assert (values["ci.queue.runs"], round(values["ci.queue.oldest_minutes"])) == (1, 60)


async def test_stuck_runs_are_never_asked_for() -> None:
    world = generate(8, workflows=6, runs_a_day=30, days=33, ahead=4 * HOUR)
    runs = [world.add_run(1, NOW - age, None) for age in (25 * HOUR, 26 * HOUR, 3 * DAY, 9 * DAY, 28 * DAY)]
    rerun = world.add_run(1, NOW - 12 * DAY, "success")
    rerun.attempts += waiting(25 * HOUR)
    for run in runs:
        run.attempts = waiting(NOW - run.created)
    async with staged(world) as stage:
        await stage.collect_until_whole()
        before = stage.cost
        # Deleted, or left out by a list that lags: nothing waits for them.
        world.repository.runs = [run for run in world.repository.runs if run not in runs[:2]]
        for _ in range(3):
            stage.pass_time(CYCLE)
            values = await stage.values()
            assert values == stage.truth(values)
            asked = " ".join(each.target for each in stage.github.app.asked)
            assert not [run for run in (*runs, rerun) if f"/runs/{run.id}?" in asked]
            assert stage.cost <= before
