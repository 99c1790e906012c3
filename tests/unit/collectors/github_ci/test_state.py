"""What is kept of runs from cycle to cycle, and what is measured of them."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from service.collectors.github_ci.culprits import find_streak
from service.collectors.github_ci.models import Commit, Named, Run
from service.collectors.github_ci.state import MARGIN, State, begin, decode, encode

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def run(id: int = 1, at: datetime = NOW - HOUR, **values: Any) -> Run:
    defaults = {"attempt": 1, "event": "push", "on_branch": True, "status": "completed", "conclusion": "success"}
    return Run(id, 7, created=at, started=at, updated=at + 5 * MINUTE, **{**defaults, **values})


def state_with(*runs: Run) -> State:
    state = State("o/r", "main", read_at=NOW - 10 * MINUTE)
    state.take(runs)
    return state


def test_a_run_that_was_approved_ends_when_it_ends() -> None:
    state = state_with(run(conclusion="action_required"))
    ended = run()
    ended.updated = NOW - 2 * MINUTE
    state.take([ended])
    assert (state.runs[1].updated, state.runs[1].has_known_end) == (NOW - 2 * MINUTE, True)


def test_the_state_is_the_same_after_the_store() -> None:
    state = state_with(run(1), run(2, conclusion="failure"))
    assert decode(encode(state), State) == state
    assert begin(encode(state), "o/r", "main", NOW) == state
    assert begin(encode(state), "o/r", "trunk", NOW).runs == {}
    late = begin(encode(state), "o/r", "main", NOW + MARGIN)
    assert late.reach is None
    assert late.runs


@pytest.mark.parametrize(
    ("name", "login", "author"),
    [
        ("Grace Hopper", "merger", "Grace Hopper"),
        ("grace@example.org", "grace", "grace"),
        (None, "grace", "grace"),
        (None, None, ""),
    ],
)
def test_who_made_the_commit_is_named_without_an_address(name: str | None, login: str | None, author: str) -> None:
    commit = Commit("Ask grace@example.org about actions/checkout@v4.1\n\nmore", Named(name=name))
    told = Run(1, 7, title="Nightly", head_branch="main", head_commit=commit, actor=Named(login=login))
    run = told.normalize("main")
    assert (run.author, run.head_commit, run.actor) == (author, None, None)
    assert run.title == "Ask (e-mail address) about actions/checkout@v4.1"


@pytest.mark.parametrize(
    ("url", "green", "compare"),
    [
        (
            "https://ghe.acme.test/o/r/actions/runs/2",
            "a" * 40,
            f"https://ghe.acme.test/o/r/compare/{'a' * 40}...{'b' * 40}",
        ),
        ("https://ghe.acme.test/o/r/actions/runs/2", "b" * 40, None),
        ("https://ghe.acme.test/o/r/actions/runs/2", "../x", None),
        ("https://ghe.acme.test/runs/2", "a" * 40, None),
        (None, "a" * 40, None),
    ],
)
def test_what_changed_is_shown_on_the_host_of_the_runs(url: str | None, green: str, compare: str | None) -> None:
    streak = find_streak("ci.yml", [run(1, head_sha=green), run(2, conclusion="failure", url=url, head_sha="b" * 40)])
    assert streak
    assert [each.url for each in streak.as_evidence() if each.note == "compare"] == ([compare] if compare else [])


@pytest.mark.parametrize("is_backwards", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_what_is_kept_tells_the_streak_that_all_runs_tell(seed: int, is_backwards: bool) -> None:
    """Read a few runs at a time: as time passes, or backwards as a cold start does; runs are run again meanwhile."""
    rng = random.Random(seed)
    verdicts = ["failure"] * 4 + ["success", "cancelled", "skipped"]
    days = range(60)
    runs = [run(day, NOW - (90 - day) * DAY, conclusion=rng.choice(verdicts), head_sha=f"{day:040x}") for day in days]
    state = state_with()
    whole: list[Run] = []
    for each in reversed(runs) if is_backwards else runs:
        whole.append(each)
        state.take([replace(each)])
        if not is_backwards and rng.random() < 0.3:
            whole[-1] = replace(each, attempt=2, conclusion=rng.choice(verdicts))
            state.take([replace(whole[-1])])
        state.trim(NOW, DAY)
        kept = find_streak("", state.on_branch().get(7, []))
        true = find_streak("", sorted(whole, key=lambda run: run.age_key))
        assert (kept and kept.describe()) == (true and true.describe())
