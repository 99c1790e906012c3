"""What is remembered from cycle to cycle: enough, and no more."""

from dataclasses import replace
from datetime import datetime, timedelta

from service.collectors import ci_memory
from service.collectors.ci_memory import Remembered
from service.collectors.ci_runs import Page, Run
from service.collectors.ci_sweep import Sweep
from tests.github_world import NOW

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def run(number: int, created: datetime, conclusion: str | None = "success", attempt: int = 1) -> Run:
    return Run(number, 1, attempt, "push", True, conclusion, created, created, created + HOUR / 6)


def filled() -> Remembered:
    known = ci_memory.cold("o/r", "main", NOW)
    known.take([run(1, NOW - HOUR), run(2, NOW - 40 * DAY, "failure"), run(3, NOW, None)])
    known.attempts = {3: {1: "failure", 2: "cancelled"}}
    known.asked, known.lost = {7: NOW}, {8}
    known.since, known.front, known.read_at = NOW - 31 * DAY, NOW, NOW
    known.sweep = Sweep(NOW, 7, 3, 9, is_first=False)
    known.total, known.broken = 4711, 1
    return known


def test_what_is_written_is_read_again() -> None:
    known = filled()
    assert ci_memory.load(known.dump(), "o/r", "main") == known


def test_what_belongs_to_another_repository_branch_or_version_is_not_read() -> None:
    stored = filled().dump()
    assert ci_memory.load(stored, "o/other", "main") is None
    assert ci_memory.load(stored, "o/r", "release") is None
    assert ci_memory.load(stored[:-9], "o/r", "main") is None
    assert ci_memory.load(None, "o/r", "main") is None


def test_old_runs_are_forgotten_but_for_those_that_can_matter() -> None:
    known = ci_memory.cold("o/r", "main", NOW)
    old = NOW - 5 * DAY
    known.take(run(number, old + number * HOUR) for number in range(1, 30))
    known.take([run(50, old, None), replace(run(51, old), started=NOW), replace(run(52, old), on_branch=False)])
    known.take([run(53, NOW - 40 * DAY, None), run(54, NOW - HOUR)])
    known.trim(NOW - 27 * HOUR)
    # The three latest conclusive ones, the unfinished one that can still end, the one that was run again, the recent.
    assert sorted(known.runs) == [27, 28, 29, 50, 51, 54]


def test_a_run_that_is_not_on_its_page_any_more_was_deleted() -> None:
    known = ci_memory.cold("o/r", "main", NOW)
    known.take(run(number, NOW - number * HOUR) for number in range(1, 9))
    page = Page(2, 1000, (run(3, NOW - 3 * HOUR), run(6, NOW - 6 * HOUR)), NOW - 3 * HOUR, NOW - 6 * HOUR)
    known.take_pages([page])
    assert sorted(known.runs) == [1, 2, 3, 6, 7, 8]


def test_the_attempt_before_a_rerun_is_known_without_asking() -> None:
    known = ci_memory.cold("o/r", "main", NOW)
    known.take([run(1, NOW, "failure")])
    known.take([run(1, NOW, None, attempt=2)])
    known.take([run(1, NOW, "success", attempt=2)])
    assert known.attempts == {1: {1: "failure"}}


def test_a_workflow_is_known_by_what_was_read_or_asked() -> None:
    known = ci_memory.cold("o/r", "main", NOW)
    known.take([run(1, NOW - DAY)])
    assert known.unknown([1, 2]) == [1, 2]
    known.since = NOW - 2 * DAY
    assert known.unknown([1, 2]) == [2]
    known.take_older(2, [], NOW)
    assert known.unknown([1, 2]) == []
    known.drop([1])
    known.note_lost({1})
    assert known.unknown([1, 2]) == [1]


def test_what_no_sweep_sees_is_asked_for_once_a_day() -> None:
    known = filled()
    known.runs.pop(1)
    known.asked = {1: NOW - 2 * DAY, 7: NOW - 3 * DAY, 9: NOW - HOUR}
    assert known.stale([1, 7, 9], NOW) == [7, 1]
    known.take_older(1, [run(4, NOW - 50 * DAY)], NOW)
    assert sorted(known.runs) == [3, 4]
