"""What a cycle may spend, and on what: one budget, questions in the order of their worth."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import anyio

from service.domain.errors import Rejected, Unavailable
from service.github.client import Github, Usage

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
    """What may still be spent in a cycle whose requests ``usage`` counts: ``points`` in all, and never more than
    ``github`` can spare, nor ``parent`` has left."""

    def __init__(self, github: Github, usage: Usage, points: int, parent: "RequestBudget | None" = None) -> None:
        self._github = github
        self._usage = usage
        self._parent = parent
        self._reserved = 0
        self.limit(points)

    def limit(self, points: int, requests: int | None = None) -> None:
        """From now on the whole cycle may cost so much."""
        self._points, self._requests = points, points if requests is None else requests

    @property
    def left(self) -> int:
        """Requests that may be sent beside those that are reserved; negative when there were too many."""
        points = self._points - self._usage.points.total()
        requests = self._requests - self._usage.requests.total() if self._requests != self._points else points
        left = min(points, requests, self._github.spare) - self._reserved
        return left if self._parent is None else min(left, self._parent.left)

    @property
    def has_more(self) -> bool:
        """Whether a question that has a reservation may send one more request."""
        return self.left >= 0

    @contextmanager
    def reserve(self, count: int = 1) -> Iterator[int]:
        """How many of ``count`` requests may be sent within."""
        granted = max(0, min(count, self.left))
        self._reserve(granted)
        try:
            yield granted
        finally:
            self._reserve(-granted)

    def _reserve(self, count: int) -> None:
        self._reserved += count
        if self._parent:
            self._parent._reserve(count)


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
            with budget.reserve() as granted:
                if not granted:
                    return
                try:
                    await question.ask()
                except (Unavailable, Rejected) as error:
                    errors.setdefault(question.part, []).append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(_AT_ONCE):
            tasks.start_soon(work)
    return {part: found[0] for part, found in errors.items()}
