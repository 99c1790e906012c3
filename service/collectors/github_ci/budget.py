"""What a cycle may spend, and on what: one budget, questions in the order of their worth."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

import anyio

from service.domain.errors import Rejected, Unavailable
from service.github.client import Github

_AT_ONCE = 12  # GitHub's secondary limit begins at 100 concurrent requests of all our token's users
_FAILURES = 3  # of one kind in a cycle; an error loop once burned a whole quota


class Worth(IntEnum):
    """The order in which questions are asked. Those up to WORKFLOWS decide a number of this cycle."""

    UNSEEN = 0  # known runs that the list does not show any more
    UNFINISHED = 1  # runs behind the window that were run again and go on
    ATTEMPTS = 2
    ENDS = 3  # of runs whose updated_at can't be believed
    WORKFLOWS = 4  # of which the window shows no run
    OVERDUE_RUNS = 5  # older pages that waited too long
    JOBS = 6
    OLDER_RUNS = 7
    STALE_WORKFLOWS = 8


class RequestBudget:
    """Requests that may still be sent, each taken for a point. Never more than ``github`` can spare, nor ``parent``."""

    def __init__(self, github: Github, left: int, parent: "RequestBudget | None" = None) -> None:
        self._github = github
        self._left = left
        self._parent = parent

    @property
    def left(self) -> int:
        left = self._left if self._parent is None else min(self._left, self._parent.left)
        return max(0, min(left, self._github.spare))

    def take(self, count: int = 1) -> bool:
        """Whether so many more requests may be sent."""
        if self.left < count:
            return False
        self._left -= count
        if self._parent:
            self._parent.take(count)
        return True

    def limit(self, left: int) -> None:
        """From now on at most ``left`` more."""
        self._left = left


@dataclass(frozen=True, slots=True)
class Question:
    """``ask`` sends one request, and takes what more it needs. ``part``: what is missing if it fails."""

    worth: Worth
    part: str
    ask: Callable[[], Awaitable[None]]


async def ask(budget: RequestBudget, questions: Iterable[Question]) -> dict[str, Unavailable | Rejected]:
    """Asks as many as the budget allows, the worthiest first, some at once. The first error of each part that had one.

    What does not fit waits for the next cycle.
    """
    waiting = iter(sorted(questions, key=lambda question: question.worth))
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
        for _ in range(_AT_ONCE):
            tasks.start_soon(work)
    return {part: found[0] for part, found in errors.items()}
