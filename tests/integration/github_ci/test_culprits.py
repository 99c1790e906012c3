"""Who broke the branch: the first red run and the last green one before it, as the repository's history has them."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.demo.github_rows import Attempt, Run
from service.domain.runs import CollectResult
from service.domain.samples import Evidence
from tests.integration.github_ci.stage import CYCLE, DAY, HOUR, Stage, staged
from tests.world import NOW, World, generate
from tests.world.truth import Culprit, culprit

LIST = "metta.infra.cron.ci.workflow.tests_blocking_merge"
START = NOW.replace(microsecond=0)
HASH = "{:040x}".format


def told(result: CollectResult, metric: str = LIST) -> tuple[str, dict[str, Evidence]]:
    """The sentence behind a metric, and its evidence by note."""
    (sample,) = [each for each in result.samples if each.metric.name == metric]
    return sample.summary, {each.note: each for each in sample.evidence}


def sentence(true: Culprit | None, *, knows_since: bool = True) -> str:
    """What must be said of w1.yml."""
    if true is None:
        return "the latest run of w1.yml on main succeeded"
    since = (
        f"since {true.since:%Y-%m-%d %H:%M} UTC"
        if knows_since
        else f"since its run of {true.first.created:%Y-%m-%d %H:%M} UTC"
    )
    row = f", {true.length} runs in a row" if true.length > 1 else ""
    first, green = (f"{HASH(run.id)[:7]} 'Change {run.id}'" if run else "" for run in (true.first, true.green))
    if not green:
        return f"w1.yml is red {since}{row}, first known at {first}; no green run is known"
    return f"w1.yml is red {since}{row}, " + (f"between {green} and {first}" if true.has_gap else f"since {first}")


def red_world(*conclusions: Any, **more: Any) -> tuple[World, list[Run]]:
    """Runs of one workflow on main, an hour apart; the last one began an hour ago. A tuple: a run with re-runs."""
    world = World.empty()
    world.add_workflow(1, "Tests")
    runs = []
    for number, each in enumerate(conclusions):
        attempts = each if isinstance(each, tuple) else (each,)
        created = START - (len(conclusions) - number) * HOUR
        title = f"Fix {number}"
        runs.append(world.add_run(1, created, *attempts, title=title, author=f"dev{number}", sha=HASH(number), **more))
    return world, runs


@pytest.mark.parametrize("seed", range(4))
async def test_the_culprit_is_the_true_one_cycle_after_cycle(seed: int) -> None:
    rng = random.Random(seed)
    world = generate(seed, workflows=1, runs_a_day=rng.choice([1, 6, 30]), days=33, ahead=3 * DAY)
    if not any(run.branch == "main" and not run.fork for run in world.repository.runs):
        world.add_run(1, START - 2 * DAY, "failure")
    async with staged(world, tests_blocking_merge=["w1.yml"]) as stage:
        for _ in range(20):
            said, evidence = told(await stage.collect())
            true = culprit(world.repository, world.now, 1)
            allowed = {sentence(true)}
            if true and len(true.first.seen(world.now)) > 1:  # the attempts before are not asked for
                allowed.add(sentence(true, knows_since=False))
            assert said in allowed
            if true:
                assert evidence["first red"].commit == HASH(true.first.id)
                assert evidence["first red"].url.endswith(f"/actions/runs/{true.first.id}")
                assert ("last green" in evidence) == ("compare" in evidence) == bool(true.green)
            stage.pass_time(timedelta(minutes=rng.choice([10, 60, 170])))
            if rng.random() < 0.3:
                stage.restart()


async def test_evidence_names_commit_author_and_what_changed() -> None:
    world, runs = red_world("failure", "success", "failure", "failure")
    runs[2].message = "Make it faster (#7)\n\nCo-authored-by: Someone <someone@example.org>"
    async with staged(world, tests_blocking_merge=[1]) as stage:
        result = await stage.collect()
        said, evidence = told(result)
        (success,) = [each for each in result.samples if each.metric.name.endswith(".success")]
    assert success.summary == "3 of 4 runs on main failed in the last 24 h: Tests"
    assert [each.commit for each in success.evidence] == [HASH(3), HASH(2), HASH(0)]
    assert said == (
        "w1.yml is red since 2026-03-04 03:06 UTC, 2 runs in a row, since 0000000 'Make it faster (#7)' by dev2"
    )
    assert [
        (note, each.title, each.commit, each.author, each.conclusion, each.workflow) for note, each in evidence.items()
    ] == [
        ("first red", "Make it faster (#7)", HASH(2), "dev2", "failure", "Tests"),
        ("compare", "Changes from 0000000 to 0000000", "", "", "", "Tests"),
        ("last green", "Fix 1", HASH(1), "dev1", "success", "Tests"),
        ("latest red", "Fix 3", HASH(3), "dev3", "failure", "Tests"),
    ]
    assert evidence["compare"].url == f"https://github.com/Metta-AI/metta/compare/{HASH(1)}...{HASH(2)}"


@pytest.mark.parametrize(
    ("conclusions", "says"),
    [
        (("success", "cancelled", "failure"), "04:06 UTC, between 0000000 'Fix 0' by dev0 and 0000000 'Fix 2' by dev2"),
        (("success", "skipped", None, "failure", "failure"), "03:06 UTC, 2 runs in a row, between"),
        (("success", "failure", "cancelled", "failure"), "02:06 UTC, 2 runs in a row, since 0000000 'Fix 1' by dev1"),
        # A re-run that turned green ends the streak; one that turned red begins it when it did.
        (("success", "failure", ("failure", "success"), "failure"), "04:06 UTC, since 0000000 'Fix 3' by dev3"),
        (("success", ("success", "failure")), "04:16 UTC, since 0000000 'Fix 1' by dev1"),
        (("success", ("failure", "failure")), "04:06 UTC, since 0000000 'Fix 1' by dev1"),
        (("cancelled", "failure"), "04:06 UTC, first known at 0000000 'Fix 1' by dev1; no green run is known"),
        (("success", *("failure",) * 60), "UTC, more than 50 runs in a row, since 0000000 'Fix 1' by dev1"),
    ],
)
async def test_who_is_blamed(conclusions: tuple[Any, ...], says: str) -> None:
    world, _ = red_world(*conclusions)
    async with staged(world, tests_blocking_merge=[1]) as stage:
        world.now = START - 51 * timedelta(minutes=1)  # before the last run is run again
        await stage.collect()
        world.now = NOW
        said, _ = told(await stage.collect())
        assert says in said
        # What it takes is kept when all of it is older than what each cycle reads.
        stage.pass_time(2 * HOUR)
        for _ in range(20):
            stage.pass_time(2 * HOUR)
            stage.restart()
            again, _ = told(await stage.collect())
            assert again == said


async def test_a_forks_branch_of_the_same_name_blames_and_clears_nobody() -> None:
    world, _ = red_world("success", "failure")
    world.add_run(1, START - 90 * timedelta(minutes=1), "failure", fork="someone/metta", event="pull_request")
    world.add_run(1, START - HOUR / 2, "success", fork="someone/metta", event="pull_request")
    async with staged(world, tests_blocking_merge=[1]) as stage:
        said, _ = told(await stage.collect())
        assert said == "w1.yml is red since 2026-03-04 04:06 UTC, since 0000000 'Fix 1' by dev1"


async def test_a_commit_that_was_green_before_is_not_compared_with_itself() -> None:
    world, runs = red_world("success", "failure", event="schedule")
    runs[1].sha = runs[0].sha
    async with staged(world, tests_blocking_merge=[1]) as stage:
        said, evidence = told(await stage.collect())
        assert said.endswith(", though 0000000 'Fix 1' by dev1 was green before")
        assert evidence.keys() == {"first red", "last green"}


async def test_other_workflows_are_told_the_last_that_broke_first() -> None:
    world, _ = red_world("success", "failure")
    for id in range(2, 12):
        world.add_workflow(id)
        world.add_run(id, START - id * DAY, "success", sha=HASH(id))
        world.add_run(
            id, START - id * HOUR, "failure", sha=HASH(100 + id), title="T", author="me@example.org", actor="me"
        )
    async with staged(world) as stage:
        result = await stage.collect()
        (sample,) = [each for each in result.samples if each.metric.name.endswith("other_failing")]
        said, _ = told(result, sample.metric.name)
        assert [each.note for each in sample.evidence] == ["first red"] * 11 + ["compare"] * 9
        assert said == (
            "11 of 11 other active workflows are red on main: w1.yml since 2026-03-04 04:06 UTC, since 0000000 'Fix 1'"
            " by dev1; w2.yml since 2026-03-04 03:06 UTC, since 0000000 'T' by me; w10.yml, w11.yml, w3.yml and 6 more"
        )


async def test_a_workflow_that_ran_long_ago_is_told_from_its_own_list() -> None:
    world, runs = red_world("success", "cancelled", "failure")
    for run in runs:
        run.created -= 60 * DAY
        run.attempts = [Attempt(run.created, run.created + HOUR / 2, run.attempts[0].conclusion)]
    world.add_workflow(2)
    world.add_run(2, START - HOUR, "success")
    async with staged(world, tests_blocking_merge=[1]) as stage:
        said, _ = told(await stage.collect())
        assert "between 0000000 'Fix 0' by dev0 and 0000000 'Fix 2' by dev2" in said


async def test_a_delivery_tells_the_same_culprit() -> None:
    world, _ = red_world("success", "cancelled")

    async def told_by_delivery(stage: Stage, at: datetime, conclusion: str) -> str:
        run = world.add_run(1, at, conclusion, title="Break it", author="dev9", actor="merger", sha=HASH(9))
        world.now = at + CYCLE
        assert stage.deliver(run, run.attempts[0])
        result = await stage.collect_changes()
        assert result
        return told(result)[0]

    async with staged(world, tests_blocking_merge=[1]) as stage:
        await stage.collect()
        said = await told_by_delivery(stage, START, "failure")
        assert said == (
            "w1.yml is red since 2026-03-04 05:06 UTC, between 0000000 'Fix 0' by dev0 and 0000000 'Break it' by dev9"
        )
        assert told(await stage.collect())[0] == said
        assert (await told_by_delivery(stage, START + HOUR, "success")).endswith("succeeded")
