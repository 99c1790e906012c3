"""What a steady cycle asks beyond its window: never more than its limits, and nobody waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from service.collectors.ci_share import MOST_POINTS, MOST_REQUESTS, Share, Wanted, shared

# A usual repository: one to four pages of the window, the list of workflows, one count of pull requests.
wanted = st.builds(
    lambda front, changed, due, attempts, suspects, stale: Wanted(
        MOST_REQUESTS - front - 2, MOST_POINTS - front - 1 - changed, front, due, attempts, suspects, stale
    ),
    st.integers(1, 4),
    st.integers(0, 1),
    st.integers(0, 100),
    st.integers(0, 5),
    st.integers(0, 40),
    st.booleans(),
)


@given(wanted, st.booleans())
def test_a_usual_cycle_keeps_within_its_limits(wanted: Wanted, is_eager: bool) -> None:
    share = shared(wanted, is_eager)
    room = max(0, min(wanted.requests, wanted.points) - wanted.attempts)
    assert min(share.pages, share.unfinished, share.stale, share.jobs) >= 0
    assert share.pages + share.unfinished + share.stale + share.jobs <= room


@given(wanted)
def test_who_has_jobs_to_look_into_gets_some_of_them_first(wanted: Wanted) -> None:
    room = min(wanted.requests, wanted.points) - wanted.attempts
    assert shared(wanted, is_eager=True).jobs > 0 or room <= 1 or wanted.suspects == 0


def test_a_pass_that_is_late_leaves_the_jobs_one_request() -> None:
    assert shared(Wanted(4, 3, 4, due=17, attempts=0, suspects=40, stale=False), is_eager=True) == Share(2, 0, 0, 1)
    assert shared(Wanted(4, 3, 4, due=16, attempts=0, suspects=40, stale=False), is_eager=True) == Share(0, 0, 0, 3)
    assert shared(Wanted(4, 1, 4, due=17, attempts=0, suspects=40, stale=False), is_eager=True) == Share(1, 0, 0, 0)


def test_what_is_left_is_read_ahead_of_time_but_for_two_points() -> None:
    quiet = Wanted(7, 6, 1, due=0, attempts=0, suspects=0, stale=False)
    assert shared(quiet, is_eager=True) == Share(pages=4, unfinished=2)
    assert shared(quiet, is_eager=False) == Share(unfinished=6)


def test_a_repository_with_more_runs_reads_what_is_due() -> None:
    busy = Wanted(-5, -7, 14, due=11, attempts=1, suspects=3, stale=True)
    assert shared(busy, is_eager=True) == Share(pages=11, unfinished=2, stale=0, jobs=28)
