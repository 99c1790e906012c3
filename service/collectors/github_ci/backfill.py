"""What is asked beside the window: one budget, questions in the order of their worth, older runs page by page.

A re-run keeps its old place in the list, so each page of the last 30 days is read again within six hours.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import anyio.to_thread

from service.collectors.github_ci.models import Run
from service.collectors.github_ci.state import MARGIN, RERUN_WITHIN, WEEK, State
from service.collectors.github_ci.window import Actions, Page
from service.domain.errors import Rejected, Unavailable

_QUESTIONS_AT_ONCE = 12  # GitHub's secondary limit begins at 100 concurrent requests of all our token's users
_FAILURES = 3  # of one part in a cycle; an error loop once burned a whole quota
_PAGES_AT_ONCE = 8
_PASS = timedelta(hours=5, minutes=30)  # half an hour is left for a cycle that fails
# How old a run can be that was run again within the week.
_DEEP = RERUN_WITHIN + WEEK + MARGIN
_SHALLOW = 8  # pages that are likely to be the same next time, so that their ETags are worth keeping
_LATE = timedelta(hours=1)
_CATCH_UP = timedelta(hours=2)


class Budget:
    """``left``: requests that a cycle may still send, each counted as a point; never more than ``parent`` has left."""

    def __init__(self, left: int, parent: "Budget | None" = None) -> None:
        self.left: int = left if parent is None else min(left, parent.left)
        self._parent = parent

    def take(self) -> bool:
        """One request may be sent, if there is one left."""
        if self.left <= 0 or (self._parent and not self._parent.take()):
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Question:
    """``ask`` sends one request, and takes what more it needs. ``part``: what is missing if it fails."""

    part: str
    ask: Callable[[], Awaitable[None]]


async def ask_in_order(budget: Budget, questions: Iterable[Question]) -> dict[str, Unavailable | Rejected]:
    """Asks as many as the budget allows, some at once. Returns the first error of each part that had one.

    What does not fit waits for the next cycle.
    """
    waiting = iter(questions)
    errors: dict[str, list[Unavailable | Rejected]] = {}

    async def work() -> None:
        for question in waiting:
            if len(errors.get(question.part, ())) >= _FAILURES:
                continue
            if not budget.take():
                return
            try:
                await question.ask()
            except (Unavailable, Rejected) as error:
                errors.setdefault(question.part, []).append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(_QUESTIONS_AT_ONCE):
            tasks.start_soon(work)
    return {part: found[0] for part, found in errors.items()}


async def fill(actions: Actions, state: State, now: datetime, trim: Callable[[], None], budget: Budget) -> None:
    """A cold start reads all runs that may have been run again within the week: without them a number may be wrong.

    Eight pages at once; where four fifths of the budget end, the next cycle goes on: what decides the window's numbers
    must be asked, too. ``trim``: forgets runs; CPU work. Raises what ``Actions.page`` does.
    """
    kept = budget.left // 5
    while not is_filled(state, now):
        state.turned_at = now
        numbers = range(state.page, state.page + min(_PAGES_AT_ONCE, budget.left - kept))
        if not numbers:
            return
        for page in await _read_pages(actions, [number for number in numbers if budget.take()]):
            if isinstance(page, Exception):
                raise page
            _take_page(state, page, now)
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


def is_late(state: State, now: datetime) -> bool:
    """Whether older pages have waited so long that they go first: without an old re-run a number is wrong."""
    return state.turned_at is not None and now - state.turned_at > _LATE + _PASS / max(1, state.depth)


def pages_due(state: State, now: datetime) -> int:
    """How many older pages are to be read now, so that each is read again within a pass."""
    if state.turned_at is None or state.reach is None or (state.depth and state.depth <= state.front):
        return 0
    return int((now - state.turned_at) / (_PASS / max(1, state.depth - state.front)))


async def read_older_page(actions: Actions, state: State, now: datetime) -> list[int]:
    """The next page of the rotation. Returns the ids of known runs that should be on it but are not."""
    page = await actions.page(state.page, cached=state.depth <= _SHALLOW)
    step = _PASS / max(1, state.depth - state.front)
    state.turned_at = max((state.turned_at or now) + step, now - _CATCH_UP)
    # A page is one piece of the list, so it holds whatever was created between its first and its last run.
    between = state.created_between(page.runs[-1].created, page.runs[0].created) if page.runs else set()
    absent = state.take_absent(between - {run.id for run in page.runs}, now)
    _take_page(state, page, now)
    if page.is_last or page.oldest < now - RERUN_WITHIN - _PASS - MARGIN:
        state.page = state.front + 1
    return absent


def _take_page(state: State, page: Page, now: datetime) -> None:
    state.take(page.runs)
    state.reach = min(state.reach or now, page.oldest)
    state.page = page.number + 1
    age = now - page.runs[-1].created if page.runs else RERUN_WITHIN
    state.depth = page.number if page.is_last else math.ceil(page.number * (RERUN_WITHIN / age))


def unfinished_behind(state: State, now: datetime, window: timedelta) -> list[Run]:
    """Runs behind the window's pages that began to run again in it, the last ones first: no page shows how they end.

    Others, and what waits for a day, are left to the rotation: some stay queued for weeks.
    """
    horizon = now - window - MARGIN
    found = [
        run
        for run in state.runs.values()
        if run.conclusion is None and run.created < horizon and run.started >= horizon and not run.is_stuck(now)
    ]
    return sorted(found, key=lambda run: run.started, reverse=True)
