"""The list of all runs: the window at its front in every cycle; what is behind it at a cold start, then in rotation.

It is newest first and grows at its front: a run that arrives meanwhile pushes others down, so that one comes twice but
none is left out. A re-run keeps its old place, so each page of the last 30 days is read again within six hours.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread

from service.collectors.github_ci.actions import LAST_PAGE, Actions, Page
from service.collectors.github_ci.state import MARGIN, RERUN_WITHIN, WEEK, State
from service.domain.errors import Rejected, Unavailable
from service.github.client import NotFound
from service.github.usage import Spent, points_left

_PAGES_AT_ONCE = 8
_PASS = timedelta(hours=5, minutes=30)  # half an hour is left for a cycle that fails
# How old a run can be that was run again within the week.
_DEEP = RERUN_WITHIN + WEEK + MARGIN
_SHALLOW = 8  # pages that are likely to be the same next time, so that their ETags are worth keeping
_LATE = timedelta(hours=1)
_CATCH_UP = timedelta(hours=2)


async def read_window(actions: Actions, state: State, now: datetime, window: timedelta) -> list[int]:
    """Brings the window's runs up to date. Returns the ids of known runs that the list should show but does not.

    Raises Unavailable, Rejected and Unauthorized when the window can't be read whole.
    """
    horizon = now - window - MARGIN
    seen: set[int] = set()
    number, oldest = 0, now
    while oldest >= horizon:
        number += 1
        page = await actions.page(number, cached=True)
        state.merge_runs(page.runs)
        seen.update(run.id for run in page.runs)
        oldest = page.oldest
        if number >= LAST_PAGE and page.runs[-1].created >= horizon:
            raise Rejected(f"the window holds more runs than GitHub lists ({number} pages read)")
    if not seen:
        if state.runs:
            raise Unavailable(f"GitHub's list of runs is empty though it showed {len(state.runs)} of them before")
        return []
    state.reach = min(state.reach or now, oldest)
    state.read_at, state.front = now, number
    state.page = max(state.page, number + 1)
    state.depth = number if page.is_last else max(state.depth, number + 1)
    return state.prune_absent(oldest, datetime.max.replace(tzinfo=UTC), seen, now)


async def fill(actions: Actions, state: State, now: datetime, trim: Callable[[], None]) -> None:
    """A cold start reads all runs that may have been run again within the week: without them a number may be wrong.

    Eight pages at once; where four fifths of the points that are left end, the next cycle goes on: what decides the
    window's numbers must be asked, too. ``trim``: forgets runs; CPU work. Raises what ``Actions.page`` does.
    """
    kept = points_left() // 5
    while not is_filled(state, now):
        state.turned_at = now
        count = int(min(_PAGES_AT_ONCE, points_left() - kept))
        if count < 1:
            return
        for page in await _read_pages(actions, range(state.page, state.page + count)):
            if isinstance(page, Spent):
                return
            if isinstance(page, Exception):
                raise page
            _merge_page(state, page, now)
            if page.is_last:
                break
        await anyio.to_thread.run_sync(trim)


async def _read_pages(actions: Actions, numbers: Sequence[int]) -> list[Page | Unavailable | Rejected]:
    """In the order of ``numbers``, read side by side."""
    found: dict[int, Page | Unavailable | Rejected] = {}

    async def read(number: int) -> None:
        try:
            found[number] = await actions.page(number, cached=False)
        except (Unavailable, Rejected) as error:
            found[number] = error

    async with anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(read, number)
    return [found[number] for number in numbers]


def is_filled(state: State, now: datetime) -> bool:
    """Whether every run was read that may have been run again within the week."""
    return state.reach is not None and state.reach <= now - _DEEP


def pages_due(state: State, now: datetime) -> int:
    """How many older pages are to be read now, so that each is read again within a pass."""
    return 0 if state.depth <= state.front else int((now - state.turned_at) / _time_of_page(state))


def is_late(state: State, now: datetime) -> bool:
    """Whether older pages have waited so long that they go first: without an old re-run a number is wrong."""
    return now - state.turned_at > _LATE + _time_of_page(state)


async def read_older_page(actions: Actions, state: State, now: datetime) -> list[int]:
    """The next page of the rotation. Returns the ids of known runs that should be on it but are not."""
    page = await actions.page(state.page, cached=state.depth <= _SHALLOW)
    state.turned_at = max(state.turned_at + _time_of_page(state), now - _CATCH_UP)
    # A page is one piece of the list, so it holds whatever was created between its first and its last run.
    shown = {run.id for run in page.runs}
    bounds = (page.runs[-1].created, page.runs[0].created) if page.runs else (now, now)
    absent = state.prune_absent(*bounds, shown, now)
    _merge_page(state, page, now)
    if page.is_last or page.oldest < now - RERUN_WITHIN - _PASS - MARGIN:
        state.page = state.front + 1
    return absent


def _time_of_page(state: State) -> timedelta:
    return _PASS / max(1, state.depth - state.front)


def _merge_page(state: State, page: Page, now: datetime) -> None:
    state.merge_runs(page.runs)
    state.reach = min(state.reach or now, page.oldest)
    state.page = page.number + 1
    age = now - page.runs[-1].created if page.runs else RERUN_WITHIN
    state.depth = page.number if page.is_last else math.ceil(page.number * (RERUN_WITHIN / age))


def unfinished_behind(state: State, now: datetime, window: timedelta) -> list[int]:
    """Ids of runs behind the window's pages that began to run again in it, the last first: no page shows how they end.

    Others, and what waits for a day, are left to the rotation: some stay queued for weeks.
    """
    horizon = now - window - MARGIN
    found = [run for run in state.started_since(horizon) if run.conclusion is None and run.created < horizon]
    found.sort(key=lambda run: run.started, reverse=True)
    return [run.id for run in found if not run.is_stuck(now)]


async def ask_again(actions: Actions, state: State, id: int) -> None:
    """A run that no page shows as it is: it was deleted, the list lags, or it is behind the pages that are read.

    Raises what ``Github.get`` does, but NotFound.
    """
    try:
        state.merge_runs([await actions.run(id)])
    except NotFound:
        state.runs.pop(id, None)
