"""Who broke the branch: the first red run and the last green one before it, as the repository's history has them."""

import random
from typing import Any

import pytest

from service.collectors.github_ci import actions
from service.demo.github_rows import Run
from service.domain.runs import CollectResult
from service.domain.samples import Evidence
from tests.integration.github_ci.stage import sample_of, staged
from tests.world import DAY, HOUR, MINUTE, NOW, World, generate
from tests.world.truth import culprit

START = NOW.replace(microsecond=0)
HASH = "{:040x}".format


def told(result: CollectResult) -> tuple[str, dict[str, Evidence]]:
    """The sentence behind the blocking workflows' metric, and its evidence by note."""
    sample = sample_of(result, "ci.workflow.tests_blocking_merge")
    return sample.summary, {each.note: each for each in sample.evidence}


def red_world(*conclusions: Any) -> tuple[World, list[Run]]:
    """Runs of one workflow on main, an hour apart; the last one began an hour ago. A tuple: a run with re-runs."""
    world = World.empty()
    world.add_workflow(1, "Tests")
    runs = []
    for number, each in enumerate(conclusions):
        attempts = each if isinstance(each, tuple) else (each,)
        created = START - (len(conclusions) - number) * HOUR
        names = {"title": f"Fix {number}", "author": f"dev{number}", "sha": HASH(number)}
        runs.append(world.add_run(1, created, *attempts, **names))
    return world, runs


@pytest.mark.parametrize("seed", range(4))
async def test_the_culprit_is_the_true_one_cycle_after_cycle(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "PER_PAGE", 10)
    rng = random.Random(seed)
    world = generate(seed, workflows=1, runs_a_day=rng.choice([1, 6, 30]), days=33, ahead=3 * DAY)
    if not any(run.branch == "main" and not run.fork for run in world.repository.runs):
        world.add_run(1, START - 2 * DAY, "failure")
    async with staged(world, tests_blocking_merge=["w1.yml"]) as stage:
        for _ in range(20):
            said, evidence = told(await stage.collect())
            red, green = culprit(world.repository, world.now, 1) or (None, None)
            assert said.endswith("succeeded") == (red is None)
            for note, run in (("first red", red), ("last green", green)):
                shown = evidence[note].url.rpartition("/")[2] if note in evidence else ""
                assert shown == (str(run.id) if run else "")
            assert ("compare" in evidence) == bool(red and green and green.sha != red.sha)
            stage.pass_time(rng.choice([10, 60, 170]) * MINUTE)
            if rng.random() < 0.3:
                stage.restart()


async def test_evidence_names_commit_author_without_an_address_and_what_changed() -> None:
    world, runs = red_world("failure", "success", "failure", "failure")
    runs[2].message = "Ask me@example.org about actions/checkout@v4\n\nCo-authored-by: Someone <someone@example.org>"
    runs[2].author, runs[2].actor = "grace@example.org", "grace"
    async with staged(world, tests_blocking_merge=[1]) as stage:
        result = await stage.collect()
    said, evidence = told(result)
    success = sample_of(result, "ci.workflow.success")
    assert success.summary == "3 of 4 runs on main failed in the last 24 h: Tests"
    assert [each.commit for each in success.evidence] == [HASH(3), HASH(2), HASH(0)]
    title = "Ask (e-mail address) about actions/checkout@v4"
    assert said == f"w1.yml is red since 2026-03-04 03:06 UTC, 2 runs in a row, since 0000000 '{title}' by grace"
    shown = ((note, each.title, each.commit, each.author, each.conclusion) for note, each in evidence.items())
    assert list(shown) == [
        ("first red", title, HASH(2), "grace", "failure"),
        ("compare", "Changes from 0000000 to 0000000", "", "", ""),
        ("last green", "Fix 1", HASH(1), "dev1", "success"),
        ("latest red", "Fix 3", HASH(3), "dev3", "failure"),
    ]
    assert {each.workflow for each in evidence.values()} == {"Tests"}
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
        (("success", *("skipped",) * 6, *("failure",) * 60), "more than 50 runs in a row, between 0000000 'Fix 0' by"),
    ],
)
async def test_who_is_blamed(conclusions: tuple[Any, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "PER_PAGE", 1)  # so that older runs are read in turn
    world, _ = red_world(*conclusions)
    for minutes, conclusion in ((90, "failure"), (30, "success")):  # a fork's branch of the same name has no say
        world.add_run(1, START - minutes * MINUTE, conclusion, fork="someone/metta", event="pull_request")
    async with staged(world, tests_blocking_merge=[1]) as stage:
        world.now = START - 51 * MINUTE  # before the last run is run again
        await stage.collect()
        world.now = NOW
        said, _ = told(await stage.collect())
        assert says in said
        # What it takes is kept where it is older than what each cycle reads.
        for _ in range(70 if "50 runs" in says else 15):  # more than a week, in which each failure is kept
            stage.pass_time(2.9 * HOUR)
            stage.restart()
            assert told(await stage.collect())[0] == said
