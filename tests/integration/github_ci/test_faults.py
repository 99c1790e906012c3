"""Whatever GitHub answers in place of the truth: a number is right or missing, and whole again once it is over."""

import anyio
import pytest

from service.collectors.github_ci import actions
from service.demo.github import Asked, Reply
from service.demo.github_rows import Pull
from service.domain.errors import Rejected, Unavailable
from tests.integration.github_ci.stage import CYCLE, JOBS, PULLS, parts_of, small_world, staged, values_of
from tests.world import DAY, HOUR, MINUTE, NOW, faults, generate

# One of each kind that the client tells apart: what becomes which is a matter of tests/integration/github.
FAULTS = {
    "bad gateway": faults.bad_gateway,
    "other shape": faults.other_shape,
    "forbidden": faults.forbidden,
    "not found": faults.not_found,
    "empty, not by its count": faults.empty_list,
    "empty": faults.nothing_found,
    "secondary limit": faults.too_many,
    "primary limit": faults.exhausted,
}
PARTS = {
    "everything": ".",
    "runs": r"actions/runs\?",
    "first page": r"actions/runs\?.*page=1$",
    "a page of the window": r"actions/runs\?.*page=2$",
    "an older page": r"actions/runs\?.*page=4$",
    "workflows": r"actions/workflows\?",
    "runs of a workflow": r"actions/workflows/\d+/runs",
    "below a run": r"actions/runs/\d+",
    "annotations": "annotations",
    "pull requests": "graphql|search/issues",
}
COLD = ("an older page", "runs of a workflow", "below a run", "annotations")  # of which a steady cycle asks little


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages of few runs."""
    monkeypatch.setattr(actions, "PER_PAGE", 25)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_leaves_right_numbers_or_none_and_the_next_cycle_is_whole(fault: str) -> None:
    world = generate(7, workflows=12, runs_a_day=27, days=4, ahead=12 * HOUR)
    start = world.now
    async with staged(world, tests_blocking_merge=["1"], benchmarks=["12"]) as stage:
        assert await stage.values() == stage.truth()
        warm = stage.state.kept
        # Every other part of each fault at a cold start, too, so that all are tried in bearable time.
        parity = list(FAULTS).index(fault) % 2
        cases = [(part, warm) for part in PARTS if part not in COLD]
        cases += [(part, {}) for place, part in enumerate(PARTS) if part in COLD or place % 2 == parity]
        for part, kept in cases:
            where = f"{fault}, {part}, {'steady' if kept else 'cold'}"
            world.now = start + CYCLE if kept else start
            stage.github.app.resets.clear()
            stage.client = stage.github.client(stage.http)
            stage.state.kept = dict(kept)
            stage.restart()
            outage = stage.github.fail(PARTS[part], FAULTS[fault])
            try:
                result = await stage.collect()
            except (Unavailable, Rejected):
                assert part == "everything" or "limit" in fault, where
            else:
                values = values_of(result)
                assert values.items() <= stage.truth().items(), where
                assert result.failures or values == stage.truth(values), where
                assert len(set(parts_of(result))) == len(result.failures), where
            assert outage.hits, where
            stage.github.faults.remove(outage)
            stage.pass_time(HOUR + MINUTE)
            result = await stage.collect()
            assert (values_of(result), result.failures) == (stage.truth(), ()), where


async def test_a_refusal_is_raised_ahead_of_an_outage_when_there_is_nothing_to_be_had() -> None:
    async with staged(small_world()) as stage:
        stage.github.fail("actions/", faults.bad_gateway)
        stage.github.fail(".", faults.forbidden)
        with pytest.raises(Rejected, match="Resource not accessible"):
            await stage.collect()


@pytest.mark.parametrize("fault", [faults.html, faults.bad_credentials, faults.not_found])
async def test_a_passing_trouble_of_graphql_leaves_numbers_out_and_a_lasting_one_is_worked_around(
    fault: faults.Fault,
) -> None:
    async with staged(small_world()) as stage:
        outage = stage.github.fail("graphql", fault)
        for _ in range(2):
            result = await stage.collect()
            assert not values_of(result).keys() & PULLS
            assert parts_of(result) == ["pull requests"]
            stage.pass_time()
        await stage.collect_truth()
        stage.github.faults.remove(outage)
        stage.pass_time()
        stage.world.repository.pulls.append(Pull(9, stage.world.now - MINUTE, ("hotfix",)))
        await stage.collect_truth()  # which the search does not know yet


async def test_a_github_too_slow_for_one_run_is_read_in_several() -> None:
    async with staged(generate(7, workflows=12, runs_a_day=130, days=8)) as stage:
        outage = stage.github.fail(r"actions/runs\?.*page=7$", faults.hang)
        with anyio.fail_after(4):
            result = await stage.collect()
        assert values_of(result).items() <= stage.truth().items()
        assert values_of(result).keys() >= PULLS
        assert "older runs" in parts_of(result)
        stage.github.faults.remove(outage)
        stage.pass_time()
        values = await stage.values()
        assert values == stage.truth(values)


@pytest.mark.usefixtures("small_pages")
async def test_a_workflow_whose_list_always_fails_leaves_out_what_needs_it_and_starts_no_storm() -> None:
    world = small_world()
    world.add_workflow(3, "Yearly")
    world.add_run(3, NOW - 190 * DAY, "failure")  # which only its own list shows
    for place in range(1, 460):
        world.add_run(2, NOW - 4 * place * HOUR, "success")
    async with staged(world, benchmarks=["Tests"]) as stage:
        stage.github.fail("workflows/3/runs", faults.server_error)
        for cycle in range(3):
            result = await stage.collect()
            expected = stage.truth()
            del expected["ci.workflow.other_failing"]
            assert (values_of(result), parts_of(result)) == (expected, ["other workflows"])
            assert not cycle or stage.cost[0] <= 10
            stage.pass_time()


# Jobs and their annotations: a negative answer that others contradict is no lasting fact


@pytest.mark.parametrize("fault", [faults.not_found, faults.nothing_found])
async def test_a_404_of_a_run_that_the_list_still_shows_is_no_deletion(fault: faults.Fault) -> None:
    world = generate(7, workflows=12, runs_a_day=30, days=8)
    for run in world.repository.runs:  # a cancelled run may have no jobs; none that failed can
        for attempt in run.attempts:
            if attempt.conclusion == "cancelled":
                attempt.conclusion, attempt.jobs = "success", None
    async with staged(world) as stage:
        outage = stage.github.fail(r"actions/runs/\d+", fault)
        for _ in range(4):
            assert JOBS not in await stage.values()
            stage.pass_time()
        stage.github.faults.remove(outage)
        await stage.collect_until_whole()
        assert await stage.values() == stage.truth()


async def test_annotations_that_are_empty_once_do_not_count_for_a_week() -> None:
    asked_before = set[str]()

    def empty_at_first(asked: Asked, true: Reply) -> Reply:
        is_first = asked.target not in asked_before
        asked_before.add(asked.target)
        return Reply.of([]) if is_first else true

    async with staged(generate(7, workflows=3, runs_a_day=12, days=3)) as stage:
        stage.github.fail("annotations", empty_at_first)
        stage.github.fail(r"/jobs\?.*per_page=80", faults.bad_gateway)  # they come in small pages only
        for _ in range(12):  # a few are asked for in each cycle, beside all else
            stage.pass_time()
            values = await stage.values()
        assert values == stage.truth()
        assert values[JOBS] > 0
