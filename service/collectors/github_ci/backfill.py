"""Reads what lies behind the window: all of it at a cold start, then a page now and then, in rotation.

A re-run keeps its old place in the list, so each page of the last 30 days is read again within six hours.
"""

import math
from datetime import datetime, timedelta

import anyio
import anyio.to_thread

from service.collectors.github_ci.budget import RequestBudget
from service.collectors.github_ci.models import Run
from service.collectors.github_ci.state import MARGIN, RERUN_WITHIN, WEEK, State
from service.collectors.github_ci.window import Page, RunList
from service.domain.errors import Rejected, Unavailable

_AT_ONCE = 8
_PASS = timedelta(hours=5, minutes=30)  # half an hour is left for a cycle that fails
# How old a run can be that was run again within the week.
_DEEP = RERUN_WITHIN + WEEK + MARGIN
# Pages. In a larger repository the week's jobs go before what is older than the week.
_COLD_PAGES = 125
_SHALLOW = 8  # pages that are likely to be the same next time, so that their ETags are worth keeping
_LATE = timedelta(hours=1)
_CATCH_UP = timedelta(hours=2)


async def fill(runs: RunList, state: State, now: datetime, window: timedelta, budget: RequestBudget) -> None:
    """A cold start reads the week and, where it is not too much, all runs that may have been run again in it.

    Eight pages at once; where four fifths of the budget end, the next cycle goes on: what decides the window's numbers
    must be asked, too. Raises what ``RunList.page`` does.
    """
    kept = budget.left // 5
    while not _is_filled(state, now):
        state.turned_at = now
        pages: dict[int, Page] = {}
        errors: list[Unavailable | Rejected] = []

        async def read(number: int, pages: dict[int, Page], errors: list[Unavailable | Rejected]) -> None:
            try:
                pages[number] = await runs.page(number, "older runs", cached=False)
            except (Unavailable, Rejected) as error:
                errors.append(error)

        with budget.reserve(min(_AT_ONCE, budget.left - kept)) as count:
            numbers = range(state.page, state.page + count)
            async with anyio.create_task_group() as tasks:
                for number in numbers:
                    tasks.start_soon(read, number, pages, errors)
        if not numbers:
            return
        for number in numbers:
            if number not in pages:
                raise errors[0]
            _take_page(state, pages[number], now)
            if pages[number].is_last:
                break
        await anyio.to_thread.run_sync(state.trim, now, window)


def _is_filled(state: State, now: datetime) -> bool:
    if state.reach is None or state.reach > now - WEEK:
        return False
    is_large = state.page * (_DEEP / (now - state.reach)) > _COLD_PAGES
    return state.reach <= now - _DEEP or (is_large and not state.was_whole)


def is_late(state: State, now: datetime) -> bool:
    """Whether older pages have waited so long that they go first: without an old re-run a number is wrong."""
    return state.turned_at is not None and now - state.turned_at > _LATE + _PASS / max(1, state.depth)


def pages_due(state: State, now: datetime) -> int:
    """How many older pages are to be read now, so that each is read again within a pass."""
    if state.turned_at is None or state.reach is None or (state.depth and state.depth <= state.front):
        return 0
    return int((now - state.turned_at) / (_PASS / max(1, state.depth - state.front)))


async def read_older_page(runs: RunList, state: State, now: datetime) -> list[int]:
    """The next page of the rotation. Returns the ids of known runs that should be on it but are not."""
    page = await runs.page(state.page, "older runs", cached=state.depth <= _SHALLOW)
    step = _PASS / max(1, state.depth - state.front)
    state.turned_at = max((state.turned_at or now) + step, now - _CATCH_UP)
    # A page is one piece of the list, so it holds whatever was created between its first and its last run.
    between = state.created_between(page.runs[-1].created, page.runs[0].created) if page.runs else set()
    _take_page(state, page, now)
    if page.is_last or page.oldest < now - RERUN_WITHIN - _PASS - MARGIN:
        state.page = state.front + 1
    return sorted(between - {run.id for run in page.runs})


def _take_page(state: State, page: Page, now: datetime) -> None:
    state.take(page.runs, now)
    state.reach = min(state.reach or now, page.oldest)
    state.page = page.number + 1
    age = now - page.runs[-1].created if page.runs else RERUN_WITHIN
    state.depth = page.number if page.is_last else math.ceil(page.number * (RERUN_WITHIN / age))


def unfinished_behind(state: State, now: datetime, window: timedelta) -> list[Run]:
    """Runs behind the window's pages that began to run again in it, the last ones first: no page shows how they end.

    Others are left to the rotation: some stay queued for weeks.
    """
    horizon = now - window - MARGIN
    found = [
        run
        for run in state.runs.values()
        if run.conclusion is None and run.created < horizon and run.started >= horizon
    ]
    return sorted(found, key=lambda run: run.started, reverse=True)
